"""A learning rate that cannot get anywhere is said in the tab: before Start, and of runs, with its cap in the chart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapter_lab import config_file
from adapter_lab.config import TrainConfig
from adapter_lab.runs.events import EventLog
from tests.browser.test_whole_tab import press
from tests.support.browser import Page, Server, environments

pytestmark = pytest.mark.parametrize("server", list(environments())[-1:], indirect=True)


def written(runs: Path, name: str, growth: float, steps: int = 200) -> None:
    """The folder of a finished run as an older release left it: its log does not say the limit, its settings do."""
    config = TrainConfig()
    config.run.name, config.run.steps = name, steps
    config.optimizer.growth_rate, config.optimizer.d0, config.optimizer.d_coef = growth, 1e-6, 0.5
    folder = runs / name
    folder.mkdir(parents=True)
    config_file.write(config, folder / "config.toml")
    log = EventLog(folder / "events.jsonl")
    log.write("started", run=name, folder=str(folder), name=name, started_at=1.0, algo="lora", device="cpu")
    log.write("training", step=0, total_steps=steps, steps_per_epoch=40)
    for step in range(1, steps + 1):
        d = min(1e-6 * growth ** (step - 1), 3e-3)
        values = {"lr": d * min(1.0, step / 10), "d": d, "d_hat": 2e-4}
        log.write(
            "step", step=step, epoch=0, loss=0.2, rates={"unet": values}, seconds_per_step=0.1, progress=step / steps
        )
    log.write("finished", step=steps, reason=f"all {steps} steps done", seconds=20.0)
    log.close()


LEGEND = "return [...document.querySelectorAll('.al-charts .u-legend .u-label')].map((node) => node.textContent)"


@pytest.fixture
def held(server: Server) -> Iterator[str]:
    """A run that the limit held; other tests of the same page find none of it."""
    written(server.runs, "held", 1.01)
    yield "held"
    shutil.rmtree(server.runs / "held")


def test_the_rates_chart_says_what_it_shows_and_draws_the_limit(page: Page, held: str) -> None:
    page.tab("runs")
    press(page, "Open", f"[data-run='{held}']")
    page.wait_text(".al-charts", "d x lr")
    page.wait(lambda: "cap: d grows by 1.01 per step at most" in str(page.driver.execute_script(LEGEND)), "the cap")
    page.wait_text(
        "#al-panel-running", "d for unet was held by its limit, 1.01 per step: it is about 7e-06 at step 200"
    )


def test_before_start_the_tab_says_what_the_limit_allows(page: Page) -> None:
    draft = {"run.steps": 200, "optimizer.growth_rate": 1.01, "optimizer.d0": 1e-6}
    page.driver.execute_script("localStorage.setItem('adapter-lab-draft', arguments[0])", json.dumps(draft))
    page.open()
    page.wait_text(".al-remarks", "lets Prodigy's estimate d come to about 7e-06 at most in 200 steps")
    page.type("run.steps", "2000")
    page.wait(lambda: "Prodigy" not in page.text(".al-remarks"), "the remark to go")

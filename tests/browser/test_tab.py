"""What a person does in the tab, in a real browser against a real server that trains for real."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.browser import Page, requested

STEPS = 30


def start_training(page: Page, pictures: Path) -> None:
    """Folder, type, length, Start: what a first training takes."""
    page.type("dataset.folder", str(pictures))
    page.wait_text(".al-dataset", "10images")
    page.click("[data-type='lokr'] input")
    page.type("run.steps", str(STEPS))
    page.type("run.batch_size", "8")
    page.click("#al-start")


def test_train_watch_reload_stop_resume_and_see_the_file(page: Page, pictures: Path) -> None:
    start_training(page, pictures)
    page.wait(lambda: page.step() >= 1, "the first step")
    assert page.text("#al-state") == "training"
    before = page.step()
    page.driver.refresh()
    page.drawn()
    page.wait(lambda: page.step() > before, "progress after the page was loaded again")
    page.click("#al-stop-save")
    page.wait_text("#al-state", "stopped")
    stopped = page.step()
    assert before < stopped < STEPS
    caption = next(pictures.glob("*.txt"))
    was = caption.read_text()
    caption.write_text(f"{was}, a correction")
    try:
        page.click("#al-resume")
        assert page.one("#al-resume-steps").get_attribute("value") == str(STEPS)
        page.click(".al-dialog .al-primary")
        page.wait_text("#al-state", "failed")
        page.click("#al-resume")
        page.click("#al-resume-changed")
        page.click(".al-dialog .al-primary")
        page.wait_text("#al-state", "finished")
    finally:
        caption.write_text(was)
    assert page.step() == STEPS
    page.wait_text(".al-saved", "two-heroes.safetensors")
    (run,) = [run for run in page.server.get("/runs") if run["name"] == "two-heroes"]
    assert run["algo"] == "lokr"
    adapter = Path(run["adapters"][-1]["path"])
    assert adapter.name == "two-heroes.safetensors" and adapter.stat().st_size > 10_000
    page.wait(lambda: page.all(".al-plot canvas"), "charts")
    page.wait(lambda: page.all(".al-worst img"), "images with the highest loss")
    page.tab("runs")
    page.wait_text(f"[data-run='{run['id']}']", "<lora:two-heroes:1>")
    # The next training of the same folder does not want to replace those files.
    page.tab("train")
    page.wait(lambda: value(page, "run.name") == "two-heroes-2", "another name")


def value(page: Page, setting: str) -> str:
    return str(page.one(f"[data-setting='{setting}'] input").get_attribute("value"))


@pytest.mark.parametrize(
    ("setting", "typed", "sentence"),
    [
        ("dataset.folder", "/nowhere/at/all", "/nowhere/at/all, which is not there"),
        ("run.steps", "-5", "run.steps is -5, but must be at least 0."),
        ("run.batch_size", "many", "run.batch_size must be a whole number, but is 'many'"),
        ("run.name", "a/b", "run.name"),
    ],
)
def test_bad_input_is_said_at_its_field_and_nothing_starts(
    page: Page, pictures: Path, setting: str, typed: str, sentence: str
) -> None:
    runs = len(page.server.get("/runs"))
    page.type("dataset.folder", str(pictures))
    page.type(setting, typed)
    page.wait_text(f"[data-setting='{setting}'] .al-problem", sentence)
    page.click("#al-start")
    page.wait_text(".al-messages", "need a change first")
    focused = "return document.activeElement.closest('[data-setting]').dataset.setting"
    assert page.driver.execute_script(focused) == setting
    assert page.one(f"[data-setting='{setting}'] input").get_attribute("aria-invalid") == "true"
    assert len(page.server.get("/runs")) == runs


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(page: Page, theme: str) -> None:
    page.open(theme)
    light = {selector: page.driver.execute_script(LIGHTNESS, selector) for selector in (".al-card", ".al-help", "h3")}
    background = light.pop(".al-card")
    assert background > 0.8 if theme == "light" else background < 0.15
    for selector, text in light.items():
        contrast = (max(text, background) + 0.05) / (min(text, background) + 0.05)
        assert contrast >= 4.5, f"{selector}: {contrast:.1f}"


# Relative luminance (WCAG) of an element's text, or of a card's background, drawn over what lies below it.
LIGHTNESS = """
const node = document.querySelector('#adapter_lab ' + arguments[0]);
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const layers = [];
for (let at = node; at; at = at.parentElement) layers.unshift(getComputedStyle(at).backgroundColor);
if (arguments[0] !== '.al-card') layers.push(getComputedStyle(node).color);
for (const layer of ['white', ...layers]) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => value / 255)
    .map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
return 0.2126 * r + 0.7152 * g + 0.0722 * b;
"""


def test_nothing_comes_from_another_machine(page: Page) -> None:
    requested(page.driver)
    page.open()
    for key in ("running", "runs", "study", "files"):
        page.tab(key)
    asked = {urlsplit(url) for url in requested(page.driver)}
    hosts = {url.hostname for url in asked if url.scheme in ("http", "https", "ws", "wss")}
    assert hosts == {"127.0.0.1"}


def test_sub_tabs_go_by_keyboard(page: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    page.one("#al-tab-train").send_keys(Keys.ARROW_RIGHT)
    assert page.one("#al-tab-running").get_attribute("aria-selected") == "true"
    assert page.driver.switch_to.active_element.get_attribute("id") == "al-tab-running"
    page.driver.switch_to.active_element.send_keys(Keys.END)
    assert page.one("#al-panel-files").is_displayed() and not page.one("#al-panel-train").is_displayed()


def test_only_settings_that_the_type_uses_are_shown(page: Page) -> None:
    def shown(setting: str) -> bool:
        return bool(page.driver.execute_script(SHOWN, setting))

    page.click("[data-type='lora'] input")
    page.wait(lambda: shown("network.alpha") and not shown("network.factor"), "LoRA's settings")
    page.click("[data-type='lokr'] input")
    page.wait(lambda: shown("network.factor"), "LoKr's factor")
    page.click("[data-type='ia3'] input")
    page.wait(lambda: not shown("network.dim") and not shown("network.factor"), "IA3 without a dim")


SHOWN = """
const field = document.querySelector(`[data-setting="${arguments[0]}"]`);
return field !== null && field.offsetParent !== null;
"""

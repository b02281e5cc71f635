"""What else a person does in the tab: the queue, requests to a training, runs compared and deleted, presets, files.

All of it is the same page whatever serves it, so one gradio is enough here.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import Page, Server, environments

pytestmark = pytest.mark.parametrize("server", list(environments())[-1:], indirect=True)
LONG = "100000"


@pytest.fixture
def nothing_left(server: Server) -> Iterator[None]:
    """An empty queue that is not paused and no training, before and after."""

    def clear() -> None:
        server.send("PUT", "/queue", {"paused": True})
        for entry in server.get("/queue")["order"]:
            server.send("DELETE", f"/queue/{entry}", {})
        server.end_runs()
        server.send("PUT", "/queue", {"paused": False})

    clear()
    yield
    clear()


def set_out(page: Page, pictures: Path, name: str) -> None:
    """Settings of a run that goes on until it is stopped."""
    page.tab("train")
    page.type("dataset.folder", str(pictures))
    page.wait_text(".al-dataset", "10images")
    page.type("run.name", name)
    page.type("run.steps", LONG)


FIND_BUTTON = """
const named = (button) => [button.textContent.trim(), button.getAttribute("aria-label")].includes(arguments[1]);
const found = [...document.querySelectorAll(arguments[0] + " button")].find((b) => named(b) && b.offsetParent !== null);
found?.scrollIntoView({block: "center"});
return found ?? null;
"""


def press(page: Page, text: str, within: str = "#adapter_lab") -> None:
    """Click the visible button with that text, which may be drawn again or lie below a message meanwhile."""
    from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException

    def pressed() -> bool:
        button = page.driver.execute_script(FIND_BUTTON, within, text)
        if button is None:
            return False
        try:
            button.click()
        except (ElementClickInterceptedException, StaleElementReferenceException):
            return False
        return True

    page.wait(pressed, f"the button {text!r}")


def run_named(page: Page, name: str) -> str:
    """Id of the run of that name, which the page does not show."""
    return next(str(run["id"]) for run in page.server.get("/runs") if run["name"] == name)


def texts(page: Page, selector: str) -> list[str]:
    """Texts of all elements, read at one time."""
    script = "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent.trim())"
    return list(page.driver.execute_script(script, selector))


def waiting(page: Page) -> list[str]:
    return texts(page, ".al-queue li b")


@pytest.mark.usefixtures("nothing_left")
def test_queue_requests_comparison_and_deletion(page: Page, pictures: Path) -> None:
    set_out(page, pictures, "first")
    page.click("#al-start")
    page.wait(lambda: page.step() >= 1, "the first step")
    for name in ("second", "third"):
        set_out(page, pictures, name)
        page.click("[data-type='lokr'] input")
        page.wait_text("#al-start", "Add to queue")
        page.click("#al-start")
        page.wait(lambda name=name: name in waiting(page), f"{name} in the queue")
    first, third = run_named(page, "first"), run_named(page, "third")
    assert page.server.get("/status")["active"] == first

    page.tab("running")
    press(page, "Earlier: third")
    page.wait(lambda: waiting(page) == ["third", "second"], "the other order")
    press(page, "Pause the queue")
    page.wait_text("#adapter_lab", "nothing starts by itself")
    press(page, "Remove: second")
    press(page, "Remove", ".al-dialog")
    page.wait(lambda: waiting(page) == ["third"], "what is left")
    queue = page.server.get("/queue")
    assert queue["order"] == [third] and queue["paused"] is True

    press(page, "Save now")
    page.wait_text(".al-saved", "first-")
    page.driver.execute_script("[...document.querySelectorAll('.al-folded')].forEach((part) => (part.open = true))")
    prompts = page.one("textarea[aria-label='Edit the sample prompts']")
    prompts.send_keys("vexa, smile\norrin")
    press(page, "Use from the next samples on")
    page.wait_text(".al-messages", "use these prompts")
    press(page, "Sample now")
    page.wait(lambda: texts(page, ".al-samples figcaption") == ["vexa, smile", "orrin"], "the samples")
    page.wait(lambda: page.driver.execute_script(DRAWN, ".al-samples img"), "their images")

    press(page, "Stop now")
    press(page, "Stop now", ".al-dialog")
    page.wait_text("#al-state", "stopped")
    assert page.server.get("/queue")["order"] == [third]
    press(page, "Go on with the queue")
    page.wait(lambda: page.server.get("/status")["active"] == third, "the next in the queue")
    page.wait_text(".al-run-header", "third")  # shown by itself
    page.wait(lambda: page.step() >= 2, "its first steps")
    page.tab("runs")
    press(page, "Open", f"[data-run='{first}']")
    page.wait_text(".al-run-header", "first")
    page.wait(lambda: page.server.get(f"/runs/{third}")["step"] >= 6, "more steps of the other")
    assert "first" in page.text(".al-run-header")  # opened by hand
    page.server.post(f"/runs/{third}/stop", {"how": "save"})
    page.wait(lambda: page.server.get(f"/runs/{third}")["state"] == "stopped", "its end")

    page.tab("runs")
    for run in (first, third):
        page.click(f"[data-run='{run}'] input[type='checkbox']")
    page.wait_text("#al-panel-runs .al-table", "network.algo")
    rows = texts(page, "#al-panel-runs .al-table tbody tr")
    assert any("lora" in row and "lokr" in row for row in rows)
    assert page.all("#al-panel-runs canvas")
    files = [Path(file["path"]) for file in page.server.get(f"/runs/{first}")["adapters"]]
    assert files and all(file.exists() for file in files)
    press(page, "Delete", f"[data-run='{first}']")
    page.click("#al-remove-adapters")
    press(page, "Delete", ".al-dialog")
    page.wait(lambda: not page.all(f"[data-run='{first}']"), "the run to be gone")
    assert not any(file.exists() for file in files)
    assert [run["id"] for run in page.server.get("/runs") if run["id"] in (first, third)] == [third]
    inspect_and_convert(page, Path(page.server.get(f"/runs/{third}")["adapters"][-1]["path"]))


DRAWN = """
return [...document.querySelectorAll(arguments[0])].every((image) => image.complete && image.naturalWidth > 0);
"""


def inspect_and_convert(page: Page, adapter: Path) -> None:
    """The Files tab on an adapter that was trained here."""
    page.tab("files")
    page.one("#al-inspect-path").send_keys(str(adapter))
    page.click("#al-do-inspect")
    page.wait_text(".al-result", "lokr")
    assert "Forge-classic" in page.text(".al-result")
    page.driver.execute_script("document.querySelector(\"[name='al-tool'][value='convert']\").click()")
    page.one("#al-convert-adapter").send_keys(str(adapter))
    page.one("#al-convert-rank").send_keys("4")
    out = Path(page.one("#al-convert-out").get_attribute("value"))
    assert out == adapter.with_name(f"{adapter.stem}-converted.safetensors")
    page.click("#al-do-convert")
    link = page.one("form:not([hidden]) .al-result a[download]")
    content = urllib.request.urlopen(link.get_attribute("href"), timeout=60).read()
    assert content == out.read_bytes()
    assert any(
        name.endswith("lora_down.weight") for name in json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    )
    page.one("#al-convert-adapter").send_keys("/nowhere.safetensors")
    page.click("#al-do-convert")
    page.wait_text("form:not([hidden]) .al-result .al-problem", "nowhere.safetensors")


def test_own_presets_are_kept_applied_and_removed(page: Page) -> None:
    page.click("[data-type='loha'] input")
    page.type("network.dim", "7")
    press(page, "Save preset")
    page.one(".al-dialog input").send_keys("mine")
    press(page, "Save", ".al-dialog")
    page.wait(lambda: chosen_preset(page) == "mine", "the preset to be chosen")
    press(page, "Start over")
    page.wait(lambda: setting(page, "network.dim") != "7", "the defaults")
    page.driver.refresh()
    page.drawn()
    page.wait(lambda: "mine" in page.text(".al-presets"), "the preset after the page was loaded again")
    choose_preset(page, "mine")
    press(page, "Use preset", ".al-presets")
    page.wait(lambda: setting(page, "network.dim") == "7", "its settings")
    assert page.one("[data-type='loha'] input").is_selected()
    press(page, "Delete preset", ".al-presets")
    press(page, "Delete preset", ".al-dialog")
    page.wait(lambda: "mine" not in page.text(".al-presets"), "the preset to be gone")


def chosen_preset(page: Page) -> str:
    return str(page.one(".al-presets select[aria-label='Preset']").get_attribute("value"))


def choose_preset(page: Page, name: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(page.one(".al-presets select[aria-label='Preset']")).select_by_value(name)


def setting(page: Page, path: str) -> str:
    return str(page.one(f"[data-setting='{path}'] input").get_attribute("value"))


def test_kohyas_settings_are_carried_over_with_a_list_of_those_that_are_not(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "kohya.toml"
    file.write_text(
        'network_module = "lycoris.kohya"\nnetwork_dim = 12\nnetwork_args = ["algo=lokr", "factor=6"]\n'
        'max_train_steps = 777\nvae_batch_size = 3\ntenc_dropout_rate = "x"\n'
    )
    press(page, "Import kohya")
    page.one(".al-dialog input[type='file']").send_keys(str(file))
    page.wait_text(".al-dialog", "settings")
    assert "tenc_dropout_rate" in page.text(".al-dialog")
    press(page, "Use these settings", ".al-dialog")
    page.wait(lambda: setting(page, "network.factor") == "6", "the settings")
    assert setting(page, "network.dim") == "12" and setting(page, "run.steps") == "777"
    assert page.one("[data-type='lokr'] input").is_selected()


def test_what_is_still_to_be_filled_in_is_no_mistake(page: Page, pictures: Path) -> None:
    page.wait_text(".al-problems", "dataset.folder is empty")
    assert texts(page, "[data-setting].al-wrong") == [] and not page.all(".al-problems .al-problem")
    page.click("#al-start")
    page.wait(lambda: page.all("[data-setting='dataset.folder'].al-wrong"), "the mistake at its field")

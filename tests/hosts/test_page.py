"""What a person sees of us in the web UI's own page: words under an image, and our settings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from adapter_lab.adapters.checkpoint import open_checkpoint
from adapter_lab.adapters.keys import targets
from adapter_lab.hosts.settings import EVERY_FILE, OPTIONS
from tests.support.webui import WebUI
from tests.support.webui_page import RESULTS, keep_picture, opened, paste, until
from tests.support.xyz_files import linear_targets, write_run

# The button that opens a part of the Settings page, pressed; whether there was one.
SECTION = """
for (const name of ["Settings", "Adapter Lab"]) {
    const within = name === "Settings" ? "#tabs > .tab-nav, #tabs > .tab-wrapper" : "#tab_settings";
    const buttons = [...document.querySelectorAll(within)].flatMap((node) => [...node.querySelectorAll("button")]);
    const found = buttons.find((button) => button.textContent.trim() === name);
    if (!found) return false;
    found.click();
}
return true;
"""
SHOWN = """
return arguments[0].filter((option) => document.querySelector(`#setting_${option}`)?.getClientRects().length);
"""


def test_a_file_of_which_a_part_fits_is_named_under_the_picture(web_ui: WebUI) -> None:
    folder: Path = web_ui.adapter_folder() / "adapter-lab-page-tests"
    fitting = dict(list(linear_targets(targets(open_checkpoint(web_ui.checkpoint()).shapes)).items())[:3])
    nowhere = {f"lora_unet_no_such_block_{index}": target for index, target in enumerate(fitting.values())}
    try:
        (path,) = write_run(folder, "al-page-partial", "lora", {**fitting, **nowhere}, steps=(400,))
        web_ui.refresh_adapters()
        with web_ui.options(adapter_lab_scope=EVERY_FILE), opened(web_ui.url) as page:
            prompt = f"a cat <lora:{path.stem}:1>"
            paste(page, prompt, 1, "Sampler: Euler, CFG scale: 1, Seed: 7, Size: 64x64")
            page.execute_script("document.querySelector('#txt2img_generate').click()")
            said = until(lambda: "Not applied" in (text := page.execute_script(RESULTS)) and text)
            keep_picture(page, "partial.png")
        assert f"Adapter Lab: {path.stem}: lora, 3 of 6 modules. Not applied: " in said
        assert "lora_unet_no_such_block_0: the base has no such module" in said
        assert f'Adapter Lab: "{path.stem}: lora, 3 of 6 modules"' in said  # in the image's own parameters
    finally:
        shutil.rmtree(folder)
        web_ui.refresh_adapters()


def test_every_setting_of_ours_is_on_the_settings_page(web_ui: WebUI) -> None:
    def shown(page: Any) -> bool:
        return page.execute_script(SECTION) and page.execute_script(SHOWN, list(OPTIONS)) == list(OPTIONS)

    with opened(web_ui.url) as page:
        until(lambda: shown(page), 120)
        keep_picture(page, "settings.png")

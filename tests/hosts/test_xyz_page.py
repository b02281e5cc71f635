"""The X/Y/Z plot filled and run in the web UI's own page, with a real browser."""

from __future__ import annotations

import base64
import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from adapter_lab.adapters.checkpoint import open_checkpoint
from adapter_lab.adapters.keys import targets
from adapter_lab.comparing.sending import Plot, csv_line, run_plot, study_plot
from adapter_lab.hosts.settings import EVERY_FILE
from tests.hosts.test_xyz import difference
from tests.support.webui import PICTURE, WebUI
from tests.support.webui_page import FIELD, RESULTS, opened, until
from tests.support.xyz_files import STEPS, TYPES, linear_targets, write_run

SETTLED = 6  # seconds
FIELDS = """
const text = (id) => document.querySelector(`#script_txt2img_xyz_plot_${id} :is(textarea, input)`)?.value;
return {
    prompt: document.querySelector("#txt2img_prompt textarea")?.value,
    types: ["x_type", "y_type", "z_type"].map(text),
    values: ["x_values", "y_values", "z_values"].map(text),
    steps: document.querySelector("#txt2img_steps input[type=number]")?.value,
};
"""  # fmt: skip
PICTURES = "return [...document.querySelectorAll('#txt2img_gallery img')].map((image) => image.naturalWidth);"

# gradio's description of the page, in which components may have come to point at each other.
TITLE = """
const seen = new Set();
const once = (_, value) => {
    if (typeof value !== "object" || value === null) return value;
    if (seen.has(value)) return undefined;
    seen.add(value);
    return value;
};
return JSON.stringify(window.gradio_config ?? {}, once).match(/X.Y.Z [Pp]lot/)?.[0];
"""
# The first of them that is that wide, as base64.
READ = """
const [width, done] = arguments;
const image = [...document.querySelectorAll('#txt2img_gallery img')].find((image) => image.naturalWidth > width);
fetch(image.src).then((answer) => answer.blob()).then((blob) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.split(",")[1]);
    reader.readAsDataURL(blob);
});
"""


@pytest.fixture
def page(web_ui: WebUI) -> Iterator[Any]:
    with opened(web_ui.url) as page:
        yield page


def send(web_ui: WebUI, page: Any, plot: Plot, settings: str) -> dict[str, Any]:
    """Fill in txt2img as *Send to X/Y/Z plot* does; what then stands in its fields."""
    scripts = web_ui.get("/sdapi/v1/scripts")["txt2img"]
    title = next(s for s in ("X/Y/Z plot", "X/Y/Z Plot") if s.lower() in scripts and s in page_titles(page))
    infotext = f"{plot.infotext(title)}, {settings}"
    script = """
        const infotext = arguments[0];
        const done = arguments[arguments.length - 1];
        import('/adapter-lab/v1/static/server/host.js').then((host) => {
            const there = host.hasPlot();
            if (there) host.sendToPlot(infotext);
            done(there);
        }).catch((error) => done(String(error)));
    """
    until(lambda: page.execute_async_script(script, infotext) is True, 90)
    filled = [[label for label, _ in plot.axes], [csv_line(values) for _, values in plot.axes]]

    def fields() -> dict[str, Any]:
        for _ in range(SETTLED * 2):  # an answer of the web UI that is under way may still change them
            found = dict(page.execute_script(FIELDS))
            assert [found[key][: len(plot.axes)] for key in ("types", "values")] == filled, (found, infotext)
            time.sleep(0.5)
        return found

    return dict(until(fields, 120))


def generate(page: Any, least_width: int) -> Image.Image:
    """Press Generate; the first image of at least that width, which is the grid."""
    page.execute_script("document.querySelector('#txt2img_generate').click()")
    until(lambda: max(page.execute_script(PICTURES), default=0) > least_width)
    return Image.open(io.BytesIO(base64.b64decode(page.execute_async_script(READ, least_width)))).convert("RGB")


def test_a_run_sent_to_the_plot_fills_its_axes_and_makes_the_grid(web_ui: WebUI, page: Any) -> None:
    folder: Path = web_ui.adapter_folder() / "adapter-lab-xyz-page-tests"
    modules = linear_targets(targets(open_checkpoint(web_ui.checkpoint()).shapes), every=9)
    try:
        files = [(path.stem, step) for path, step in zip(write_run(folder, "al-page", "lokr", modules), (400, 800))]
        web_ui.refresh_adapters()
        plot = run_plot(files, ["a cat, a mat", "a dog"], [7])
        found = send(web_ui, page, plot, "Steps: 1, Sampler: Euler, CFG scale: 1, Size: 64x64")
        assert found["prompt"] == "a cat, a mat <lora:al-page-000800:1>"
        assert found["types"][:2] == ["[Adapter Lab] Step", "Prompt S/R"]
        assert found["values"][:2] == ["none,400,800", '"a cat, a mat",a dog']
        generate(page, 3 * 64)  # three columns and their labels
    finally:
        shutil.rmtree(folder)
        web_ui.refresh_adapters()


def test_a_study_of_four_types_by_four_points_and_the_baseline_from_the_page(web_ui: WebUI, page: Any) -> None:
    folder: Path = web_ui.adapter_folder() / "adapter-lab-xyz-page-tests"
    modules = linear_targets(targets(open_checkpoint(web_ui.checkpoint()).shapes))
    size, prompt = PICTURE["width"], "a cat sits on a mat"
    format_before = web_ui.get("/sdapi/v1/options")["grid_format"]
    try:
        web_ui.post("/sdapi/v1/options", {"grid_format": "png"})  # Forge Neo's page shows grids as JPEG
        for kind in TYPES:
            write_run(folder, f"al-page-{kind}", kind, modules)
        web_ui.refresh_adapters()
        plot = study_plot([f"al-page-{kind}" for kind in TYPES], len(STEPS), [prompt], [PICTURE["seed"]])
        [_, shares], [_, runs] = plot.axes
        assert shares == ("25%", "50%", "75%", "100%") and runs[0] == "none"
        with web_ui.options(adapter_lab_scope=EVERY_FILE):
            settings = (
                f"Steps: {PICTURE['steps']}, Sampler: Euler, CFG scale: {PICTURE['cfg_scale']}, Size: {size}x{size}"
            )
            send(web_ui, page, plot, settings)
            # Forge Neo's page has another schedule at first than its API.
            shown = page.execute_script(FIELD, "#txt2img_scheduler input")
            schedule = {"scheduler": shown} if shown else {}
            grid = generate(page, 4 * size)
            if folder_of_pictures := os.environ.get("ADAPTER_LAB_PICTURES"):
                grid.save(Path(folder_of_pictures) / "xyz-grid.png")
            # Labels are to the left and above.
            left, top = grid.width - 4 * size, grid.height - 5 * size
            for row, run in enumerate(runs):
                for column, step in enumerate(STEPS):
                    tag = "" if run == "none" else f" <lora:{run}-{step:06d}:1>"
                    corner = left + column * size, top + row * size
                    cell = grid.crop((*corner, corner[0] + size, corner[1] + size))
                    alone = web_ui.txt2img(prompt + tag, **schedule)
                    assert difference(cell, alone.image) == 0, (run, step, page.execute_script(RESULTS))
    finally:
        web_ui.post("/sdapi/v1/options", {"grid_format": format_before})
        shutil.rmtree(folder)
        web_ui.refresh_adapters()


def page_titles(page: Any) -> str:
    """What the page calls the X/Y/Z plot in its list of scripts."""
    return str(until(lambda: page.execute_script(TITLE)))

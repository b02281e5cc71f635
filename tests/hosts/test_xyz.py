"""The axes in a real web UI: each cell is what its tag alone gives, and no file is changed more often than it must."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from adapter_lab.adapters.checkpoint import open_checkpoint
from adapter_lab.adapters.keys import targets
from adapter_lab.hosts.settings import EVERY_FILE
from tests.support.webui import PICTURE, WebUI, WebUIError
from tests.support.xyz_files import STEPS, TYPES, linear_targets, write_run

PROMPT = "a cat sits on a mat"
RUN = "al-xyz-{kind}"


@pytest.fixture(scope="module")
def folder(web_ui: WebUI) -> Iterator[Path]:
    """Four trainings of different types, four steps each, in the web UI's folder of adapters."""
    folder = web_ui.adapter_folder() / "adapter-lab-xyz-tests"
    modules = linear_targets(targets(open_checkpoint(web_ui.checkpoint()).shapes))
    for kind in TYPES:
        write_run(folder, RUN.format(kind=kind), kind, modules)
    web_ui.refresh_adapters()
    yield folder
    shutil.rmtree(folder)
    web_ui.refresh_adapters()


class Made:
    """What the X/Y/Z plot made: the grid and its cells, row by row."""

    def __init__(self, answer: dict[str, Any], columns: int, console: str) -> None:
        info = json.loads(answer["info"])
        self.pictures = [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in answer["images"]]
        self.grid, *self.cells = self.pictures
        self.infotexts = info["infotexts"][-len(self.cells) :]
        self.columns = columns
        self.console = console

    def cell(self, column: int, row: int = 0) -> Image.Image:
        return self.cells[row * self.columns + column]

    def infotext(self, column: int, row: int = 0) -> str:
        return str(self.infotexts[row * self.columns + column])


def plot(web_ui: WebUI, axes: dict[str, str], prompt: str = PROMPT, **settings: Any) -> Made:
    """Run the X/Y/Z plot with one to three axes, values as comma-separated values; the first goes to the right."""
    scripts = web_ui.get("/sdapi/v1/script-info")
    script = next(s for s in scripts if s["name"].lower() == "x/y/z plot" and not s["is_img2img"])
    choices = next(a["choices"] for a in script["args"] if a["label"].lower() == "x type")
    arguments: list[Any] = []
    for label, values in [*axes.items(), *[("Nothing", "")] * (3 - len(axes))]:
        arguments += [choices.index(label), values, []]
    for argument in script["args"][9:]:
        label = argument["label"].lower()
        if "lone" in label or "sub image" in label or label == "use text inputs instead of dropdowns" or "csv" in label:
            arguments.append(True)
        else:
            arguments.append(argument["value"])
    before = len(web_ui.console())
    body = {**PICTURE, "prompt": prompt, "script_name": script["name"], "script_args": arguments, **settings}
    answer = web_ui.post("/sdapi/v1/txt2img", body)
    columns = len(next(iter(axes.values())).split(","))
    return Made(answer, columns, web_ui.console()[before:])


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of two images in grey levels."""
    return max(high for _, high in ImageChops.difference(one, other).getextrema())


def prompt_of(infotext: str) -> str:
    return infotext.partition("\n")[0]


def test_four_types_by_four_steps_and_the_baseline_are_what_each_tag_alone_gives(web_ui: WebUI, folder: Path) -> None:
    steps = ", ".join(map(str, STEPS))
    types = ["none", *(RUN.format(kind=kind) for kind in TYPES)]  # a person may have other files of these types
    with web_ui.options(adapter_lab_scope=EVERY_FILE):
        made = plot(web_ui, {"[Adapter Lab] Step": steps, "[Adapter Lab] Type": ", ".join(types)})
        for row, kind in enumerate([None, *TYPES]):
            for column, step in enumerate(STEPS):
                name = f"{RUN.format(kind=kind)}-{step:06d}"
                wanted = PROMPT if kind is None else f"{PROMPT} <lora:{name}:1>"
                assert prompt_of(made.infotext(column, row)) == wanted
                alone = web_ui.txt2img(wanted).image
                assert difference(made.cell(column, row), alone) == 0, wanted
    baseline = made.cell(0, 0)
    assert all(difference(made.cell(column, 0), baseline) == 0 for column in range(4))
    changed = [difference(made.cell(column, row), baseline) for row in range(1, 5) for column in range(4)]
    assert min(changed) > 2
    if web_ui.log is not None:
        assert "20 images of 16 adapter files, changed 16 times" in made.console
        loaded = re.findall(r"(al-xyz-\w+-\d+): \S.* modules", made.console)
        assert sorted(loaded) == sorted(f"{RUN.format(kind=kind)}-{step:06d}" for kind in TYPES for step in STEPS)


def test_a_tag_of_a_compared_run_is_replaced_and_keeps_its_strength(web_ui: WebUI, folder: Path) -> None:
    prompt = f"a cat <lora:{RUN.format(kind='lora')}-000400:0.5> sits on a mat"
    types = "LoKr f4 · al-xyz-lokr, LoRA · al-xyz-lora, none"
    made = plot(web_ui, {"[Adapter Lab] Type": types, "[Adapter Lab] Step": "1000"}, prompt)
    wanted = f"a cat <lora:{RUN.format(kind='lokr')}-000800:0.5> sits on a mat"
    assert prompt_of(made.infotext(0)) == wanted
    assert prompt_of(made.infotext(1)) == f"a cat <lora:{RUN.format(kind='lora')}-000800:0.5> sits on a mat"
    assert prompt_of(made.infotext(2)) == "a cat sits on a mat"
    assert difference(made.cell(0), web_ui.txt2img(wanted).image) == 0


def test_strength_alone_weighs_the_prompts_adapter(web_ui: WebUI, folder: Path) -> None:
    tag = f"<lora:{RUN.format(kind='loha')}-001600"
    made = plot(web_ui, {"[Adapter Lab] Strength": "0, 0.5, 1"}, f"{PROMPT} {tag}:0.3>")
    assert [prompt_of(made.infotext(i)) for i in range(3)] == [f"{PROMPT} {tag}:{s}>" for s in ("0", "0.5", "1")]
    assert difference(made.cell(0), web_ui.txt2img(PROMPT).image) == 0


def test_two_files_of_one_name_leave_a_blank_cell_or_the_right_picture(web_ui: WebUI, folder: Path) -> None:
    name, sound = f"{RUN.format(kind='loha')}-000400", f"{RUN.format(kind='lora')}-000800"
    alone = web_ui.txt2img(f"{PROMPT} <lora:{name}:1>").image
    twin = folder / "elsewhere" / f"{name}.safetensors"
    twin.parent.mkdir()
    try:
        shutil.copy(folder / f"{RUN.format(kind='lokr')}-001600.safetensors", twin)
        web_ui.refresh_adapters()
        made = plot(
            web_ui, {"[Adapter Lab] Type": f"LoHa · {RUN.format(kind='loha')}, none", "[Adapter Lab] Step": "400"}
        )
        told = made.infotext(0)
        assert told.startswith(f"Two files are called {name}: ") or difference(made.cell(0), alone) == 0
        assert prompt_of(made.infotext(1)) == PROMPT
        made = plot(web_ui, {"[Adapter Lab] File": f"{sound}, none"})
        assert prompt_of(made.infotext(0)) == f"{PROMPT} <lora:{sound}:1>"
    finally:
        shutil.rmtree(twin.parent)
        web_ui.refresh_adapters()


def test_a_blank_first_cell_does_not_end_the_grid(web_ui: WebUI, folder: Path) -> None:
    tag = f"{RUN.format(kind='lora')}-000400"
    made = plot(web_ui, {"[Adapter Lab] Step": "best, 800"}, f"{PROMPT} <lora:{tag}:1>")
    assert made.infotext(0).startswith("Nothing was recorded that says which step of al-xyz-lora is best")
    assert prompt_of(made.infotext(1)) == f"{PROMPT} <lora:{RUN.format(kind='lora')}-000800:1>"
    assert made.cell(0).size == made.cell(1).size


def test_an_unknown_type_is_one_sentence_that_names_those_there_are(web_ui: WebUI, folder: Path) -> None:
    with pytest.raises(WebUIError, match=r"no adapter of the type 'LoMagic'.*LoRA"):
        plot(web_ui, {"[Adapter Lab] Type": "LoRA, LoMagic"})
    assert web_ui.txt2img(PROMPT).image.size == (64, 64)

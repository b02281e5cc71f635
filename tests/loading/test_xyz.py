"""Our axes in the X/Y/Z plot of every web UI: the right tag per cell, few changes of file, reasons in blank cells."""

from __future__ import annotations

import importlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapter_lab.adapters.checkpoint import open_checkpoint
from adapter_lab.adapters.keys import Target, targets
from adapter_lab.comparing.cell import PREFIX
from adapter_lab.errors import AdapterLabError
from adapter_lab.hosts.xyz.axes import Axes
from tests.loading.forge_ui import ForgeUI
from tests.loading.standins.xyz_script import make_module
from tests.support.xyz_files import STEPS, TYPES, linear_targets, write_run


class Plot:
    """The X/Y/Z plot of a web UI with our axes in it."""

    def __init__(self, ui: ForgeUI) -> None:
        self.ui = ui
        self.axes = Axes(ui.host, ui.loader)
        self.scripts: Any = importlib.import_module("modules.scripts")
        self.reload()

    def reload(self) -> None:
        """What a web UI does when it starts and on "Reload UI": scripts again, then their pages."""
        self.module, entry = make_module()
        self.scripts.scripts_data[:] = [entry]
        self.messages = self.axes.install()
        self.script = self.module.Script()
        self.script.ui(False)

    def labels(self) -> list[str]:
        return [option.label for option in self.script.current_axis_options]

    def option(self, label: str) -> Any:
        return next(option for option in self.module.axis_options if option.label == label)

    def run(self, axes: dict[str, str], prompt: str = "a cat", chosen: dict[str, list[str]] | None = None) -> Any:
        """Run it with values as csv, or those of `chosen` from drop-downs; `tags` has the prompts of all cells."""
        arguments: list[Any] = []
        for label, values in [*axes.items(), *[("Nothing", "")] * (3 - len(axes))]:
            name = label if label in ("Nothing", "Seed", "VAE") else PREFIX + label
            arguments += [self.labels().index(name), values, (chosen or {}).get(label, [])]
        self.module.made.clear()
        p = SimpleNamespace(prompt=prompt, hr_prompt="", seed=1, width=64, height=64, override_settings={})
        p.all_prompts = p.all_seeds = p.all_subseeds = None
        result = self.script.run(p, *arguments, True, True, False, False, False, False, False, 0, chosen is None)
        assert not hasattr(p, "_adapter_lab_grid")
        return result


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, bases: dict[str, Path]) -> Path:
    """Four trainings of different types, four steps each."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in TYPES:
        write_run(folder, f"lucy-{kind}", kind, modules_of(bases["sd15"]))
    return folder


def modules_of(checkpoint: Path) -> dict[str, Target]:
    return linear_targets(targets(open_checkpoint(checkpoint).shapes), every=9)


@pytest.fixture
def plot(ui: ForgeUI, bases: dict[str, Path], runs: Path) -> Iterator[Plot]:
    ui.load_checkpoint(bases["sd15"], "sd15")
    ui.models.checkpoints_list["base"] = SimpleNamespace(title="sd15.safetensors [12]", filename=str(bases["sd15"]))
    shutil.copytree(runs, ui.folder, dirs_exist_ok=True)
    ui.networks.list_available_networks()
    plot = Plot(ui)
    yield plot
    plot.axes.remove()


def tag(kind: str, step: int, strength: str = "1") -> str:
    return f"<lora:lucy-{kind}-{step:06d}:{strength}>"


def test_types_by_steps_and_the_baseline(plot: Plot, capsys: pytest.CaptureFixture[str]) -> None:
    plot.ui.chosen.verbosity = "normal"
    made = plot.run({"Step": "400-1600 [4]", "Type": "none, LoRA, loha, LoKr f4, OFT"})
    assert plot.messages == []
    for column, step in enumerate(STEPS):
        prompts = [made.cells[column, row, 0].prompt for row in range(5)]
        assert prompts == ["a cat", *(f"a cat {tag(kind, step)}" for kind in TYPES)]
    assert made.labels[0] == ["400", "800", "1200", "1600"]
    assert made.labels[1] == ["no adapter", "LoRA", "loha", "LoKr f4", "OFT"]
    # Types are the outer loop: every file once, and the baseline's images one after another.
    assert plot.module.made == ["a cat"] * 4 + [f"a cat {tag(kind, step)}" for kind in TYPES for step in STEPS]
    assert "20 images of 16 adapter files, changed 16 times" in capsys.readouterr().out


def test_other_axes_loop_inside_so_that_files_change_seldom(plot: Plot, capsys: pytest.CaptureFixture[str]) -> None:
    plot.ui.chosen.verbosity = "normal"
    plot.run({"Type": "LoRA, LoHa", "Seed": "1, 2, 3", "Step": "400, 800"})
    assert "12 images of 4 adapter files, changed 3 times" in capsys.readouterr().out
    plot.run({"Strength": "0.5, 1", "File": "lucy-oft-000400, lucy-lora-000400"})
    assert "4 images of 2 adapter files, changed 1 times" in capsys.readouterr().out
    plot.run({"VAE": "a, b", "Step": "400, 800"}, f"a cat {tag('lora', 400)}")
    assert "4 images of 2 adapter files, changed 3 times" in capsys.readouterr().out


def test_a_step_that_was_not_saved_is_the_nearest_and_the_label_says_which(plot: Plot) -> None:
    (plot.ui.folder / "lucy-loha-000800.safetensors").rename(plot.ui.folder / "lucy-loha-000900.safetensors")
    for path in plot.ui.folder.glob("lucy-loha-000900*"):
        path.unlink()
    made = plot.run({"Step": "850, last, 50%", "Type": "LoRA, LoHa"})
    assert [made.cells[i, 1, 0].prompt for i in range(3)] == [
        f"a cat {tag('loha', step)}" for step in (1200, 1600, 400)
    ]
    assert made.labels[0] == ["850 (LoRA 800, LoHa 1200)", "last (1600)", "50% (LoRA 800, LoHa 400)"]


def test_drop_downs_offer_what_there_is_and_take_all(plot: Plot) -> None:
    choices = {name: plot.option(PREFIX + name).choices for name in ("Type", "Step", "File", "Study")}
    assert choices["Type"]() == ["none", "diag-OFT", "LoHa", "LoKr f4", "LoRA", "all"]
    assert choices["Step"]() == ["none", "last", "best", "400", "800", "1200", "1600", "all"]
    assert len(choices["File"]()) == 18 and choices["Study"]() == ["none", "all"]
    made = plot.run({"Step": "", "Type": ""}, chosen={"Step": ["all"], "Type": ["none", "LoRA"]})
    assert len(made.cells) == 8 and made.cells[3, 1, 0].prompt == f"a cat {tag('lora', 1600)}"
    made = plot.run({"Type": ""}, f"{tag('oft', 400)} a cat", chosen={"Type": ["all"]})
    assert made.labels[0] == ["LoHa · 1600", "LoKr f4 · 1600", "LoRA · 1600", "diag-OFT · 1600"]


def test_a_tag_of_a_compared_run_is_replaced_and_others_stay(plot: Plot) -> None:
    style = "<lora:style:0.4>"
    prompt = f"{tag('lora', 400, '0.8')} a cat {style}"
    made = plot.run({"Step": "800, none"}, prompt)
    assert made.cells[0, 0, 0].prompt == f"{tag('lora', 800, '0.8')} a cat {style}"
    assert made.cells[1, 0, 0].prompt == f"a cat {style}"
    assert made.labels[0] == ["LoRA · 800", "no adapter"]
    made = plot.run({"Type": "LoKr f4", "Strength": "0.5"}, f"a cat {tag('lora', 400, '0.8')}")
    # No run of the grid is the tag's, which therefore stays beside ours.
    assert made.cells[0, 0, 0].prompt == f"a cat {tag('lora', 400, '0.8')} {tag('lokr', 1600, '0.5')}"
    made = plot.run({"Strength": "0-1 [3]"}, f"a cat {tag('lora', 400, '0.8:0.5:te=0.1:dyn=4')}")
    assert made.cells[1, 0, 0].prompt == "a cat <lora:lucy-lora-000400:0.5:dyn=4>"
    assert made.labels[0] == ["strength 0", "strength 0.5", "strength 1"]


@pytest.mark.parametrize(
    ("axes", "prompt", "sentence"),
    [
        ({"Type": "LoRA, LoMagic"}, "a cat", r"no adapter of the type 'LoMagic'; there are .*LoKr f4"),
        ({"Step": "400"}, "a cat", r"axis Step needs to know of which adapter"),
        ({"Type": "LoRA", "Step": "many"}, "a cat", r"'many' is no step"),
        ({"Type": "LoRA", "Step": "0-8000 [0]"}, "a cat", r"stands for 0 values"),
        ({"Type": "LoRA", "Strength": "much"}, "a cat", r"'much' is no strength"),
        ({"File": "nobody"}, "a cat", r"no adapter file called nobody"),
        ({"Study": "mine"}, "a cat", r"no study called 'mine'"),
        ({"Type": ""}, "a cat", r"nothing on the axis Type"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(plot: Plot, axes: dict[str, str], prompt: str, sentence: str) -> None:
    with pytest.raises(AdapterLabError, match=sentence):
        plot.run(axes, prompt)
    assert plot.module.made == []


def test_a_file_deleted_meanwhile_leaves_its_cell_blank_and_the_others_whole(
    plot: Plot, capsys: pytest.CaptureFixture[str]
) -> None:
    plot.module.actions.append(lambda p: (plot.ui.folder / "lucy-lora-000800.safetensors").unlink(missing_ok=True))
    made = plot.run({"Step": "400, 800, 1200", "Type": "LoRA"})
    assert [bool(cell.infotexts[0].startswith("a cat")) for cell in made.cells.values()] == [True, False, True]
    blank = made.cells[1, 0, 0]
    assert blank.infotexts == ["lucy-lora-000800.safetensors is not there any more."]
    assert blank.images[0].size == (64, 64) and len(blank.images[0].getcolors()) > 1  # the reason is written on it
    assert "left blank: type LoRA, step 800: lucy-lora-000800.safetensors" in capsys.readouterr().out


def test_a_blank_first_cell_does_not_end_the_grid(plot: Plot) -> None:
    made = plot.run({"Step": "best, 400"}, f"a cat {tag('lora', 400)}")
    assert "Nothing was recorded that says which step of lucy-lora is best" in made.infotext
    assert made.cells[1, 0, 0].infotexts[0].startswith("a cat")


def test_two_bases_in_one_folder_are_kept_apart(plot: Plot, bases: dict[str, Path]) -> None:
    told = {"ss_base_model_version": "sdxl_base_v1-0"}
    write_run(plot.ui.folder, "xl-lora", "lora", modules_of(bases["sdxl"]), metadata=told)
    made = plot.run({"Type": "LoRA", "Step": "400"})  # the loaded model is SD1.5
    assert made.cells[0, 0, 0].prompt == f"a cat {tag('lora', 400)}"
    made = plot.run({"File": "xl-lora-000400, lucy-lora-000400"})
    assert made.cells[0, 0, 0].infotexts == ["xl-lora-000400 is for SDXL, but the base model is SD1.5."]
    assert made.cells[1, 0, 0].prompt == f"a cat {tag('lora', 400)}"


def test_two_files_of_one_name_are_not_taken_for_each_other(plot: Plot) -> None:
    twin = plot.ui.folder / "a" / "lucy-lora-000400.safetensors"
    twin.parent.mkdir()
    shutil.copy(plot.ui.folder / "lucy-loha-000400.safetensors", twin)
    plot.ui.networks.list_available_networks()
    told = plot.run({"Type": "LoRA", "Step": "400"}).cells[0, 0, 0].infotexts[0]
    if Path(plot.ui.networks.available_networks["lucy-lora-000400"].filename) == twin:
        assert told.startswith("Two files are called lucy-lora-000400: ") and told.endswith("; rename one.")
    else:
        assert told.startswith(f"a cat {tag('lora', 400)}")


def test_the_next_file_is_read_while_a_picture_is_made(plot: Plot) -> None:
    read, cache = [], plot.ui.loader.cache

    def wait(p: Any) -> None:
        end = time.monotonic() + 10
        while any(thread.name.startswith("Thread") and thread.is_alive() for thread in _readers()):
            assert time.monotonic() < end
            time.sleep(0.01)
        read.append(sorted(Path(path).stem for path, file in cache._files.items() if file._weights is not None))

    plot.module.actions.append(wait)
    plot.run({"Step": "400, 800, 1200", "Type": "LoRA"})
    assert read[0] == ["lucy-lora-000800"] and "lucy-lora-001200" in read[1]
    assert all(file.loads == 1 for file in cache._files.values())


def _readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.daemon and "read_ahead" in repr(thread._target)]


def test_reloading_the_page_adds_the_axes_once(plot: Plot) -> None:
    ours = [PREFIX + name for name in ("Type", "Step", "Strength", "File", "Study")]
    assert plot.labels() == ["Nothing", "Seed", "VAE", *ours]
    before = plot.module
    plot.axes.install()
    assert [option.label for option in before.axis_options].count(ours[0]) == 1
    plot.reload()
    assert [option.label for option in before.axis_options] == ["Nothing", "Seed", "VAE"]
    assert plot.labels() == ["Nothing", "Seed", "VAE", *ours]
    plot.axes.remove()
    assert not any(hasattr(found, "_adapter_lab_original") for found in _functions(plot.module))


def _functions(module: Any) -> list[Callable[..., Any]]:
    return [module.process_images, module.create_infotext, module.Script.run]


def test_a_plot_of_another_make_is_left_alone(plot: Plot) -> None:
    plot.axes.remove()
    module, entry = make_module()
    del module.process_images
    plot.scripts.scripts_data[:] = [entry]
    assert plot.axes.install() == ["The X/Y/Z plot has no process_images, so the axes of Adapter Lab are off."]
    assert len(module.axis_options) == 3
    plot.scripts.scripts_data[:] = []
    assert plot.axes.install() == []


def test_a_grid_without_our_axes_is_not_touched(plot: Plot) -> None:
    made = plot.run({"Seed": "1, 2"})
    assert plot.module.made == ["a cat", "a cat"] and made.labels[0] == ["Seed: 1", "Seed: 2"]

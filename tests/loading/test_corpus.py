"""Bad files of every kind: no error reaches the web UI, memory stays bounded, the message names the file."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from adapter_lab.hosts.loading.base_model import BaseModel, checkpoint_base
from adapter_lab.hosts.loading.loader import Loader, Request
from tests.loading.corpus import KINDS, REFUSED, BadFile, corpus, sample
from tests.loading.corpus_parts import a_good_module, base_shapes, sound
from tests.loading.forge_ui import ForgeUI, difference, expected, write_adapter

# What the process may need beyond what it needs for sound files, with all bad files one after another.
LARGEST_GROWTH = 200 * 2**20
LARGEST_HEADER_READ = 40 * 2**20


@dataclass
class Chosen:
    """Settings of a person who wants to hear of everything."""

    enabled: bool = True
    every_file: bool = True
    verbosity: str = "all"
    cache_bytes: int = 2**20


@pytest.fixture(scope="module")
def base() -> BaseModel:
    found = checkpoint_base("my checkpoint", base_shapes())
    assert found is not None
    return found


def load(path: Path, base: BaseModel, every_file: bool = True) -> Loader:
    """One generation with a file: load it and patch every weight, as a web UI does."""
    loader = Loader(Chosen(every_file=every_file), "classic")
    weights = {key: torch.rand(shape) for key, shape in base_shapes().items()}
    for _ in range(2):  # the second from the cache
        loader.begin([Request(path.stem, str(path))])
        plan = loader.plan(str(path), base) if loader.takes(str(path), base) else None
        for key, patch in (plan.patches if plan else {}).items():
            patched = patch.patched(weights[key], 0.7)
            assert patched.shape == weights[key].shape and patched.isfinite().all(), (path.name, key)
    return loader


def check(file: BadFile, path: Path, loader: Loader, shown: str) -> None:
    """Everything that is not applied is said, in one sentence that names the file."""
    for report in loader.reports():
        assert report.refused or report.reasons or file.kind not in REFUSED, file.name
        assert report.applied + len(report.reasons) >= report.total or report.refused, file.name
        if report.refused:
            assert str(path) in report.refused and report.refused.endswith("."), report.refused
            assert len(report.refused) < 2000, file.name
        if not report.complete:
            assert path.stem in shown, file.name


HARMLESS = ("metadata",)  # absurd promises count as absent, so these files apply


@pytest.mark.parametrize("every_file", [True, False], ids=["all files", "only those the web UI gets wrong"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_bad_file_raises_and_every_one_is_named(
    kind: str, every_file: bool, base: BaseModel, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def opened(*arguments: Any, **more: Any) -> None:
        raise AssertionError("a pickle was opened")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, opened)
    refused = 0
    for file in corpus(kind):
        path = file.write(tmp_path)
        loader = load(path, base, every_file)
        check(file, path, loader, capsys.readouterr().out)
        refused += any(report.refused or report.reasons for report in loader.reports())
        path.unlink()
    assert (refused == 0) == (kind in HARMLESS)


def test_there_are_more_than_two_thousand_and_they_are_the_same_in_every_run() -> None:
    first, second = ([file for kind in KINDS for file in corpus(kind)] for _ in range(2))
    assert len(first) > 4000 and first == second
    assert len({file.content for file in first}) > 3500


def test_what_the_good_module_of_a_file_does_is_not_lost(base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "good.safetensors").write_bytes(sound(a_good_module()))
    assert load(tmp_path / "good.safetensors", base).reports()[0].complete
    beside = [file for kind in ("shapes", "numbers", "missing", "zero rank") for file in corpus(kind)][1::2]
    applied = [load(file.write(tmp_path), base).reports()[0].applied for file in beside]
    assert min(applied) >= 1


MEASURE = """
import resource, sys
from pathlib import Path
from tests.loading.corpus import KINDS, corpus
from tests.loading.corpus_parts import base_shapes
from tests.loading.test_corpus import load
from adapter_lab.hosts.loading.base_model import checkpoint_base

folder, base = Path(sys.argv[1]), checkpoint_base("my checkpoint", base_shapes())
files = [file for kind in KINDS for file in corpus(kind)]
load(files[-1].write(folder), base)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for file in files:
    path = file.write(folder)
    load(path, base)
    path.unlink()
print("grew by", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_bounded_whatever_the_files_claim(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert int(done.stdout.split("grew by")[1]) * 1024 <= LARGEST_GROWTH


def test_the_web_ui_finishes_its_picture_with_the_other_adapters(ui: ForgeUI, bases: dict[str, Path]) -> None:
    ui.load_checkpoint(bases["sd15"], "sd15")
    good = write_adapter(ui.folder / "good.safetensors", bases["sd15"])
    wanted = expected(bases["sd15"], "sd15", (good, 0.7))
    for file in sample():
        if file.kind not in REFUSED or file.name.endswith(".ckpt"):
            continue
        path = file.write(ui.folder)
        assert difference(ui.generate((path.stem, 1.0), ("good", 0.7)), wanted) < 1e-6, file.name
        path.unlink()

"""The commands that read adapter files end with one sentence that names a bad file, or with a sound new file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adapter_lab.adapters.apply import apply_adapters
from adapter_lab.adapters.convert import convert
from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.adapters.inspect import describe, text
from adapter_lab.adapters.merge import merge
from adapter_lab.adapters.resize import resize
from adapter_lab.adapters.svd import RankRule
from adapter_lab.errors import AdapterLabError
from adapter_lab.hosts.loading import verdicts
from adapter_lab.hosts.standalone import convert_for
from tests.loading.corpus import sample
from tests.loading.corpus_parts import base_shapes

RANK = RankRule(rank=2)
# file, base, new file -> whatever
VERBS: dict[str, Callable[[Path, Path, Path], Any]] = {
    "to lora": lambda file, base, out: convert(file, out, "lora", rule=RANK, base=base),
    "to lora without base": lambda file, base, out: convert(file, out, "lora", rule=RankRule(error=0.1), dtype="fp32"),
    "to full": lambda file, base, out: convert(file, out, "full", base=base),
    "to same": lambda file, base, out: convert(file, out, "same"),
    "for classic": lambda file, base, out: convert_for(file, out, "classic", base=base),
    "merge": lambda file, base, out: merge([(file, 0.5), (file, -1.0)], out, base=base),
    "resize": lambda file, base, out: resize(file, out, RANK),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    save_adapter(path, {key: torch.rand(shape) for key, shape in base_shapes().items()}, {})
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_a_new_file_is_sound_or_there_is_none(verb: str, base: Path, tmp_path: Path) -> None:
    out, sources = tmp_path / "out" / "new.safetensors", tmp_path / "bad"
    sources.mkdir()
    refused = 0
    for bad in sample(each=5):
        path = bad.write(sources)
        try:
            VERBS[verb](path, base, out)
        except AdapterLabError as error:
            assert str(path) in str(error) or str(out) in str(error), bad.name
            assert not out.parent.exists() or not list(out.parent.iterdir())
            refused += 1
            continue
        made = AdapterFile.open(out)
        assert made.modules and not made.unknown
        for name in made.modules:
            made.load(name)
        out.unlink()
    assert 0 < refused < 80


READERS: dict[str, Callable[[Path, Path, Path], Any]] = {
    "apply": lambda file, base, out: apply_adapters(base, [(file, 1.0)], out),
    "inspect": lambda file, base, out: text(describe(file, modules=True)),
    "verdicts": lambda file, base, out: verdicts.text(verdicts.describe(file)),
}


@pytest.mark.parametrize("verb", READERS)
def test_applying_and_inspecting_say_what_is_wrong(verb: str, base: Path, tmp_path: Path) -> None:
    for bad in sample(each=15):
        path = bad.write(tmp_path)
        try:
            READERS[verb](path, base, tmp_path / "out.safetensors")
        except AdapterLabError as error:
            assert str(path) in str(error) or str(base) in str(error), bad.name
        path.unlink()

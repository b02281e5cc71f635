"""A file that is there but cannot be read is named with what is wrong with it, never called missing."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from adapter_lab.adapters.library import Library
from adapter_lab.comparing.pool import Pool
from adapter_lab.errors import AdapterLabError

WHOLE = save({"lora_unet_x.lora_up.weight": torch.zeros(4, 2), "lora_unet_x.lora_down.weight": torch.zeros(2, 4)})
BROKEN = {
    "cut off": WHOLE[:-8],
    "a page of the web": b"<html>Not found</html>",
    "a pickle": pickle.dumps({"a": 1}),
    "empty": b"",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_it_is_named_with_what_is_wrong(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "Mine.safetensors"
    path.write_bytes(BROKEN[kind])
    pool = Pool(Library().scan([tmp_path]))
    with pytest.raises(AdapterLabError) as refused:
        pool.entry("mine")
    assert str(path) in str(refused.value) and "There is no adapter file" not in str(refused.value)
    with pytest.raises(AdapterLabError, match="There is no adapter file called other"):
        pool.entry("other")


def test_a_file_that_was_mended_meanwhile_is_looked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"")
    library = Library()
    pool = Pool(library.scan([tmp_path]))
    path.write_bytes(WHOLE)
    with pytest.raises(AdapterLabError, match="has been replaced meanwhile: look for the files again"):
        pool.entry("mine")
    assert Pool(library.scan([tmp_path])).entry("mine").path == path

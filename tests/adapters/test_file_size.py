"""The predicted size of an adapter file is its real size, and the study's eight files come out to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from torch import nn

from adapter_lab.adapters import writing
from adapter_lab.adapters.file import file_bytes, save_adapter
from adapter_lab.adapters.keys import Target, targets
from adapter_lab.adapters.tensors import DTYPES, TensorFile
from tests.adapters.layouts import real_shapes

LINEAR = {"attention", "feed_forward", "projection"}
CONV = LINEAR | {"conv", "time_embedding"}
TUCKER_32 = {"lora_dim": 32, "use_tucker": True}
STUDY = {
    "LoRA 32, UNet only": (LoConModule, {"lora_dim": 32}, LINEAR, False, 170_537_276),
    "LoRA 32": (LoConModule, {"lora_dim": 32}, LINEAR, True, 228_447_308),
    "LoCon 32, tucker": (LoConModule, TUCKER_32, CONV, True, 237_185_136),
    "LoHa 16, tucker": (LohaModule, {**TUCKER_32, "lora_dim": 16}, CONV, True, 237_116_824),
    "LoKr 32, factor 0": (LokrModule, {**TUCKER_32, "factor": 0}, CONV, True, 237_313_056),
    "LoKr 32, factor 2": (LokrModule, {**TUCKER_32, "factor": 2}, CONV, True, 119_294_272),
    "LoKr 32, factor 4": (LokrModule, {**TUCKER_32, "factor": 4}, CONV, True, 60_306_936),
    "GLoRA 16": (GLoRAModule, {"lora_dim": 16}, CONV, True, 239_840_424),
}


@pytest.fixture(scope="module")
def sdxl() -> dict[str, Target]:
    return dict(targets(real_shapes("sdxl")))


@pytest.mark.parametrize("row", STUDY)
def test_the_studys_sdxl_files_have_the_measured_sizes(row: str, sdxl: dict[str, Target]) -> None:
    module, options, roles, with_text, size = STUDY[row]
    layout = {}
    shapes: dict[Any, dict[str, tuple[int, ...]]] = {}
    for target in sdxl.values():
        text = target.part != "unet" and with_text and target.role in LINEAR
        if not text and not (target.part == "unet" and target.role in roles):
            continue
        if target.shape not in shapes:
            out, inputs, *kernel = target.shape
            with torch.device("meta"):
                layer = nn.Conv2d(inputs, out, kernel) if kernel else nn.Linear(inputs, out)
            saved = module("name", layer, **options).state_dict()
            shapes[target.shape] = {suffix: tuple(tensor.shape) for suffix, tensor in saved.items()}
        layout |= {f"{target.name}.{suffix}": (shape, torch.float16) for suffix, shape in shapes[target.shape].items()}
    assert file_bytes(layout, None) == size


TENSORS = {
    "lora_unet_a.lora_up.weight": torch.randn(4, 3).half(),
    "lora_unet_a.lora_down.weight": torch.randn(3, 5),
    "lora_unet_a.alpha": torch.tensor(1.5),
    "lora_unet_b.on_input": torch.tensor(1),
    "lora_unet_b.weight": torch.randn(7).bfloat16(),
    "lora_unet_émile.diff": torch.randn(0, 3),
}
METADATA = {"ss_tag_frequency": '{"a": {"日本": 1, "\\u0000": 2}}', "ss_output_name": 'a "b"\n\x07é\x7f\u2028'}


@pytest.mark.parametrize("metadata", [{}, METADATA])
def test_the_predicted_size_is_the_real_size(metadata: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, TENSORS, metadata)
    assert file_bytes(writing.layout_of(TENSORS), metadata) == path.stat().st_size


@pytest.mark.parametrize("metadata", [None, {"one": METADATA["ss_output_name"]}])
def test_files_equal_the_safetensors_librarys_byte_for_byte(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        tensors = {}
        for dtype in DTYPES.values():
            shape = torch.randint(0, 4, (int(torch.randint(0, 4, (1,), generator=generator)),), generator=generator)
            name = "".join(chr(int(c)) for c in torch.randint(33, 1000, (3,), generator=generator))
            tensors[name] = torch.randint(0, 2, shape.tolist(), generator=generator).to(dtype)
        raw = {name: writing.raw_bytes(tensor) for name, tensor in tensors.items()}
        size = writing.write_tensors(tmp_path / "x.safetensors", writing.layout_of(tensors), metadata, raw.__getitem__)
        written = (tmp_path / "x.safetensors").read_bytes()
        assert written == safetensors.torch.save(tensors, metadata)
        assert size == len(written) == len(safetensors.torch.save(tensors, metadata))
        if metadata is None:
            assert size == file_bytes(writing.layout_of(tensors), None)
        read = TensorFile.open(tmp_path / "x.safetensors")
        assert read.metadata == (metadata or {})
        for name, tensor in tensors.items():
            assert torch.equal(read.read(name).float(), tensor.float())

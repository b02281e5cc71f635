"""Sound modules and the bytes of files, of which the bad files of the corpus are made."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from adapter_lab.adapters.tensors import DTYPE_NAMES
from adapter_lab.adapters.writing import raw_bytes
from tests.adapters.random_adapter import ALGORITHMS, random_tensors

# A file's bytes, and the size it has if that is more: the rest is a hole, which costs no disk.
Content = Iterator["tuple[bytes] | tuple[bytes, int]"]

# Layers of the base the files are for, by name in a checkpoint and shape.
TOP = "model.diffusion_model.input_blocks"
LAYERS = {
    f"{TOP}.1.1.transformer_blocks.0.attn1.to_out.0": (24, 16),
    f"{TOP}.1.0.in_layers.2": (24, 16, 3, 3),
    f"{TOP}.1.0.in_layers.0": (16,),
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1": (24, 16),
}
LINEAR = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_out_0"
CONV = "lora_unet_input_blocks_1_0_in_layers_2"
NORM = "lora_unet_input_blocks_1_0_in_layers_0"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
PLACES = {LINEAR: (24, 16), CONV: (24, 16, 3, 3), NORM: (16,)}


def base_shapes() -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of the checkpoint the files are for: an SD1.5 of four layers."""
    shapes = {f"{TOP}.0.0.weight": (8, 4, 3, 3)}
    for name, shape in LAYERS.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def a_good_module() -> dict[str, Tensor]:
    """A module of a layer that the bad ones leave alone, so that half of the files are partly sound."""
    return {f"{TEXT}.{suffix}": tensor for suffix, tensor in random_tensors("lora", (24, 16)).items()}


def header_of(tensors: dict[str, Tensor], metadata: Any = None) -> tuple[dict[str, Any], bytes]:
    """The header and data of a sound file."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for key, tensor in tensors.items():
        raw = bytes(raw_bytes(tensor))
        dtype = DTYPE_NAMES[tensor.dtype]
        header[key] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return header, data


def packed(header: Any, data: bytes, length: int | None = None) -> bytes:
    """The bytes of a file; `header` may be any JSON or bytes, `length` what the file claims of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def sound(tensors: dict[str, Tensor], metadata: Any = None) -> bytes:
    """A file that is well-formed, whatever its tensors mean."""
    return packed(*header_of(tensors, metadata))


def modules() -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """(algorithm, module name, tensors by suffix): every algorithm on a linear layer and a convolution, and a norm."""
    for algorithm in ALGORITHMS:
        for name in (LINEAR, CONV):
            yield algorithm, name, random_tensors(algorithm, PLACES[name], bias=True)
    yield "norm", NORM, random_tensors("norm", PLACES[NORM], bias=True)


def named(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{suffix}": tensor for suffix, tensor in tensors.items()}


def with_and_without_good(tensors: dict[str, Tensor]) -> Content:
    yield (sound(tensors),)
    yield (sound({**a_good_module(), **tensors}),)

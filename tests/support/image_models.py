"""Tiny CLIP, DINOv2 and tagger models with random or chosen weights, in the files that real ones come in."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

SIDE = 32
PREPROCESSOR = {
    "do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True,
    "size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, "resample": 3,
    "rescale_factor": 1 / 255, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip


def write_clip(folder: Path) -> Path:
    """A CLIP model of two layers with a tokenizer of single letters."""
    vocabulary = {word: number for number, word in enumerate(_letters())}
    text = {
        "vocab_size": len(vocabulary), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 77, "projection_dim": 16,
        "bos_token_id": vocabulary["<|startoftext|>"], "eos_token_id": vocabulary["<|endoftext|>"],
        "pad_token_id": vocabulary["<|endoftext|>"],
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 8, "projection_dim": 16,
    }  # fmt: skip
    torch.manual_seed(1)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    _write(folder / "preprocessor_config.json", {**PREPROCESSOR, "image_processor_type": "CLIPImageProcessor"})
    _write(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    _write(folder / "tokenizer_config.json", {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
    })  # fmt: skip
    return folder


def write_dino(folder: Path) -> Path:
    """A DINOv2 model of two layers."""
    torch.manual_seed(2)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=8)
    Dinov2Model(config).save_pretrained(folder)
    _write(folder / "preprocessor_config.json", {**PREPROCESSOR, "image_processor_type": "BitImageProcessor"})
    return folder


def write_tagger(
    folder: Path, tags: Sequence[tuple[str, str]], weights: Sequence[Sequence[float]], bias: float
) -> Path:
    """A WD tagger: the sigmoid of a linear map of the mean blue, green and red (0 to 255) of the image.

    `tags` are (name, category); `weights` has a row of three per tag.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{number},{name},{category},1" for number, (name, category) in enumerate(tags)]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows]), encoding="utf-8")
    (folder / "model.onnx").write_bytes(_linear_model(weights, bias))
    return folder


def _letters() -> list[str]:
    return [
        "<|startoftext|>",
        "<|endoftext|>",
        *(chr(c) for c in range(33, 127)),
        *(chr(c) + "</w>" for c in range(33, 127)),
    ]


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


# ONNX by hand (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto): fields as (number, value) in protobuf's format.


def _linear_model(weights: Sequence[Sequence[float]], bias: float) -> bytes:
    count = len(weights)
    columns = [weights[tag][channel] for channel in range(3) for tag in range(count)]  # (3, tags)
    graph = [
        *((1, node) for node in (
            _node("ReduceMean", ["input"], "mean", [_ints("axes", [1, 2]), _int("keepdims", 0)]),
            _node("MatMul", ["mean", "w"], "product", []),
            _node("Add", ["product", "b"], "sum", []),
            _node("Sigmoid", ["sum"], "output", []),
        )),
        (2, b"g"),
        (5, _tensor("w", [3, count], columns)),
        (5, _tensor("b", [1], [bias])),
        (11, _value("input", [1, SIDE, SIDE, 3])),
        (12, _value("output", [1, count])),
    ]  # fmt: skip
    return _message([(1, 8), (8, _message([(2, 13)])), (7, _message(graph))])


def _message(entries: Sequence[tuple[int, bytes | int]]) -> bytes:
    found = b""
    for number, value in entries:
        if isinstance(value, int):
            found += _varint(number << 3) + _varint(value)
        else:
            found += _varint(number << 3 | 2) + _varint(len(value)) + value
    return found


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def _node(kind: str, inputs: Sequence[str], output: str, attributes: Sequence[bytes]) -> bytes:
    entries = [(1, name.encode()) for name in inputs] + [(2, output.encode()), (4, kind.encode())]
    return _message([*entries, *((5, attribute) for attribute in attributes)])


def _ints(name: str, values: Sequence[int]) -> bytes:
    return _message([(1, name.encode()), *((8, value) for value in values), (20, 7)])


def _int(name: str, value: int) -> bytes:
    return _message([(1, name.encode()), (3, value), (20, 2)])


def _tensor(name: str, dims: Sequence[int], values: Sequence[float]) -> bytes:
    raw = struct.pack(f"<{len(values)}f", *values)
    return _message([*((1, dim) for dim in dims), (2, 1), (8, name.encode()), (9, raw)])


def _value(name: str, dims: Sequence[int]) -> bytes:
    shape = _message([(1, _message([(1, dim)])) for dim in dims])
    return _message([(1, name.encode()), (2, _message([(1, _message([(1, 1), (2, shape)]))]))])

"""Text encoding as web UIs do it, against references put together from the file's raw tensors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from adapter_lab.config import BaseConfig
from adapter_lab.training.bases import Base, open_base
from tests.support.checkpoints import byte_vocabulary, tiny_layout, write_random_checkpoint

HEADS = 4
CAPTIONS = ["a photo of a cat", ""]


def _norm(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of HEADS heads, written out; (B, n, width) each."""
    batch, length, width = q.shape
    q, k, v = (x.view(batch, length, HEADS, width // HEADS).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(width // HEADS)
    scores = scores + torch.full((length, length), -torch.inf).triu(1)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)


def open_clip(state: dict[str, Tensor], ids: Tensor, layers: int) -> Tensor:
    """OpenCLIP's transformer after `layers` blocks, from its own tensor names with fused q, k, v."""
    x = state["token_embedding.weight"][ids] + state["positional_embedding"]
    for i in range(layers):
        block = f"transformer.resblocks.{i}"
        fused = F.linear(
            _norm(x, state, f"{block}.ln_1"), state[f"{block}.attn.in_proj_weight"], state[f"{block}.attn.in_proj_bias"]
        )
        x = x + F.linear(
            _attend(*fused.chunk(3, -1)), state[f"{block}.attn.out_proj.weight"], state[f"{block}.attn.out_proj.bias"]
        )
        inner = F.gelu(
            F.linear(
                _norm(x, state, f"{block}.ln_2"), state[f"{block}.mlp.c_fc.weight"], state[f"{block}.mlp.c_fc.bias"]
            )
        )
        x = x + F.linear(inner, state[f"{block}.mlp.c_proj.weight"], state[f"{block}.mlp.c_proj.bias"])
    return x


def clip_l(state: dict[str, Tensor], ids: Tensor, layers: int) -> Tensor:
    """CLIP-L's transformer after `layers` blocks, with its quick GELU."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = state["embeddings.token_embedding.weight"][ids] + state["embeddings.position_embedding.weight"]
    for i in range(layers):
        layer = f"encoder.layers.{i}"
        inner = _norm(x, state, f"{layer}.layer_norm1")
        attended = _attend(*(linear(inner, f"{layer}.self_attn.{letter}_proj") for letter in "qkv"))
        x = x + linear(attended, f"{layer}.self_attn.out_proj")
        inner = linear(_norm(x, state, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
        x = x + linear(inner * torch.sigmoid(1.702 * inner), f"{layer}.mlp.fc2")
    return x


def _state(path: Path, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in load_file(path).items() if key.startswith(prefix)}


def _ids(captions: list[str], pad: int) -> Tensor:
    """Token ids of short captions, a byte-level token per letter, written out by hand."""
    vocabulary = byte_vocabulary()
    start, end = len(vocabulary) - 2, len(vocabulary) - 1
    rows = []
    for caption in captions:
        ids = [
            vocabulary[c if i + 1 < len(word) else c + "</w>"] for word in caption.split() for i, c in enumerate(word)
        ]
        rows.append([start, *ids, end, *[end if pad else 0] * (75 - len(ids))])
    return torch.tensor(rows)


def _base(tmp_path: Path, family: str, **settings: int) -> Base:
    path = write_random_checkpoint(tmp_path / f"{family}.safetensors", tiny_layout(family), torch.float32)
    return open_base(BaseConfig(checkpoint=str(path), **settings))


@pytest.mark.parametrize("clip_skip, layers", [(0, 3), (1, 3), (2, 2)])
def test_sd15_reads_the_chosen_layer_through_the_final_norm(tmp_path: Path, clip_skip: int, layers: int) -> None:
    base = _base(tmp_path, "sd15", clip_skip=clip_skip)
    state = _state(base.path, "cond_stage_model.transformer.text_model.")
    expected = _norm(clip_l(state, _ids(CAPTIONS, pad=1), layers), state, "final_layer_norm")
    output = base.load_text_encoders(torch.float32).encode(CAPTIONS)
    torch.testing.assert_close(output.hidden, expected)
    assert output.pooled is None


@pytest.mark.parametrize("clip_skip, layers", [(0, 2), (2, 2), (3, 1)])
def test_sd2_reads_the_penultimate_layer_through_the_final_norm(tmp_path: Path, clip_skip: int, layers: int) -> None:
    base = _base(tmp_path, "sd2", clip_skip=clip_skip)
    state = _state(base.path, "cond_stage_model.model.")
    expected = _norm(open_clip(state, _ids(CAPTIONS, pad=0), layers), state, "ln_final")
    torch.testing.assert_close(base.load_text_encoders(torch.float32).encode(CAPTIONS).hidden, expected)


@pytest.mark.parametrize("clip_skip, layers", [(0, 2), (1, 3), (3, 1)])
def test_sdxl_joins_penultimate_layers_without_norm_and_projects_the_end_token(
    tmp_path: Path, clip_skip: int, layers: int
) -> None:
    base = _base(tmp_path, "sdxl", clip_skip=clip_skip)
    first = _state(base.path, "conditioner.embedders.0.transformer.text_model.")
    second = _state(base.path, "conditioner.embedders.1.model.")
    ids = _ids(CAPTIONS, pad=0)
    expected = torch.cat([clip_l(first, _ids(CAPTIONS, pad=1), layers), open_clip(second, ids, layers)], -1)
    last = _norm(open_clip(second, ids, 3), second, "ln_final")
    ends = (ids == ids.max()).int().argmax(-1)
    output = base.load_text_encoders(torch.float32).encode(CAPTIONS)
    torch.testing.assert_close(output.hidden, expected)
    torch.testing.assert_close(output.pooled, last[torch.arange(2), ends] @ second["text_projection"])


@pytest.mark.parametrize("family, width", [("sd15", 32), ("sd2", 32), ("sdxl", 96)])
def test_chunks_are_encoded_separately_and_joined(tmp_path: Path, family: str, width: int) -> None:
    encoders = _base(tmp_path, family).load_text_encoders(torch.float32)
    long = "abcde " * 20  # 100 tokens: 15 words in the first chunk, 5 in the second
    joined = encoders.encode([long, "cat"], 3)
    assert joined.hidden.shape == (2, 3 * 77, width)
    parts = [encoders.encode([text, other]) for text, other in (("abcde " * 15, "cat"), ("abcde " * 5, ""), ("", ""))]
    torch.testing.assert_close(joined.hidden, torch.cat([part.hidden for part in parts], 1))
    if family == "sdxl":
        torch.testing.assert_close(joined.pooled, parts[0].pooled)


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_gradients_reach_every_layer_that_counts(tmp_path: Path, family: str) -> None:
    encoders = _base(tmp_path, family).load_text_encoders(torch.float32)
    for module in encoders.parts.values():
        module.requires_grad_(True)
    output = encoders.encode(CAPTIONS)
    loss = output.hidden.square().mean() + (output.pooled.square().mean() if output.pooled is not None else 0)
    loss.backward()
    for part, module in encoders.parts.items():
        unused = {name for name, parameter in module.named_parameters() if parameter.grad is None}
        # SDXL reads its first encoder before the last layer; everything else has a gradient.
        expected = "encoder.layers.2." if (family, part) == ("sdxl", "te1") else None
        names = {name.removeprefix("text_model.") for name in unused}
        if expected is None:
            assert not names
        else:
            assert all(name.startswith((expected, "final_layer_norm")) for name in names) and names

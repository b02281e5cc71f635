"""Well-formed files of tensors that make no sense: shapes, numbers, names and promises of metadata."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import permutations

import torch
from torch import Tensor

from adapter_lab.adapters.tensors import DTYPES
from tests.adapters.random_adapter import ALGORITHMS, random_tensors
from tests.loading.corpus_parts import (
    LINEAR,
    PLACES,
    Content,
    a_good_module,
    modules,
    named,
    sound,
    with_and_without_good,
)


def shapes(chance: random.Random) -> Content:
    """Tensors of shapes that no trainer writes, one at a time."""
    for _, name, tensors in modules():
        for suffix, tensor in tensors.items():
            for change in chance.sample(RESHAPES, 9):
                yield from with_and_without_good(named(name, {**tensors, suffix: change(tensor)}))


RESHAPES: list[Callable[[Tensor], Tensor]] = [
    lambda t: t.reshape(-1),
    lambda t: t.reshape(-1, 1),
    lambda t: t.reshape(1, -1),
    lambda t: t[None],
    lambda t: t[..., None, None, None],
    lambda t: t.T if t.dim() == 2 else t.flatten(),
    lambda t: torch.cat([t, t]) if t.dim() else t.repeat(2),
    lambda t: t[:1] if t.dim() else t.repeat(3),
    lambda t: t[..., :1] if t.dim() else t.reshape(1, 1),
    lambda t: t.new_zeros(0),
    lambda t: t.new_zeros(0, 0),
    lambda t: t.new_zeros(0, 16),
    lambda t: t.new_zeros(24, 0, 3, 3),
    lambda t: t.new_ones(()),
    lambda t: t.new_ones(1000, 1),
    lambda t: t.new_ones((1,) * 30),
]


def numbers(chance: random.Random) -> Content:
    """NaN, infinity, and numbers that overflow when they are multiplied, in one place or everywhere."""
    for _, name, tensors in modules():
        for suffix, tensor in tensors.items():
            for value in (float("nan"), float("inf"), -float("inf"), 3e38, 1e30):
                bad = tensor.clone().float()
                if chance.random() < 0.5 or not bad.numel():
                    bad.fill_(value)
                else:
                    bad.view(-1)[chance.randrange(bad.numel())] = value
                yield from with_and_without_good(named(name, {**tensors, suffix: bad}))


def dtypes(chance: random.Random) -> Content:
    """Whole numbers, truth values and 8-bit floats where trained numbers belong."""
    for _, name, tensors in modules():
        for suffix, tensor in tensors.items():
            dtype = chance.choice([dtype for dtype in DTYPES.values() if dtype != torch.float32])
            yield from with_and_without_good(named(name, {**tensors, suffix: tensor.to(dtype)}))
        for dtype in (torch.bool, torch.int64, torch.uint8, torch.float8_e5m2):
            yield (sound(named(name, {suffix: tensor.to(dtype) for suffix, tensor in tensors.items()})),)


def missing(chance: random.Random) -> Content:
    """Modules that lack a tensor, and modules of one tensor alone."""
    for _, name, tensors in modules():
        for suffix in tensors:
            yield from with_and_without_good(named(name, {s: t for s, t in tensors.items() if s != suffix}))
            yield from with_and_without_good(named(name, {suffix: tensors[suffix]}))


def two_algorithms(chance: random.Random) -> Content:
    """Keys of two algorithms in one module, and two modules for one layer."""
    for one, other in permutations(ALGORITHMS, 2):
        first, second = (random_tensors(algorithm, PLACES[LINEAR]) for algorithm in (one, other))
        yield from with_and_without_good(named(LINEAR, {**first, **second}))
        diffusers = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
        yield (sound({**named(LINEAR, first), **named(diffusers, second)}),)


def zero_rank(chance: random.Random) -> Content:
    """Factors with no rank, blocks of no size, and layers of no outputs."""
    for _, name, tensors in modules():
        for axis in range(4):
            cut = {s: t.narrow(axis, 0, 0) if t.dim() > axis else t for s, t in tensors.items()}
            yield from with_and_without_good(named(name, cut))


def alphas(chance: random.Random) -> Content:
    """alpha, scalar and flags that are no numbers, or not one, or absurd."""
    values = [torch.tensor(value) for value in (0.0, -1.0, 1e-38, 1e38, float("nan"), float("inf"), 0, -(2**62), True)]
    values += [torch.zeros(0), torch.ones(2), torch.ones(1, 1), torch.ones(3, 3), torch.ones(1, dtype=torch.float64)]
    for _, name, tensors in modules():
        for value in values:
            for suffix in ("alpha", chance.choice(["scalar", "on_input", "oft_R.scaled_oft"])):
                yield (sound(named(name, {**tensors, suffix: value})),)


def extras(chance: random.Random) -> Content:
    """Magnitudes, rescales, biases and cores beside a module that they do not fit."""
    sizes = [(24, 1), (1, 16), (24,), (16,), (3,), (), (0,), (1, 1), (24, 24), (24, 1, 1, 1), (1, 16, 1, 1), (16, 24)]
    suffixes = ("dora_scale", "lora_magnitude_vector", "rescale", "diff_b", "b_norm", "lora_mid.weight", "lokr_t2",
                "hada_t1", "bm.weight", "initial_norm")  # fmt: skip
    for _, name, tensors in modules():
        for suffix in suffixes:
            for size in chance.sample(sizes, 2):
                yield (sound(named(name, {**tensors, suffix: torch.rand(size)})),)


def metadata(chance: random.Random) -> Content:
    """Metadata that make promises: scales, series and configurations of absurd sizes."""
    patterns = ({}, [], 3, "x", {"*": "x"}, {"[": 1}, {"(" * 1000: 1})
    peft = [{"lora_alpha": value} for value in (0, -1, 1e308, float("nan"), "x", [], None, 10**400, True)]
    peft += [{"alpha_pattern": value, "lora_alpha": 1} for value in patterns]
    peft += [{"num_cayley_neumann_terms": value} for value in (0, 1, 2, 3, -5, 10**9, 10**30, "x", True, 2.5)]
    texts = [json.dumps(value) for value in peft] + ["", "{", "[]", "null", "[" * 100_000, '"x"', "NaN"]
    for algorithm in ("lora", "glora", "lokr", "oftv2", "dora"):
        tensors = {s: t for s, t in random_tensors(algorithm, PLACES[LINEAR]).items() if s != "alpha"}
        for text in texts:
            yield (sound(named(LINEAR, tensors), {"lora_adapter_metadata": text}),)
            yield (sound(named(LINEAR, tensors), {"ss_network_args": text, "ss_base_model_version": text[:100]}),)
    yield (sound(a_good_module(), {"ss_tag_frequency": "x" * 2**20}),)


ODD_NAMES = (
    *("", ".", "..", "...", "\0", "\n", "\u202e", "%s%n", "{0}", "é" * 300, "\U0001f600", "a." * 5000, "x" * 10_000),
    *("../../etc/passwd", "C:\\x", "lora_unet_", "lora_unet_" + "_" * 2000, "lora_unet_input_blocks_99_1_proj_in"),
    *("unet." * 500 + "x", "text_encoder.", "base_model.model." * 200, "transformer.x", "lora_te3_x"),
)


def names(chance: random.Random) -> Content:
    """Names that are long, odd, many, or of other models."""
    lora = random_tensors("lora", PLACES[LINEAR])
    for name in ODD_NAMES:
        yield from with_and_without_good(named(name, lora))
        yield (sound({name or "x": torch.zeros(2), f"{name}.weight": torch.zeros(2), f"{name}.alpha": torch.ones(())}),)
    yield (sound({f"lora_unet_x{i}.alpha": torch.ones(()) for i in range(5000)}),)
    yield (sound({f"lora_unet_x{i}.diff": torch.zeros(1) for i in range(5000)}),)
    yield (sound({f"model.diffusion_model.x{i}.weight": torch.zeros(1) for i in range(100)}),)

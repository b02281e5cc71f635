"""Gradient checkpointing by block: the same gradients, blocks computed again while training and nowhere else."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch

from adapter_lab.config import BaseConfig
from adapter_lab.families import FAMILIES
from adapter_lab.training.bases import open_base
from adapter_lab.training.network.blocks import recompute
from tests.support.training import tiny_base


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_computed_again_in_training_only_and_gradients_are_the_same(family: str) -> None:
    base = open_base(BaseConfig(checkpoint=str(tiny_base(family))))
    gradients, counts = [], []
    for again in (False, True):
        encoders: Any = base.load_text_encoders(torch.float32)
        for module in encoders.parts.values():
            module.requires_grad_(True).train()
            if again:
                recompute(module, base.row.blocks)
        calls = _counted(encoders.parts.values(), base.row.blocks)
        encoders.encode(["a cat", "two dogs on a hill"]).hidden.square().mean().backward()
        gradients.append([p.grad for part in encoders.parts.values() for p in part.parameters() if p.grad is not None])
        counts.append(dict(calls))
        for module in encoders.parts.values():
            module.eval()
        calls.clear()
        encoders.encode(["a cat"])
        assert set(calls.values()) == {1}
    assert gradients[0]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert set(counts[0].values()) == {1} and set(counts[1].values()) <= {1, 2} and 2 in counts[1].values()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_block_that_a_row_names_is_in_the_model(family: str) -> None:
    base = open_base(BaseConfig(checkpoint=str(tiny_base(family))))
    modules = [base.load_unet(torch.float32), *base.load_text_encoders(torch.float32).parts.values()]
    kinds = {type(module).__name__ for model in modules for module in model.modules()}
    assert set(base.row.blocks) <= kinds


def _counted(models: Any, blocks: tuple[str, ...]) -> Counter[int]:
    """How often each block runs, by its place; counted inside of what computes it again."""
    calls: Counter[int] = Counter()
    for model in models:
        for module in model.modules():
            if type(module).__name__ in blocks:
                first = next(child for child in module.modules() if not list(child.children()))
                first.register_forward_hook(partial(_count, calls, id(module)))
    return calls


def _count(calls: Counter[int], place: int, *_: Any) -> None:
    calls[place] += 1

"""Gradient checkpointing: a model's blocks keep their inputs only, and are computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(model: nn.Module, blocks: Collection[str]) -> None:
    """Let the blocks of a model, known by the names of their classes (`Family.blocks`), be computed again.

    While training only: where no gradient is asked for, they run as they are. Chen et al. 2016, "Training Deep Nets
    with Sublinear Memory Cost".
    """
    for module in model.modules():
        if type(module).__name__ in blocks:
            module.forward = _recomputed(module, module.forward)


def _recomputed(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **named: Any) -> Any:
        if not (module.training and torch.is_grad_enabled()):
            return forward(*args, **named)
        # Reentrant checkpointing gives no gradients where no input needs one, as token ids do not.
        return checkpoint(forward, *args, use_reentrant=False, **named)

    return run

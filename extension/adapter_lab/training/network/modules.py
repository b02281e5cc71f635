"""Finding the module of a target in a loaded model."""

from __future__ import annotations

from typing import Any

from torch import nn

from adapter_lab.adapters.keys import Target
from adapter_lab.errors import ConfigError
from adapter_lab.training.forwards.quantized import QuantizedLayer


def find_module(part: nn.Module, target: Target) -> nn.Module:
    """The module of a target inside its part; raises ConfigError if the model has another structure.

    transformers 5 dropped the `text_model.` level of its CLIP models, so paths are tried with and without it.
    """
    for path in (target.module, target.module.removeprefix("text_model."), f"text_model.{target.module}"):
        try:
            module = part.get_submodule(path)
        except AttributeError:
            continue
        weight: Any = getattr(module, "weight", None)
        shape = module.shape if isinstance(module, QuantizedLayer) else tuple(weight.shape)
        if shape != tuple(target.shape):
            raise ConfigError(f"Module {target.name} of the loaded model is {shape}, not {tuple(target.shape)}.")
        return module
    raise ConfigError(f"The loaded model has no module {target.module} ({target.name}).")

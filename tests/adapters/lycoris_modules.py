"""LyCORIS modules with random parameters, whose trained forward is the reference for `adapter_lab.adapters`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from torch import Tensor, nn

IN, OUT = 24, 32

LAYERS = {
    "linear": lambda bias: nn.Linear(IN, OUT, bias=bias),
    "conv1x1": lambda bias: nn.Conv2d(IN, OUT, 1, bias=bias),
    "conv3x3": lambda bias: nn.Conv2d(IN, OUT, 3, padding=1, bias=bias),
    "strided": lambda bias: nn.Conv2d(IN, OUT, 3, stride=2, padding=1, bias=bias),
}


@dataclass(frozen=True)
class Case:
    """One algorithm with options; `single`: LyCORIS mixes float32 into the computation and cannot run in float64."""

    module: type
    options: dict[str, Any] = field(default_factory=dict)
    single: bool = False


def _lora_family(module: type, **more: Any) -> dict[str, Case]:
    name = {LoConModule: "lora", LohaModule: "loha", LokrModule: "lokr"}[module]
    options = {
        "": {},
        "tucker": {"use_tucker": True},
        "scalar": {"use_scalar": True},
        "rs": {"rs_lora": True},
        "dora-output": {"weight_decompose": True, "wd_on_out": True},
        "dora-input": {"weight_decompose": True, "wd_on_out": False},
        "dora-tucker-scalar": {"weight_decompose": True, "use_tucker": True, "use_scalar": True},
    }
    return {
        f"{name} {label}".strip(): Case(module, {"lora_dim": 3, "alpha": 2, **more, **o})
        for label, o in options.items()
    }


CASES: dict[str, Case] = {
    **_lora_family(LoConModule),
    **_lora_family(LohaModule),
    **_lora_family(LokrModule, factor=4),
    "lora no-alpha": Case(LoConModule, {"lora_dim": 3, "alpha": 0}),
    "lokr factor-0": Case(LokrModule, {"lora_dim": 3, "alpha": 2, "factor": 0}),
    "lokr factor-1": Case(LokrModule, {"lora_dim": 3, "alpha": 2, "factor": 1}),
    "lokr factor-2 tucker": Case(LokrModule, {"lora_dim": 3, "alpha": 2, "factor": 2, "use_tucker": True}),
    "lokr factor-auto": Case(LokrModule, {"lora_dim": 2, "alpha": 1, "factor": -1}),
    "lokr decompose-both": Case(LokrModule, {"lora_dim": 1, "alpha": 2, "factor": 4, "decompose_both": True}),
    "lokr decompose-both tucker": Case(
        LokrModule, {"lora_dim": 1, "alpha": 2, "factor": 4, "decompose_both": True, "use_tucker": True}
    ),
    "lokr decompose-both scalar": Case(
        LokrModule, {"lora_dim": 1, "alpha": 2, "factor": 4, "decompose_both": True, "use_scalar": True}
    ),
    "lokr full-matrix": Case(LokrModule, {"lora_dim": 3, "alpha": 2, "factor": 4, "full_matrix": True}),
    "lokr full-matrix scalar": Case(
        LokrModule, {"lora_dim": 3, "alpha": 2, "factor": 4, "full_matrix": True, "use_scalar": True}
    ),
    "lokr large-dim": Case(LokrModule, {"lora_dim": 16, "alpha": 2, "factor": 4}),
    "lokr unbalanced": Case(LokrModule, {"lora_dim": 2, "alpha": 1, "factor": 4, "unbalanced_factorization": True}),
    "lokr unbalanced tucker": Case(
        LokrModule, {"lora_dim": 2, "alpha": 1, "factor": 4, "unbalanced_factorization": True, "use_tucker": True}
    ),
    "glora": Case(GLoRAModule, {"lora_dim": 3, "alpha": 2}),
    "glora scalar": Case(GLoRAModule, {"lora_dim": 3, "alpha": 2, "use_scalar": True}),
    "glora rs": Case(GLoRAModule, {"lora_dim": 3, "alpha": 2, "rs_lora": True}),
    "lokr full-matrix rs": Case(
        LokrModule, {"lora_dim": 3, "alpha": 2, "factor": 4, "full_matrix": True, "rs_lora": True}
    ),
    "diag-oft": Case(DiagOFTModule, {"lora_dim": 8}, single=True),
    "diag-oft odd-block": Case(DiagOFTModule, {"lora_dim": 5}, single=True),
    "diag-oft constraint": Case(DiagOFTModule, {"lora_dim": 8, "constraint": 0.01}, single=True),
    "diag-oft rescaled": Case(DiagOFTModule, {"lora_dim": 8, "rescaled": True}, single=True),
    "boft": Case(ButterflyOFTModule, {"lora_dim": 8}, single=True),
    "boft small-block": Case(ButterflyOFTModule, {"lora_dim": 4}, single=True),
    "boft constraint": Case(ButterflyOFTModule, {"lora_dim": 8, "constraint": 0.01}, single=True),
    "boft rescaled": Case(ButterflyOFTModule, {"lora_dim": 8, "rescaled": True}, single=True),
    "ia3": Case(IA3Module),
    "ia3 input": Case(IA3Module, {"train_on_input": True}),
    "full": Case(FullModule),
}


def trained(case: Case, layer: nn.Module, seed: int = 0, size: float = 0.3) -> nn.Module:
    """The module of `case` over `layer`, every parameter random, in training mode, multiplier 1, rebuild path."""
    torch.manual_seed(seed)
    layer.to(torch.float32 if case.single else torch.float64)
    module = case.module("name", layer, multiplier=1.0, **case.options).to(layer.weight.dtype).train()
    if isinstance(module, FullModule):
        module.apply_to()  # only then are its parameters the weight itself, as in training
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn_like(parameter) * size
            kept = parameter if name in ("weight", "bias", "dora_scale", "rescale") else 0
            parameter.copy_(kept + noise)
    return module


def file_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors LyCORIS saves for a module, by suffix."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def inputs(layer: nn.Module, seed: int = 1) -> Tensor:
    """Random inputs, enough of them to determine the weight."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2 * IN, IN) if isinstance(layer, nn.Linear) else (8, IN, 7, 7)
    return torch.randn(shape, generator=generator, dtype=torch.float64)

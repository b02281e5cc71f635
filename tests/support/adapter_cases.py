"""Every algorithm x option x layer type x bias, and the weight W' each stands for, rebuilt from its definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_lab.training.forwards import LAYERS, AdapterLayer, LayerSpec

OUT, IN = 24, 16

# Name -> the options of LayerSpec. dim 6 is the smallest block BOFT can have on 24 outputs.
CASES: dict[str, dict[str, Any]] = {
    "lora": {"algo": "lora", "dim": 4, "alpha": 2.0},
    "lora tucker": {"algo": "lora", "dim": 4, "alpha": 2.0, "tucker": True},
    "lora scalar": {"algo": "lora", "dim": 4, "alpha": 2.0, "use_scalar": True},
    "lora rank-stabilised": {"algo": "lora", "dim": 4, "alpha": 3.3, "rs_lora": True},
    "lora dora": {"algo": "lora", "dim": 4, "alpha": 2.0, "dora": "output"},
    "lora dora on inputs": {"algo": "lora", "dim": 4, "alpha": 2.0, "dora": "input"},
    "lora tucker dora": {"algo": "lora", "dim": 4, "alpha": 2.0, "tucker": True, "dora": "output"},
    "lora tucker dora on inputs": {"algo": "lora", "dim": 4, "alpha": 2.0, "tucker": True, "dora": "input"},
    "lora orthogonal": {"algo": "lora", "dim": 4, "alpha": 3.3, "init": "orthogonal"},
    "lora svd": {"algo": "lora", "dim": 4, "alpha": 2.0, "init": "svd", "use_scalar": True},
    "lora svd dora": {"algo": "lora", "dim": 4, "alpha": 2.0, "init": "svd", "dora": "output"},
    "t-lora": {"algo": "t-lora", "dim": 4, "alpha": 2.0},
    "t-lora tucker": {"algo": "t-lora", "dim": 4, "alpha": 2.0, "tucker": True},
    "t-lora scalar": {"algo": "t-lora", "dim": 4, "alpha": 3.3, "use_scalar": True, "rs_lora": True},
    "t-lora orthogonal": {"algo": "t-lora", "dim": 4, "alpha": 3.3, "init": "orthogonal"},
    "t-lora orthogonal scalar": {
        "algo": "t-lora",
        "dim": 4,
        "alpha": 2.0,
        "init": "orthogonal",
        "use_scalar": True,
    },
    "loha": {"algo": "loha", "dim": 2, "alpha": 1.0},
    "loha large": {"algo": "loha", "dim": 9, "alpha": 1.0},
    "loha tucker": {"algo": "loha", "dim": 2, "alpha": 1.0, "tucker": True},
    "loha large tucker": {"algo": "loha", "dim": 9, "alpha": 1.0, "tucker": True},
    "loha scalar": {"algo": "loha", "dim": 2, "alpha": 1.0, "use_scalar": True},
    "loha rank-stabilised": {"algo": "loha", "dim": 3, "alpha": 1.3, "rs_lora": True},
    "loha dora": {"algo": "loha", "dim": 2, "alpha": 1.0, "dora": "output"},
    "loha tucker dora on inputs": {"algo": "loha", "dim": 2, "alpha": 1.0, "tucker": True, "dora": "input"},
    "lokr": {"algo": "lokr", "dim": 1, "alpha": 0.7, "factor": 4},
    "lokr balanced": {"algo": "lokr", "dim": 1, "alpha": 0.7, "factor": -1},
    "lokr gain": {"algo": "lokr", "dim": 3, "alpha": 0.7, "factor": 1},
    "lokr factor 0": {"algo": "lokr", "dim": 3, "alpha": 0.7, "factor": 0},
    "lokr factor 2": {"algo": "lokr", "dim": 3, "alpha": 0.7, "factor": 2},
    "lokr factor 2 tucker": {"algo": "lokr", "dim": 3, "alpha": 0.7, "factor": 2, "tucker": True},
    "lokr decomposed": {"algo": "lokr", "dim": 1, "alpha": 0.7, "factor": 4, "decompose_both": True},
    "lokr decomposed w1 only": {"algo": "lokr", "dim": 3, "alpha": 0.7, "factor": 8, "decompose_both": True},
    "lokr decomposed tucker": {
        "algo": "lokr",
        "dim": 1,
        "alpha": 0.7,
        "factor": 4,
        "decompose_both": True,
        "tucker": True,
    },
    "lokr whole": {"algo": "lokr", "dim": 32, "alpha": 0.7, "factor": 4},
    "lokr whole factor 2": {"algo": "lokr", "dim": 4, "alpha": 0.7, "factor": 2, "full_matrix": True},
    "lokr whole rank-stabilised": {"algo": "lokr", "dim": 32, "alpha": 0.7, "factor": 4, "rs_lora": True},
    "lokr unbalanced": {"algo": "lokr", "dim": 1, "alpha": 0.7, "factor": 4, "unbalanced": True},
    "lokr unbalanced tucker": {
        "algo": "lokr",
        "dim": 1,
        "alpha": 0.7,
        "factor": 4,
        "unbalanced": True,
        "tucker": True,
    },
    "lokr scalar": {"algo": "lokr", "dim": 3, "alpha": 0.7, "factor": 2, "use_scalar": True},
    "lokr whole scalar": {"algo": "lokr", "dim": 32, "alpha": 0.7, "factor": 4, "use_scalar": True},
    "lokr rank-stabilised": {"algo": "lokr", "dim": 3, "alpha": 0.7, "factor": 2, "rs_lora": True},
    "lokr dora": {"algo": "lokr", "dim": 3, "alpha": 0.7, "factor": 2, "dora": "output"},
    "lokr tucker dora on inputs": {
        "algo": "lokr",
        "dim": 3,
        "alpha": 0.7,
        "factor": 2,
        "tucker": True,
        "dora": "input",
    },
    "lokr whole dora": {"algo": "lokr", "dim": 32, "alpha": 0.7, "factor": 4, "dora": "output"},
    "glora": {"algo": "glora", "dim": 3, "alpha": 1.5},
    "glora scalar": {"algo": "glora", "dim": 3, "alpha": 1.5, "use_scalar": True},
    "glora rank-stabilised": {"algo": "glora", "dim": 3, "alpha": 1.7, "rs_lora": True},
    "glora dora": {"algo": "glora", "dim": 3, "alpha": 1.5, "dora": "output"},
    "glora dora on inputs": {"algo": "glora", "dim": 3, "alpha": 1.5, "dora": "input"},
    "diag-oft": {"algo": "diag-oft", "dim": 4},
    "diag-oft rescaled": {"algo": "diag-oft", "dim": 4, "rescaled": True},
    "diag-oft constraint": {"algo": "diag-oft", "dim": 4, "constraint": 0.0101},
    "diag-oft loose constraint": {"algo": "diag-oft", "dim": 4, "constraint": 10.0},
    "boft": {"algo": "boft", "dim": 6},
    "boft one block": {"algo": "boft", "dim": 24},
    "boft rescaled": {"algo": "boft", "dim": 6, "rescaled": True},
    "boft constraint": {"algo": "boft", "dim": 6, "constraint": 0.0101},
    "oftv2": {"algo": "oftv2", "dim": 4},
    "oftv2 large": {"algo": "oftv2", "dim": 16},
    "ia3": {"algo": "ia3"},
    "ia3 on inputs": {"algo": "ia3", "train_on_input": True},
    "full": {"algo": "full"},
    "full without bias": {"algo": "full", "train_bias": False},
}
LAYER_TYPES = ("linear", "conv 1x1", "conv 3x3", "strided")


def base_module(layer_type: str, bias: bool, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """A frozen base layer with random weights (and a bias that is not small)."""
    torch.manual_seed(seed)
    if layer_type == "linear":
        module: nn.Module = nn.Linear(IN, OUT, bias=bias)
    elif layer_type == "conv 1x1":
        module = nn.Conv2d(IN, OUT, 1, bias=bias)
    else:
        module = nn.Conv2d(IN, OUT, 3, padding=1, stride=2 if layer_type == "strided" else 1, bias=bias)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.to(dtype).requires_grad_(False)


def input_for(layer_type: str, dtype: torch.dtype = torch.float64, seed: int = 1, tokens: int = 10) -> Tensor:
    """A batch of two inputs."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, tokens, IN) if layer_type == "linear" else (2, IN, 6, 8)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def spec_of(options: dict[str, Any], module: nn.Module, name: str = "lora_unet_x") -> LayerSpec:
    """The spec of an adapter with these options on a module."""
    weight: Any = module.weight
    kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
    return LayerSpec(name, kind, tuple(weight.shape), module.bias is not None, **options)


def adapter_layer(
    options: dict[str, Any], module: nn.Module, dtype: torch.dtype = torch.float64, seed: int = 2, size: float = 0.3
) -> AdapterLayer:
    """An adapter layer with random parameters that are nowhere zero, as after some training."""
    spec = spec_of(options, module)
    kind = LAYERS[spec.algo]
    weight: Any = module.weight
    torch.manual_seed(seed)
    values = kind.initial_values(spec, lambda: weight)
    layer = kind(spec, module, values).to(dtype)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            noise = torch.randn(parameter.shape, dtype=torch.float64).to(dtype) * size
            if name in ("magnitude", "rescale"):
                parameter.mul_(1 + noise) if name == "magnitude" else parameter.add_(noise)
            else:
                parameter.copy_(noise)
    return layer


def run(layer: AdapterLayer, x: Tensor) -> Tensor:
    """The adapted forward."""
    return layer.run(layer.base.forward, x)


def base_operation(module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The module's operation with another weight and bias."""
    if isinstance(module, nn.Conv2d):
        return F.conv2d(x, weight, bias, module.stride, module.padding)
    return F.linear(x, weight, bias)


def rebuilt(layer: AdapterLayer) -> tuple[Tensor, Tensor | None]:
    """W' and b' from the definition of each algorithm, differentiable in the layer's parameters."""
    spec, module = layer.spec, layer.base
    weight: Any = module.weight
    bias: Any = module.bias
    parameters = dict(layer.named_parameters())
    changed = weight + update(spec, {**dict(layer.named_buffers()), **parameters}, weight)
    if spec.algo == "full" and "diff_b" in parameters:
        bias = bias + parameters["diff_b"]
    if spec.dora:
        axes = tuple(axis for axis in range(changed.dim()) if axis != (0 if spec.dora == "output" else 1))
        norm = changed.square().sum(dim=axes, keepdim=True).sqrt() + torch.finfo(changed.dtype).eps
        changed = changed * parameters["magnitude"] / norm
    return changed, bias


def update(spec: LayerSpec, p: dict[str, Tensor], weight: Tensor) -> Tensor:
    """W' - W before DoRA, naively."""
    return DEFINITIONS[spec.algo](spec, p, weight)


def _scale(spec: LayerSpec, p: dict[str, Tensor]) -> Any:
    return (spec.alpha / (math.sqrt(spec.dim) if spec.rs_lora else spec.dim)) * p.get("scalar", 1.0)


def _lora(spec: LayerSpec, p: dict[str, Tensor], weight: Tensor) -> Tensor:
    if "start_up" in p:
        rest = {name: value for name, value in p.items() if not name.startswith("start_")}
        start = {**rest, "up": p["start_up"], "down": p["start_down"]}
        return _lora(spec, rest, weight) - _lora(spec, start, weight)
    if "mid" in p:
        return _scale(spec, p) * torch.einsum("op,pqhw,qi->oihw", p["up"].flatten(1), p["mid"], p["down"].flatten(1))
    return _scale(spec, p) * (p["up"].flatten(1) @ p["down"].flatten(1)).reshape(weight.shape)


def _loha(spec: LayerSpec, p: dict[str, Tensor], weight: Tensor) -> Tensor:
    halves = []
    for number in "12":
        if f"t{number}" in p:
            halves.append(torch.einsum("ijhw,io,jn->onhw", p[f"t{number}"], p[f"w{number}_a"], p[f"w{number}_b"]))
        else:
            halves.append((p[f"w{number}_a"] @ p[f"w{number}_b"]).reshape(weight.shape))
    return _scale(spec, p) * halves[0] * halves[1]


def _lokr(spec: LayerSpec, p: dict[str, Tensor], weight: Tensor) -> Tensor:
    w1 = p["w1"] if "w1" in p else p["w1_a"] @ p["w1_b"]
    if "w2" in p:
        w2 = p["w2"]
    elif "t2" in p:
        w2 = torch.einsum("ijhw,ib,jd->bdhw", p["t2"], p["w2_a"], p["w2_b"])
    else:
        w2 = (p["w2_a"] @ p["w2_b"]).reshape(len(p["w2_a"]), -1, *weight.shape[2:])
    scale: Any = p.get("scalar", 1.0) if "w1" in p and "w2" in p else _scale(spec, p)
    return scale * torch.kron(w1.reshape(*w1.shape, *[1] * (weight.dim() - 2)), w2.contiguous())


def _glora(spec: LayerSpec, p: dict[str, Tensor], weight: Tensor) -> Tensor:
    mixed = torch.einsum("oi...,ir,rj->oj...", weight, p["a1"].flatten(1), p["a2"].flatten(1))
    return _scale(spec, p) * (mixed + (p["b1"].flatten(1) @ p["b2"].flatten(1)).reshape(weight.shape))


def _oftv2(spec: LayerSpec, p: dict[str, Tensor], weight: Tensor) -> Tensor:
    length = p["upper"].shape[1]
    size = (1 + math.isqrt(1 + 8 * length)) // 2
    upper = p["upper"] / math.sqrt(length)
    turns = []
    for block in upper:
        q = torch.zeros(size, size, dtype=upper.dtype)
        q[tuple(torch.triu_indices(size, size, 1))] = block
        q = q - q.T
        # The truncated Cayley-Neumann series that PEFT and OneTrainer have.
        turns.append(torch.eye(size, dtype=q.dtype) + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q)
    turn = torch.block_diag(*turns)
    rows = weight.flatten(1)
    return (rows @ (turn if weight.dim() > 2 else turn.T)).reshape(weight.shape) - weight


def _ia3(spec: LayerSpec, p: dict[str, Tensor], weight: Tensor) -> Tensor:
    across = (1, -1) if spec.train_on_input else (-1, 1)
    return weight * p["gains"].flatten().reshape(*across, *[1] * (weight.dim() - 2))


def _full(spec: LayerSpec, p: dict[str, Tensor], weight: Tensor) -> Tensor:
    return p["diff"]


def _orthogonal(spec: LayerSpec, p: dict[str, Tensor], weight: Tensor) -> Tensor:
    skew = p["blocks"] - p["blocks"].transpose(-1, -2)
    bound = spec.constraint * len(weight)
    if bound > 0 and float(skew.detach().norm() + 1e-8) > bound:
        skew = skew * bound / (skew.norm() + 1e-8)
    identity = torch.eye(skew.shape[-1], dtype=skew.dtype)
    turns = (identity + skew) @ torch.linalg.inv(identity - skew)
    rows = weight.flatten(1)
    if spec.algo == "diag-oft":
        rows = torch.block_diag(*turns).T @ rows
    else:
        for stage, blocks in enumerate(turns):
            matrix = torch.block_diag(*blocks)
            order = _butterfly_order(len(weight), spec_block := blocks.shape[-1], stage)
            assert spec_block % 2 == 0
            rows = rows.clone().index_copy(0, order, matrix @ rows[order])
    rows = rows.reshape(weight.shape)
    if "rescale" in p:
        rows = rows * p["rescale"]
    return rows - weight


def _butterfly_order(size: int, block: int, stage: int) -> Tensor:
    """The rows in the order in which the blocks of a stage take them: pairs (j, j + k) within groups of 2 k."""
    half = 2**stage * block // 2
    return torch.tensor(
        [start + j + k * half for start in range(0, size, 2 * half) for j in range(half) for k in (0, 1)]
    )


# The definition of each algorithm that is trained: W' - W from its parameters.
DEFINITIONS: dict[str, Callable[[LayerSpec, dict[str, Tensor], Tensor], Tensor]] = {
    "lora": _lora,
    "t-lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "glora": _glora,
    "diag-oft": _orthogonal,
    "boft": _orthogonal,
    "oftv2": _oftv2,
    "ia3": _ia3,
    "full": _full,
}

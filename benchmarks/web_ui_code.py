"""How web UIs themselves patch a weight: their own functions, imported from a checkout, for comparison with ours.

`own_code(folder)` knows a checkout by its files. Each function it gives prepares one weight and one module's tensors
outside the time that is taken, and does what the web UI does when an adapter is switched on: from the stored weight to
the patched one in the same dtype.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[], Tensor]  # patches the weight once
# (module's tensors by suffix, weight, strength) -> None where the web UI takes no such module
OwnCode = Callable[[dict[str, Tensor], Tensor, float], "Run | None"]

NAME, KEY = "lora_unet_layer", "layer.weight"  # of a module in a file, and of its weight in the model


def forge(folder: Path) -> OwnCode:
    """Forge, and Neo, which gives the function a copy in fp32 and rounds itself."""
    _importable(folder, "", "packages_3rdparty", "modules_forge/packages")
    sys.argv[1:] = ["--cpu" if (folder / "modules_forge/packages/comfy").is_dir() else "--always-cpu"]
    code = importlib.import_module("backend.patcher.lora")

    def own(tensors: dict[str, Tensor], weight: Tensor, strength: float) -> Run | None:
        patches, _ = code.load_lora(_named(tensors), {NAME: KEY})
        steps = [(strength, patches[KEY], 1.0, None, None)] if KEY in patches else None
        if steps is None:
            return None
        if sys.argv[1] == "--cpu":
            return lambda: code.merge_lora_to_weight(steps, _copy(weight), KEY).to(weight.dtype)
        return lambda: code.merge_lora_to_weight(steps, weight, KEY, computation_dtype=torch.float32)

    return own


def classic(folder: Path) -> OwnCode:
    """Forge-classic (before Forge's rewrite), as its `ModelPatcher.patch_model` does it."""
    _importable(folder, "")
    arguments = importlib.import_module("ldm_patched.modules.args_parser")
    arguments.args = arguments.parser.parse_args(["--always-cpu"])
    patcher = importlib.import_module("ldm_patched.modules.model_patcher").ModelPatcher
    code = importlib.import_module("ldm_patched.modules.lora")

    def own(tensors: dict[str, Tensor], weight: Tensor, strength: float) -> Run | None:
        patches, _ = code.load_lora(_named(tensors), {NAME: KEY})
        if KEY not in patches:
            return None
        steps = [(strength, patches[KEY], 1.0)]
        return lambda: patcher.calculate_weight(None, steps, _copy(weight), KEY).to(weight.dtype)

    return own


def a1111(folder: Path) -> OwnCode:
    """A1111, whose layers restore their weight from a copy and patch it; in fp32, as it computes on a CPU."""
    _importable(folder, "", "extensions-builtin/Lora")
    sys.argv[1:] = ["--skip-torch-cuda-test", "--use-cpu", "all", "--no-half"]
    importlib.import_module("modules.initialize").imports()
    importlib.import_module("modules.shared_init").initialize()
    code, network = importlib.import_module("networks"), importlib.import_module("network")

    def own(tensors: dict[str, Tensor], weight: Tensor, strength: float) -> Run | None:
        layer: Any = _layer(weight)
        layer.network_layer_name = NAME
        net = network.Network("file", None)
        net.te_multiplier = net.unet_multiplier = strength
        weights = network.NetworkWeights(NAME, NAME, dict(tensors), layer)
        made = [module for kind in code.module_types if (module := kind.create_module(net, weights)) is not None]
        if not made:
            return None
        net.modules[NAME] = made[0]

        def run() -> Tensor:
            code.loaded_networks[:] = [net]
            code.network_apply_weights(layer)
            layer.network_current_names = ("another",)  # so that the next run patches again
            patched: Tensor = layer.weight
            return patched

        run()  # makes the copy of the weight, which it keeps from then on
        return run

    return own


# What only this web UI's checkout has -> its code; the first that is there.
KINDS = {
    "backend/patcher/lora.py": forge,
    "ldm_patched/modules/lora.py": classic,
    "extensions-builtin/Lora/networks.py": a1111,
}


def own_code(folder: Path) -> OwnCode:
    """The patching of the web UI in a checkout; what it prints while it starts goes to stderr."""
    for marker, make in KINDS.items():
        if (folder / marker).is_file():
            with contextlib.redirect_stdout(sys.stderr):
                return _tried(make(folder))
    raise SystemExit(f"{folder} is no web UI this benchmark knows; it needs one of {', '.join(KINDS)}.")


def _tried(own: OwnCode) -> OwnCode:
    """The same, but None where the web UI fails at such a module; why goes to stderr."""

    def tried(tensors: dict[str, Tensor], weight: Tensor, strength: float) -> Run | None:
        try:
            run = own(tensors, weight, strength)
            if run is not None:
                run()
        except Exception as error:
            print(f"{sorted(tensors)}: {type(error).__name__}: {error}", file=sys.stderr)
            return None
        return run

    return tried


def _importable(folder: Path, *below: str) -> None:
    sys.path[:0] = [str(folder / part) for part in below]


def _named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{NAME}.{suffix}": tensor for suffix, tensor in tensors.items()}


def _copy(weight: Tensor) -> Tensor:
    return weight.to(torch.float32, copy=True)


def _layer(weight: Tensor) -> nn.Module:
    """A layer with this weight (itself a copy)."""
    out, into, *kernel = weight.shape
    layer: Any = nn.Conv2d(into, out, tuple(kernel), bias=False) if kernel else nn.Linear(into, out, bias=False)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return layer

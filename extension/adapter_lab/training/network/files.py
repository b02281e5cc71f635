"""Adapter files a network starts from, and those that are active but not trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from adapter_lab.adapters.base import patch, patch_bias
from adapter_lab.adapters.file import AdapterFile
from adapter_lab.adapters.keys import Target, resolve
from adapter_lab.adapters.strength import file_and_strength
from adapter_lab.errors import ConfigError
from adapter_lab.training.forwards.quantized import QuantizedLayer
from adapter_lab.training.network.modules import find_module
from adapter_lab.training.network.plan import LayerPlan

# Suffixes whose presence does not decide whether a file fits.
OPTIONAL = frozenset({"alpha", "scalar", "on_input"})
# LyCORIS before 4 had GLoRA's names the other way round; the layer sorts that out.
SWAPPED = {"a1.weight": "a2.weight", "a2.weight": "a1.weight", "b1.weight": "b2.weight", "b2.weight": "b1.weight"}
SHOWN = 5
ADDED = "_adapter_lab_frozen_adapters"


def tensors_of_file(path: str, targets: Mapping[str, Target]) -> dict[str, Tensor]:
    """All tensors of an adapter file in fp32, under our names whatever its spelling is.

    Raises FileFormatError for a broken file, ConfigError for modules that the base does not have.
    """
    file = AdapterFile.open(path)
    found: dict[str, Tensor] = {}
    for name, target in _resolved(file, targets).items():
        algorithm = file.algorithm_of(name)
        if file.options.lycoris_rs_lora and algorithm in ("glora", "lokr"):
            raise ConfigError(
                f"{path} was trained by LyCORIS with rs_lora, which does not say its {algorithm} scale in the tensors; "
                "training cannot go on from it."
            )
        adapter = file.load(name, torch.float32)
        infos = file.modules[name]
        tensors = file.file.read_many(info.key for info in infos.values())
        for suffix, info in infos.items():
            found[f"{target.kohya}.{_own_suffix(suffix)}"] = tensors[info.key].to(torch.float32)
        if algorithm == "lora" and "alpha" not in infos:  # PEFT keeps it in the metadata
            found[f"{target.kohya}.alpha"] = torch.tensor(float(adapter.describe()["alpha"]))
    return found


def check_tensors(modules: Mapping[str, Mapping[str, Tensor]], plans: list[LayerPlan], source: str) -> None:
    """Raise ConfigError, with a list, unless a file's modules are the plan's and their tensors have its shapes."""
    wanted = {plan.target.kohya: plan for plan in plans}
    complaints = _listed("lacks", [name for name in wanted if name not in modules])
    complaints += _listed("also has", [name for name in modules if name not in wanted])
    others = [
        f"{name} ({difference})"
        for name, plan in wanted.items()
        if name in modules and (difference := _difference(modules[name], plan))
    ]
    complaints += _listed("differs in", others)
    if complaints:
        raise ConfigError(
            f"{source} does not fit the network's settings: it {'; it '.join(complaints)}. Choose the settings it was "
            "trained with, or use it as a frozen adapter."
        )


def _difference(tensors: Mapping[str, Tensor], plan: LayerPlan) -> str:
    """What of a module's tensors does not fit, in a few words; "" if all fit."""
    shapes = {suffix: tuple(tensor.shape) for suffix, tensor in tensors.items() if suffix not in OPTIONAL}
    expected = {suffix: tuple(shape) for suffix, shape in plan.file_tensors.items() if suffix not in OPTIONAL}
    if set(shapes) != set(expected):
        return f"it has {', '.join(sorted(shapes))} instead of {', '.join(sorted(expected))}"
    for suffix, shape in shapes.items():
        # A trailing 1x1 kernel is written by some programs and not by others.
        allowed = {_squeezed(expected[name]) for name in (suffix, SWAPPED.get(suffix, suffix))}
        if _squeezed(shape) not in allowed:
            return f"{suffix} is {list(shape)} instead of {list(expected[suffix])}"
    return ""


def _own_suffix(suffix: str) -> str:
    return "dora_scale" if suffix == "lora_magnitude_vector" else suffix


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without sizes of 1, and with a kernel flattened into the axis before it."""
    kept = [size for size in shape if size != 1]
    flat = 1
    for size in kept[1:]:
        flat *= size
    return (kept[0], flat) if kept else ()


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{what} {', '.join(names[:SHOWN])}{more}"]


def _resolved(file: AdapterFile, targets: Mapping[str, Target]) -> dict[str, Target]:
    found = {name: resolve(name, targets) for name in file.modules}
    unknown = [name for name, target in found.items() if target is None] + [*file.unknown]
    if unknown:
        listed = _listed("holds", unknown)[0]
        raise ConfigError(f"{file.path} {listed}, which this base does not have; choose an adapter for this base.")
    return {name: target for name, target in found.items() if target is not None}


def add_frozen_adapters(entries: Iterable[str], targets: Mapping[str, Target], parts: Mapping[str, nn.Module]) -> None:
    """Add adapter files (`FILE` or `FILE:STRENGTH`) to the weights of loaded models, in order, once per model.

    To be called before weights are compressed. Modules of models that are not among `parts` are left for later.
    """
    entries = tuple(entries)
    fresh = {name: part for name, part in parts.items() if getattr(part, ADDED, None) != entries}
    for name, part in fresh.items():
        if getattr(part, ADDED, ()):
            raise ConfigError(f"Other frozen adapters were already added to {name}; load it again.")
    for entry in entries:
        path, strength = file_and_strength(entry)
        file = AdapterFile.open(path)
        for name, target in _resolved(file, targets).items():
            if target.part in fresh:
                _add(file, name, target, fresh[target.part], strength)
    for part in fresh.values():
        setattr(part, ADDED, entries)


@torch.no_grad()
def _add(file: AdapterFile, name: str, target: Target, part: nn.Module, strength: float) -> None:
    module = find_module(part, target)
    if isinstance(module, QuantizedLayer):
        raise ConfigError(f"Frozen adapters must be added before {target.name} is stored in 8 bits.")
    adapter = file.load(name)
    if not adapter.fits(target.shape):
        raise ConfigError(f"{file.path}: module {name} does not fit the base's weight of shape {list(target.shape)}.")
    weight: nn.Parameter = module.weight  # type: ignore[assignment]
    bias: nn.Parameter | None = module.bias  # type: ignore[assignment]
    weight.copy_(patch(weight, adapter, strength))
    changed = patch_bias(bias, adapter, strength)
    if bias is not None and changed is not None:
        bias.copy_(changed)
    elif changed is not None:
        module.bias = nn.Parameter(changed.to(weight), requires_grad=False)

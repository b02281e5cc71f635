"""Several adapter files as one: the change they make together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adapter_lab.adapters import provenance
from adapter_lab.adapters.convert import finish, refuse_overwriting, started_report, stored_dtype
from adapter_lab.adapters.file import AdapterFile
from adapter_lab.adapters.layers import Base, Layer, open_base, usable
from adapter_lab.adapters.lora import LoRA
from adapter_lab.adapters.results import Report, Writer
from adapter_lab.adapters.rewriting import without_core
from adapter_lab.adapters.spool import Spool
from adapter_lab.adapters.strength import finite_strength
from adapter_lab.adapters.svd import NO_LIMIT, RankRule
from adapter_lab.errors import AdapterLabError


@dataclass(frozen=True)
class Part:
    """One file's module in a layer, and its strength."""

    file: AdapterFile
    name: str
    strength: float


def merge(
    adapters: Sequence[tuple[str | os.PathLike[str], float]],
    out: str | os.PathLike[str],
    *,
    full: bool = False,
    rule: RankRule = NO_LIMIT,
    base: str | os.PathLike[str] | None = None,
    dtype: str = "same",
) -> Report:
    """Write one file that at strength 1 does what these files do at their strengths, one after another.

    Layers that only LoRA changes become a LoRA of the ranks' sum, which is exact; others a full difference, as all do
    with `full`. With `rule` every layer becomes the nearest LoRA it allows. `base` as in `convert`. Raises
    AdapterLabError where it is needed and missing, FileFormatError for broken files or files of different families.
    """
    if not adapters:
        raise AdapterLabError("There is nothing to merge; give adapter files.")
    if full and rule:
        raise AdapterLabError("A full difference has no rank; give a rank or error bound, or a full difference.")
    files = [(AdapterFile.open(path), finite_strength(strength, path)) for path, strength in adapters]
    refuse_overwriting(out, [*(path for path, _ in adapters), base])
    model = open_base(base, [file for file, _ in files])
    report = started_report(out, model, [file for file, _ in files], {})
    layers = _collect(model, files, report)
    with torch.inference_mode(), Spool(out) as spool:
        writer = Writer(spool, report, rule, stored_dtype(dtype, [file for file, _ in files]))
        for layer, parts in layers:
            _write(writer, model, layer, parts, full)
        finish(writer, [file for file, _ in files])
        options = {"full": full, **vars(rule), "base": Path(base).name if base else None}
        sources = [(file.path, file.metadata, strength) for file, strength in files]
        report.bytes = spool.save(provenance.metadata_of(report, "merge", sources, options))
    return report


def _collect(model: Base, files: list[tuple[AdapterFile, float]], report: Report) -> list[tuple[Layer, list[Part]]]:
    """Every layer that a file changes, with the modules that do, in the order of the files."""
    layers: dict[str, tuple[Layer, list[Part]]] = {}
    for file, strength in files:
        found, left_out = model.layers(file)
        report.left_out |= {f"{file.path.name}: {name}": reason for name, reason in left_out.items()}
        for name, layer in found.items():
            known, parts = layers.setdefault(layer.name, (layer, []))
            if known.shape != layer.shape:
                raise AdapterLabError(
                    f"{name} of {file.path} changes a weight of shape {list(layer.shape)}, but {known.name} of "
                    f"{parts[0].file.path} one of shape {list(known.shape)}; they are for different models."
                )
            parts.append(Part(file, name, strength))
    return list(layers.values())


def _write(writer: Writer, model: Base, layer: Layer, parts: list[Part], full: bool) -> None:
    weights = [part for part in parts if part.file.has_weight(part.name)]
    biases = [part for part in parts if part.file.has_bias(part.name)]
    bias = sum((_bias(part) * part.strength for part in biases), torch.zeros(())) if biases else None
    if weights:
        delta = _delta(model, layer, weights)
        if len(layer.shape) == 1:
            writer.norm(layer.name, delta, bias)
            return
        factors = None if full or writer.rule else _concatenated(weights)
        if factors is not None:
            writer.factors(layer.name, *factors, delta)
        elif writer.rule:
            writer.lora(layer.name, delta)
        else:
            writer.full(layer.name, delta)
    if bias is not None:
        writer.bias(layer.name, bias)


def _delta(model: Base, layer: Layer, parts: list[Part]) -> Tensor:
    """What these modules change together, each on the weight that the one before left."""
    delta: Tensor | None = None
    weight: Tensor | None = None
    for part in parts:
        adapter = part.file.load(part.name)
        if adapter.uses_base and delta is not None:
            weight = model.weight(layer, part.file, adapter) if weight is None else weight
            changed = usable(adapter.delta(weight + delta), part.file, part.name)
        else:
            changed = model.delta(part.file, part.name, layer)
        delta = changed * part.strength if delta is None else delta + changed * part.strength
    assert delta is not None
    return delta


def _bias(part: Part) -> Tensor:
    bias = part.file.load_bias(part.name).bias_delta
    assert bias is not None
    return bias.float()


def _concatenated(parts: list[Part]) -> tuple[Tensor, Tensor] | None:
    """up (out, sum of ranks) and down (sum of ranks, in * kernel) that give the sum of LoRA modules; None for others.

    Strength and scale go into the smaller half in equal shares, so that neither half outgrows fp16.
    """
    ups, downs = [], []
    for part in parts:
        adapter = part.file.load(part.name)
        if not isinstance(adapter, LoRA):
            return None
        plain = without_core(adapter)
        gain = plain.scale * part.strength
        ups.append(plain.up.flatten(1).float() * gain)
        downs.append(plain.down.flatten(1).float())
    return torch.cat(ups, 1), torch.cat(downs)

"""Adapter files in the form that a web UI reads correctly by itself, for those who use it without Adapter Lab."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from adapter_lab.adapters import provenance
from adapter_lab.adapters.base import FileOptions
from adapter_lab.adapters.convert import (
    finish,
    raw_tensors,
    refuse_overwriting,
    source_metadata,
    started_report,
    stored_dtype,
    write_changed,
)
from adapter_lab.adapters.file import AdapterFile, adapter_from_tensors
from adapter_lab.adapters.glora import GLoRA
from adapter_lab.adapters.layers import Layer, open_base
from adapter_lab.adapters.lokr import LoKr
from adapter_lab.adapters.results import Report, Writer
from adapter_lab.adapters.rewriting import older_glora, plain_tensors, scaled, stored_like, without_core
from adapter_lab.adapters.spool import Spool
from adapter_lab.adapters.svd import NO_LIMIT, RankRule
from adapter_lab.adapters.tensors import TensorInfo
from adapter_lab.errors import AdapterLabError
from adapter_lab.hosts.loading.verdict_table import HOSTS, Module
from adapter_lab.hosts.loading.verdicts import APPLY, verdict, verdict_of


def convert_for(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    host: str,
    *,
    rule: RankRule = NO_LIMIT,
    base: str | os.PathLike[str] | None = None,
    dtype: str = "same",
) -> Report:
    """Write an adapter file so that web UI `host` (a key of verdict_table.HOSTS) alone applies it as it was trained.

    Every module keeps its algorithm, with LDM names, alpha and the layout of factors the web UI reads; where that is
    not enough it becomes the nearest LoRA that `rule` allows or, without a rule, its whole difference. What that web UI
    reads in no form is left out, as the report says. `base` and errors as in `adapters.convert.convert`.
    """
    if host not in HOSTS:
        known = ", ".join(f"{key} ({name})" for key, name in HOSTS.items())
        raise AdapterLabError(f"There is no web UI called {host!r} here; choose one of {known}.")
    file = AdapterFile.open(path)
    refuse_overwriting(out, [path, base])
    model = open_base(base, [file])
    layers, left_out = model.layers(file)
    report = started_report(out, model, [file], left_out)
    with torch.inference_mode(), Spool(out) as spool:
        writer = Writer(spool, report, rule, stored_dtype(dtype, [file]))
        for name, layer in layers.items():
            form = next((form for form in _forms(file, name, layer) if _reads(host, file, name, layer, form)), None)
            if form is not None:
                writer.tensors(layer.name, file.algorithm_of(name), form, as_stored=dtype == "same")
            elif len(layer.shape) == 1:
                report.left_out[name] = f"{HOSTS[host]} reads it in no form"
            else:
                write_changed(writer, writer.lora if rule else writer.full, model, file, name, layer)
        finish(writer, [file])
        options = {"for": host, **vars(rule), "base": Path(base).name if base else None}
        sources = [(file.path, source_metadata(file), 1.0)]
        report.bytes = spool.save(provenance.metadata_of(report, "convert", sources, options))
    found = verdict(AdapterFile.open(out), host)
    if found.outcome != APPLY:
        report.notes.append(f"{HOSTS[host]} alone would still {found.outcome} some of it: {found.why}.")
    return report


def _forms(file: AdapterFile, name: str, layer: Layer) -> Iterator[dict[str, Tensor]]:
    """The forms of a module that change the weight alike, to be tried in turn: tensors by suffix."""
    adapter, raw = file.load(name), raw_tensors(file, name)
    plain = plain_tensors(adapter, raw, layer.shape)
    yield plain
    if isinstance(adapter, LoKr) and adapter.t2 is not None:
        yield _without_core(without_core(adapter), plain)
    if isinstance(adapter, GLoRA) and len(layer.shape) == 2:
        yield _unscaled(adapter, older_glora(plain), layer)


def _without_core(adapter: LoKr, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A LoKr's tensors with its core multiplied into w2_b."""
    assert isinstance(adapter.w2, tuple)
    factors = dict(zip(("lokr_w2_a", "lokr_w2_b"), adapter.w2))
    kept = {suffix: tensor for suffix, tensor in plain.items() if suffix != "lokr_t2"}
    return {**kept, **{suffix: stored_like(tensor, plain[suffix]) for suffix, tensor in factors.items()}}


def _unscaled(adapter: GLoRA, older: Mapping[str, Tensor], layer: Layer) -> dict[str, Tensor]:
    """A GLoRA's tensors with the names before LyCORIS 4, its scale in the two factors on the inputs' side."""
    oriented = adapter.oriented(layer.shape)
    assert oriented is not None
    inputs_side = {suffix: scaled(older[suffix], oriented.scale) for suffix in ("a1.weight", "b1.weight")}
    return {**older, **inputs_side, "alpha": torch.tensor(float(older["a1.weight"].shape[0]))}


def _reads(host: str, file: AdapterFile, name: str, layer: Layer, form: Mapping[str, Tensor]) -> bool:
    """Whether a web UI alone applies a module of this form correctly."""
    infos = {suffix: TensorInfo(suffix, tuple(tensor.shape), tensor.dtype, 0, 0) for suffix, tensor in form.items()}
    written: Any = SimpleNamespace(modules={layer.name: infos}, options=FileOptions())
    written.outline = lambda name: adapter_from_tensors(form)
    module = Module(file.algorithm_of(name), layer.name, infos, written)
    return verdict_of([module], host, by_name=False).outcome == APPLY

"""LoRA files at another rank."""

from __future__ import annotations

import os

import torch

from adapter_lab.adapters import provenance
from adapter_lab.adapters.convert import finish, refuse_overwriting, started_report, stored_dtype, write_changed
from adapter_lab.adapters.file import AdapterFile, ModuleError
from adapter_lab.adapters.layers import open_base
from adapter_lab.adapters.results import Report, Writer
from adapter_lab.adapters.spool import Spool
from adapter_lab.adapters.svd import RankRule
from adapter_lab.errors import AdapterLabError


def resize(path: str | os.PathLike[str], out: str | os.PathLike[str], rule: RankRule, *, dtype: str = "same") -> Report:
    """Write a LoRA file with each module at the smallest rank that `rule` allows; ranks never grow.

    Norm layers and biases stay. Raises AdapterLabError for a file with modules of other algorithms and with DoRA:
    those are `convert`'s.
    """
    if not rule:
        raise AdapterLabError("How large may the LoRA be? Give a rank, an error bound or an energy to keep.")
    file = AdapterFile.open(path)
    refuse_overwriting(out, [path])
    for name in file.modules:
        try:
            outline = file.outline(name)
        except ModuleError:  # named in the report
            continue
        if outline.algorithm not in ("lora", "full", "norm") or (outline.algorithm == "full" and file.has_weight(name)):
            kind = "DoRA" if outline.algorithm == "dora" else outline.algorithm
            raise AdapterLabError(f"{name} in {path} is {kind}, not LoRA; use adapter-lab convert --to lora instead.")
    model = open_base(None, [file])
    layers, left_out = model.layers(file)
    report = started_report(out, model, [file], left_out)
    with torch.inference_mode(), Spool(out) as spool:
        writer = Writer(spool, report, rule, stored_dtype(dtype, [file]))
        for name, layer in layers.items():
            write_changed(writer, writer.lora, model, file, name, layer)
        finish(writer, [file])
        report.bytes = spool.save(
            provenance.metadata_of(report, "resize", [(file.path, file.metadata, 1.0)], vars(rule))
        )
    return report

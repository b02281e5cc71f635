"""The difference of two checkpoints as an adapter file: LoRA on linear layers and convolutions, or all of it."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from adapter_lab.adapters import provenance
from adapter_lab.adapters.base import working_dtype
from adapter_lab.adapters.checkpoint import Checkpoint
from adapter_lab.adapters.convert import refuse_overwriting
from adapter_lab.adapters.family import FAMILY_NAMES
from adapter_lab.adapters.keys import Target
from adapter_lab.adapters.layers import Base, open_base
from adapter_lab.adapters.results import DTYPES, Report, Writer
from adapter_lab.adapters.spool import Spool
from adapter_lab.adapters.svd import NO_LIMIT, RankRule
from adapter_lab.adapters.tensors import Scratch, is_finite
from adapter_lab.errors import AdapterLabError, FileFormatError


def extract(
    base: str | os.PathLike[str],
    tuned: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    full: bool = False,
    rule: RankRule = NO_LIMIT,
    dtype: str = "fp16",
) -> Report:
    """Write an adapter file that turns checkpoint `base` into `tuned`, up to the error that is reported.

    Every layer that differs becomes the nearest LoRA that `rule` allows; norm layers and biases are then left out, as a
    note says. With `full` everything that differs is in the file. Layers that are equal are not. Raises
    FileFormatError for broken files, for checkpoints of different families and for equal ones.
    """
    if full == bool(rule):
        raise AdapterLabError(
            "What shall be extracted? Give a rank, an error bound or an energy for LoRA, or --to full."
        )
    if dtype not in DTYPES:
        raise AdapterLabError(f"The dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}.")
    refuse_overwriting(out, [base, tuned])
    first, second = open_base(base, []), open_base(tuned, [])
    if first.family != second.family:
        families = [FAMILY_NAMES[str(model.family)] for model in (first, second)]
        raise FileFormatError(f"{base} is {families[0]}, but {tuned} is {families[1]}; give two of the same family.")
    report = Report(str(out), first.family)
    with torch.inference_mode(), Spool(out) as spool:
        writer = Writer(spool, report, rule, DTYPES[dtype])
        left = sum(not _write(writer, first, second, target, full) for target in first.table.values())
        report.left_out |= {name: f"{base} has no such layer" for name in second.table if name not in first.table}
        if not report.made:
            raise FileFormatError(f"{base} and {tuned} do not differ in any layer; there is nothing to extract.")
        if left:
            report.notes.append(f"{left} norm layers and biases also differ and are left out; --to full has them.")
        known = {"ss_sd_model_name": Path(base).name}
        sources = [(Path(path), known, 1.0) for path in (base, tuned)]
        options = {"to": "full" if full else "lora", **vars(rule)}
        report.bytes = spool.save(provenance.metadata_of(report, "extract", sources, options))
    return report


def _write(writer: Writer, first: Base, second: Base, target: Target, full: bool) -> bool:
    """Write what differs in one layer; False if something that differs was left out."""
    report, other = writer.report, second.table.get(target.name)
    if other is None or other.shape != target.shape:
        assert second.checkpoint is not None
        has = "no such layer" if other is None else f"a weight of shape {list(other.shape)}, not {list(target.shape)}"
        report.left_out[target.name] = f"{second.checkpoint.path} has {has}"
        return True
    delta = _difference(first, target.key, target, second, other.key, other)
    bias = None
    if target.bias_key and other.bias_key:
        bias = _difference(first, target.bias_key, target, second, other.bias_key, other, of_bias=True)
    if target.kind == "norm" and full and (delta is not None or bias is not None):
        writer.norm(target.name, torch.zeros(target.shape) if delta is None else delta, bias)
        return True
    if delta is not None and target.kind != "norm":
        (writer.full if full else writer.lora)(target.name, delta)
    if bias is not None and full:
        writer.bias(target.name, bias)
    return full or (bias is None and (delta is None or target.kind != "norm"))


def _difference(
    first: Base, key: str, target: Target, second: Base, other_key: str, other: Target, of_bias: bool = False
) -> Tensor | None:
    """What `second` has more than `first`, in fp32 or fp64, as an adapter sees it; None where they are equal."""
    delta = _rows(second, other_key, other, of_bias) - _rows(first, key, target, of_bias)
    if not is_finite(delta):
        raise FileFormatError(f"{key} differs by NaN or infinity; one of the two checkpoints is damaged.")
    return delta if bool(delta.any()) else None


def _rows(model: Base, key: str, target: Target, of_bias: bool) -> Tensor:
    checkpoint: Checkpoint | None = model.checkpoint
    assert checkpoint is not None
    tensor = checkpoint.read(key, Scratch())
    tensor = tensor if target.rows is None else tensor[slice(*target.rows)]
    return (tensor.T if target.transposed and not of_bias else tensor).to(working_dtype(tensor.dtype))

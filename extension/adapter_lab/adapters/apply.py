"""Apply adapter files to a single-file checkpoint, reading and writing only the tensors that are needed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapter_lab.adapters import writing
from adapter_lab.adapters.base import patch_, patch_bias_, working_dtype
from adapter_lab.adapters.checkpoint import Checkpoint, open_checkpoint
from adapter_lab.adapters.file import AdapterFile
from adapter_lab.adapters.keys import Target, TargetTable, family_of, targets
from adapter_lab.adapters.matching import match
from adapter_lab.adapters.results import guessed_scale, refuse_reading
from adapter_lab.adapters.strength import finite_strength
from adapter_lab.adapters.tensors import Scratch, is_finite
from adapter_lab.errors import AdapterLabError, FileFormatError

OUTPUT_DTYPES = {"same": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Tensors outside these, such as a noise schedule, keep their number format whatever dtype is asked for.
MODEL_PARTS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")
# In files of a transformer alone, whose tensors may have names without a prefix.
TRANSFORMER = re.compile(
    r"(net\.|diffusion_model\.)?(blocks|llm_adapter|x_embedder|t_embedder|t_embedding_norm|final_layer)\."
)
# Hashes of the base file, which are not those of the result.
STALE = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")


@dataclass
class AppliedAdapter:
    """What became of one adapter file: modules by their names in it."""

    path: str
    strength: float
    applied: list[str] = field(default_factory=list)
    not_applied: dict[str, str] = field(default_factory=dict)  # module -> reason
    unknown: dict[str, str] = field(default_factory=dict)  # tensor that is not used -> why
    carried: list[str] = field(default_factory=list)  # tensors of embeddings, which are no part of a checkpoint
    guessed: list[str] = field(default_factory=list)  # modules of which no alpha is stated


@dataclass
class ApplyReport:
    """What was applied to what."""

    base: str
    family: str
    out: str
    out_bytes: int
    changed: int  # tensors of the checkpoint that are other than before
    adapters: list[AppliedAdapter]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "adapters": [vars(adapter) for adapter in self.adapters]}

    def text(self) -> str:
        """For people: how many modules of each adapter were applied, and which were not and why."""
        lines = []
        for adapter in self.adapters:
            count = len(adapter.applied)
            why = ", since strength 0 changes nothing" if adapter.strength == 0 else ""
            lines.append(f"{adapter.path} at strength {adapter.strength:g}: {count} modules applied{why}.")
            lines += [f"  not applied: {name}: {reason}" for name, reason in adapter.not_applied.items()]
            lines += [f"  not used: {key}: {reason}" for key, reason in adapter.unknown.items()]
            lines += [f"  not written: {key}: a checkpoint has no place for embeddings" for key in adapter.carried]
            lines += [f"  {line}" for line in guessed_scale(adapter.guessed)]
        return "\n".join([*lines, f"{self.changed} tensors changed; wrote {self.out} ({self.out_bytes:,} bytes)."])


@dataclass(frozen=True)
class Change:
    """One module's change of one tensor of the checkpoint."""

    file: AdapterFile
    name: str
    target: Target
    strength: float
    of_bias: bool


def apply_adapters(
    base_path: str | os.PathLike[str],
    adapters: Sequence[tuple[str | os.PathLike[str], float]],
    out_path: str | os.PathLike[str],
    *,
    changed_only: bool = False,
    dtype: str = "same",
) -> ApplyReport:
    """Patch a checkpoint with adapter files at strengths, in order, each on the weight the one before left.

    `changed_only` writes the patched tensors alone, under the checkpoint's names; `dtype` ("same", "fp32", "fp16",
    "bf16") is the number format of the result. Sums run in fp32 (fp64 for fp64 checkpoints) and are rounded once.
    Raises FileFormatError for broken files and for an adapter of another base-model family.
    """
    if dtype not in OUTPUT_DTYPES:
        raise AdapterLabError(f"The dtype {dtype!r} is unknown; choose one of {', '.join(OUTPUT_DTYPES)}.")
    for path, strength in adapters:
        finite_strength(strength, path)
    out = Path(out_path)
    refuse_reading(out, [base_path, *(path for path, _ in adapters)])
    base = open_checkpoint(base_path)
    table = _targets(base)
    family = family_of(base.shapes)
    changes: dict[str, list[Change]] = {}
    reports = [_plan(base, table, family, AdapterFile.open(path), strength, changes) for path, strength in adapters]
    layout = {
        key: (shape, _output_dtype(key, base.dtypes[key], OUTPUT_DTYPES[dtype]))
        for key, shape in base.shapes.items()
        if not changed_only or key in changes
    }
    metadata = {key: value for key, value in base.metadata.items() if key not in STALE}
    metadata["adapter_lab.applied"] = json.dumps([[Path(report.path).name, report.strength] for report in reports])

    scratch = (Scratch(), Scratch(), Scratch())
    changed: set[str] = set()

    def read(key: str) -> Any:
        if key not in changes and layout[key][1] == base.dtypes[key]:
            return base.chunks(key)
        result, differs = _patched(base, key, changes.get(key, []), layout[key][1], scratch)
        if differs:
            changed.add(key)
        return writing.raw_bytes(result)

    with torch.inference_mode():
        size = writing.write_tensors(out, layout, metadata, read)
    return ApplyReport(str(base_path), family, str(out), size, len(changed), reports)


def _targets(base: Checkpoint) -> TargetTable:
    try:
        return targets(base.shapes)
    except FileFormatError as error:
        raise FileFormatError(f"{base.path} cannot be used: {error}") from None


def _plan(
    base: Checkpoint,
    table: TargetTable,
    family: str,
    file: AdapterFile,
    strength: float,
    changes: dict[str, list[Change]],
) -> AppliedAdapter:
    """Sort the modules of an adapter into those that apply, added to `changes`, and those that do not, with reasons."""
    matched = match(file, table, family, str(base.path))
    for name, target in ((found.name, found.target) for found in matched.matches if strength != 0):
        if file.has_weight(name):
            changes.setdefault(target.key, []).append(Change(file, name, target, strength, of_bias=False))
        if file.has_bias(name) and target.bias_key is not None:
            changes.setdefault(target.bias_key, []).append(Change(file, name, target, strength, of_bias=True))
    guessed = [name for name in matched.applied if not file.states_scale(name)]
    found = AppliedAdapter(str(file.path), strength, matched.applied if strength else [], matched.not_applied)
    found.unknown, found.carried, found.guessed = file.unknown, file.carried, guessed
    return found


def _is_of_model(key: str) -> bool:
    return key.startswith(MODEL_PARTS) or bool(TRANSFORMER.match(key))


def _output_dtype(key: str, dtype: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    return wanted if wanted and dtype.is_floating_point and _is_of_model(key) else dtype


def _patched(
    base: Checkpoint, key: str, changes: list[Change], dtype: torch.dtype, scratch: Sequence[Scratch]
) -> tuple[Tensor, bool]:
    """Tensor `key` with all changes, in `dtype`, in the memory of `scratch`; and whether they made it another."""
    stored, work = base.read(key, scratch[0]), working_dtype(base.dtypes[key])
    weight = scratch[1].empty(stored.shape, work).copy_(stored)
    for change in changes:
        rows = weight if change.target.rows is None else weight[slice(*change.target.rows)]
        if change.of_bias:
            patch_bias_(rows, change.file.load_bias(change.name), change.strength)
        else:
            patch_(rows.T if change.target.transposed else rows, change.file.load(change.name), change.strength)
    result = weight if weight.dtype == dtype else scratch[2].empty(weight.shape, dtype).copy_(weight)
    if not is_finite(result):
        if is_finite(weight):
            remedy = f"{_strengths(changes)}choose bf16 or fp32"
            raise AdapterLabError(f"{key} of {base.path} does not fit into {dtype}; {remedy}.")
        raise AdapterLabError(f"{key} of {base.path} holds NaN or infinity, before or by patching it.")
    return result, not torch.equal(result, stored.to(dtype))


def _strengths(changes: list[Change]) -> str:
    """What to lower where a patched tensor is too large; "" where nothing was patched."""
    found = dict.fromkeys(f"{change.file.path.name} at {change.strength:g}" for change in changes)
    return f"lower the strength ({', '.join(found)}), or " if found else ""

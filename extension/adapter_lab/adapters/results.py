"""Adapter files made from others: modules written one after another, each with the error it was measured to have."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapter_lab.adapters.spool import Spool
from adapter_lab.adapters.svd import RankRule, low_rank
from adapter_lab.adapters.tensors import is_finite
from adapter_lab.errors import AdapterLabError, FileFormatError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Half of the last bit, which rounding a number to a dtype can be off by, relative to the number.
ROUNDING = {torch.float32: 2**-24, torch.float16: 2**-11, torch.bfloat16: 2**-8}
NOT_IN_PEFT = "PEFT's LoRA has no such tensors"
WORST = 5  # modules named for their error


@dataclass(frozen=True)
class Made:
    """One module of a new file: its name there, algorithm, rank (LoRA), ||D|| and ||D - D'|| of its change D.

    error None: its tensors were taken over as they were.
    """

    name: str
    algorithm: str
    rank: int | None
    norm: float
    error: float | None

    @property
    def relative(self) -> float:
        """||D - D'|| / ||D||; 0 where nothing was to be changed."""
        return self.error / self.norm if self.error and self.norm else 0.0


@dataclass
class Report:
    """What a new file holds, and what it was not possible to take over."""

    out: str
    family: str | None
    bytes: int = 0
    made: list[Made] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # module in its source -> reason
    unknown: dict[str, str] = field(default_factory=dict)  # tensor that was not used -> why
    carried: list[str] = field(default_factory=list)  # tensors of embeddings, taken over as they are
    guessed: list[str] = field(default_factory=list)  # modules of which no alpha is stated
    notes: list[str] = field(default_factory=list)

    @property
    def error(self) -> float:
        """||D - D'|| / ||D|| of all changes of weights together."""
        total = math.sqrt(sum(one.norm**2 for one in self.made))
        return math.sqrt(sum((one.error or 0.0) ** 2 for one in self.made)) / total if total else 0.0

    @property
    def worst(self) -> list[Made]:
        """The modules with the largest relative error, largest first."""
        changed = [one for one in self.made if one.relative > 0]
        return sorted(changed, key=lambda one: -one.relative)[:WORST]

    @property
    def ranks(self) -> list[int]:
        """The ranks of the modules that are LoRA, ascending."""
        return sorted(one.rank for one in self.made if one.rank is not None)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "out": self.out,
            "bytes": self.bytes,
            "family": self.family,
            "modules": dict(Counter(one.algorithm for one in self.made)),
            "ranks": dict(Counter(self.ranks)),
            "error": self.error,
            "worst": [{"name": one.name, "error": one.relative, "rank": one.rank} for one in self.worst],
            "left_out": self.left_out,
            "unknown": self.unknown,
            "carried": self.carried,
            "guessed": self.guessed,
            "notes": self.notes,
        }

    def text(self) -> str:
        """For people: what was written, the error of the whole and of the worst modules, and what was left out."""
        kinds = ", ".join(f"{count} x {name}" for name, count in Counter(one.algorithm for one in self.made).items())
        lines = [f"{self.out} ({self.bytes:,} bytes): {kinds}" + _ranks(self.ranks)]
        if any(one.error is not None for one in self.made):
            lines.append(f"error: {self.error:.2%} of the change of all weights together")
        for one in self.worst:
            lines.append(f"  {one.relative:7.2%}  {one.name}" + (f" (rank {one.rank})" if one.rank else ""))
        lines += [f"not taken over: {name}: {reason}" for name, reason in self.left_out.items()]
        lines += [f"not taken over: {key}: {reason}" for key, reason in self.unknown.items()]
        lines += [f"carried along: {key}" for key in self.carried]
        return "\n".join([*lines, *guessed_scale(self.guessed), *self.notes])


def _ranks(ranks: list[int]) -> str:
    if not ranks:
        return ""
    if ranks[0] == ranks[-1]:
        return f", rank {ranks[0]}"
    return f", ranks {ranks[0]} to {ranks[-1]}, median {ranks[len(ranks) // 2]}"


def guessed_scale(names: Sequence[str]) -> list[str]:
    """A line that says of modules without alpha how strong they were taken to be; none where there are no such."""
    if not names:
        return []
    return [f"alpha is not stated in {len(names)} modules, such as {names[0]}: taken as dim, a scale of 1"]


def refuse_reading(out: Path, sources: Iterable[str | os.PathLike[str] | None]) -> None:
    """Raise FileFormatError if the file to be written is one of those to be read."""
    for source in sources:
        if source is not None and out.exists() and Path(source).exists() and out.samefile(source):
            raise FileFormatError(f"{out} is one of the files to be read; give the result another name.")


class Writer:
    """Puts modules into a new file, measuring what their form and number format lose."""

    def __init__(self, spool: Spool, report: Report, rule: RankRule, dtype: torch.dtype) -> None:
        """Raises AdapterLabError if the rule's error bound is below what rounding to `dtype` loses."""
        rounding = math.sqrt(2) * ROUNDING[dtype]
        if rule.error and rule.error <= rounding:
            name = next(name for name, known in DTYPES.items() if known == dtype)
            raise AdapterLabError(
                f"An error of {rule.error:g} is out of reach in {name}, where rounding alone loses up to "
                f"{rounding:.1g}; allow more or choose the dtype fp32."
            )
        self.spool = spool
        self.report = report
        self.rule = rule
        self.dtype = dtype
        # Set where the names are PEFT's, which hold LoRA without alpha alone.
        self.peft: dict[str, int] | None = None  # rank by module
        # What the rank may lose, so that rank and rounding together stay below the bound.
        self._allowed = math.sqrt(rule.error**2 - rounding**2) if rule.error else 0.0

    def lora(self, name: str, delta: Tensor) -> None:
        """The nearest LoRA that the rule allows. delta: (out, in[, kh, kw])."""
        up, down = low_rank(delta.flatten(1), self.rule.limit(tuple(delta.shape)), self._allowed)
        self.factors(name, up, down, delta)

    def factors(self, name: str, up: Tensor, down: Tensor, delta: Tensor) -> None:
        """LoRA with alpha = rank. up: (out, r); down: (r, in * kernel); delta, what it stands for: (out, in, ...)."""
        rank, kernel = up.shape[1], delta.shape[2:]
        up = self._rounded(name, up).reshape(-1, rank, *[1] * len(kernel))
        down = self._rounded(name, down).reshape(rank, delta.shape[1], *kernel)
        if self.peft is None:
            self.spool.add(f"{name}.lora_up.weight", up)
            self.spool.add(f"{name}.lora_down.weight", down)
            self.spool.add(f"{name}.alpha", torch.tensor(float(rank), dtype=self.dtype))
        else:
            self.peft[name] = rank
            self.spool.add(f"{name}.lora_A.weight", down)
            self.spool.add(f"{name}.lora_B.weight", up)
        lost = torch.addmm(delta.flatten(1).float(), up.flatten(1).float(), down.flatten(1).float(), alpha=-1)
        self._made(name, "lora", rank, delta, lost)

    def full(self, name: str, delta: Tensor) -> None:
        """The difference itself. delta: (out, in[, kh, kw])."""
        stored = self._rounded(name, delta)
        self.spool.add(f"{name}.diff", stored)
        self._made(name, "full", None, delta, stored.to(delta.dtype) - delta)

    def bias(self, name: str, delta: Tensor) -> None:
        """The difference of a layer's bias, beside whatever changes its weight. delta: (out,)."""
        if self.peft is not None:
            self.report.left_out[f"{name} (bias)"] = NOT_IN_PEFT
            return
        self.spool.add(f"{name}.diff_b", self._rounded(name, delta))
        if not self.report.made or self.report.made[-1].name != name:
            self.report.made.append(Made(name, "full", None, 0.0, 0.0))

    def norm(self, name: str, delta: Tensor, bias: Tensor | None) -> None:
        """The difference of a normalisation layer. delta, bias: (n,)."""
        if self.peft is not None:
            self.report.left_out[name] = NOT_IN_PEFT
            return
        self.spool.add(f"{name}.w_norm", self._rounded(name, delta))
        if bias is not None:
            self.spool.add(f"{name}.b_norm", self._rounded(name, bias))
        self.report.made.append(Made(name, "norm", None, 0.0, 0.0))

    def tensors(self, name: str, algorithm: str, tensors: Mapping[str, Tensor], as_stored: bool = True) -> None:
        """A module as it is: tensors by suffix, in their own number formats or in the file's."""
        for suffix, tensor in tensors.items():
            keep = as_stored or tensor.numel() == 1 or not tensor.is_floating_point()
            self.spool.add(f"{name}.{suffix}", tensor if keep else self._rounded(name, tensor))
        self.report.made.append(Made(name, algorithm, None, 0.0, None))

    def _rounded(self, name: str, tensor: Tensor) -> Tensor:
        rounded = tensor.to(self.dtype).contiguous()
        if not is_finite(rounded):
            raise AdapterLabError(
                f"{self.report.out} cannot be written in {self.dtype}, for which values of {name} are too large; "
                "choose the dtype bf16 or fp32."
            )
        return rounded

    def _made(self, name: str, algorithm: str, rank: int | None, delta: Tensor, lost: Tensor) -> None:
        self.report.made.append(Made(name, algorithm, rank, _norm(delta), _norm(lost)))


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))

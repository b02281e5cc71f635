"""What an adapter file is: algorithms, options, dims, parts and family, from its header and single numbers only."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from adapter_lab.adapters.family import adapter_families, in_words
from adapter_lab.adapters.file import AdapterFile
from adapter_lab.adapters.keys import canonical
from adapter_lab.adapters.kind import kind_of
from adapter_lab.adapters.lineage import lineage_of
from adapter_lab.adapters.options import json_object
from adapter_lab.adapters.provenance import SOURCES
from adapter_lab.adapters.tensors import DTYPE_NAMES

PARTS = {"lora_unet_": "unet", "lora_te1_": "te1", "lora_te2_": "te2"}


def describe(path: str | os.PathLike[str], modules: bool = False) -> dict[str, Any]:
    """An adapter file in plain values, ready for JSON.

    `groups`: modules of equal algorithm and options, most frequent first; `parts`: modules per part; `families`: the
    base models it may belong to (one if the file tells, none if nothing does), `family`: the same in words; `step`,
    `epoch`, `run`: from metadata, else from a name like `x-000400`; `made_from`: how and from which files, if not by
    training; `unknown`: tensors of no known algorithm.
    `modules=True` adds every module by its name in the file.
    Raises FileFormatError if the file is broken or no adapter.
    """
    file = AdapterFile.open(path)
    lineage = lineage_of(file.path.stem, file.metadata)
    families = adapter_families(file)
    described = {
        name: {"algorithm": file.algorithm_of(name), **_rounded(file.outline(name).describe())} for name in file.modules
    }
    counts = Counter(repr(options) for options in described.values())
    groups = {repr(options): options for options in described.values()}
    found: dict[str, Any] = {
        "path": str(file.path),
        "bytes": Path(file.path).stat().st_size,
        "algorithms": dict(Counter(options["algorithm"] for options in described.values())),
        "parts": dict(Counter(_part(name) for name in file.modules)),
        "modules": len(file.modules),
        "groups": [{**groups[key], "modules": count} for key, count in counts.most_common()],
        "families": list(families),
        "family": in_words(families),
        "parameters": _parameters(file),
        "dtypes": dict(Counter(DTYPE_NAMES[info.dtype] for info in file.file.tensors.values())),
        "type": kind_of(file).name,
        "step": lineage.step,
        "epoch": lineage.epoch,
        "run": lineage.run,
        "name": file.metadata.get("ss_output_name") or file.metadata.get("modelspec.title") or file.path.stem,
        "base_model": file.metadata.get("ss_sd_model_name"),
        "made_from": json_object(file.metadata.get(SOURCES)) or None,
        "unknown": [*file.unknown],
        "metadata": file.metadata,
    }
    return {**found, "module_list": described} if modules else found


def text(described: dict[str, Any]) -> str:
    """`describe`'s answer for people, a few lines."""
    groups = []
    for group in described["groups"]:
        options = {key: value for key, value in group.items() if key not in ("algorithm", "modules")}
        said = ", ".join(f"{key} {value}" for key, value in options.items() if value not in (False, None))
        groups.append(f"  {group['modules']:5d} x {group['algorithm']}" + (f": {said}" if said else ""))
    lines = [
        f"{described['path']} ({described['bytes']:,} bytes, {described['parameters']:,} parameters)",
        f"for {described['family']}: "
        + ", ".join(f"{count} modules in {part}" for part, count in described["parts"].items()),
        *groups,
    ]
    if described["step"] is not None:
        lines.append(f"step {described['step']}")
    elif described["epoch"] is not None:
        lines.append(f"epoch {described['epoch']}")
    if described["base_model"]:
        lines.append(f"trained on {described['base_model']}")
    if described["made_from"]:
        lines.append(_made_from(described["made_from"]))
    if described["unknown"]:
        lines.append(f"{len(described['unknown'])} tensors of no known algorithm, such as {described['unknown'][0]}")
    for name, options in described.get("module_list", {}).items():
        lines.append(f"  {name}: " + ", ".join(f"{key} {value}" for key, value in options.items()))
    return "\n".join(lines)


def _made_from(made: dict[str, Any]) -> str:
    files = [file for file in made.get("files", []) if isinstance(file, dict)]
    named = ", ".join(f"{file.get('name')} at {file.get('strength')}" for file in files)
    return f"made by {made.get('how')} from {named} (error {made.get('error')})"


def _part(name: str) -> str:
    found = canonical(name)
    return next((part for prefix, part in PARTS.items() if found.startswith(prefix)), "unet")


def _rounded(options: dict[str, Any]) -> dict[str, Any]:
    """Options with floats as short as they are exact to 6 digits, so that a stored alpha of 8 is 8."""
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in options.items()}


def _parameters(file: AdapterFile) -> int:
    """Numbers that were trained: everything but alphas and flags."""
    constants = ("alpha", "on_input", "oft_R.scaled_oft", "initial_norm")
    return sum(info.numel for suffixes in file.modules.values() for s, info in suffixes.items() if s not in constants)

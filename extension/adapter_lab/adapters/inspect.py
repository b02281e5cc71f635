"""What an adapter file is: algorithms, options, dims, parts and family, and whether its numbers can be used."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from adapter_lab.adapters.family import adapter_families, in_words
from adapter_lab.adapters.file import AdapterFile, ModuleError
from adapter_lab.adapters.keys import canonical
from adapter_lab.adapters.kind import kind_of
from adapter_lab.adapters.lineage import lineage_of
from adapter_lab.adapters.options import json_object
from adapter_lab.adapters.provenance import SOURCES
from adapter_lab.adapters.tensors import DTYPE_NAMES

PARTS = {"lora_unet_llm_adapter_": "conditioner", "lora_unet_": "unet", "lora_te1_": "te1", "lora_te2_": "te2"}


def describe(path: str | os.PathLike[str], modules: bool = False) -> dict[str, Any]:
    """An adapter file in plain values, ready for JSON.

    `groups`: modules of equal algorithm and options, most frequent first; `parts`: modules per part; `families`: the
    base models it may belong to (one if the file tells, none if nothing does), `family`: the same in words; `step`,
    `epoch`, `run`: from metadata, else from a name like `x-000400`; `made_from`: how and from which files, if not by
    training; `broken`: modules that cannot be used, `unknown`: tensors that are not, with why; `carried`: those of
    embeddings. A module whose alpha is not stated, and taken as its dim, has `alpha_stated` False.
    `modules=True` adds every module by its name in the file.
    Raises FileFormatError if the file is broken or no adapter.
    """
    file = AdapterFile.open(path)
    lineage = lineage_of(file.path.stem, file.metadata)
    families = adapter_families(file)
    described, broken = _modules(file)
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
        "broken": broken,
        "carried": file.carried,
        "unknown": file.unknown,
        "metadata": file.metadata,
    }
    return {**found, "module_list": described} if modules else found


def _modules(file: AdapterFile) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The algorithm and options of every module, and why others cannot be used."""
    described: dict[str, dict[str, Any]] = {}
    broken: dict[str, str] = {}
    for name in file.modules:
        try:
            options = _rounded(file.outline(name).describe())
            file.check_values(name)
        except ModuleError as error:
            broken[name] = error.reason
            continue
        guess = {} if file.states_scale(name) else {"alpha_stated": False}
        described[name] = {"algorithm": file.algorithm_of(name), **options, **guess}
    return described, broken


def text(described: dict[str, Any]) -> str:
    """`describe`'s answer for people, a few lines."""
    groups = []
    for group in described["groups"]:
        options = [key for key, value in group.items() if value is not None and value is not False]
        said = ", ".join(_option(group, key) for key in options if key not in ("algorithm", "modules"))
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
    lines += [f"cannot be used: {name}: {reason}" for name, reason in described["broken"].items()]
    for reason, keys in _by_reason(described["unknown"]).items():
        lines.append(f"{len(keys)} tensors are not used, such as {keys[0]}: {reason}")
    if described["carried"]:
        lines.append(f"{len(described['carried'])} tensors of embeddings, such as {described['carried'][0]}")
    for name, options in described.get("module_list", {}).items():
        lines.append(f"  {name}: " + ", ".join(f"{key} {value}" for key, value in options.items()))
    return "\n".join(lines)


def _option(group: dict[str, Any], key: str) -> str:
    """An option of a group of modules in words."""
    value = group[key]
    if key == "alpha" and group.get("alpha_stated") is False:
        return "alpha not stated, taken as dim"
    return f"{key} {value}" + (", which is no effect at all" if key == "alpha" and value == 0 else "")


def _by_reason(reasons: dict[str, str]) -> dict[str, list[str]]:
    """What shares a reason, by it."""
    found: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        found.setdefault(reason, []).append(key)
    return found


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

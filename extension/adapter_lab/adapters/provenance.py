"""Metadata of files made from other files: what still holds of their sources', what they are now, and from what."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapter_lab import __version__
from adapter_lab.adapters.options import OWN_NETWORK, json_object
from adapter_lab.adapters.results import Report
from adapter_lab.families import FAMILIES

SOURCES = "adapter_lab.made_from"
# Entries about a source's tensors, which a new file has others of.
OF_TENSORS = (
    "sshs_model_hash",
    "sshs_legacy_hash",
    "modelspec.hash_sha256",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
    "lora_adapter_metadata",
    "format",
    OWN_NETWORK,
    SOURCES,
)
# What hosts sort files by, where there is no source that says it.
FAMILY_ENTRIES = {
    key: {
        "ss_base_model_version": next(iter(row.versions.values())),
        "ss_v2": str(row.second),
        "modelspec.architecture": f"{next(iter(row.architectures.values()))}/lora",
    }
    for key, row in FAMILIES.items()
}


def metadata_of(
    report: Report,
    how: str,
    sources: Sequence[tuple[Path, Mapping[str, str], float]],
    options: Mapping[str, Any],
) -> dict[str, str]:
    """The metadata of the file that `report` describes.

    how: the verb, as "merge"; sources: path, metadata and strength of each file it was made from; options: what was
    asked for. Entries on which all sources agree are kept, except those about their tensors.
    """
    first = sources[0][1]
    kept = {
        key: value
        for key, value in first.items()
        if key not in OF_TENSORS and all(other.get(key) == value for _, other, _ in sources)
    }
    family = FAMILY_ENTRIES.get(report.family or "", {}) if how == "extract" else {}
    stem = Path(report.out).stem
    made = {
        "how": how,
        "version": __version__,
        "files": [_source(path, metadata, strength) for path, metadata, strength in sources],
        "options": {key: value for key, value in options.items() if value},
        "error": float(f"{report.error:.3g}"),
    }
    names = {"ss_output_name": stem, "modelspec.title": stem}
    return {**family, **kept, **names, **_network(report, first), SOURCES: _json(made)}


def _source(path: Path, metadata: Mapping[str, str], strength: float) -> dict[str, Any]:
    """What tells one source: its file name without its place, its hash, its strength, and what it was made from."""
    found: dict[str, Any] = {"name": path.name, "strength": strength, "sha256": metadata.get("sshs_model_hash")}
    found["made_from"] = json_object(metadata.get(SOURCES)) or None
    return {key: value for key, value in found.items() if value is not None}


def _network(report: Report, source: Mapping[str, str]) -> dict[str, str]:
    """The `ss_network_*` entries and what else is needed to read the tensors."""
    counts = Counter(one.algorithm for one in report.made)
    algorithm = counts.most_common(1)[0][0] if counts else "lora"
    kept = {one.algorithm for one in report.made if one.error is None}
    entries = _kept_network(source) if algorithm in kept else _new_network(report, algorithm)
    if "oftv2" in kept:  # which series it was trained with, and which way convolutions turn
        entries["lora_adapter_metadata"] = source.get("lora_adapter_metadata", "{}")
    return {**entries, OWN_NETWORK: _json({"algo": algorithm})}


def _kept_network(source: Mapping[str, str]) -> dict[str, str]:
    entries = {key: value for key, value in source.items() if key.startswith("ss_network_")}
    if "ss_network_args" in entries:  # the whole scale is in alpha now
        arguments = json_object(entries["ss_network_args"])
        entries["ss_network_args"] = _json({key: value for key, value in arguments.items() if key != "rs_lora"})
    return entries


def _new_network(report: Report, algorithm: str) -> dict[str, str]:
    """ "Dynamic" stands for ranks that differ, as in kohya's resize script."""
    plain = {one.algorithm for one in report.made} <= {"lora"}
    ranks = set(report.ranks)
    dim = "1" if not ranks else str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    return {
        "ss_network_module": "networks.lora" if plain else "lycoris.kohya",
        "ss_network_dim": dim,
        "ss_network_alpha": dim,
        "ss_network_args": _json({} if plain else {"algo": algorithm}),
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

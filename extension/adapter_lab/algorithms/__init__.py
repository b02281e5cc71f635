"""Every algorithm, one row each; what belongs to one alone stands in its row and nowhere else. Imports no torch.

A new algorithm is a file here with its row, its reader in `adapters` (or `saved_as`), its layer in `training.forwards`,
and its name below.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TypeVar

from adapter_lab.algorithms.boft import BOFT
from adapter_lab.algorithms.diag_oft import DIAG_OFT, RotationOptions
from adapter_lab.algorithms.full import FULL, NORM, SET, FullOptions
from adapter_lab.algorithms.glora import GLORA
from adapter_lab.algorithms.ia3 import IA3, IA3Options
from adapter_lab.algorithms.loha import LOHA
from adapter_lab.algorithms.lokr import LOKR, LoKrOptions
from adapter_lab.algorithms.lora import LORA
from adapter_lab.algorithms.oftv2 import OFTV2
from adapter_lab.algorithms.row import BLOCK, RANK, AdapterType, Algorithm, load
from adapter_lab.algorithms.t_lora import T_LORA, TLoRAOptions

# In the order in which people are offered them, and in which a module's tensors are tried.
ROWS: tuple[Algorithm, ...] = (LORA, T_LORA, LOHA, LOKR, GLORA, DIAG_OFT, BOFT, OFTV2, IA3, FULL, SET, NORM)


@dataclass(kw_only=True)
class OwnOptions(FullOptions, IA3Options, RotationOptions, LoKrOptions, TLoRAOptions):
    """The settings that belong to one algorithm, or to a few that are close."""


BY_KEY: dict[str, Algorithm] = {row.key: row for row in ROWS}
# What a person may choose to train, and of these what is a product of low rank, and rotations in blocks.
CHOSEN: tuple[str, ...] = tuple(row.key for row in ROWS if row.chosen)
LOW_RANK: tuple[str, ...] = tuple(row.key for row in ROWS if row.chosen and row.dim == RANK)
IN_BLOCKS: tuple[str, ...] = tuple(row.key for row in ROWS if row.chosen and row.dim == BLOCK)
ADAPTER_TYPES: dict[str, AdapterType] = {kind.key: kind for row in ROWS for kind in row.types}
# Other names that people have for an algorithm.
SPELLINGS: dict[str, str] = {spelling: row.key for row in ROWS for spelling in row.spellings}

C = TypeVar("C", bound=type)


def users(setting: str) -> tuple[str, ...] | None:
    """The algorithms that use a setting of [network]; None: it is not up to the algorithm."""
    return tuple(row.key for row in ROWS if row.chosen and setting in row.options) or None


def says_users(owner: C) -> C:
    """Class decorator: each setting's metadata says which algorithms use it."""
    for entry in fields(owner):
        entry.metadata = MappingProxyType({**entry.metadata, "algorithms": users(entry.name)})
    return owner


def layers() -> dict[str, type]:
    """The classes that train, by algorithm."""
    return {row.key: load(row.layer) for row in ROWS if row.layer}


def readers() -> tuple[type, ...]:
    """The classes that read files, in the order in which a module's tensors are tried."""
    return tuple(load(row.reader) for row in ROWS if row.reader)


__all__ = [
    "ADAPTER_TYPES",
    "BY_KEY",
    "CHOSEN",
    "IN_BLOCKS",
    "LOW_RANK",
    "ROWS",
    "SPELLINGS",
    "AdapterType",
    "Algorithm",
    "OwnOptions",
    "layers",
    "readers",
    "says_users",
    "users",
]

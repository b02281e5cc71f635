"""Lets the private environment import the host's torch, and nothing else of the host's.

A copy of this file lies in the private environment as `adapter_lab_host.py`; a `.pth` file imports it whenever its
Python starts. The names it lets through are in `adapter_lab_host.json` beside it. The environment's own packages come
first, because this finder is asked last. Standard library only, and as little of it as possible: every start pays.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class HostPackages:
    """Finds the allowed top-level modules and their distributions in the host's site-packages folders."""

    def __init__(self, folders: list[str], modules: list[str], distributions: list[str]) -> None:
        self.folders = folders
        self.modules = frozenset(modules)
        self.distributions = frozenset(distributions)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or name not in self.modules:
            return None
        return PathFinder.find_spec(name, self.folders, target)

    def invalidate_caches(self) -> None:
        pass

    def find_distributions(self, context: Any) -> Iterator[Any]:
        from importlib.metadata import DistributionFinder, MetadataPathFinder

        names = self.distributions
        if context.name is not None:
            names = names & {context.name.lower().replace("_", "-").replace(".", "-")}
        for name in sorted(names):
            yield from MetadataPathFinder.find_distributions(DistributionFinder.Context(name=name, path=self.folders))


def install() -> None:
    """Ask the host's folders after all others, as the JSON file beside this one says."""
    with open(os.path.splitext(__file__)[0] + ".json", encoding="utf-8") as file:
        sys.meta_path.append(HostPackages(**json.load(file)))


if __name__ == "adapter_lab_host":
    install()

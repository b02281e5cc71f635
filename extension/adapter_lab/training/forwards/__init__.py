"""Adapter layers: one file per algorithm, each with its parameters and an exact forward cheaper than rebuilding W'."""

from __future__ import annotations

from adapter_lab import algorithms
from adapter_lab.training.forwards.layer import AdapterLayer
from adapter_lab.training.forwards.spec import LayerSpec

LAYERS: dict[str, type[AdapterLayer]] = algorithms.layers()

__all__ = ["LAYERS", "AdapterLayer", "LayerSpec"]

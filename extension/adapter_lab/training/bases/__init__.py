"""Base models: checkpoints of every family read into diffusers and transformers modules, without a hub."""

from __future__ import annotations

from adapter_lab.training.bases.base import Base, open_base
from adapter_lab.training.bases.layout import layout
from adapter_lab.training.bases.text import TextEncoders, TextOutput, TextStack
from adapter_lab.training.bases.writing import save_single_file

__all__ = ["Base", "TextEncoders", "TextOutput", "TextStack", "layout", "open_base", "save_single_file"]

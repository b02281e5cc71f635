"""Models that are in memory only while they are needed (phased loading)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

Model = TypeVar("Model")


class Slot(Generic[Model]):
    """A model that is loaded when it is used, and freed after that unless it is kept."""

    def __init__(self, load: Callable[[], Model], keep: bool = False) -> None:
        self._load = load
        self.keep = keep
        self._model: Model | None = None

    @contextmanager
    def use(self) -> Iterator[Model]:
        """The model, in memory while inside."""
        if self._model is None:
            self._model = self._load()
        try:
            yield self._model
        finally:
            if not self.keep:
                self.free()

    def get(self) -> Model:
        """The model, in memory from now on."""
        self.keep = True
        with self.use() as model:
            return model

    def free(self) -> None:
        """Give the model's memory back, on a GPU to other programs too."""
        self._model = None  # nothing in these models refers to itself, so this frees them
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            gc.collect()
            torch.cuda.empty_cache()

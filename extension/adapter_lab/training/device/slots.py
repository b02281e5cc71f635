"""Models that are in memory only while they are needed (phased loading)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from adapter_lab.training.device.devices import release_unused

Model = TypeVar("Model")
Made = TypeVar("Made")


class Slot(Generic[Model]):
    """A model that is loaded when it is used, and freed after that unless it is kept."""

    def __init__(self, load: Callable[[], Model], keep: bool = False) -> None:
        self._load = load
        self.keep = keep
        self._model: Model | None = None

    def use(self, work: Callable[[Model], Made]) -> Made:
        """What `work` makes of the model, which is in memory meanwhile; `work` must keep nothing of it.

        A function and not a context, since a caller's variable would hold the model beyond the end of a `with`.
        """
        if self._model is None:
            self._model = self._load()
        try:
            return work(self._model)
        finally:
            if not self.keep:
                self.free()

    def get(self) -> Model:
        """The model, in memory from now on."""
        self.keep = True
        return self.use(lambda model: model)

    def free(self) -> None:
        """Give the model's memory back, on a GPU to other programs too."""
        self._model = None  # nothing in these models refers to itself, so this frees them
        release_unused()

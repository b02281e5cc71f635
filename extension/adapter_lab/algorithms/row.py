"""What is known of one algorithm, in one row: the form, checks, docs, verdicts, imports and tests are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

# What `dim` means to an algorithm.
RANK, BLOCK, NO_DIM = "rank", "block", ""
# Settings of [network] that several algorithms use; those of one alone, or of a few, stand in its own file.
OF_RANK = ("dim", "alpha", "conv_dim", "conv_alpha", "use_scalar", "rs_lora", "rank_dropout", "dropout")
OF_DORA = ("dora", "dora_axis")
OF_BLOCK = ("dim", "conv_dim")
# Web UIs by the names that `hosts` has for them: all that are known, and Forge's descendants of ComfyUI's loader.
EVERY_HOST = ("classic", "a1111", "forge", "reforge", "neo")
LIKE_COMFY = ("classic", "forge", "reforge", "neo")


@dataclass(frozen=True)
class AdapterType:
    """A type of adapter that a person chooses: an algorithm, or a well-known use of one, as LoCon of LoRA.

    `good_for` says what follows from the mathematics and what was measured (docs/benchmarks.md, docs/real-size.md, the
    hand-made study of eight types); nobody has shown one type to be the best for every subject. `network`: the
    settings of [network] that make it.
    """

    key: str
    title: str
    good_for: str
    network: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One algorithm.

    `weight`: W' as a formula. `reader`, `layer`: the classes that read its files and that train it, as "module:Class"
    below `adapter_lab`; either may be "": a file form that is not trained here, or one that is saved as another
    (`saved_as`). `dim`: RANK, BLOCK or NO_DIM. `shared`: settings of [network] that it uses besides those that all do;
    `own`: a dataclass of those that are its own. `read_by`: web UIs, and the tensors of it that they were seen to read,
    as a file spells them; a web UI that is not listed is not known to read it. `wrong`, `dropped`: web UI -> what goes
    wrong although it reads them, or why the file has no effect.
    """

    key: str
    title: str
    weight: str
    reader: str
    layer: str
    dim: str
    shared: tuple[str, ...]
    own: type | None
    types: tuple[AdapterType, ...]
    spellings: tuple[str, ...]
    lycoris: tuple[str, ...]
    sd_scripts: tuple[str, ...]
    read_by: tuple[tuple[tuple[str, ...], str], ...]
    wrong: Mapping[str, str]
    dropped: Mapping[str, str]
    saved_as: str = ""
    # Trained wherever normalisation layers are, not by choice.
    of_norms: bool = False
    # Its parameters are whole weights: d, or a learning rate, is what these move by in a step.
    whole_weights: bool = False
    # Prodigy's d_coef in short runs, relative to the usual (docs/learning-curve.md).
    short_run_gain: float = 1.0

    @property
    def options(self) -> tuple[str, ...]:
        """The settings of [network] that it uses besides those that all algorithms do."""
        return self.shared + (tuple(entry.name for entry in fields(self.own)) if self.own else ())

    @property
    def chosen(self) -> bool:
        """Whether a person may choose to train it."""
        return bool(self.layer) and not self.of_norms


def load(path: str) -> Any:
    """The class that a row names as "module:Class"."""
    module, _, name = path.partition(":")
    return getattr(import_module(f"adapter_lab.{module}"), name)

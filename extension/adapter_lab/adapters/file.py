"""Adapter files: their modules by name and suffix, the adapter of each module, and saving."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from adapter_lab.adapters import writing
from adapter_lab.adapters.algorithms import (
    FLAGS,
    SUFFIXES,
    adapter_from_tensors,
    algorithm_class,
    split_key,
    used_suffixes,
)
from adapter_lab.adapters.base import Adapter
from adapter_lab.adapters.foreign import foreign_kind
from adapter_lab.adapters.in_memory import FileInMemory
from adapter_lab.adapters.options import read_options
from adapter_lab.adapters.peft_folder import PeftScales, with_folder_configuration
from adapter_lab.adapters.tensors import TensorFile, TensorInfo, largest
from adapter_lab.errors import FileFormatError

# The tensors of a textual inversion that a web UI reads from the adapter's file.
EMBEDDINGS = "bundle_emb."
# Factors whose first axis is the rank, of the algorithms that are scaled by alpha / rank.
RANKED = ("lora_down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b", "a2.weight")
NO_ALGORITHM = "no known algorithm has such a tensor"

__all__ = ["SUFFIXES", "AdapterFile", "ModuleError", "NoAdapterError", "adapter_from_tensors", "split_key"]


class NoAdapterError(FileFormatError):
    """A well-formed file that holds something else than an adapter, or one of an algorithm we do not know."""


class ModuleError(FileFormatError):
    """One module of a file cannot be used; `reason` says why without naming the file and the module again."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class AdapterFile:
    """An adapter file: the header is read at once, a module's tensors when it is loaded.

    Every tensor of it is in one of `modules` (used), `carried` and `unknown`.
    """

    def __init__(self, file: TensorFile) -> None:
        self.file = file
        self.path = file.path
        self.metadata = with_folder_configuration(file)
        self.options = read_options(self.metadata)
        # Suffix -> description of each module, by the module's name as the file spells it.
        self.modules: dict[str, dict[str, TensorInfo]] = {}
        self.unknown: dict[str, str] = {}  # tensors that are not used, and why
        self.unused: dict[str, dict[str, TensorInfo]] = {}  # those of them that lie beside a module's own, as `modules`
        self.carried: list[str] = []  # tensors of embeddings that came with it, which change no weight
        self.largest: dict[str, float] = {}  # largest absolute value of each tensor read so far, by key
        self._sort_keys()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> AdapterFile:
        """Read the header; raises FileFormatError if the file is malformed or holds no adapter."""
        return cls(TensorFile.open(path))

    def in_memory(self) -> AdapterFile:
        """The same file with all its bytes read, so that nothing is read from the disk any more."""
        found = copy(self)
        found.file, found.largest = FileInMemory(self.file), {}
        return found

    def _sort_keys(self) -> None:
        for key, info in self.file.tensors.items():
            if key.startswith(EMBEDDINGS):
                self.carried.append(key)
                continue
            split = split_key(key)
            if split is None:
                self.unknown[key] = NO_ALGORITHM
                continue
            name, suffix = split
            suffixes = self.modules.setdefault(name, {})
            if suffix in suffixes:
                raise FileFormatError(
                    f"{self.path} holds {suffix} of {name} twice: as {suffixes[suffix].key} and {key}."
                )
            suffixes[suffix] = info
        for name in list(self.modules):
            shapes = self._shapes(name)
            algorithm = algorithm_class(shapes)
            if algorithm is None:
                self.unknown |= {info.key: NO_ALGORITHM for info in self.modules.pop(name).values()}
                continue
            for suffix in shapes.keys() - used_suffixes(algorithm, shapes):
                unused = self.unused.setdefault(name, {})[suffix] = self.modules[name].pop(suffix)
                self.unknown[unused.key] = f"its module is {algorithm.algorithm}, which does not use it"
        if not self.modules:
            count = len(self.file.tensors)
            raise NoAdapterError(
                f"{self.path} holds no adapter; by its {count} tensors' names it is {foreign_kind(self.file.tensors)}."
            )

    def _check(self, name: str) -> None:
        """Raise ModuleError if the header alone shows that module `name` cannot be used."""
        for suffix, info in self.modules[name].items():
            reason = None
            if 0 in info.shape:
                reason = f"it has rank zero ({info.key} has shape {list(info.shape)})"
            elif suffix not in FLAGS and not info.dtype.is_floating_point:
                reason = f"{info.key} should hold floating-point numbers but holds {info.dtype}"
            elif suffix in ("alpha", "scalar", "on_input") and info.numel != 1:
                reason = f"{info.key} should be one number but has shape {list(info.shape)}"
            if reason:
                raise ModuleError(f"{self.path}: module {name} cannot be read: {reason}.", reason)

    def _shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        return {suffix: info.shape for suffix, info in self.modules[name].items()}

    def algorithm_of(self, name: str) -> str:
        """The algorithm of module `name`, such as "lokr"; DoRA is an option of it, not an algorithm."""
        algorithm = algorithm_class(self._shapes(name))
        assert algorithm is not None  # others went to `unknown`
        return algorithm.algorithm

    def load(self, name: str, dtype: torch.dtype | None = None) -> Adapter:
        """The adapter of module `name`; dtype None keeps the file's. Raises FileFormatError for NaN or mismatches."""
        self._check(name)
        infos = self.modules[name]
        read = self.file.read_many(info.key for info in infos.values())
        tensors = {suffix: self._finite(info, read[info.key]) for suffix, info in infos.items()}
        if dtype is not None:
            tensors = {suffix: t.to(dtype) if t.is_floating_point() else t for suffix, t in tensors.items()}
        return self._adapter(name, tensors)

    def outline(self, name: str) -> Adapter:
        """The adapter of module `name` with its shapes and single numbers but no other values: cheap, for `fits`.

        Raises FileFormatError as `load` does.
        """
        self._check(name)
        tensors = {
            suffix: self._finite(info, self._numbers[info.key])
            if info.key in self._numbers
            else torch.empty(1).expand(info.shape)
            for suffix, info in self.modules[name].items()
        }
        return self._adapter(name, tensors)

    def check_values(self, name: str) -> None:
        """Read every number of module `name`; raises ModuleError where one is not finite."""
        infos = self.modules[name]
        read = self.file.read_many(info.key for info in infos.values())
        for info in infos.values():
            self._finite(info, read[info.key])

    @cached_property
    def _numbers(self) -> dict[str, Tensor]:
        """Every tensor that is a single number (alpha, scalar, flags), by key."""
        infos = (info for suffixes in self.modules.values() for info in suffixes.values())
        return self.file.read_many(info.key for info in infos if info.shape in ((), (1,)))

    def has_weight(self, name: str) -> bool:
        """Whether module `name` changes the layer's weight, not only its bias."""
        return any(suffix not in ("diff_b", "alpha") for suffix in self.modules[name])

    def states_scale(self, name: str) -> bool:
        """Whether the file says how strong module `name` is: alpha is there, or of no consequence; else it is a guess.

        What is not stated is taken as alpha = dim, a scale of 1.
        """
        infos = self.modules[name]
        return "alpha" in infos or self._rank(name) is None or bool(self._peft(name))

    def _rank(self, name: str) -> int | None:
        """The dim that alpha of module `name` is divided by; None where alpha is no scale."""
        infos = self.modules[name]
        info = next((infos[factor] for factor in RANKED if factor in infos), None)
        return info.shape[0] if info is not None and info.shape else None

    def _peft(self, name: str) -> dict[str, float]:
        """What PEFT's configuration states of the scale of module `name`, by suffix."""
        rank = self._rank(name)
        return self._scales.of(name, rank) if rank or "lokr_w1" in self.modules[name] else {}

    @cached_property
    def _scales(self) -> PeftScales:
        return PeftScales(self.metadata)

    def has_bias(self, name: str) -> bool:
        """Whether module `name` also changes the layer's bias."""
        return self._bias(name) is not None

    def load_bias(self, name: str) -> Adapter:
        """The adapter of module `name` as far as its bias goes; the difference of the weight is not read."""
        info = self._bias(name)
        assert info is not None
        return self._adapter(name, {"diff_b": self._finite(info, self.file.read(info.key))})

    def _bias(self, name: str) -> TensorInfo | None:
        """The tensor of module `name` that is its layer's bias: a norm's own, or `diff_b` beside any algorithm."""
        infos = self.modules[name]
        return infos.get("diff_b", infos.get("b_norm") if "w_norm" in infos else None)

    def _finite(self, info: TensorInfo, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        size = self.largest[info.key] = largest(tensor)
        if not math.isfinite(size):
            reason = f"{info.key} holds NaN or infinity; its training failed"
            raise ModuleError(f"{self.path} is unusable: {reason}.", reason)
        return tensor

    def _adapter(self, name: str, tensors: dict[str, Tensor]) -> Adapter:
        if "alpha" not in tensors:
            stated = {suffix: torch.tensor(value, dtype=torch.float64) for suffix, value in self._peft(name).items()}
            tensors = {**tensors, **stated}
        options = self.options if not name.startswith("base_model.") else replace(self.options, peft=True)
        try:
            return adapter_from_tensors(tensors, options)
        except FileFormatError as error:
            message = f"{self.path}: module {name} cannot be read. {error}"
            raise ModuleError(message, str(error).rstrip(".")) from None


LEGACY_HASH_START, LEGACY_HASH_BYTES = 0x100000, 0x10000


def hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """`sshs_model_hash` and `sshs_legacy_hash` as kohya's trainers write them.

    The first is the SHA-256 of the tensors' bytes. The second is that of 64 KiB from 1 MiB on, cut to 8 digits, of the
    file as it would be with only its `ss_` metadata.
    """
    layout = writing.layout_of(tensors)
    training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    header = writing.header_bytes(layout, training)
    window, position = bytearray(header[LEGACY_HASH_START : LEGACY_HASH_START + LEGACY_HASH_BYTES]), len(header)
    end = LEGACY_HASH_START + LEGACY_HASH_BYTES
    for key in writing.layout_order(layout):
        raw = writing.raw_bytes(tensors[key])
        window += raw[max(LEGACY_HASH_START - position, 0) : max(end - position, 0)]
        position += len(raw)
        if position >= end:
            break
    return {
        "sshs_model_hash": writing.tensor_hash(tensors),
        "sshs_legacy_hash": hashlib.sha256(window).hexdigest()[:8],
    }


def save_adapter(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Save an adapter file atomically: tensors by full key, metadata, and the hashes hosts look up.

    Raises AdapterLabError if the disk is full or the folder cannot be written to; an older file then stays as it was.
    """
    complete = {**metadata, **hashes(tensors, metadata)}
    writing.write_tensors(Path(path), writing.layout_of(tensors), complete, lambda key: writing.raw_bytes(tensors[key]))


def file_bytes(layout: writing.Layout, metadata: Mapping[str, str] | None) -> int:
    """The exact size of the file `save_adapter` writes for these shapes and dtypes; metadata None: without any."""
    if metadata is not None:
        metadata = {**metadata, "sshs_model_hash": "0" * 64, "sshs_legacy_hash": "0" * 8}
    return len(writing.header_bytes(layout, metadata)) + writing.data_bytes(layout)

"""Adapter files: their modules by name and suffix, the adapter of each module, and saving."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from adapter_lab.adapters import writing
from adapter_lab.adapters.base import Adapter, FileOptions, Shapes
from adapter_lab.adapters.boft import BOFT
from adapter_lab.adapters.dora import DoRA
from adapter_lab.adapters.full import Full
from adapter_lab.adapters.glora import GLoRA
from adapter_lab.adapters.ia3 import IA3
from adapter_lab.adapters.in_memory import FileInMemory
from adapter_lab.adapters.loha import LoHa
from adapter_lab.adapters.lokr import LoKr
from adapter_lab.adapters.lora import LoRA
from adapter_lab.adapters.norm import Norm
from adapter_lab.adapters.oft import DiagOFT
from adapter_lab.adapters.oftv2 import OFTv2
from adapter_lab.adapters.options import peft_alpha, read_options
from adapter_lab.adapters.tensors import TensorFile, TensorInfo, largest
from adapter_lab.errors import FileFormatError

# A new algorithm is a new file with an Adapter class and one name here.
ALGORITHMS: tuple[type[Adapter], ...] = (LoRA, LoHa, LoKr, GLoRA, DiagOFT, BOFT, OFTv2, IA3, Full, Norm)

SHARED_SUFFIXES = ("alpha", "scalar", "dora_scale", "lora_magnitude_vector", "diff_b")
# Numbers that may be stored as integers.
FLAGS = frozenset({"alpha", "scalar", "on_input", "oft_R.scaled_oft"})
SUFFIXES = tuple({name: None for algorithm in ALGORITHMS for name in algorithm.suffixes}) + SHARED_SUFFIXES
_SUFFIXES = frozenset(SUFFIXES)
# Other spellings of a suffix: PEFT, diffusers, old diffusers attention processors.
SPELLINGS = (
    (r"lora_A(?:\.\w+)?\.weight", "lora_down.weight"),
    (r"lora_B(?:\.\w+)?\.weight", "lora_up.weight"),
    (r"lora(?:_linear_layer)?\.down\.weight", "lora_down.weight"),
    (r"lora(?:_linear_layer)?\.up\.weight", "lora_up.weight"),
    (r"(?<=_lora\.)down\.weight", "lora_down.weight"),
    (r"(?<=_lora\.)up\.weight", "lora_up.weight"),
    (r"lora_magnitude_vector(?:\.\w+)*", "lora_magnitude_vector"),
    (r"oft_R(?:\.\w+)?\.weight", "oft_R.weight"),
)
_PATTERNS = [*((re.escape(suffix), suffix) for suffix in SUFFIXES), *SPELLINGS]
# The shortest name wins, so that "x.lora_up.weight" ends in "lora_up.weight", not in "weight".
_KEY = re.compile(r"(?P<name>.+?)\.(?:" + "|".join(f"(?P<s{i}>{text})" for i, (text, _) in enumerate(_PATTERNS)) + ")")


class NoAdapterError(FileFormatError):
    """A well-formed file that holds something else than an adapter, or one of an algorithm we do not know."""


class ModuleError(FileFormatError):
    """One module of a file cannot be used; `reason` says why without naming the file and the module again."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def split_key(key: str) -> tuple[str, str] | None:
    """A tensor's key as (module name, suffix in LyCORIS's spelling); None if no known suffix ends it."""
    name, _, suffix = key.partition(".")
    if name and suffix in _SUFFIXES:  # nearly every file; the search takes ten times as long
        return name, suffix
    found = _KEY.fullmatch(key)
    if not found:
        return None
    number = next(i for i in range(len(_PATTERNS)) if found[f"s{i}"] is not None)
    return found["name"], _PATTERNS[number][1]


def algorithm_class(shapes: Shapes) -> type[Adapter] | None:
    """The algorithm of a module whose tensors have these suffixes and shapes; None if there is none."""
    return next((algorithm for algorithm in ALGORITHMS if algorithm.reads(shapes)), None)


def adapter_from_tensors(tensors: Mapping[str, Tensor], options: FileOptions | None = None) -> Adapter:
    """The adapter that one module's tensors describe, keyed by their suffixes in a file ("lora_up.weight", "alpha").

    `options`: what a file's metadata told (`options.read_options`); None for files of our own and most others.
    Raises FileFormatError if the tensors are not those of an adapter.
    """
    options = options or FileOptions()
    found = {suffix: tensor for key, tensor in tensors.items() if (suffix := _suffix(key)) is not None}
    algorithm = algorithm_class({suffix: tuple(tensor.shape) for suffix, tensor in found.items()})
    if algorithm is None:
        raise FileFormatError(f"No algorithm has tensors named {', '.join(sorted(tensors))}.")
    try:
        adapter = algorithm.from_tensors(found, options)
    except KeyError as error:
        raise FileFormatError(f"The tensor {error.args[0]} is missing beside {', '.join(sorted(found))}.") from None
    except (ValueError, IndexError, RuntimeError) as error:
        raise FileFormatError(f"Its tensors do not belong together: {error}.") from None
    if "diff_b" in found:
        adapter.bias_delta = found["diff_b"].flatten()
    if isinstance(adapter, OFTv2):
        return adapter
    magnitude = found.get("dora_scale", found.get("lora_magnitude_vector"))
    if magnitude is None:
        return adapter
    if (
        "dora_scale" not in found
    ):  # PEFT's magnitudes are always per output, though shaped (1, out, 1, 1) on convolutions
        magnitude = magnitude.flatten()
    wrapped = DoRA(adapter, magnitude)
    wrapped.bias_delta = adapter.bias_delta
    return wrapped


def _suffix(key: str) -> str | None:
    found = split_key(f"module.{key}")
    return found[1] if found and found[0] == "module" else None


class AdapterFile:
    """An adapter file: the header is read at once, a module's tensors when it is loaded."""

    def __init__(self, file: TensorFile) -> None:
        self.file = file
        self.path = file.path
        self.metadata = file.metadata
        self.options = read_options(file.metadata)
        # Suffix -> description of each module, by the module's name as the file spells it.
        self.modules: dict[str, dict[str, TensorInfo]] = {}
        self.unknown: list[str] = []
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
            split = split_key(key)
            if split is None:
                self.unknown.append(key)
                continue
            name, suffix = split
            suffixes = self.modules.setdefault(name, {})
            if suffix in suffixes:
                raise FileFormatError(
                    f"{self.path} holds {suffix} of {name} twice: as {suffixes[suffix].key} and {key}."
                )
            suffixes[suffix] = info
        for name in list(self.modules):
            if algorithm_class(self._shapes(name)) is None:
                self.unknown += [info.key for info in self.modules.pop(name).values()]
        if not self.modules:
            what = "a checkpoint" if any(".diffusion_model." in f".{key}" for key in self.unknown) else "something else"
            raise NoAdapterError(
                f"{self.path} holds no adapter; by its {len(self.unknown)} tensors' names it is {what}."
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
            suffix: self._numbers[info.key] if info.key in self._numbers else torch.empty(1).expand(info.shape)
            for suffix, info in self.modules[name].items()
        }
        return self._adapter(name, tensors)

    @cached_property
    def _numbers(self) -> dict[str, Tensor]:
        """Every tensor that is a single number (alpha, scalar, flags), by key."""
        infos = (info for suffixes in self.modules.values() for info in suffixes.values())
        return self.file.read_many(info.key for info in infos if info.shape in ((), (1,)))

    def has_weight(self, name: str) -> bool:
        """Whether module `name` changes the layer's weight, not only its bias."""
        return set(self.modules[name]) != {"diff_b"}

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
        down = tensors.get("lora_down.weight")
        if "alpha" not in tensors and down is not None and down.dim():
            alpha = peft_alpha(self.metadata, name, down.shape[0])
            if alpha is not None:
                tensors["alpha"] = torch.tensor(alpha, dtype=torch.float64)
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

"""From the tensors of one module to its adapter: suffixes in every spelling, the algorithm they show, what it uses."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from adapter_lab import algorithms
from adapter_lab.adapters.base import MAGNITUDES, Adapter, FileOptions, Shapes
from adapter_lab.adapters.dora import DoRA
from adapter_lab.adapters.full import Full
from adapter_lab.adapters.loha import LoHa
from adapter_lab.adapters.lokr import LoKr
from adapter_lab.adapters.lora import LoRA
from adapter_lab.adapters.oftv2 import OFTv2
from adapter_lab.adapters.summed import Summed
from adapter_lab.errors import FileFormatError

# In the order in which a module's tensors are tried.
ALGORITHMS: tuple[type[Adapter], ...] = algorithms.readers()

SHARED_SUFFIXES = ("alpha", "scalar", *MAGNITUDES, "diff_b")
# What a whole difference may stand beside: the sum of both is meant.
ADDITIVE = (LoRA, LoHa, LoKr)
# Numbers that may be stored as integers.
FLAGS = frozenset({"alpha", "scalar", "on_input", "oft_R.scaled_oft"})
SUFFIXES = tuple({name: None for algorithm in ALGORITHMS for name in algorithm.suffixes}) + SHARED_SUFFIXES
_SUFFIXES = frozenset(SUFFIXES)
# Other spellings of a suffix: PEFT, diffusers, old diffusers attention processors.
SPELLINGS = (
    (r"lora_A(?:\.\w+)?\.weight", "lora_down.weight"),
    (r"lora_B(?:\.\w+)?\.weight", "lora_up.weight"),
    ("lora_A", "lora_down.weight"),
    ("lora_B", "lora_up.weight"),
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


def used_suffixes(algorithm: type[Adapter], shapes: Shapes) -> set[str]:
    """The suffixes of a module of this algorithm whose tensors are used; the others are to be named."""
    summed = "diff" in shapes and algorithm in ADDITIVE and not any(name in shapes for name in MAGNITUDES)
    return algorithm.uses(shapes) | ({"diff"} if summed else set())


def adapter_from_tensors(tensors: Mapping[str, Tensor], options: FileOptions | None = None) -> Adapter:
    """The adapter that one module's tensors describe, keyed by their suffixes in a file ("lora_up.weight", "alpha").

    `options`: what a file's metadata told (`options.read_options`); None for files of our own and most others.
    Raises FileFormatError if the tensors are not those of an adapter.
    """
    options = options or FileOptions()
    found = {suffix: tensor for key, tensor in tensors.items() if (suffix := _suffix(key)) is not None}
    shapes = {suffix: tuple(tensor.shape) for suffix, tensor in found.items()}
    algorithm = algorithm_class(shapes)
    if algorithm is None:
        raise FileFormatError(f"No algorithm has tensors named {', '.join(sorted(tensors))}.")
    found = {suffix: found[suffix] for suffix in used_suffixes(algorithm, shapes)}
    for suffix, tensor in found.items():
        if 0 in tensor.shape:
            raise FileFormatError(f"Its {suffix} of shape {list(tensor.shape)} holds no numbers.")
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
    if "diff" in found and not isinstance(adapter, Full):
        summed = Summed(adapter, Full(found["diff"]))
        summed.bias_delta = adapter.bias_delta
        return summed
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

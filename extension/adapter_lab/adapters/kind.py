"""What type of adapter a file is, in the few words people tell adapters apart by: "LoRA", "LoKr f4", "LoHa 16"."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from adapter_lab import algorithms
from adapter_lab.adapters.base import MAGNITUDES, FileOptions
from adapter_lab.adapters.file import AdapterFile, adapter_from_tensors
from adapter_lab.adapters.options import json_object
from adapter_lab.errors import FileFormatError

# Other names people have for a type.
SPELLINGS = {**algorithms.SPELLINGS, "lycoris": "locon"}
# Convolutions of 3x3 in a UNet, by LDM's and diffusers' names.
CONVOLUTION = re.compile(r"(in_layers_2|out_layers_3|input_blocks_0_0|out_2|_(op|conv|conv1|conv2|conv_in|conv_out))$")
SAMPLES = 3  # modules looked at of each kind there is in a file


@dataclass(frozen=True)
class Kind:
    """A type of adapter. `dim` is None where there is none (IA3, LoKr of whole factors) or it differs."""

    algorithm: str
    dim: int | None = None
    factor: int | None = None  # of LoKr; -1: chosen for each layer
    full_matrix: bool = False
    convolutions: bool = False
    text_encoder: bool = False
    tucker: bool = False
    dora: bool = False

    @property
    def name(self) -> str:
        """The shortest name: "LoKr f4"."""
        title = "LoCon" if self.algorithm == "lora" and self.convolutions else _title(self.algorithm)
        words = [title, f"f{self.factor}" if self.factor is not None and self.factor >= 0 else ""]
        words += ["full" if self.full_matrix else "", "DoRA" if self.dora else ""]
        return " ".join(word for word in words if word)

    def details(self) -> dict[str, str]:
        """What may be added to the name where it alone is not enough, in order of importance."""
        return {
            "dim": f" {self.dim}" if self.dim is not None else "",
            "text": "+TE" if self.text_encoder else "",
            "tucker": " tucker" if self.tucker else "",
            "conv": " conv" if self.convolutions and self.algorithm != "lora" else "",
        }

    def words(self) -> set[str]:
        """Every word that is true of it, in lower case."""
        found = set(_words(self.name)) | {word for text in self.details().values() for word in _words(text)}
        return found | ({f"dim{self.dim}"} if self.dim is not None else set())


def _title(algorithm: str) -> str:
    row = algorithms.BY_KEY.get(algorithm)
    return row.title if row else "adapter"


def kind_of(file: AdapterFile) -> Kind:
    """The type of a file, from its header alone; the algorithm most of its modules have names it."""
    groups: dict[tuple[str, frozenset[str], bool], list[str]] = {}
    text_encoder = False
    for name, suffixes in file.modules.items():
        convolution = bool(CONVOLUTION.search(name.replace(".", "_")))
        text_encoder = text_encoder or name.startswith(("lora_te", "text_encoder", "te_", "te1_", "te2_"))
        groups.setdefault((file.algorithm_of(name), frozenset(suffixes), convolution), []).append(name)
    counts = Counter[str]()
    for (algorithm, _, _), names in groups.items():
        counts[algorithm] += len(names) if algorithm != "norm" else 0
    algorithm = counts.most_common(1)[0][0] if counts.total() else "norm"
    own = {key: names for key, names in groups.items() if key[0] == algorithm}
    described = [(_describe(file, name), len(names)) for names in own.values() for name in _spread(names)]
    return Kind(
        algorithm=algorithm,
        dim=_dim(described),
        factor=_factor(described, file.metadata) if algorithm == "lokr" else None,
        full_matrix=algorithm == "lokr" and all(options.get("full_matrix") for options, _ in described),
        convolutions=any(convolution for _, _, convolution in own),
        text_encoder=text_encoder,
        tucker=any(options.get("tucker") for options, _ in described),
        dora=any(suffix in suffixes for _, suffixes, _ in own for suffix in MAGNITUDES) and algorithm != "oftv2",
    )


def labels(kinds: Iterable[Kind]) -> dict[Kind, str]:
    """The shortest name of each that tells it from the others: "LoHa 16" beside "LoHa 6", else "LoHa"."""
    found: dict[Kind, str] = {}
    by_name: dict[str, set[Kind]] = {}
    for kind in kinds:
        by_name.setdefault(kind.name, set()).add(kind)
    for name, alike in by_name.items():
        found |= _apart(name, sorted(alike, key=repr))
    return found


def _apart(name: str, alike: list[Kind]) -> dict[Kind, str]:
    details = [kind.details() for kind in alike]
    keys = list(details[0])
    for count in range(len(keys) + 1):
        for chosen in itertools.combinations(keys, count):
            texts = [name + "".join(one[key] for key in chosen) for one in details]
            if len(set(texts)) == len(alike):
                return dict(zip(alike, texts))
    return {kind: name + "".join(one.values()) for kind, one in zip(alike, details)}


def fits(kind: Kind, wanted: str) -> bool:
    """Whether `wanted`, a type as a person writes it ("lokr f4", "LoHa 16", "OFT"), can mean this one."""
    first, *rest = [SPELLINGS.get(word, word) for word in _words(wanted)] or [""]
    return first == _words(kind.name)[0] and kind.words() >= set(rest)


def _words(text: str) -> list[str]:
    return re.findall(r"\+?[^\s+·,]+", text.lower().replace("full matrix", "full").replace("dim ", "dim"))


def _describe(file: AdapterFile, name: str) -> dict[str, Any]:
    """The options of a module that its shapes tell."""
    stand_ins = {suffix: torch.ones(()).expand(info.shape) for suffix, info in file.modules[name].items()}
    try:
        return adapter_from_tensors(stand_ins, FileOptions()).describe()
    except FileFormatError:
        return {}


def _spread(names: list[str]) -> list[str]:
    """The first, last and what lies between, at most SAMPLES."""
    return [names[round(i * (len(names) - 1) / (SAMPLES - 1))] for i in range(SAMPLES)][: len(names)]


def _dim(described: list[tuple[dict[str, Any], int]]) -> int | None:
    """The dim of most modules; None where it is not one number for most."""
    counts = Counter[int]()
    for options, count in described:
        if isinstance(options.get("dim"), int):
            counts[options["dim"]] += count
    return counts.most_common(1)[0][0] if counts else None


def _factor(described: list[tuple[dict[str, Any], int]], metadata: Mapping[str, str]) -> int:
    """The factor as it was asked for: as the metadata says, else the same in all modules; -1 where it differs."""
    told = str(json_object(metadata.get("ss_network_args")).get("factor", ""))
    shapes = [tuple(options["factor"]) for options, _ in described if "factor" in options]
    if re.fullmatch(r"-?\d{1,5}", told):
        return max(int(told), -1)
    sides = Counter(side for shape in shapes for side in shape)
    side, count = sides.most_common(1)[0] if sides else (-1, 0)
    return side if count >= 0.8 * sides.total() else -1

"""How strong PEFT's adapters are: their alpha is in a configuration, not among the tensors.

diffusers puts it into the file's metadata, PEFT itself into `adapter_config.json` beside `adapter_model.safetensors`.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapter_lab.adapters.options import LARGEST_ALPHA, PEFT_ENTRY, is_true, json_object
from adapter_lab.adapters.tensors import TensorFile

MODEL, CONFIGURATION = "adapter_model.safetensors", "adapter_config.json"
LARGEST_CONFIGURATION = 2**20  # bytes; real ones have a few hundred
OWN_NAMES = "base_model.model."
COMPONENTS = ("unet.", "transformer.", "text_encoder.", "text_encoder_2.", "text_encoder_3.")
# Patterns come with the file and must not take for ever: few open repetitions, none of them repeated, short names.
MOST_REPETITIONS, LONGEST_PATTERN, LONGEST_PATH, MOST_SECONDS = 3, 200, 120, 2.0
REPETITION = re.compile(r"(?<!\\)(?:\*|\+|\{\d*,)")
REPEATED_GROUP = re.compile(r"\)\s*[*+?{]")


def with_folder_configuration(file: TensorFile) -> dict[str, str]:
    """A file's metadata, with the configuration of its PEFT folder as diffusers would have put it there."""
    if PEFT_ENTRY in file.metadata or not _is_peft(file):
        return file.metadata
    try:
        with file.path.with_name(CONFIGURATION).open(encoding="utf-8") as opened:
            text = opened.read(LARGEST_CONFIGURATION)
    except (OSError, UnicodeDecodeError):
        return file.metadata
    found = json_object(text)
    return {**file.metadata, PEFT_ENTRY: json.dumps(found)} if found else file.metadata


def _is_peft(file: TensorFile) -> bool:
    """Whether a configuration in its folder is this file's: it has PEFT's name, or PEFT's keys and no siblings."""
    path = Path(file.path)
    if path.name == MODEL:
        return True
    if not any(key.startswith(OWN_NAMES) for key in file.tensors) or not path.with_name(CONFIGURATION).is_file():
        return False
    return sum(1 for _ in path.parent.glob("*.safetensors")) == 1


class PeftScales:
    """The scales that PEFT's configuration in a file's metadata states."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self._config = json_object(metadata.get(PEFT_ENTRY))
        self._patience = MOST_SECONDS

    def of(self, name: str, rank: int | None) -> dict[str, float]:
        """What is to stand for a module's alpha, by suffix; empty where nothing is stated.

        `rank`: of its factors, or None for a LoKr of whole ones, whose scale PEFT takes from the configuration alone.
        """
        if not self._config:
            return {}
        path = name.removeprefix(OWN_NAMES)
        component = path.split(".", 1)[0]
        own = {
            key[len(component) + 1 :]: value for key, value in self._config.items() if key.startswith(f"{component}.")
        }
        prefix = next((prefix for prefix in COMPONENTS if path.startswith(prefix)), "")
        path, own = path[len(prefix) :].removeprefix(OWN_NAMES), own or self._config
        alpha = self._by_pattern(own.get("alpha_pattern"), path, own.get("lora_alpha", own.get("alpha")))
        if not isinstance(alpha, (int, float)) or not abs(alpha) <= LARGEST_ALPHA:
            return {}
        if rank is not None:
            return {"alpha": float(alpha) * (math.sqrt(rank) if is_true(own.get("use_rslora")) else 1.0)}
        dim = self._by_pattern(own.get("rank_pattern"), path, own.get("r"))
        return {"scalar": float(alpha) / dim} if type(dim) is int and dim > 0 else {}

    def _by_pattern(self, patterns: Any, path: str, otherwise: Any) -> Any:
        """The value of the first pattern that ends the module's path, as PEFT has it: `(.*\\.)?(pattern)$`."""
        for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
            start = time.perf_counter()
            matches = self._patience > 0 and _ends(pattern, path)
            self._patience -= time.perf_counter() - start
            if matches:
                return value
        return otherwise


def _ends(pattern: str, path: str) -> bool:
    if path == pattern or path.endswith(f".{pattern}"):
        return True
    costly = len(REPETITION.findall(pattern)) > MOST_REPETITIONS or REPEATED_GROUP.search(pattern)
    if costly or len(pattern) > LONGEST_PATTERN or len(path) > LONGEST_PATH:
        return False
    try:
        return re.match(rf"(.*\.)?({pattern})$", path) is not None
    except (re.error, RecursionError, OverflowError):
        return False

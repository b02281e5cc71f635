"""What a file's metadata tells about its tensors that their names and shapes do not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from adapter_lab.adapters.base import FileOptions

# Set in every file Adapter Lab writes: scales in it always are alpha / dim, whatever the options were.
OWN_NETWORK = "adapter_lab.network"
# Where diffusers puts the configuration of PEFT.
PEFT_ENTRY = "lora_adapter_metadata"
# Real ones reach a few thousand; this also leaves out NaN, which JSON may hold here.
LARGEST_ALPHA = 1e6
# Of a series; trainers use five. Each costs a product of matrices, and a file may claim any number.
MOST_TERMS = 100


def read_options(metadata: Mapping[str, str]) -> FileOptions:
    """The options of the tensors in a file with this metadata; malformed entries count as absent."""
    arguments = json_object(metadata.get("ss_network_args"))
    peft = json_object(metadata.get(PEFT_ENTRY))
    found = [value for key, value in peft.items() if key.endswith("num_cayley_neumann_terms")]
    terms = [value for value in found if type(value) is int and 0 <= value <= MOST_TERMS]
    exact = any(key.endswith("use_cayley_neumann") and value is False for key, value in peft.items())
    return FileOptions(
        lycoris_rs_lora=OWN_NETWORK not in metadata and is_true(arguments.get("rs_lora")),
        cayley_terms=0 if exact else terms[0] if terms else FileOptions.cayley_terms,
        peft=bool(peft),
    )


def json_object(text: str | None) -> dict[str, Any]:
    """A JSON object in a metadata entry; empty if there is none."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_true(value: Any) -> bool:
    """Whether a network argument means yes; kohya passes booleans as texts."""
    return value is True or str(value).strip().lower() in ("true", "1", "yes", "on")

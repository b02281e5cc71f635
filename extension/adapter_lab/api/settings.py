"""Settings as the page has them: one flat object, {"network.dim": 16, ...}, and what the form is drawn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from adapter_lab import config_file
from adapter_lab.algorithms import ADAPTER_TYPES
from adapter_lab.api.errors import BadRequest
from adapter_lab.config import TrainConfig, default_of, number_of, sections, settings, type_of, words_of
from adapter_lab.errors import SHOWN, ConfigError
from adapter_lab.families import BASES, ENCODERS, PARTS, UNET
from adapter_lab.validation import Problem, advice, ignored_because, problems, without_ignored

MEMORY_TIERS = (6, 8, 12, 16, 24)
TYPE_NAMES: dict[Any, str] = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    list[str]: "list[str]",
    list[float]: "list[float]",
}
# Words that a label writes in capitals or otherwise; everything else is the setting's name with spaces.
WORDS = {
    "te": "text encoder",
    "te1": "text encoder 1",
    "te2": "text encoder 2",
    "unet": "UNet",
    "vae": "VAE",
    "lr": "learning rate",
    "snr": "SNR",
    "ema": "EMA",
    "dora": "DoRA",
    "algo": "type",
    "dim": "dim (rank)",
}
# Of each part that can be trained: what the page calls it, the settings that switch it, and that of its rate.
PART_SETTINGS = {
    key: {
        "title": {UNET: "UNet", "te1": "Text encoder 1", "te2": "Text encoder 2"}.get(key, key.capitalize()),
        "trained": f"network.train_{key}",
        "switch": "network.train_te" if key in ENCODERS else "",
        "rate": "optimizer.lr" if key == UNET else f"optimizer.{key}_lr",
    }
    for key in PARTS
}
LABELS = {
    "network.conv_dim": "Dim of convolutions",
    "network.conv_alpha": "Alpha of convolutions",
    "network.train_conv": "Train convolutions",
    "network.rs_lora": "Rank-stabilised scale",
    "network.train_te": "Train text encoder",
    "network.train_conditioner": "Train text conditioner (Anima)",
    "network.modulation": "Modulation layers (Anima)",
    "base.text_encoder": "Text encoder (Anima)",
    "base.empty_caption": "Empty caption (Anima)",
    "optimizer.name": "Optimiser",
    "optimizer.args": "Arguments",
    "dataset.folder": "Folder of images",
    "dataset.trigger": "Trigger word",
    "run.name": "Name",
    "precision.base_weights": "Base weights stored as",
    "save.every_steps": "Save every ... steps",
    "save.every_epochs": "Save every ... epochs",
    "save.every_minutes": "Save every ... minutes",
    "preview.prompts": "Prompts",
    "loss.min_snr_gamma": "Min-SNR gamma",
    "optimizer.d0": "d0",
    "optimizer.d_coef": "d coefficient",
    "optimizer.slice_p": "Slice of p",
}


@cache
def schema() -> dict[str, Any]:
    """What the form is drawn from: sections with their settings, adapter types, base families, memory tiers in GB."""
    return {
        "sections": [
            {
                "name": section,
                "title": section.capitalize(),
                "help": owner.__doc__,
                "settings": _described(owner, section),
            }
            for section, owner in sections()
        ],
        "types": [
            {
                "key": kind.key,
                "title": kind.title,
                "good_for": kind.good_for,
                "settings": {f"network.{name}": value for name, value in kind.network.items()},
            }
            for kind in ADAPTER_TYPES.values()
        ],
        "families": [{"key": row.key, "title": row.title} for row in BASES.values()],
        "parts": [{"key": key, **PART_SETTINGS[key]} for key in PARTS],
        "tiers": list(MEMORY_TIERS),
    }


def _described(owner: Any, prefix: str) -> list[dict[str, Any]]:
    described = []
    for entry in dataclasses.fields(owner):
        kind, meta, path = type_of(owner, entry.name), entry.metadata, f"{prefix}.{entry.name}"
        row = {
            "path": path,
            "label": label(path),
            "help": meta["help"],
            "type": TYPE_NAMES.get(number_of(kind), "list[object]"),
            "default": default_of(entry),
            "words": list(words_of(kind)),
            "choices": list(meta["choices"]) if meta["choices"] else None,
            **{key: meta[key] for key in ("minimum", "maximum", "unit", "basic")},
            **{key: list(meta[key]) if meta[key] else None for key in ("algorithms", "optimizers")},
            "needs": list(meta["needs"]),
        }
        if row["type"] == "list[object]":
            row["item"] = _described(get_args(kind)[0], path)
        described.append(row)
    return described


def label(path: str) -> str:
    """A setting's name as a label: "network.train_norm" is "Train norm"."""
    if path in LABELS:
        return LABELS[path]
    words = " ".join(WORDS.get(word, word) for word in path.rsplit(".", 1)[1].split("_"))
    return words[0].upper() + words[1:]


def flat(config: TrainConfig, only_changed: bool = False) -> dict[str, Any]:
    """Every setting by its path, or only those that differ from their default; tables of a list as objects."""
    values = {}
    for section, name, entry in settings():
        value = getattr(getattr(config, section), name)
        if not only_changed or value != default_of(entry):
            values[f"{section}.{name}"] = _plain(value)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [dataclasses.asdict(item) if dataclasses.is_dataclass(item) else item for item in value]  # type: ignore[arg-type]
    return value


def from_flat(values: Mapping[str, Any], into: TrainConfig | None = None) -> tuple[TrainConfig, list[Problem]]:
    """A configuration from {"section.name": value}; what is not understood is listed and keeps its value in `into`."""
    try:
        return config_file.from_tables(_tables(values), "The settings", into), []
    except ConfigError:
        config, found = into or TrainConfig(), []
    for path, value in values.items():
        try:
            config = config_file.from_tables(_tables({path: value}), "", config)
        except ConfigError as error:
            found.append(Problem(path[:SHOWN], str(error).removeprefix(": ")))
    return config, found


def _tables(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, dot, name = path.partition(".")
        if not dot:
            raise ConfigError(f"There is no setting {path[:SHOWN]}; settings are named as in network.dim.")
        tables.setdefault(section, {})[name] = value
    return tables


def understood(values: Mapping[str, Any]) -> TrainConfig:
    """As `from_flat`, but raises BadRequest with every setting that is not understood."""
    config, found = from_flat(values)
    if found:
        raise BadRequest(" ".join(problem.message for problem in found), found)
    return config


def resolved(
    values: Mapping[str, Any], base: TrainConfig, drop_ignored: bool, steps_per_epoch: int = 0
) -> dict[str, Any]:
    """What settings come to on top of a preset: all values, which are used, and what is wrong or rarely meant."""
    config, found = from_flat(values, base)
    remarks: list[str] = []
    if drop_ignored:
        config, remarks = without_ignored(config)
    wrong = {problem.setting for problem in found}
    found += [problem for problem in problems(config) if problem.setting not in wrong]
    return {
        "settings": flat(config),
        "changed": flat(config, only_changed=True),
        "toml": config_file.dumps(config, only_changed=True),
        "used": {
            f"{section}.{name}": ignored_because(config, section, name) is None for section, name, _ in settings()
        },
        "problems": [dataclasses.asdict(problem) for problem in found],
        "remarks": remarks + advice(config, steps_per_epoch),
    }

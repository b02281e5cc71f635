"""What releases wrote, in the words of this one: formats of files, settings by the release that added them, and what
settings a saved state was made with. Functions on texts and plain tables; whoever reads a file calls them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from adapter_lab import __version__
from adapter_lab.errors import ConfigError

# The format of configurations and studies as TOML, said in their first line with the release that wrote them. The first
# format, of release 0.1, does not say itself: there 0 was written where a word is now. The third has no other content
# than the second, whose states say what they were made with by a hash alone. Since the fourth some
# defaults are "auto". A file by hand has no such line.
FORMAT = 4
FIRST_LINE = re.compile(r"# (?P<header>.+?)(?:, format (?P<format>\d+))?(?:, release (?P<release>\S+))?\s*")
# Words that the first format wrote as 0.
ZEROS: dict[str, tuple[str, float]] = {
    "dataset.repeats": ("auto", 0),
    "network.alpha": ("dim", 0.0),
    "network.conv_alpha": ("same", 0.0),
    "optimizer.lr": ("auto", 0.0),
    "optimizer.te1_lr": ("same", 0.0),
    "optimizer.te2_lr": ("same", 0.0),
    "save.keep_last": ("all", 0),
}
ZEROS_OF_ITEMS: dict[str, dict[str, tuple[str, float]]] = {
    "rules": {"dim": ("same", 0), "alpha": ("same", 0.0), "factor": ("same", 0)},
    "sources": {"repeats": ("auto", 0)},
}
# Defaults of the first format that are "auto" now, and the optimisers that used them: for others they meant nothing.
FORMER: dict[str, tuple[float, tuple[str, ...]]] = {
    "optimizer.growth_rate": (1.01, ("prodigy",)),
    "optimizer.d0": (1e-6, ("prodigy", "prodigy-plus-schedule-free")),
    "optimizer.d_coef": (0.5, ("prodigy", "prodigy-plus-schedule-free")),
}
# Defaults that are "auto" since the fourth format, and come to what they were on every base that there was before.
AUTO: dict[str, Any] = {"loss.timestep_distribution": "uniform", "preview.guidance": 6.0, "preview.shift": 1.0}
# Settings by the format that first had them; those of the first are not listed.
ADDED: dict[str, int] = {
    **dict.fromkeys(("optimizer.args", "optimizer.warmup_ratio", "optimizer.power"), 2),
    **dict.fromkeys(("optimizer.min_lr_ratio", "optimizer.timescale"), 2),
    **dict.fromkeys(("loss.huber_schedule", "loss.v_as_epsilon", "loss.v_like"), 2),
    **dict.fromkeys(("sources.resolution", "sources.bucket_min", "sources.bucket_max"), 2),
    **dict.fromkeys(("network.min_rank", "network.rank_power", "network.init"), 3),
    "network.lora_plus_ratio": 3,
    **dict.fromkeys(("loss.timestep_mean", "loss.timestep_std", "loss.timestep_shift", "preview.shift"), 3),
    **dict.fromkeys(("base.text_encoder", "base.empty_caption", "network.train_conditioner"), 4),
    **dict.fromkeys(("network.modulation", "optimizer.conditioner_lr"), 4),
}


def first_line(header: str) -> str:
    """The first line of a file that this release writes; `header`: what kind of file it is."""
    return f"# {header}, format {FORMAT}, release {__version__}\n"


def format_of(text: str, header: str, where: str) -> int:
    """The format of a TOML text; raises ConfigError where a newer release wrote it, with that release's name."""
    found = FIRST_LINE.fullmatch(text.split("\n", 1)[0])
    if found is None or found["header"] != header:
        return FORMAT  # by hand
    number = int(found["format"] or 1)
    if number > FORMAT:
        raise ConfigError(newer(where, found["release"] or ""))
    return number


def newer(where: str, release: str) -> str:
    """A sentence on a file that a newer release wrote."""
    by = f"Adapter Lab {release}" if release else "a newer release of Adapter Lab"
    return f"{where} was written by {by}, which this one ({__version__}) cannot read: update it. Nothing was changed."


def in_words(tables: dict[str, Any], number: int) -> dict[str, Any]:
    """Tables of a format in the words of this one: for zeros, for defaults that had no use, for former defaults."""
    changed = {section: dict(table) if isinstance(table, dict) else table for section, table in tables.items()}
    for path, former in AUTO.items() if number < 4 else ():
        section, name = path.split(".")
        table = changed.get(section)
        if isinstance(table, dict) and table.get(name) == former:
            table[name] = "auto"
    if number > 1:
        return changed
    for path, (word, _) in ZEROS.items():
        section, name = path.split(".")
        table = changed.get(section)
        if isinstance(table, dict) and type(table.get(name)) in (int, float) and table[name] == 0:
            table[name] = word
    for path, (former, optimizers) in FORMER.items():
        section, name = path.split(".")
        table = changed.get(section)
        if isinstance(table, dict) and table.get(name) == former and table.get("name", "prodigy") not in optimizers:
            table[name] = "auto"
    return changed


# What a saved state or a started training was made with


def changed_settings(section: str, stored: Any, present: Mapping[str, Any]) -> list[str]:
    """The settings of a section, as "section.name", in which a state's (`stored`) and the present ones differ.

    `stored`: the settings themselves, or of the first two formats the hash of them. What a release has added since is
    no difference as long as it is off; `present` has {name: (value, default)}.
    """
    values = {name: _plain(value) for name, (value, _) in present.items()}
    if isinstance(stored, str):
        same = any(hash_of(as_written(section, values, number)) == stored for number in (1, 2))
        return [] if same else [f"the settings of {section}"]
    if not isinstance(stored, Mapping):
        return [f"the settings of {section}"]
    found = []
    for name in dict.fromkeys([*values, *stored]):
        if name not in values:
            found.append(f"{section}.{name}, which this release does not know")
            continue
        before = stored[name] if name in stored else _plain(present[name][1])
        if not _equal(f"{section}.{name}", values[name], before):
            found.append(f"{section}.{name}")
    return found


def _equal(path: str, value: Any, other: Any) -> bool:
    """Whether two values of a setting are the same, of which one may be what its default "auto" was before."""
    return bool(value == other or (path in AUTO and [value, other] in (["auto", AUTO[path]], [AUTO[path], "auto"])))


def as_written(section: str, values: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The settings of a section as releases of a format had them."""
    found = {
        name: AUTO.get(f"{section}.{name}", value) if value == "auto" else value
        for name, value in values.items()
        if ADDED.get(f"{section}.{name}", 1) <= number
    }
    for items, zeros in ZEROS_OF_ITEMS.items():
        entries = [
            {name: value for name, value in entry.items() if ADDED.get(f"{items}.{name}", 1) <= number}
            for entry in found.get(items, ())
        ]
        if items in found:
            found[items] = [_with_zeros(entry, zeros) for entry in entries] if number == 1 else entries
    words = {**ZEROS, **{path: ("auto", former) for path, (former, _) in FORMER.items()}}
    own = {path.split(".")[1]: zero for path, zero in words.items() if path.startswith(f"{section}.")}
    return _with_zeros(found, own) if number == 1 else found


def _with_zeros(values: dict[str, Any], zeros: Mapping[str, tuple[str, float]]) -> dict[str, Any]:
    return {
        name: zeros[name][1] if name in zeros and value == zeros[name][0] else value for name, value in values.items()
    }


def hash_of(tables: Any) -> str:
    """SHA-256 of plain tables, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return json.loads(json.dumps(value))

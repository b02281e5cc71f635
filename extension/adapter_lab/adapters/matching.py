"""Which weight of a base model each module of an adapter file changes, and why a module changes none."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from adapter_lab.adapters.family import FAMILY_NAMES, adapter_families, in_words
from adapter_lab.adapters.file import AdapterFile, ModuleError
from adapter_lab.adapters.keys import PlainTable, Target, resolve
from adapter_lab.errors import FileFormatError

KINDS = {1: "norm", 2: "linear", 4: "conv"}  # of a weight, by its number of axes

# Where a name of a module leads: a weight, or some rows of it.
Place = str | tuple[str, tuple[int, int]]


@dataclass(frozen=True)
class Match:
    """A module of a file, by its name there, and the weight it changes."""

    name: str
    target: Target


@dataclass
class Matched:
    """What a file's modules change in one base model."""

    matches: list[Match] = field(default_factory=list)
    not_applied: dict[str, str] = field(default_factory=dict)  # module -> reason
    unknown: list[str] = field(default_factory=list)  # tensors of no known algorithm

    @property
    def applied(self) -> list[str]:
        """The modules that fit, by their names in the file."""
        return list(dict.fromkeys(match.name for match in self.matches))


def plain_targets(
    names: Mapping[str, Place], shapes: Mapping[str, tuple[int, ...]], text: Container[str] | None = None
) -> PlainTable:
    """Targets of a model whose names we have no table for, from a host's own map of adapter names to weights.

    `shapes` maps the weights' keys to shapes, `text` has the keys of text encoders (None: names tell). Weights that are
    no layer's, by their number of axes, are left out.
    """
    table = PlainTable()
    for name, place in names.items():
        key, rows = (place, None) if isinstance(place, str) else place
        shape = tuple(shapes.get(key, ()))
        if len(shape) not in KINDS:
            continue
        bias = key.removesuffix("weight") + "bias" if key.endswith(".weight") else ""
        table[name] = Target(
            name=f"{key}{list(rows) if rows else ''}",
            part="te1" if (_names_text(name) if text is None else key in text) else "unet",
            kind=KINDS[len(shape)],
            role="other",
            key=key,
            bias_key=bias if bias in shapes else None,
            rows=rows,
            transposed=False,
            shape=(rows[1] - rows[0], *shape[1:]) if rows else shape,
            module=key.removesuffix(".weight"),
            kohya=name,
        )
    return table


def _names_text(name: str) -> bool:
    """Whether a name in an adapter file is that of a text encoder's module."""
    return name.startswith(("lora_te", "text_encoder"))


def match(
    file: AdapterFile,
    table: Mapping[str, Target],
    family: str | None,
    base_name: str,
    spread: Mapping[str, Sequence[str]] | None = None,
) -> Matched:
    """Find the weight of each module of `file`, which only the file's header is read for.

    `family` is the base's ("sd15", "sd2", "sdxl"; None: another, told apart by its names alone), `base_name` what
    messages call it. `spread` has the modules that change other weights than their names say, by those weights' names.
    Raises FileFormatError if the file belongs to another family or none of its modules fits.
    """
    _check_family(file, family, base_name)
    found = Matched(unknown=list(file.unknown))
    taken: dict[str, str] = {}
    places = [(name, place) for name in file.modules for place in (spread or {}).get(name, (name,))]
    for name, place in places:
        target = resolve(place, table)
        reason = _misfit(file, name, target, taken)
        if reason or target is None:
            found.not_applied[name] = reason or ""
            continue
        taken[target.name] = name
        found.matches.append(Match(name, target))
        if file.has_bias(name) and target.bias_key is None:
            found.not_applied[f"{name} (bias)"] = "the base's layer has no bias"
    if not found.matches:
        name, reason = next(iter(found.not_applied.items()))
        raise FileFormatError(
            f"{file.path} does not fit {base_name}: none of its {len(file.modules)} modules could be applied, "
            f"{name} because {reason}."
        )
    return found


def _check_family(file: AdapterFile, family: str | None, base_name: str) -> None:
    trained_for = adapter_families(file)
    if family is not None and trained_for and family not in trained_for:
        raise FileFormatError(
            f"{file.path} was trained for {in_words(trained_for)}, but {base_name} is an {FAMILY_NAMES[family]} "
            "checkpoint; choose an adapter of the same family."
        )


def _misfit(file: AdapterFile, name: str, target: Target | None, taken: Mapping[str, str]) -> str | None:
    """Why a module cannot be applied; None if it can."""
    if target is None:
        return "the base has no such module"
    if target.name in taken:
        return f"the file already changes this layer as {taken[target.name]}"
    try:
        outline = file.outline(name)
    except ModuleError as error:
        return error.reason
    if not outline.fits(target.shape):
        return f"it does not fit the base's weight of shape {list(target.shape)}"
    if outline.bias_delta is not None and outline.bias_delta.numel() != target.shape[0]:
        return f"its bias does not fit the base's weight of shape {list(target.shape)}"
    return None

"""How a setting is declared: a dataclass field with its default and all that form, docs and validation need to know."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def spelled(name: str) -> str:
    """A setting's name as it is spelled here, where it is written in American English."""
    return name.replace("regulariz", "regularis")


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str = "",
    optimizers: tuple[str, ...] | None = None,
    needs: str | tuple[str, ...] = (),
    flag: str = "",
    basic: bool = False,
    path: str = "",
    lycoris: str = "",
) -> Any:
    """A setting: its default and what the form, the docs and the validation need to know about it.

    `optimizers` names those that use it (None: all); which algorithms do is said in their rows (`algorithms`).
    `needs` names settings without which it has no effect, each condition one of "a.b", "a.b=x|y", "a.b or c.d".
    `flag` is its spelling on the command line where that is not its name. `basic` puts it among the settings shown
    first. `path`: what of `config.PATHS` a text that names a file or folder is; a test holds that none goes without.
    `lycoris`: what LyCORIS and sd-scripts call it in `network_args`.
    """
    metadata = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "unit": unit,
        "algorithms": None,
        "optimizers": optimizers,
        "needs": (needs,) if isinstance(needs, str) else needs,
        "flag": flag,
        "basic": basic,
        "path": path,
        "lycoris": lycoris,
    }
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)

"""How strong a sentence numbers bear, wherever one is said."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest

import adapter_lab
from adapter_lab.comparing.evidence import (
    Strength,
    over_pictures,
    over_trainings,
    pairs_to_tell,
    spread_of,
    strength,
)

PACKAGE = Path(adapter_lab.__file__).parent


@pytest.mark.parametrize(
    ("found", "bears"),
    [
        (None, Strength.UNKNOWN),
        (over_pictures(0.5, [[0.5]]), Strength.UNKNOWN),  # one image
        (over_pictures(0.5, [[0.5, 0.5, 0.5]]), Strength.FILES),  # one training each
        (over_pictures(0.1, [[0.5, -0.4, 0.2]]), Strength.TIED),
        (over_trainings([0.5, 0.5, 0.5]), Strength.TRAININGS),
        (over_trainings([0.5, 0.6]), Strength.TIED),  # two seeds bear little: t is 12.7
        (over_trainings([0.0, 0.0]), Strength.TIED),
    ],
)
def test_what_a_difference_bears(found, bears: Strength) -> None:
    assert strength(found) is bears


def test_what_is_equal_is_called_different_about_one_time_in_twenty() -> None:
    draw, false = random.Random(0), 0
    for _ in range(400):
        tables = [{seed: draw.gauss(0, 1) for seed in (1, 2, 3)} for _ in range(4)]
        found = over_trainings([tables[0][seed] - tables[1][seed] for seed in (1, 2, 3)], spread_of(tables))
        false += strength(found) is Strength.TRAININGS
    assert false < 0.08 * 400


def test_more_pairs_are_asked_for_where_less_is_seen() -> None:
    clear, faint, none = (over_trainings([value + 0.1, value - 0.1, value]) for value in (0.1, 0.04, 0.0))
    few, many = pairs_to_tell(clear), pairs_to_tell(faint)
    assert few is not None and many is not None and 3 < few < many
    assert pairs_to_tell(none) is None and pairs_to_tell(over_trainings([0.1, -0.0999])) is None


def test_nothing_else_decides_whether_two_are_told_apart() -> None:
    """Words of comparison come from `strength`; nobody compares a difference with its error by hand."""
    for path in [*PACKAGE.glob("study/**/*.py"), *PACKAGE.glob("comparing/*.py"), *PACKAGE.glob("api/*.py")]:
        if path.name == "evidence.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Attribute) and node.attr == "told_apart"), path

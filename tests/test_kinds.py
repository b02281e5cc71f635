"""Adapter types that the tab offers."""

from __future__ import annotations

import pytest

from adapter_lab.algorithms import ADAPTER_TYPES
from adapter_lab.config import ALGORITHMS
from adapter_lab.config_file import from_tables
from adapter_lab.presets import TYPES
from adapter_lab.validation import validate


@pytest.mark.parametrize("kind", ADAPTER_TYPES.values(), ids=ADAPTER_TYPES)
def test_every_type_is_a_valid_network_and_a_sentence(kind) -> None:
    assert validate(from_tables({"network": kind.network}, kind.key), complete=False) == []
    assert kind.good_for.endswith(".") and kind.title


def test_every_algorithm_is_offered_and_every_preset_is_of_an_offered_type() -> None:
    assert {kind.network["algo"] for kind in ADAPTER_TYPES.values()} == set(ALGORITHMS)
    assert set(TYPES) <= set(ADAPTER_TYPES)

"""The rows of the algorithms, and that whatever is known of one follows from its row."""

from __future__ import annotations

import dataclasses

import pytest

from adapter_lab import algorithms
from adapter_lab.adapters.algorithms import split_key
from adapter_lab.algorithms import ADAPTER_TYPES, ROWS, Algorithm
from adapter_lab.algorithms.row import EVERY_HOST, load
from adapter_lab.config import ALGORITHMS, NetworkConfig
from adapter_lab.config_file import from_tables
from adapter_lab.hosts.loading.verdict_table import HOSTS
from adapter_lab.presets import TYPES
from adapter_lab.validation import validate
from tests.adapters.random_adapter import FORMS
from tests.support.adapter_cases import CASES, DEFINITIONS

EVERY = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)


@EVERY
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Algorithm)])
def test_a_row_without_a_field_is_an_error(row: Algorithm, field: str) -> None:
    values = {entry.name: getattr(row, entry.name) for entry in dataclasses.fields(row)}
    needed = next(entry for entry in dataclasses.fields(row) if entry.name == field).default is dataclasses.MISSING
    del values[field]
    if needed:
        with pytest.raises(TypeError, match=field):
            Algorithm(**values)
    else:
        Algorithm(**values)


@EVERY
def test_a_row_names_what_there_is(row: Algorithm) -> None:
    settings = {entry.name: entry for entry in dataclasses.fields(NetworkConfig)}
    assert set(row.options) <= set(settings)
    for name in row.options if row.chosen else ():
        assert row.key in settings[name].metadata["algorithms"]
    assert not row.reader or load(row.reader).algorithm == row.key
    assert bool(row.reader) != bool(row.saved_as)
    assert row.saved_as in ("", *(other.key for other in ROWS if other.reader))
    assert not row.layer or callable(load(row.layer).shapes)
    for hosts, tensors in row.read_by:
        assert set(hosts) <= set(HOSTS) and tensors
        assert all(split_key(f"lora_unet_x.{tensor}") is not None for tensor in tensors.split())
    assert {*row.wrong, *row.dropped} <= set(HOSTS) == set(EVERY_HOST)


@EVERY
def test_what_is_trained_or_read_has_its_definition_and_its_cases(row: Algorithm) -> None:
    if row.chosen:
        assert row.key in DEFINITIONS and row.key in {case["algo"] for case in CASES.values()}
    if row.reader and row.read_by and not row.of_norms:
        assert row.key in FORMS


def test_names_are_given_once() -> None:
    for named in ("key", "lycoris", "sd_scripts", "spellings"):
        found = [name for row in ROWS for name in ([row.key] if named == "key" else getattr(row, named))]
        assert len(found) == len(set(found)), named
    assert not set(algorithms.SPELLINGS) & set(algorithms.BY_KEY)
    assert len(ADAPTER_TYPES) == sum(len(row.types) for row in ROWS)


@pytest.mark.parametrize("kind", ADAPTER_TYPES.values(), ids=ADAPTER_TYPES)
def test_every_type_is_a_valid_network_and_a_sentence(kind) -> None:
    assert validate(from_tables({"network": kind.network}, kind.key), complete=False) == []
    assert kind.good_for.endswith(".") and kind.title


def test_every_algorithm_is_offered_and_every_preset_is_of_an_offered_type() -> None:
    assert {kind.network["algo"] for kind in ADAPTER_TYPES.values()} == set(ALGORITHMS)
    assert set(TYPES) <= set(ADAPTER_TYPES)

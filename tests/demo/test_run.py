"""The demo command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from adapter_lab.demo.evaluate import Evaluation
from adapter_lab.demo.run import MARGIN, TYPES, DemoResult, Row, demo_config, run_demo
from adapter_lab.validation import validate

BASE = Evaluation(0.1, 0.2, 0.15, 0.0, 0.1, 0.99, 0.97, 80)
TRAINED = Evaluation(0.95, 0.96, 0.85, 0.4, 0.05, 0.9, 0.88, 80)


def result(*scores: Evaluation) -> DemoResult:
    rows = [Row("base", 0, 0.0, 0, 0, 0.0, BASE)]
    rows += [Row(name, 200, 0.31, 300 * 2**20, 3 * 2**19, 0.123, s) for name, s in zip(TYPES, scores)]
    return DemoResult(rows, Path("out/grid.png"), 321.0)


@pytest.mark.parametrize("name", TYPES)
def test_the_demos_settings_are_valid_and_none_is_ignored(name: str, tmp_path: Path) -> None:
    config = demo_config(name, tmp_path, tmp_path)
    validate(config)  # raises for a setting that has no effect
    assert config.network.algo == TYPES[name]["algo"]


def test_the_table_has_a_line_per_type_below_the_base() -> None:
    lines = result(TRAINED, TRAINED, TRAINED).text().splitlines()
    assert lines[0].split()[:4] == ["type", "steps", "s/it", "peak"]
    assert lines[1].split() == ["base", "0", "-", "-", "-", "-", "0.10", "0.20", "0.15", "0.10", "0.99", "0.97"]
    assert lines[2].split()[:6] == ["LoRA", "200", "0.31", "300", "1.50", "0.123"]
    assert lines[2].split()[6:] == ["0.95", "0.96", "0.85", "0.05", "0.90", "0.88"]
    assert [line.split()[0] for line in lines[2:5]] == list(TYPES)


@pytest.mark.parametrize("field", ["likeness_first", "likeness_second", "likeness_together"])
def test_one_type_that_misses_the_margin_is_said(field: str) -> None:
    assert result(TRAINED, TRAINED, TRAINED).learned
    missed = result(TRAINED, TRAINED, replace(TRAINED, **{field: getattr(BASE, field) + MARGIN - 0.01}))
    assert not missed.learned
    assert "does NOT beat" in missed.text()


def test_the_result_goes_into_json() -> None:
    loaded = json.loads(json.dumps(result(TRAINED, TRAINED, TRAINED).to_dict()))
    assert loaded["learned"] is True
    assert loaded["rows"][1]["scores"]["bleeding"] == 0.05
    assert loaded["rows"][1]["peak_bytes"] == 300 * 2**20


@pytest.mark.slow
def test_the_demo_learns_both_characters_with_every_type(tmp_path: Path) -> None:
    said: list[str] = []
    demo = run_demo(tmp_path / "out", say=said.append)
    assert demo.learned, demo.text()
    assert demo.grid.is_file()
    assert [row.type for row in demo.rows] == ["base", *TYPES]
    assert all(row.peak_bytes > 10 * 2**20 for row in demo.rows[1:])
    assert len(said) == 2 + len(TYPES)

"""docs/hosts.md says what was measured."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from adapter_lab.environment.status import ROOT
from adapter_lab.hosts.loading.verdicts import APPLY, DROP, WRONG


@pytest.fixture(scope="module")
def truth_table() -> Any:
    spec = importlib.util.spec_from_file_location("truth_table", ROOT / "benchmarks" / "truth_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(*errors: float, stacked: float = 0.0) -> dict[str, Any]:
    modules = {str(number): error for number, error in enumerate(errors)}
    return {"1": {"errors": modules}, "stacked": {"errors": {"0": stacked}}}


@pytest.mark.parametrize(
    ("results", "outcome", "cell"),
    [
        (measured(1e-6, 9e-5), APPLY, "ok"),
        (measured(1e-6, 2e-4), WRONG, "**wrong**, 0.0002"),
        (measured(0.0, 0.0, stacked=0.5), WRONG, "**wrong**, 0.5"),
        (measured(1.0, 1.0, stacked=0.7), DROP, "**no effect**"),
        (measured(1.0, 0.0, 0.0), DROP, "**1 of 3 modules left out**"),
        (measured(1.0, 0.4), WRONG, "**wrong**, 1"),
        ({**measured(0.0), "0.6": {"status": 500, "message": "..."}}, DROP, "**fails**, HTTP 500"),
    ],
)
def test_a_cell_is_the_worst_of_all_strengths(truth_table: Any, results: Any, outcome: str, cell: str) -> None:
    assert truth_table.outcome(results) == outcome
    assert truth_table.cell(results) == cell


def test_the_page_is_what_its_numbers_say(truth_table: Any) -> None:
    assert (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8") == truth_table.write() + "\n"

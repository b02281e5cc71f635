"""Names of variants: what no file, terminal or table could hold as it is meant is refused or made inert."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from adapter_lab.errors import ConfigError
from adapter_lab.study.analysis.recommend import recommend
from adapter_lab.study.report.table import as_csv
from adapter_lab.study.spec.checks import LONGEST_VARIANT, check
from adapter_lab.study.spec.definition import Study, Variant
from tests.support.study_results import make_results

ODD = [
    "a\x1b[2J",
    "a\r\nb",
    "=cmd|' /C calc'!A0",
    "+1",
    "-1",
    "@SUM(A1)",
    " =1",
    "a\u2028b",
    "\x85",
    "x" * (LONGEST_VARIANT + 1),
]


@pytest.mark.parametrize("name", ODD)
def test_a_name_that_is_none_is_refused_before_anything_starts(name: str) -> None:
    study = Study(variants=[Variant(name), Variant("LoRA+TE")])
    with pytest.raises(ConfigError, match="cannot be called so") as raised:
        check(study)
    assert "\x1b" not in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["LoKr f4", "LoRA+TE", "diag-OFT", "(ia)³", "8/16", "日本語"])
def test_ordinary_names_are_taken(name: str) -> None:
    check(Study(variants=[Variant(name)]))


def test_a_table_of_a_study_with_such_names_holds_no_formula(tmp_path: Path) -> None:
    results = make_results(tmp_path, ("=cmd|x", "b"), lambda *_: {"fidelity": 0.5})
    rows = list(csv.DictReader(io.StringIO(as_csv(results, recommend(results)))))
    assert {row["variant"] for row in rows} == {"'=cmd|x", "b"}
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.values() if cell)

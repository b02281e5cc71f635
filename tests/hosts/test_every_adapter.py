"""Files of every algorithm and option give the image the trained network would: each patched weight is measured."""

from __future__ import annotations

import re

import pytest

from adapter_lab.hosts.settings import EVERY_FILE
from tests.support.host_cases import FOREIGN, OWN
from tests.support.host_measure import STACKED, Bench, Result

TOLERANCE = 1e-4  # of the wanted change, on weights in fp32


def check(result: Result, ours: bool) -> None:
    """An image was made, every module has the weight of the trained forward, and the infotext counts them all.

    `ours`: Adapter Lab must have applied the file; else the web UI may have done it.
    """
    assert result.status == 200, result.message
    wrong = {module: error for module, error in result.errors.items() if not error <= TOLERANCE}
    assert not wrong, f"strength {result.strength}: {wrong}\n{result.adapter_lab}\n{result.console[-2000:]}"
    if ours or result.adapter_lab:
        counts = re.findall(r"(\d+) of (\d+) modules", result.adapter_lab)
        assert len(counts) == 1 and counts[0][0] == counts[0][1] == str(len(result.errors)), result.adapter_lab
    assert not result.comments


@pytest.mark.parametrize("strength", (1.0, 0.6, -0.5, STACKED))
@pytest.mark.parametrize("case", FOREIGN)
def test_every_kind_of_file_at_every_strength_and_on_top_of_another(
    bench: Bench, scope: str, case: str, strength: float | str
) -> None:
    check(bench.measure(case, strength, scope), ours=scope == EVERY_FILE)


@pytest.mark.parametrize("case", OWN)
def test_every_kind_of_our_own_files(bench: Bench, scope: str, case: str) -> None:
    check(bench.measure(case, 0.6, scope), ours=scope == EVERY_FILE)

"""What "Send to X/Y/Z plot" fills in."""

from __future__ import annotations

import pytest

from adapter_lab.comparing.sending import run_plot, spread, study_plot
from adapter_lab.errors import AdapterLabError


def test_a_run_is_compared_over_its_steps_prompts_and_seeds() -> None:
    files = [(f"lucy-{step:06d}", step) for step in range(100, 2001, 100)]
    plot = run_plot(files, ["a girl, red hair", "a\ngirl"], [7, 8])
    assert plot.prompt == "a girl, red hair <lora:lucy-002000:1>" and plot.seed == 7
    labels = [label for label, _ in plot.axes]
    assert labels == ["[Adapter Lab] Step", "Prompt S/R", "Seed"]
    steps = plot.axes[0][1]
    assert steps[0] == "none" and (steps[1], steps[-1]) == ("100", "2000") and len(steps) == 9
    text = plot.infotext("X/Y/Z plot")
    assert text.startswith("a girl, red hair <lora:lucy-002000:1>\nSeed: 7, Script: X/Y/Z plot, X Type: [Adapter Lab]")
    assert 'Y Values: "\\"a girl, red hair\\",a girl"' in text and text.endswith('Z Type: Seed, Z Values: "7,8"')


def test_a_study_is_compared_over_shares_of_its_budget() -> None:
    plot = study_plot(["eleven-lora-s1", "eleven-oft-s1"], 8, ["a girl"], [1])
    (steps, shares), (types, runs) = plot.axes
    assert (steps, types) == ("[Adapter Lab] Step", "[Adapter Lab] Type")
    assert shares[0] == "12.5%" and shares[-1] == "100%" and runs == ("none", "eleven-lora-s1", "eleven-oft-s1")


def test_without_a_file_there_is_nothing_to_compare() -> None:
    with pytest.raises(AdapterLabError, match="has not saved an adapter yet"):
        run_plot([], ["a"], [1])
    assert spread(list(range(3))) == [0, 1, 2]

"""How numbers of a study are written, and the words for its metrics and costs."""

from __future__ import annotations

from adapter_lab.study.analysis.results import Mean, PointSummary, Results

COSTS = {"memory": "memory", "file": "file size", "time": "training time"}
WORDS = {
    "fidelity": "likeness to the training images",
    "agreement": "agreement with the prompt",
    "bleeding": "bleeding between concepts",
    "drift": "drift of other images",
    "validation_loss": "validation loss",
    "loss": "training loss",
}


def plus_minus(mean: Mean | None, digits: int = 3) -> str:
    """A mean with its standard error: "0.812 ± 0.011"; "–" for nothing."""
    if mean is None:
        return "–"
    return f"{mean.value:.{digits}f}" + ("" if mean.error is None else f" ± {mean.error:.{digits}f}")


def at_step(results: Results, point: PointSummary) -> str:
    """The step, and what of the budget that is where it is not counted in steps: "step 300, after 5 minutes"."""
    budget, step = results.study.budget, f"step {point.steps:,.0f}"
    return step if budget.unit == "steps" else f"{step}, after {budget.in_words(point.amount)}"

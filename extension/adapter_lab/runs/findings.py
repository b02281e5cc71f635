"""What to say of a run from its steps: its speed has collapsed, or Prodigy's estimate is held or stays small."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

from adapter_lab.prospects import USEFUL, rounded_up, steps_until
from adapter_lab.runs.state import WINDOW, RunState

COLLAPSED = 3.0
STILL_AT_START = 200
STILL_UNCHANGED = 500
# An estimate that has grown at least this much has found its rate; that it stays there is what it should do.
GROWN = 10.0
# So many steps with one factor between them are a limit's doing: an estimate that grows by itself varies.
EVEN = 8


def findings(state: RunState, ended: bool = False) -> list[str]:
    """Sentences on the steps so far, of a run that goes on or that has ended; none where all is as it should be."""
    found = ("" if ended else speed_collapse(state), held_estimate(state, ended), stalled_estimate(state, ended))
    return [sentence for sentence in found if sentence]


def speed_collapse(state: RunState) -> str:
    """A sentence where the last steps took more than three times as long as the fastest of this session; else ""."""
    now, best = state.seconds_per_step(), state.best_speed
    if now is None or best is None or len(state.series) < 2 * WINDOW or now <= COLLAPSED * best:
        return ""
    found = f"Steps take {now:.2f} s now and took {best:.2f} s before: "
    if state.device == "cpu":
        return f"{found}probably other programs use the processor too, or its memory is full."
    return (
        f"{found}probably the GPU's memory is full and spills into the system's memory. Close other programs "
        "that use the GPU; if that does not help, stop and resume with precision.gradient_checkpointing on, or train "
        "with a smaller batch_size or resolution."
    )


def held_estimate(state: RunState, ended: bool) -> str:
    """A sentence where Prodigy's d is or was held by its limit for most of the run; else "".

    It is read from the steps themselves: an estimate at its limit grows by the same factor in every step.
    """
    total = max(state.steps_expected(), state.step)
    for part, estimates in _estimates(state):
        # An estimate never falls.
        useful = bisect_left(estimates, USEFUL)
        if useful <= total / 2 and useful < len(estimates):
            continue
        growth = _constant_growth(estimates[max(0, useful - EVEN) : useful])
        if growth is None:
            continue
        asked = next(iter(state.series.recent(f"d_hat/{part}", 1)), 0.0)
        wanted = f", where the gradients ask for {asked:.1e}" if asked > estimates[-1] else ""
        needed = useful if useful < len(estimates) else useful + steps_until(estimates[-1], growth)
        held = f"Prodigy's estimate d for {part} {'was' if ended else 'is'} held by its limit, {growth:.6g} per step: "
        if needed <= total / 2:
            continue
        if useful < len(estimates):
            how = f"it reached {USEFUL:g}, about what adapters need, only at step {needed:,} of {total:,}, so most of "
            return f"{held}{how}the run learned little. {_remedy(needed, total, ended)}"
        learns = "learned" if ended else "learns"
        how = (
            f"it is about {estimates[-1]:.0e} at step {len(estimates):,}{wanted}, and adapters need about {USEFUL:g}, "
            "so the "
        )
        return f"{held}{how}run {learns} next to nothing. {_remedy(needed, total, ended)}"
    return ""


def _remedy(needed: int, total: int, ended: bool) -> str:
    longer = (
        f", or resume this one with run.steps {rounded_up(2 * needed):,} or more" if total < needed <= 5 * total else ""
    )
    return f"Start a new run with optimizer.growth_rate auto{longer}."


def _estimates(state: RunState) -> Iterator[tuple[str, Sequence[float]]]:
    """(part, d of every step) of each part that Prodigy trains."""
    for name, column in state.series.columns.items():
        if name.startswith("d/") and len(column):
            yield name.removeprefix("d/"), column


def _constant_growth(estimates: Sequence[float]) -> float | None:
    """The factor above 1 by which a stretch of estimates grows in every step; None where it does not."""
    if len(estimates) < EVEN or not all(value > 0 for value in estimates):
        return None
    factors = [after / before for before, after in pairwise(estimates)]
    return factors[-1] if min(factors) > 1 + 1e-6 and max(factors) - min(factors) < 1e-6 else None


def stalled_estimate(state: RunState, ended: bool) -> str:
    """A sentence where Prodigy's d is still about what it began with, and small; else ""."""
    for part, column in _estimates(state):
        first, last = column[0], column[-1]
        if len(column) < (WINDOW if ended else STILL_AT_START) or last >= USEFUL:
            continue
        if last <= first * 1.01:
            return (
                f"Prodigy's estimate d for {part} {'never left' if ended else 'is still at'} its start {first:.1e} in "
                f"{len(column):,} steps, so hardly anything {'was' if ended else 'is'} learned: look at the captions "
                f"and images, or start a new run with optimizer.d0 {USEFUL:g} or a larger optimizer.d_coef."
            )
        if len(column) >= STILL_UNCHANGED and last < GROWN * first and column[-STILL_UNCHANGED] >= last:
            return (
                f"Prodigy's estimate d for {part} stopped growing at {last:.1e}, only {last / first:.1f} times where "
                "it began: it probably learns too slowly; raise optimizer.d_coef."
            )
    return ""

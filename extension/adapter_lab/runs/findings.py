"""What to say while a run goes on: its speed has collapsed, or Prodigy's estimate stays small."""

from __future__ import annotations

from adapter_lab.runs.state import WINDOW, RunState

COLLAPSED = 3.0
STILL_AT_START = 200
STILL_UNCHANGED = 500
# An estimate that has grown at least this much has found its rate; that it stays there is what it should do.
GROWN = 10.0


def findings(state: RunState) -> list[str]:
    """Sentences on the steps so far; none where all is as it should be."""
    return [sentence for sentence in (speed_collapse(state), stalled_estimate(state)) if sentence]


def speed_collapse(state: RunState) -> str:
    """A sentence where the last steps took more than three times as long as the fastest of this sitting; else ""."""
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


def stalled_estimate(state: RunState) -> str:
    """A sentence where Prodigy's d is still about what it began with; else ""."""
    for name, column in state.series.columns.items():
        if not name.startswith("d/") or len(column) < STILL_AT_START:
            continue
        first, last = column[0], column[-1]
        part = name.removeprefix("d/")
        if last <= first * 1.01:
            return (
                f"Prodigy's estimate d for {part} is still {last:.1e} after {len(column)} steps, so hardly anything is "
                "learned: look at the captions and pictures, or raise optimizer.d_coef or optimizer.d0."
            )
        if len(column) >= STILL_UNCHANGED and last < GROWN * first and column[-STILL_UNCHANGED] >= last:
            return (
                f"Prodigy's estimate d for {part} stopped growing at {last:.1e}, only {last / first:.1f} times where "
                "it began: it probably learns too slowly; raise optimizer.d_coef."
            )
    return ""

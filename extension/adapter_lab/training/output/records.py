"""What a run leaves behind about its steps: events, TensorBoard scalars, the progress bar, and loss per image."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from adapter_lab.errors import TrainingStopped
from adapter_lab.runs.events import Event, EventLog
from adapter_lab.runs.run_folder import LOG, RunFolder
from adapter_lab.training.device.deferred import DeferredValues
from adapter_lab.training.objective.loss_statistics import LossStatistics

# The final loss is the mean over this many last steps; one step's loss says mostly what its timesteps were.
RECENT_STEPS = 50
LOGGED = ("started", "resumed", "cached", "validation", "saved", "state")


@dataclass(frozen=True)
class StepLabel:
    """What belongs to a step's losses: `samples` are (picture, time) in the order of the losses.

    `progress` is the share of the budget that is used, 0 without one.
    """

    step: int
    epoch: int
    samples: list[tuple[str, float]]
    rates: dict[str, dict[str, Any]]
    seconds: float
    progress: float = 0.0


class Records:
    """Takes the losses of each step, on their device, and writes them down when they have arrived on the host."""

    def __init__(self, folder: RunFolder, on_event: Callable[[Event], None] | None = None) -> None:
        self.events = EventLog(folder.events, on_event)
        self.statistics = LossStatistics()
        self.recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self.memory: Callable[[], int] = lambda: 0
        # What is to blame for a loss of (picture, time) that is not finite; "" for the adapter itself.
        self.explain: Callable[[Sequence[tuple[str, float]]], str] = lambda samples: ""
        self._pending: DeferredValues[StepLabel] = DeferredValues()
        self._folder = folder
        self._board: Any = None
        self._bar: tqdm[Any] | None = None

    def begin(self, step: int, total_steps: int) -> None:
        """Open the progress bar and TensorBoard at `step` finished steps; `total_steps` 0 means unknown."""
        self._bar = tqdm(total=total_steps or None, initial=step, unit="step", dynamic_ncols=True, disable=None)
        try:
            from torch.utils.tensorboard import SummaryWriter

            # Steps a crash lost are done again, and must not show twice.
            self._board = SummaryWriter(str(self._folder.tensorboard), purge_step=step + 1)
        except ImportError as error:
            self.warning(f"TensorBoard scalars are not written, because its package is missing ({error}).")

    def event(self, kind: str, **values: Any) -> Event:
        """Write an event, those of LOGGED also to the log."""
        if kind in LOGGED:
            LOG.info("%s: %s", kind, ", ".join(f"{name} {value}" for name, value in values.items()))
        return self.events.write(kind, **values)

    def note(self, message: str) -> None:
        """Say something that is good to know."""
        self._say("note", message)
        LOG.info(message)

    def warning(self, message: str) -> None:
        """Say something that a person may want to change."""
        self._say("warning", message)
        LOG.warning(message)

    def _say(self, kind: str, message: str) -> None:
        self.events.write(kind, message=message)

    def step(self, losses: Tensor, label: StepLabel) -> None:
        """Take a step's losses (2, N): weighted as trained, and plain; then write down whatever has arrived.

        Raises TrainingStopped where a loss that arrived is not finite.
        """
        on_device = [value for rates in label.rates.values() for value in rates.values() if isinstance(value, Tensor)]
        self._pending.push(torch.cat([losses.flatten(), *(value.view(1).to(losses) for value in on_device)]), label)
        self.catch_up()

    def catch_up(self, wait: bool = False) -> None:
        """Write down the steps whose losses have arrived; with `wait`, all steps so far."""
        for values, label in self._pending.ready(wait):
            count = len(label.samples)
            weighted, plain = values[:count], values[count : 2 * count]
            label = _with_rates(label, iter(values[2 * count :]))
            loss = sum(weighted) / count
            if not math.isfinite(loss):
                remedy = self.explain(label.samples) or (
                    "Resume from there, or start again with a lower learning rate or precision.mixed bf16 or fp32."
                )
                raise TrainingStopped(
                    f"The loss became {loss} at step {label.step}. Adapters and states saved before are kept. {remedy}"
                )
            for (picture, time), value in zip(label.samples, plain):
                self.statistics.add(picture, time, value)
            self.recent.append(loss)
            self._write(loss, label)

    def _write(self, loss: float, label: StepLabel) -> None:
        self.events.write(
            "step",
            step=label.step,
            epoch=label.epoch,
            loss=loss,
            rates=label.rates,
            seconds_per_step=round(label.seconds, 4),
            memory_bytes=self.memory(),
            progress=round(label.progress, 6),
        )
        if self._board is not None:
            for name, value in _scalars(loss, label).items():
                self._board.add_scalar(name, value, label.step)
        if self._bar is not None:
            self._bar.update(1)
            self._bar.set_postfix_str(self._postfix(label), refresh=False)

    def _postfix(self, label: StepLabel) -> str:
        rates = " ".join(f"{values['lr']:.2e}" for values in label.rates.values())
        # A budget of minutes has no last step that the bar could count towards.
        share = "" if self._bar is None or self._bar.total else f", {100 * label.progress:.0f}% of the time"
        return f"loss {self.final_loss():.4f}, rate {rates}, {self.memory() / 2**30:.1f} GiB{share}"

    def scalar(self, name: str, value: float, step: int) -> None:
        """Write one TensorBoard scalar."""
        if self._board is not None:
            self._board.add_scalar(name, value, step)

    def final_loss(self) -> float:
        """Mean loss of the last steps; NaN before the first."""
        return sum(self.recent) / len(self.recent) if self.recent else math.nan

    def pictures(self) -> list[dict[str, Any]]:
        """Loss per image corrected for noise level, the hardest first."""
        return [
            {
                "picture": p.key,
                "relative_loss": round(p.recent, 4),
                "first": round(p.first, 4),
                "visits": p.visits,
                "not_learned": p.not_learned,
            }
            for p in self.statistics.ranking()
        ]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {"recent": list(self.recent), "statistics": self.statistics.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.recent = deque(state["recent"], maxlen=RECENT_STEPS)
        self.statistics.load_state_dict(state["statistics"])

    def close(self) -> None:
        """Close the progress bar, TensorBoard and the event log."""
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            self._board.close()
        self.events.close()


def _with_rates(label: StepLabel, values: Iterator[float]) -> StepLabel:
    """The label with the rates that came from the device as numbers."""
    rates = {
        part: {name: next(values) if isinstance(value, Tensor) else value for name, value in entries.items()}
        for part, entries in label.rates.items()
    }
    return replace(label, rates=rates)


def _scalars(loss: float, label: StepLabel) -> dict[str, float]:
    scalars = {"loss": loss, "seconds_per_step": label.seconds}
    for part, values in label.rates.items():
        scalars |= {f"{name}/{part}": value for name, value in values.items()}
    return scalars

"""One session of a run: prepare, train until the budget ends or a stop is asked for, save and show on the way."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from adapter_lab import config_file
from adapter_lab.config import TrainConfig
from adapter_lab.errors import AdapterLabError
from adapter_lab.prospects import fitted, known_steps, prospects
from adapter_lab.runs.budget import RunBudget, SaveSchedule, Stopwatch
from adapter_lab.runs.events import read_events
from adapter_lab.runs.findings import findings
from adapter_lab.runs.requests import Requested, take_acceptance
from adapter_lab.runs.run_folder import LOG, AdapterFiles, RunFolder, remove_leftovers
from adapter_lab.runs.state import RunState
from adapter_lab.sample_prompts import prompt_advice
from adapter_lab.training.blame import blame
from adapter_lab.training.denoiser.latents import LatentBatch, plan_from, steps_with_latents
from adapter_lab.training.denoiser.step import accumulate_gradients, drawn_times
from adapter_lab.training.device.peak_memory import MemoryMeter
from adapter_lab.training.distributed import Team
from adapter_lab.training.feedback import Feedback
from adapter_lab.training.interrupt import StopRequests
from adapter_lab.training.optim.ema import MovingAverage
from adapter_lab.training.optim.optimizers import build_optimizer, rate_groups
from adapter_lab.training.optim.schedules import schedule_factor
from adapter_lab.training.output import metadata
from adapter_lab.training.output.checkpoint import TrainingState, load_latest, states
from adapter_lab.training.output.records import Records, StepLabel
from adapter_lab.training.output.saving import Saver, describe_adapter, fingerprint
from adapter_lab.training.prepare import Machine, Preparation, Prepared, frozen_key
from adapter_lab.training.resuming import check_state, remember_pictures
from adapter_lab.validation import without_ignored

# While nothing is saved, the images learned worst are written down this often (steps), and so many of them.
PICTURES_EVERY = 200
PICTURES_SHOWN = 60


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    `adapters`: files that are kept, oldest first. `seconds`: training time, without loading, saving and sample
    images. `final_loss`: mean over the last 50 steps. `peak_bytes`: on CUDA allocated, else resident above the start,
    while training. `pictures`: loss per image corrected for noise level, the hardest first. `findings`: sentences
    on what the steps show, such as an estimate of the learning rate that was held back.
    """

    run_folder: Path
    adapters: list[Path]
    steps: int
    seconds: float
    reason: str
    final_loss: float
    peak_bytes: int
    seconds_per_step: float
    pictures: list[dict[str, Any]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


class Run:
    """One session of a run, from the first phase to the last file."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        records: Records,
        stop: StopRequests,
        started_before: bool,
        until_point: int = 0,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        """`until_point`: end at this saving point although the budget is not used up; 0: never.

        `changes`: settings that a resumed run has been given, written into its folder once all has been checked.
        """
        self.changes = changes or {}
        self.config = config
        self.until_point = until_point
        self.folder = folder
        self.records = records
        self.stop = stop
        self.machine = Machine.of(config)
        self.team = Team.of(self.machine.accelerator)
        self.memory = MemoryMeter(self.machine.device)
        records.memory = self.memory.present
        self.files = AdapterFiles(config.run, folder.path)
        self.accepted = self.team.is_main_process and take_acceptance(folder.path)
        self.state: TrainingState | None = None
        if started_before and self.team.is_main_process:
            remove_leftovers(folder, self.files)
        if started_before and states(folder.state):
            self.state, complaints = load_latest(folder.state)
            for complaint in complaints:
                records.warning(complaint)
        self.started_at = self._announce(started_before)

    def _announce(self, started_before: bool) -> float:
        """Write the first event of this session; returns when the run was first started."""
        step = self.state.step if self.state else 0
        if started_before:
            begun = [event for event in read_events(self.folder.events) if event["event"] == "started"]
            self.records.event("resumed", step=step)
            if begun:
                return float(begun[0]["started_at"])
        started_at = metadata.run_clock()
        self.records.event(
            "started",
            run=self.folder.path.name,
            folder=self.folder.path,
            name=self.config.run.name,
            started_at=started_at,
            algo=self.config.network.algo,
            device=str(self.machine.device),
            format=str(self.machine.dtype).removeprefix("torch."),
            adapters=self.files.folder,
        )
        return started_at

    def go(self) -> RunResult:
        """Prepare, train, and sum up."""
        if self.team.is_main_process:
            self.files.check_writable()
        preparation = Preparation(self.config, self.machine, self.records, self.stop.reason)
        if self.team.size > 1:
            if self.team.is_main_process:
                preparation.fill_caches()
            self.team.broadcast("the caches are filled")
        self.prepared = preparation.run()
        self.records.explain = functools.partial(blame, self.prepared)
        self._set_up(self.prepared)
        if self.state is not None:
            self._check_state(self.state)
        if self.changes and self.team.is_main_process:
            config_file.change_lines(self.folder.config, self.config, self.changes)
        if self.state is not None:
            self.saver.restore(self.state)
            if self.team.is_main_process:
                self._keep_earlier_end(self.state)
        elif self.team.is_main_process:
            remember_pictures(self.folder, self.prepared.dataset)
        step, seconds = (self.state.step, self.state.seconds) if self.state else (0, 0.0)
        self.stopwatch = Stopwatch(seconds)
        loading_peak = self.memory.begin_phase()
        self.records.begin(step, self.budget.total_steps)
        self.records.event(
            "training",
            step=step,
            total_steps=self.budget.total_steps,
            steps_per_epoch=self.steps_per_epoch,
            **self.optimizer.start,
        )
        if start := self.optimizer.start:  # as the optimiser has it: a resumed run keeps what it began with
            LOG.info("Prodigy: %s.", ", ".join(f"{name} {value:.4g}" for name, value in start.items()))
        self.prepared.train(True)
        if step == 0 and self.config.preview.baseline and self.team.is_main_process:
            self.feedback.show_baseline()
        elif step > 0 and self.team.is_main_process:
            self._show_what_is_missing(step)
        step, reason = self.steps(step)
        return self._finish(step, reason, loading_peak)

    def _check_state(self, state: TrainingState) -> None:
        """Raise AdapterLabError where the state does not belong to what is trained now, nor was that accepted."""
        dataset = self.prepared.dataset
        kept = self.saver.still_there(state)
        accepted = self.team.broadcast(self.accepted)
        last = kept[-1] if kept else None
        said = check_state(state, self.saver.fingerprint, self.folder, dataset, accepted, last)
        if said:
            self.records.warning(said)
            if self.team.is_main_process:
                remember_pictures(self.folder, dataset)

    def _keep_earlier_end(self, state: TrainingState) -> None:
        """Where a finished run goes on, give its last file a step number, so that the new end does not replace it."""
        finished, numbered = self.files.path(None), self.files.path(state.step)
        if self.budget.ended(state.step, state.seconds) or finished.name not in self.files.saved:
            return
        if finished.exists() and not numbered.exists():
            finished.rename(numbered)
            self.files.saved[self.files.saved.index(finished.name)] = numbered.name
            self.records.event("renamed", step=state.step, old=finished, path=numbered)
            self.records.note(f"{finished.name} of step {state.step} is now {numbered.name}.")

    def _show_what_is_missing(self, step: int) -> None:
        """Where the run was cut off between saving `step` and showing it, show it now."""
        events = read_events(self.folder.events)
        # A file that a person asked for is not shown.
        done = {e["event"] for e in events if e.get("step") == step and not e.get("requested")}
        if "saved" in done and not {"validation", "sample"} <= done:
            with self.saver.shown_weights():
                self.feedback.show(step, done)

    def _set_up(self, prepared: Prepared) -> None:
        """Make the optimiser and all that watches over the steps."""
        config, base, dataset = self.config, prepared.base, prepared.dataset
        o = config.optimizer
        self.steps_per_epoch = -(-dataset.batches_per_epoch(config.run.batch_size) // o.gradient_accumulation)
        self.budget = RunBudget.of(config.run, self.steps_per_epoch)
        self.points = SaveSchedule(config.save, self.steps_per_epoch)
        for sentence in prospects(config, self.steps_per_epoch):
            if sentence not in prospects(config):  # which were said before the images were read
                self.records.warning(sentence)
        o = fitted(config, known_steps(config.run, self.steps_per_epoch))
        optimizer = build_optimizer(rate_groups(prepared.network.parameters_by_part(), o), o)
        self.optimizer = optimizer
        self.stepper = self.machine.accelerator.prepare_optimizer(optimizer, device_placement=False)
        self.average = MovingAverage(optimizer.parameters(), config.save.ema) if config.save.ema else None
        describe = describe_adapter(
            config,
            self.folder.path.name,
            base.metadata(),
            metadata.dataset_entries(dataset, config.run.batch_size, self.steps_per_epoch),
            max(dataset.resolutions),
            self.budget.total_steps,
            self.steps_per_epoch,
            self.started_at,
        )
        self.saver = Saver(
            config,
            self.folder,
            self.files,
            self.records,
            prepared.network,
            optimizer,
            self.average,
            self.machine.accelerator.scaler,
            describe,
            fingerprint(config, base.content_key + frozen_key(config.network.frozen_adapters), dataset.fingerprint),
        )
        self.feedback = Feedback(
            prepared,
            self.machine,
            self.records,
            self.folder.samples,
            config.preview,
            prepared.prompts,
            config.run.batch_size,
            config.run.seed,
            self.stop.reason,
        )

    def steps(self, step: int) -> tuple[int, str]:
        """Train until the budget ends or a stop is asked for, saving on the way; returns the last step and why."""
        run, accumulated = self.config.run, self.config.optimizer.gradient_accumulation
        plan = plan_from(self.prepared.dataset, step, run.batch_size, accumulated, run.seed)
        batches = steps_with_latents(plan, self.prepared.source)
        while not (ended := self.budget.ended(step, self.stopwatch.seconds)):
            before = self.stopwatch.seconds
            with self.stopwatch.running():
                self.one_step(batches, step)
            step += 1
            if reason := self.after_step(step, before):
                return step, reason
        return step, ended

    def one_step(self, batches: Iterator[list[LatentBatch]], step: int) -> None:
        """One optimiser step, the one after `step` finished ones: rates, gradients, update."""
        begin = time.monotonic()
        self.set_rates(step)
        rates = self.optimizer.rates()
        losses, samples = self.gradients(next(batches), step)
        self.update()
        seconds = time.monotonic() - begin
        used = self.budget.progress(step + 1, self.stopwatch.seconds + seconds)
        epoch = self.budget.epoch_of(step)[0]
        self.records.step(losses, StepLabel(step + 1, epoch, samples, rates, seconds, used))

    def after_step(self, step: int, before: float) -> str:
        """Save, show and do what a person asked for, as far as `step` calls for it; why training ends here, or "".

        `before`: the stopwatch's seconds before the step.
        """
        # Clocks differ, and so do moments at which a request is seen: the first process's count.
        self.stopwatch.seconds = self.team.broadcast(self.stopwatch.seconds)
        ended = self.budget.ended(step, self.stopwatch.seconds)
        asked = self.stop.take()
        stopped = "" if ended else self.team.broadcast(self.stop.reason()) or self._paused(step)
        if self.team.is_main_process:
            if asked.prompts is not None or asked.complaint:
                self.change_prompts(step, asked)
            if ended or stopped or self.points.adapter_due(step, before, self.stopwatch.seconds):
                self.save(step, final=bool(ended))
            else:
                self.between_saves(step, asked)
        return stopped

    def _paused(self, step: int) -> str:
        """Why training pauses after `step` although the budget is not used up; "" where it does not."""
        if not self.until_point or self.points.passed(step, self.stopwatch.seconds) < self.until_point:
            return ""
        return f"saving point {self.until_point} reached"

    def set_rates(self, step: int) -> None:
        """Learning rates as the schedule has them after `step` finished steps."""
        progress = self.budget.progress(step, self.stopwatch.seconds)
        factor = schedule_factor(self.config.optimizer, step, progress, self.budget.total_steps)
        self.optimizer.set_rate_factor(factor)

    def update(self) -> None:
        """Move the parameters along their gradients, within the limits that are set."""
        if (limit := self.config.optimizer.clip_grad_norm) > 0:
            self.machine.accelerator.clip_grad_norm_(self.optimizer.parameters(), limit)
        self.stepper.step()
        self.stepper.zero_grad()
        self.prepared.network.apply_max_norm()
        if self.average is not None:
            self.average.update()

    def gradients(self, batches: list[LatentBatch], step: int) -> tuple[Tensor, list[tuple[str, float]]]:
        """Gradients of a step, losses (2, N) and (picture, time) of all its samples, whoever computed them."""
        denoiser, seed, team = self.prepared.denoiser, self.config.run.seed, self.team
        shares = [share for batch in batches if (share := team.share(batch)) is not None]
        total = sum(len(batch.batch) for batch in batches)
        losses, samples = accumulate_gradients(denoiser, shares, seed, step, self.machine.accelerator.backward, total)
        if team.size == 1:
            return losses, samples
        team.sum_gradients(self.optimizer.parameters())
        return team.all_losses(losses, batches), drawn_times(denoiser, batches, seed, step)

    def between_saves(self, step: int, asked: Requested) -> None:
        """What `step` calls for although no adapter is due after it, and what a person asked for."""
        if asked.save:
            self.saver.adapter(step, requested=True)
        if asked.save or self.points.state_due(step):
            self.saver.state(step, self.stopwatch.seconds)
        if asked.save or step % PICTURES_EVERY == 0:
            self.rank_pictures(step)
        if asked.sample:
            with self.saver.shown_weights():
                self.feedback.show_now(step)

    def change_prompts(self, step: int, asked: Requested) -> None:
        """Take other sample prompts, for the rest of the run; training goes on where they cannot be used."""
        try:
            if asked.prompts is None:
                raise AdapterLabError(asked.complaint)
            self.feedback.change_prompts(asked.prompts)
            # Without prompts the other settings of sample images have no effect, and would be refused on a resume.
            config_file.write(without_ignored(self.config)[0], self.folder.config)
        except (AdapterLabError, OSError) as error:
            self.records.warning(f"The sample prompts were not changed: {error}")
            return
        for sentence in prompt_advice(asked.prompts):
            self.records.warning(sentence)
        self.records.event("prompts", step=step, prompts=asked.prompts)

    def rank_pictures(self, step: int) -> None:
        """Write down the images that are learned worst so far, with what a person needs to look at them."""
        ranking = self.records.pictures()
        items = {item.key: item for item in self.prepared.dataset.items}
        worst = [
            {**entry, "path": str(items[entry["picture"]].path), "caption": items[entry["picture"]].plain_caption}
            for entry in ranking[:PICTURES_SHOWN]
            if entry["picture"] in items
        ]
        self.records.event("pictures", step=step, pictures=worst, total=len(ranking))

    def save(self, step: int, final: bool = False) -> None:
        """Save adapter and state after `step`, then show where training stands."""
        self.saver.adapter(step, final)
        self.saver.state(step, self.stopwatch.seconds)
        self.rank_pictures(step)
        with self.saver.shown_weights():
            self.feedback.show(step)

    def _finish(self, step: int, reason: str, loading_peak: int) -> RunResult:
        self.records.catch_up(wait=True)
        pictures = self.records.pictures()
        seconds = self.stopwatch.seconds
        result = RunResult(
            run_folder=self.folder.path,
            adapters=self.files.paths(),
            steps=step,
            seconds=seconds,
            reason=reason,
            final_loss=self.records.final_loss(),
            peak_bytes=self.memory.peak(),
            seconds_per_step=seconds / step if step else 0.0,
            pictures=pictures,
            findings=self._findings(),
        )
        if not result.findings:  # where nothing at all was learned, no image is to blame
            self._name_hard_pictures(pictures)
        self.records.event(
            "finished",
            step=step,
            reason=reason,
            seconds=round(seconds, 3),
            seconds_per_step=round(result.seconds_per_step, 4),
            final_loss=result.final_loss,
            peak_bytes=result.peak_bytes,
            loading_peak_bytes=loading_peak,
            adapters=[str(path) for path in result.adapters],
            pictures=pictures,
            findings=result.findings,
        )
        return result

    def _findings(self) -> list[str]:
        """What the steps of all sessions show."""
        state = RunState()
        state.feed(read_events(self.folder.events))
        found = findings(state, ended=True)
        for sentence in found:
            LOG.warning(sentence)
        return found

    def _name_hard_pictures(self, pictures: list[dict[str, Any]]) -> None:
        """Say which images were not learned, if any."""
        hard = [entry for entry in pictures if entry["not_learned"]]
        if hard:
            names = ", ".join(f"{e['picture']} ({e['relative_loss']:.2f} times the usual loss)" for e in hard[:5])
            more = f" and {len(hard) - 5} more" if len(hard) > 5 else ""
            self.records.note(f"Not learned so far: {names}{more}. Look whether image and caption fit together.")

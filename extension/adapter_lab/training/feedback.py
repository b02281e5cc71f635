"""What a run shows of its progress: sample images, and the loss on images held out from training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import nn

from adapter_lab import files
from adapter_lab.config import LossConfig, PreviewConfig
from adapter_lab.errors import AdapterLabError
from adapter_lab.training.dataset import Dataset
from adapter_lab.training.denoiser.conditioning import EncodedNow
from adapter_lab.training.device.devices import brief, is_out_of_memory, release_unused
from adapter_lab.training.output.preview import SMALL_TILE, PromptText, SamplingStopped, encode_prompts, sample
from adapter_lab.training.output.records import Records
from adapter_lab.training.prepare import Machine, Prepared

Made = TypeVar("Made")

# Noise levels each held-out image is tried at, evenly over the trained range.
VALIDATION_LEVELS = 4


@dataclass
class Feedback:
    """Sample images and validation loss of one run; neither changes what is trained."""

    prepared: Prepared
    machine: Machine
    records: Records
    samples: Path
    preview: PreviewConfig
    prompts: Sequence[PromptText]
    batch_size: int
    seed: int
    # Why the run is to stop, "" while it is not. What is asked for before an image is begun lets it be finished.
    stop: Callable[[], str] = str

    def show(self, step: int, done: Collection[str] = ()) -> None:
        """Validation loss and sample images of the present weights, but for the kinds of events already `done`."""
        with self._showing():
            if "validation" not in done:
                self.validate(step)
            if "sample" not in done:
                self.pictures(step)

    def show_baseline(self) -> None:
        """Sample images of the base without the adapter."""
        with self._showing():
            self.pictures(0, baseline=True)

    def show_now(self, step: int) -> None:
        """Sample images of the present weights because a person asked for them."""
        if not self.preview.prompts:
            self.records.note("No sample images were made, since there are no sample prompts.")
        with self._showing():
            self.pictures(step)

    def change_prompts(self, prompts: list[str]) -> None:
        """Show other prompts from now on; raises what loading the text encoders again raises where that fails."""
        changed = replace(self.preview, prompts=prompts)
        if not isinstance(self.prepared.denoiser.conditioning, EncodedNow):
            encoded, why = within_memory(lambda _: self.prepared.encode(changed))
            if encoded is None:
                raise AdapterLabError(f"encoding them needs more memory than there is ({why}).")
            self.prompts = encoded
        self.preview.prompts = prompts

    @contextmanager
    def _showing(self) -> Iterator[None]:
        self.prepared.train(False)
        try:
            yield
        finally:
            self.prepared.train(True)

    def pictures(self, step: int, baseline: bool = False) -> list[Path]:
        """Save one image per prompt as `samples/<step>-<prompt>.png`; returns the files."""
        if not self.preview.prompts:
            return []
        try:
            pictures, why = within_memory(lambda spare: self._drawn(baseline, SMALL_TILE if spare else 0))
        except SamplingStopped as stopped:
            self.records.note(f"Sample images of step {step} were left unfinished: {stopped}.")
            return []
        except (AdapterLabError, OSError) as error:
            # With phased loading the VAE comes from the checkpoint's file again, which may be gone by now.
            self.records.warning(f"Sample images could not be made ({error}); training goes on.")
            return []
        if pictures is None:
            self.records.warning(
                f"Sample images need more memory than there is ({why}); training goes on without them. A smaller "
                "preview.width and preview.height needs less."
            )
            return []
        name = "baseline" if baseline else f"{step:06d}"
        paths = [self.samples / f"{name}-{index}.png" for index in range(len(pictures))]
        try:
            self.samples.mkdir(exist_ok=True)
            for path, picture in zip(paths, pictures):
                with files.replacing(path, sync=False) as file:
                    picture.save(file, format="PNG")
        except OSError as error:
            # Not worth a night's training.
            self.records.warning(f"Sample images could not be written to {self.samples} ({error}); training goes on.")
            return []
        self.records.event("sample", step=step, paths=[str(path) for path in paths], prompts=self.preview.prompts)
        return paths

    def _drawn(self, baseline: bool, tile: int) -> list[Image.Image]:
        prepared = self.prepared
        stop: Callable[[], str] = str if self.stop() else self.stop

        def draw(vae: nn.Module) -> list[Image.Image]:
            return sample(
                prepared.base,
                prepared.denoiser.unet,
                self.preview,
                self.texts(),
                resolution=prepared.dataset.resolution,
                vae=vae,
                dtype=self.machine.dtype,
                tile=tile,
                stop=stop,
            )

        with prepared.network.disabled() if baseline else nullcontext():
            return prepared.vae.use(draw)

    def texts(self) -> Sequence[PromptText]:
        """The encoded prompts: encoded again where the text encoders are in memory, since they may be trained."""
        conditioning = self.prepared.denoiser.conditioning
        if isinstance(conditioning, EncodedNow):
            return encode_prompts(conditioning.encoders, self.preview)
        return self.prompts

    def validate(self, step: int) -> float | None:
        """Mean plain loss over held-out images at fixed noise and timesteps; None without held-out images."""
        if not self.prepared.dataset.held_out:
            return None
        prepared, seed = self.prepared, self.seed
        loss, why = within_memory(
            lambda spare: validation_loss(prepared, prepared.dataset, 1 if spare else self.batch_size, seed)
        )
        if loss is None:
            self.records.warning(f"The validation loss needs more memory than there is ({why}); training goes on.")
            return None
        self.records.event("validation", step=step, loss=loss)
        self.records.scalar("validation_loss", loss, step)
        return loss


def within_memory(work: Callable[[bool], Made]) -> tuple[Made | None, str]:
    """What `work(spare)` makes and "", or None and why where memory ran out twice, the second time with `spare` set."""
    why = ""
    for spare in (False, True):
        try:
            return work(spare), ""
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            why = brief(error)
        # Outside of the except clause, where the traceback no longer holds what had been computed.
        release_unused()
    return None, why


@torch.no_grad()
def validation_loss(prepared: Prepared, dataset: Dataset, batch_size: int, seed: int) -> float:
    """Mean plain loss of the held-out images, each at VALIDATION_LEVELS timesteps with noise that never changes."""
    # Perturbed inputs are a way to train, not what is asked of the adapter.
    denoiser = replace(prepared.denoiser, loss=replace(prepared.denoiser.loss, input_perturbation=0.0))
    levels = validation_timesteps(denoiser.loss, denoiser.objective.steps)
    losses = []
    for batch in prepared.source(dataset.validation_plan(batch_size)):
        for timestep in levels:
            draws = [("validation", seed, sample.key, timestep) for sample in batch.batch.items]
            losses.append(denoiser.losses(batch, draws, [timestep] * len(draws))[0])
    return torch.cat(losses).mean().item()


def validation_timesteps(loss: LossConfig, timesteps: int) -> list[int]:
    """The middles of VALIDATION_LEVELS equal parts of the trained range."""
    first, last = loss.timestep_min, min(loss.timestep_max, timesteps - 1)
    width = last - first + 1
    return sorted({first + int(width * (index + 0.5) / VALIDATION_LEVELS) for index in range(VALIDATION_LEVELS)})

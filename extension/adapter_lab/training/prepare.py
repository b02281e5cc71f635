"""The phases before the first step: look at the images, encode them and their captions, load the UNet, add adapters.

Each model is in memory only in its phase (`precision.phased_loading`), so the largest of them alone decides what fits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from adapter_lab.adapters.file import AdapterFile
from adapter_lab.adapters.keys import targets
from adapter_lab.adapters.strength import file_and_strength
from adapter_lab.config import PreviewConfig, TrainConfig, trained_network, trained_parts
from adapter_lab.errors import ConfigError, FileFormatError
from adapter_lab.training.bases.base import Base, open_base
from adapter_lab.training.bases.text import TextOutput, TextStack
from adapter_lab.training.bases.vae import encode
from adapter_lab.training.dataset import Batch, Dataset, FillReport, LatentCache, scan
from adapter_lab.training.dataset.index import file_digest
from adapter_lab.training.denoiser.conditioning import CachedCaptions, Conditioning, EncodedNow, cut_off
from adapter_lab.training.denoiser.latents import LatentBatch, cached_batches, encoded_batches
from adapter_lab.training.denoiser.step import Denoiser
from adapter_lab.training.device.devices import FORMATS, choose_device, choose_format, make_accelerator
from adapter_lab.training.device.slots import Slot
from adapter_lab.training.forwards.quantized import compress
from adapter_lab.training.network.blocks import recompute
from adapter_lab.training.network.network import add_frozen_adapters, build_network, plan_network
from adapter_lab.training.output.preview import PromptText, encode_prompts
from adapter_lab.training.output.records import Records
from adapter_lab.validation import clip_skip_advice, unused_by, useless_weighting

Source = Callable[[Iterable[Batch]], Iterator[LatentBatch]]


class StopEarly(Exception):
    """A stop was asked for before there was anything to save; the message says how."""


@dataclass
class Machine:
    """Where and in which number format a run computes."""

    accelerator: Accelerator
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, config: TrainConfig) -> Machine:
        """The machine a configuration asks for; raises ConfigError where it is not there."""
        device = choose_device(config.precision)
        name = choose_format(config.precision, device)
        return cls(make_accelerator(device, name), device, FORMATS[name])


@dataclass
class Prepared:
    """A run ready for its first step."""

    base: Base
    dataset: Dataset
    network: Any
    denoiser: Denoiser
    source: Source
    vae: Slot[nn.Module]
    encoders: Slot[TextStack]
    prompts: list[PromptText]
    encode: Callable[[PreviewConfig], list[PromptText]]
    parts: dict[str, nn.Module]

    def train(self, on: bool) -> None:
        """Switch between training and showing: dropout, and gradient checkpointing, which only works in training."""
        for module in self.parts.values():
            module.train(on)
        self.network.train(on)


class Preparation:
    """The phases in their order, as one object only because they share what they found."""

    def __init__(self, config: TrainConfig, machine: Machine, records: Records, stop_reason: Callable[[], str]) -> None:
        self.config = config
        self.machine = machine
        self.records = records
        self._stop_reason = stop_reason

    def run(self) -> Prepared:
        """All phases; raises AdapterLabError for what is wrong with the base, the images or the settings."""
        config = self.config
        check_named_adapters(config)
        base = open_base(config.base)
        base.check()
        for finding in base.findings:
            self.records.note(finding)
        # With a family that is set, validation has said it.
        advice = clip_skip_advice(base.family, config.base.clip_skip) if config.base.family == "auto" else ""
        if advice:
            self.records.warning(advice)
        for sentence in unused_by(base.row, config):
            self.records.warning(sentence)
        for sentence in base.remarks(trained_text_parts(config, base), self.machine.dtype):
            self.records.warning(sentence)
        if misplaced := useless_weighting(base.prediction, config.loss):
            raise ConfigError(misplaced[0].message)
        # Dims a module cannot have and the like are said before an hour of encoding, not after it.
        plan_network(trained_network(config), targets(base.shapes))
        dataset = self.scan(base)
        vae, encoders = self._slots(base)
        source = self.latents(base, dataset, vae)
        conditioning = self.captions(base, dataset, encoders)
        prompts = self.prompts(encoders)
        network, parts = self.network(base, encoders if isinstance(conditioning, EncodedNow) else None)
        denoiser = Denoiser(
            unet=parts["unet"],
            objective=base.objective(),
            conditioning=conditioning,
            denoise=base.denoise,
            latents=base.latents,
            device=self.machine.device,
            loss=config.loss,
            dtype=self.machine.dtype,
            tell_noise=network.tell_noise,
        )
        encode = functools.partial(self.prompts_while_training, base, encoders)
        return Prepared(base, dataset, network, denoiser, source, vae, encoders, prompts, encode, parts)

    def fill_caches(self) -> None:
        """Encode what a run would keep on disk, and nothing else; raises what `run` does."""
        base = open_base(self.config.base)
        base.check()
        dataset = self.scan(base)
        vae, encoders = self._slots(base)
        if dataset.cacheable and self.config.dataset.cache_latents == "disk":
            self.latents(base, dataset, vae)
        if not self._encodes_captions_in_steps(base, dataset):
            self.captions(base, dataset, encoders)

    def _slots(self, base: Base) -> tuple[Slot[nn.Module], Slot[TextStack]]:
        keep = not self.config.precision.phased_loading
        vae: Slot[nn.Module] = Slot(lambda: base.load_vae(torch.float32, self.machine.device), keep)
        return vae, Slot(lambda: self._load_encoders(base), keep)

    def scan(self, base: Base) -> Dataset:
        """Read the training folder and report on it."""
        config, step = self.config, base.latents.step
        if config.dataset.bucket_step % step:
            raise ConfigError(
                f"dataset.bucket_step is {config.dataset.bucket_step}, but sides of images for {base.row.title} are "
                f"multiples of {step} px; set it to a multiple of {step}, such as 64."
            )
        dataset = scan(config.dataset, config.dataset.resolution or base.resolution, self.progress("scan"))
        report = dataset.report(config.run.batch_size, config.optimizer.gradient_accumulation)
        self.records.event("dataset", report=report.to_dict(), text=report.text())
        for warning in dataset.warnings:
            self.records.warning(warning)
        captions = list(dict.fromkeys(item.plain_caption for item in dataset.items))
        if sentence := cut_off(captions, base.captions, config.dataset.token_chunks):
            self.records.warning(sentence)
        for sentence in base.captions.findings(captions):
            self.records.warning(sentence)
        return dataset

    def latents(self, base: Base, dataset: Dataset, vae: Slot[nn.Module]) -> Source:
        """Encode the images into the cache, or keep the VAE to encode them in each step."""
        config = self.config.dataset
        if config.cache_latents == "off" or not dataset.cacheable:
            if config.cache_latents != "off":
                self.records.note(
                    "Latents are not cached, because every use of an image is cropped or coloured differently; the "
                    "VAE stays in memory and encodes in each step, which takes longer."
                )
            now = functools.partial(encode, vae.get(), self.machine.device)
            return lambda batches: encoded_batches(batches, now, base.latents.scale)
        cache = LatentCache(dataset.cache_folder, base.vae_key, vae_name=f"The VAE of {base.vae_path or base.path}")
        samples = dataset.cache_samples()
        if cache.missing(samples):
            device, progress = self.machine.device, self.progress("latents")
            report = vae.use(
                lambda model: cache.fill(
                    samples,
                    functools.partial(encode, model, device),
                    latent_scale=base.latents.scale,
                    progress=progress,
                )
            )
        else:
            report = FillReport(found=len(samples))
        self._cached("latents", report)
        return lambda batches: cached_batches(batches, cache)

    def captions(self, base: Base, dataset: Dataset, encoders: Slot[TextStack]) -> Conditioning:
        """Encode the captions into the cache, or keep the text encoders to encode them in each step."""
        config = self.config
        limit = config.dataset.token_chunks
        trained = bool(trained_text_parts(config, base))
        if self._encodes_captions_in_steps(base, dataset):
            if not trained and dataset.captions_vary:
                self.records.note(
                    "The text encoders stay in memory and encode in each step, because captions vary (tags are "
                    "shuffled or dropped, or wildcards are on)."
                )
            return EncodedNow(encoders.get(), limit, trained)
        key = base.text_key + frozen_key(config.network.frozen_adapters)
        cached = CachedCaptions(dataset.cache_folder, base.captions, key, base.clip_skip, limit, self.machine.dtype)
        cached.device = self.machine.device
        captions = dataset.all_captions()
        if cached.complete(captions):
            report = FillReport(found=len(set(captions)))
        else:
            report = encoders.use(lambda model: cached.fill(captions, self._encoder(model), self.progress("captions")))
        self._cached("captions", report)
        return cached

    def _encodes_captions_in_steps(self, base: Base, dataset: Dataset) -> bool:
        off = self.config.dataset.cache_text == "off"
        return off or dataset.captions_vary or bool(trained_text_parts(self.config, base))

    def prompts(self, encoders: Slot[TextStack]) -> list[PromptText]:
        """The encoded prompts of the sample images; empty where none are made."""
        if not self.config.preview.prompts:
            return []
        return encoders.use(lambda model: encode_prompts(model, self.config.preview))

    def prompts_while_training(self, base: Base, encoders: Slot[TextStack], preview: PreviewConfig) -> list[PromptText]:
        """Other prompts encoded while the UNet trains.

        Where the text encoders were freed they are loaded again, on the CPU, since the device has no room for certain.
        """
        if encoders.keep:
            return encoders.use(lambda model: encode_prompts(model, preview))
        cpu = torch.device("cpu")
        with torch.autocast(self.machine.device.type, enabled=False):
            return encode_prompts(self._load_encoders(base, torch.float32, cpu), preview) if preview.prompts else []

    def _load_encoders(
        self, base: Base, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> TextStack:
        encoders = base.load_text_encoders(dtype or self.machine.dtype, device or self.machine.device)
        add_frozen_adapters(self.config.network.frozen_adapters, targets(base.shapes), encoders.parts)
        return encoders

    def _encoder(self, encoders: TextStack) -> Callable[[list[str], int], TextOutput]:
        def encode(captions: list[str], length: int) -> TextOutput:
            with torch.no_grad():
                return encoders.encode(captions, length)

        return encode

    def network(self, base: Base, encoders: Slot[TextStack] | None) -> tuple[Any, dict[str, nn.Module]]:
        """Load the UNet and put the adapter on it, and on the text encoders where they are in memory."""
        config, machine = self.config, self.machine
        compressed = config.precision.base_weights != "same"
        # Compressed on the CPU, so that the device never holds the uncompressed weights.
        unet = base.load_unet(machine.dtype, "cpu" if compressed else machine.device)
        add_frozen_adapters(config.network.frozen_adapters, targets(base.shapes), {"unet": unet})
        if compressed:
            compress(unet, config.precision.base_weights)
            unet.to(machine.device)
        parts: dict[str, nn.Module] = {"unet": unet}
        if encoders is not None:
            for part, encoder in encoders.get().parts.items():
                if compressed:
                    compress(encoder, config.precision.base_weights)
                parts[part] = encoder
        network = build_network(trained_network(config), targets(base.shapes), parts, config.run.seed)
        network.attach()
        if config.precision.gradient_checkpointing:
            recomputed(base, config, parts)
        return network, parts

    def progress(self, what: str) -> Callable[[int, int], None]:
        """Tell how far a phase is, and end it where a stop was asked for."""

        def tell(done: int, total: int) -> None:
            if reason := self._stop_reason():
                raise StopEarly(reason)
            if done == total or done % max(1, total // 50) == 0:
                self.records.event("preparing", what=what, done=done, total=total)

        return tell

    def _cached(self, what: str, report: FillReport) -> None:
        self.records.event("cached", what=what, made=report.made, found=report.found, seconds=round(report.seconds, 3))
        for remark in report.remarks:
            self.records.warning(remark)


def check_named_adapters(config: TrainConfig) -> None:
    """Raise ConfigError, with the setting's name, where an adapter that the settings name cannot be opened."""
    network = config.network
    named = [("network.start_from", network.start_from)] if network.start_from else []
    named += [("network.frozen_adapters", file_and_strength(entry)[0]) for entry in network.frozen_adapters]
    for setting, path in named:
        try:
            AdapterFile.open(path)
        except (FileFormatError, OSError) as error:
            raise ConfigError(f"{setting}: {error}") from error


def frozen_key(entries: Sequence[str]) -> str:
    """A key of the content and strength of frozen adapters, for caches and states; "" without any."""
    pairs = [file_and_strength(entry) for entry in entries]
    return "".join(f"+{file_digest(Path(path))}:{strength:g}" for path, strength in pairs)


def trained_text_parts(config: TrainConfig, base: Base) -> list[str]:
    """The text encoders that are trained, of those the base has."""
    wanted = trained_parts(trained_network(config))
    return [part for part in base.text_parts if wanted[part]]


def recomputed(base: Base, config: TrainConfig, parts: Mapping[str, nn.Module]) -> None:
    """Switch gradient checkpointing on in all that gradients pass through."""
    for part in ("unet", *trained_text_parts(config, base)):
        recompute(parts[part], base.row.blocks)

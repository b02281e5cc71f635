"""The phases of a run on fake tensors: what is in memory in each, without weights, images or a GPU.

The modules, adapter layers, forwards and losses are those of a real run; only their tensors have no values
(torch's FakeTensorMode). Fake tensors live on the CPU, because a torch without CUDA cannot differentiate fake CUDA
ones; where CUDA does something else (sizes of temporary values, attention), that is imitated here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from adapter_lab.adapters.keys import Target
from adapter_lab.config import TrainConfig, trained_network
from adapter_lab.families import BASES, UNET, StableDiffusion
from adapter_lab.training.bases.anima.base import AnimaBase
from adapter_lab.training.bases.base import Base
from adapter_lab.training.bases.components import Component
from adapter_lab.training.bases.layout import layout
from adapter_lab.training.bases.modules import without_weights
from adapter_lab.training.bases.stable_diffusion import StableDiffusionBase
from adapter_lab.training.bases.text import TextOutput, TextStack
from adapter_lab.training.bases.vae import encode
from adapter_lab.training.denoiser.conditioning import EncodedNow
from adapter_lab.training.denoiser.step import Denoiser, NoisyBatch, attention_kernel
from adapter_lab.training.estimate.live_memory import LiveMemory, Workspace
from adapter_lab.training.forwards.operation import CHUNK_BYTES, LARGE_CHUNK
from adapter_lab.training.forwards.quantized import compress
from adapter_lab.training.network.network import build_network
from adapter_lab.training.objective.losses import sample_losses
from adapter_lab.training.optim.state_size import state_bytes
from adapter_lab.training.prepare import recomputed, trained_text_parts

FAKE_DEVICE = torch.device("cpu")
CAPTIONS_AT_ONCE = 8  # TextCache.fill's batch


@dataclass
class PhasePeak:
    """Most bytes alive in one phase, and of what."""

    name: str
    total: int
    breakdown: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Steps:
    """Everything ready for `run`, which does the forward and backward passes of one optimiser step."""

    unet: nn.Module
    parameters: list[nn.Parameter]
    resident: list[Tensor]
    run: Callable[[], None]


def released_base(family: str) -> Base:
    """The released model of a family, of which only configurations and shapes exist: nothing can be loaded from it."""
    row = BASES[family]
    nowhere: Any = None
    configs = {**row.configs, **{part.key: part.config for part in row.text}}
    components = {part: Component(dict(config), nowhere, {}) for part, config in configs.items()}
    known: dict[str, Any] = {
        "path": Path(family),
        "family": row.family,
        "shapes": layout(family),
        "components": components,
        "prediction": next(iter(row.versions)),
        "findings": [],
    }
    if not isinstance(row, StableDiffusion):
        return AnimaBase(**known)
    components[UNET].config.setdefault("sample_size", row.resolution // row.latent.scale)
    return StableDiffusionBase(**known, skip=row.clip_skip)


class DryRun:
    """The phases of one configuration on a base; `dtype` is what it computes in, `side` that of all images in px."""

    def __init__(
        self,
        config: TrainConfig,
        base: Base,
        targets: Mapping[str, Target],
        dtype: torch.dtype,
        side: int,
        on_cuda: bool,
    ) -> None:
        self.config = config
        self.base = base
        self.targets = targets
        self.dtype = dtype
        self.side = side
        self.on_cuda = on_cuda
        self.fake = FakeTensorMode()
        self.workspaces = CUDA_WORKSPACES if on_cuda else {}

    def phases(self) -> list[PhasePeak]:
        """Every phase's peak, in the order of a run."""
        models = {part: self._without_weights(part) for part in self.base.components}
        parts = {part: models[part] for part in self.base.text_parts}
        encoders = self.base.text_stack(parts)
        keep_all = not self.config.precision.phased_loading
        pieces = {FAKE_DEVICE.type: CHUNK_BYTES.get("cuda", LARGE_CHUNK)} if self.on_cuda else {}
        with self.fake, patch.dict(CHUNK_BYTES, pieces):
            for part, model in models.items():
                _fill(model, torch.float32 if part == "vae" else self.dtype)
            peaks = [self._encode_pictures(models["vae"])]
            kept = {"VAE": models["vae"]} if keep_all or self.encodes_pictures_in_steps else {}
            if not self.encodes_captions_in_steps:
                peaks.append(self._encode_captions(encoders, kept))
            if keep_all or self.encodes_captions_in_steps:
                kept["text encoders"] = nn.ModuleDict(parts)
            peaks.append(self._train(models["unet"], encoders if self.encodes_captions_in_steps else None, kept))
        return peaks

    @property
    def encodes_pictures_in_steps(self) -> bool:
        """Whether every step encodes its images, so that the VAE stays in memory."""
        data = self.config.dataset
        return data.cache_latents == "off" or data.color_augment or data.random_crop

    @property
    def encodes_captions_in_steps(self) -> bool:
        """Whether every step encodes its captions, so that the text encoders stay in memory."""
        data = self.config.dataset
        varied = data.shuffle_tags or data.tag_dropout > 0 or data.wildcards
        return bool(trained_text_parts(self.config, self.base)) or varied or data.cache_text == "off"

    def _without_weights(self, part: str) -> nn.Module:
        return without_weights(lambda: self.base.new(part))

    def _captions(self, count: int) -> list[str]:
        """Captions as long as the settings allow."""
        return ["a " * 75 * self.config.dataset.token_chunks] * count

    # Phases

    def _encode_pictures(self, vae: Any) -> PhasePeak:
        memory = LiveMemory(workspaces=self.workspaces)
        memory.adopt("VAE", _tensors(vae))
        with memory, torch.no_grad():
            encode(vae, FAKE_DEVICE, torch.empty(1, 3, self.side, self.side))
        return _peak("encoding images", memory)

    def _encode_captions(self, encoders: TextStack, kept: Mapping[str, nn.Module]) -> PhasePeak:
        memory = LiveMemory(workspaces=self.workspaces)
        for label, module in kept.items():
            memory.adopt(label, _tensors(module))
        for module in encoders.parts.values():
            memory.adopt("text encoders", _tensors(module))
        with memory, torch.no_grad():
            encoders.encode(self._captions(CAPTIONS_AT_ONCE), self.config.dataset.token_chunks)
        return _peak("encoding captions", memory)

    def _train(self, unet: nn.Module, encoders: TextStack | None, kept: Mapping[str, nn.Module]) -> PhasePeak:
        config, memory = self.config, LiveMemory(workspaces=self.workspaces)
        steps = self.prepare_steps(unet, encoders, kept, memory)
        memory.adopt(self.base.row.denoiser, _tensors(steps.unet))
        for label, module in kept.items():
            memory.adopt(label, _tensors(module))
        memory.adopt("adapter", steps.parameters)
        # From the second step on it is there while gradients are computed.
        state = sum(state_bytes(tuple(p.shape), config.optimizer) for p in steps.parameters)
        memory.reserve("optimiser", state)
        if config.save.ema > 0:
            memory.reserve("moving average", sum(p.numel() * p.element_size() for p in steps.parameters))
        with memory:
            steps.run()
        memory.reserve("optimiser", OPTIMIZER_TEMPORARY.get(config.optimizer.name, 0) * memory.live["adapter"])
        return _peak("training", memory)

    def prepare_steps(
        self, unet: Any, encoders: TextStack | None, kept: Mapping[str, nn.Module], memory: LiveMemory
    ) -> Steps:
        """Modules, real or fake, made ready for training steps; `memory` is told which tensors become gradients."""
        config = self.config
        parts = {"unet": unet, **(encoders.parts if encoders else {})}
        if config.precision.base_weights != "same":
            for part in parts.values():
                compress(part, config.precision.base_weights)
        network = build_network(trained_network(config), self.targets, parts, 0, initial_values=False)
        network.attach()
        if config.precision.gradient_checkpointing:
            recomputed(self.base, config, parts)
        for module in [*parts.values(), network]:
            module.train()
        parameters = [p for entries in network.parameters_by_part().values() for p, _ in entries]
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(lambda p: memory.adopt("gradients", [p.grad]))
        resident = [tensor for part in parts.values() for tensor in _tensors(part)] + parameters
        # Gradients of the batch before are there while the next one is computed.
        passes = min(config.optimizer.gradient_accumulation, 2)

        def run() -> None:
            for _ in range(passes):
                self._step(unet, encoders, kept)

        return Steps(unet, parameters, resident, run)

    def _step(self, unet: nn.Module, encoders: TextStack | None, kept: Mapping[str, Any]) -> None:
        """Forward and backward pass of one batch."""
        config, batch = self.config, self.config.run.batch_size
        scale = self.base.latents.scale
        latent = (batch, self.base.latents.channels, self.side // scale, self.side // scale)
        if self.encodes_pictures_in_steps:
            with torch.no_grad():
                encode(kept["VAE"], FAKE_DEVICE, torch.empty(batch, 3, self.side, self.side))
        noisy = NoisyBatch(torch.empty(latent), torch.empty(latent), torch.zeros(batch, dtype=torch.long))
        denoiser = Denoiser(
            unet=unet,
            objective=self.base.objective(),
            conditioning=None,  # type: ignore[arg-type]
            denoise=self.base.denoise,
            latents=self.base.latents,
            device=FAKE_DEVICE,
            loss=config.loss,
            dtype=self.dtype,
        )
        square = (self.side, self.side)
        sample = SimpleNamespace(original_size=square, crop_top_left=(0, 0), target_size=square)
        items: Any = SimpleNamespace(items=[sample] * batch)
        with nullcontext() if self.on_cuda else attention_kernel(FAKE_DEVICE, noisy.noisy):
            prediction = denoiser.predict(noisy, self._text(encoders, batch), items)
            sample_losses(prediction, noisy.target, None, config.loss).mean().backward()

    def _text(self, encoders: TextStack | None, batch: int) -> TextOutput:
        chunks = self.config.dataset.token_chunks
        if encoders is not None:
            conditioning = EncodedNow(encoders, chunks, bool(trained_text_parts(self.config, self.base)))
            return conditioning(self._captions(batch))
        return self.base.blank_text(batch, chunks)


def _fill(model: nn.Module, dtype: torch.dtype) -> None:
    """Give a model without weights new parameters in `dtype` and buffers, fake ones in FakeTensorMode."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            value = torch.empty(parameter.shape, dtype=dtype)
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _peak(name: str, memory: LiveMemory) -> PhasePeak:
    return PhasePeak(name, memory.peak_total, {label: size for label, size in memory.peak.items() if size})


# What CUDA does otherwise than a CPU.

# Temporary values of an optimiser's step beside its state, in units of its parameters: torch's AdamW works on all
# tensors at once on CUDA and keeps the denominators of all.
OPTIMIZER_TEMPORARY = {"adamw": 1}


def _bytes(*tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def _convolution(args: tuple[Any, ...], result: Any) -> int:
    """cuDNN's tensor-core kernels work on channels-last copies of input, weight and output."""
    return _bytes(args[0], args[1], result) if args[0].element_size() == 2 else 0


def _convolution_backward(args: tuple[Any, ...], result: Any) -> int:
    return _bytes(*args[:3], *result) if args[0].element_size() == 2 else 0


def _attention_backward(args: tuple[Any, ...], result: Any) -> int:
    """Flash attention sums the gradient of the queries in fp32."""
    return args[1].numel() * 4


CUDA_WORKSPACES: dict[str, Workspace] = {
    "aten::convolution": _convolution,
    "aten::convolution_backward": _convolution_backward,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}

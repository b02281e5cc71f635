"""What is known of one family of base models, in one row; names, presets, metadata and detection are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T", bound=Any)
# The part that denoises, by its key everywhere.
UNET = "unet"


@dataclass(frozen=True, kw_only=True)
class TextPart:
    """One model of a family that makes of a caption what its denoiser reads, alone or with others.

    `folder`: of a diffusers pipeline. `adapter`: how the names of its modules begin in adapter files as sd-scripts
    writes them. `checkpoint`: how its tensors' names begin in a file. `comfy`: how the names of its modules begin in
    ComfyUI's adapter files. `switch`: the setting that must be on for it to be trained, besides its own, "" for none.
    `config`: of transformers or diffusers.
    """

    key: str
    title: str
    folder: str
    adapter: str
    checkpoint: str
    comfy: str
    switch: str
    config: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ClipPart(TextPart):
    """One of CLIP's text encoders.

    `open_clip`: its tensors are named as OpenCLIP does, fused. `pooled`: its projected end token is given to the UNet
    as well. `unused_layers`: last layers that the file has and nothing runs.
    """

    open_clip: bool
    pooled: bool
    unused_layers: int
    pad_token: str
    switch: str = "train_te"

    @property
    def loaded(self) -> str:
        """How the names of its tensors begin in a web UI with ComfyUI's layout, once it is loaded."""
        return self.comfy.removeprefix("text_encoders.").removesuffix("transformer.")

    @property
    def activation(self) -> str:
        """transformers' name of its activation function."""
        return str(self.config["hidden_act"])


@dataclass(frozen=True, kw_only=True)
class LatentFormat:
    """How the numbers of a latent are scaled: x = (z - shift) factor for the VAE's z; `scale` pixels per latent.

    `patch`: latents along a side that the denoiser reads as one, so that sides are multiples of `step` pixels.
    """

    channels: int
    scale: int
    factor: float
    shift: float = 0.0
    patch: int = 1

    @property
    def step(self) -> int:
        """Pixels that sides of images are multiples of."""
        return self.scale * self.patch

    def normalise(self, z: T) -> T:
        """What the denoiser is trained on, of the VAE's numbers."""
        return ((z - self.shift) if self.shift else z) * self.factor

    def restore(self, x: T) -> T:
        """The VAE's numbers of what the denoiser gives."""
        return x / self.factor + self.shift


@dataclass(frozen=True, kw_only=True)
class ChannelLatents(LatentFormat):
    """Latents of which each channel has a mean and a standard deviation of its own: x = (z - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    factor: float = 1.0

    def normalise(self, z: T) -> T:
        """What the denoiser is trained on, of the VAE's numbers (..., C, h, w)."""
        return (z - self._of(z, self.mean)) / self._of(z, self.std)

    def restore(self, x: T) -> T:
        """The VAE's numbers of what the denoiser gives."""
        return x * self._of(x, self.std) + self._of(x, self.mean)

    @staticmethod
    def _of(like: T, values: tuple[float, ...]) -> T:
        return like.new_tensor(values).view(-1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What tells the prediction type of a family with files of both kinds and equal shapes, which rarely say it.

    `steps`: `global_step` of released files -> what they predict. `tensor`: one whose values spread by more than
    `spread` (standard deviation) where v is predicted; ComfyUI tells them apart by it.
    """

    steps: Mapping[str, str]
    tensor: str
    spread: float


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of base models: what is known of every kind of denoiser.

    `denoiser`: what it is called. `resolution`: side in px of the square it was trained on; `resolution_of` where a
    prediction type has another. `times`: how its times are usually drawn while training (`timestep_distribution`).
    `convolutions`: whether its denoiser has any. `shift`, `guidance`: usual when images are drawn. `versions`,
    `architectures`: `ss_base_model_version` and `modelspec.architecture` by what it predicts. `blocks`: names of
    the classes of the blocks it is made of, which gradient checkpointing computes again one by one. `without`:
    settings that have no effect on it. `tiers`: memory in GB -> what a preset for it sets. `of`: the family it was
    distilled from, whose names, adapters and metadata it has; "" for most.
    """

    key: str
    title: str
    denoiser: str
    resolution: int
    resolution_of: Mapping[str, int]
    preset_resolution: int
    text: tuple[TextPart, ...]
    latent: LatentFormat
    convolutions: bool
    times: str
    shift: float
    guidance: float
    versions: Mapping[str, str]
    architectures: Mapping[str, str]
    blocks: tuple[str, ...]
    second: bool
    without: tuple[str, ...]
    tiers: Mapping[int, Mapping[str, Mapping[str, Any]]]
    of: str = ""

    @property
    def family(self) -> str:
        """The key of the family by whose names its layers go: its own, or that of what it was distilled from."""
        return self.of or self.key

    @property
    def text_parts(self) -> tuple[str, ...]:
        """The keys of what reads captions."""
        return tuple(part.key for part in self.text)

    @property
    def configs(self) -> Mapping[str, Mapping[str, Any]]:
        """The configurations of the denoiser ("unet") and the VAE, diffusers'."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[str, ...]:
        """Everything of it that can be trained."""
        return (UNET, *self.text_parts)

    def text_part(self, key: str) -> TextPart:
        """A text encoder by its key."""
        return next(part for part in self.text if part.key == key)


@dataclass(frozen=True, kw_only=True)
class StableDiffusion(Family):
    """A family with a UNet and CLIP's text encoders.

    `clip_skip`: the hidden state that is read, counted from the end as hosts do; `final_norm`: whether the encoder's
    last LayerNorm is applied to it. `heads`: attention heads of the UNet; 0: one per 64 channels. `sized`: whether
    the UNet is told original size and crop. `adapter_names`: what sd-scripts takes a UNet layer's name from:
    "diffusers" or "ldm". `marks`: how names of tensors begin that only a single file of this family has. `second`:
    whether sd-scripts calls it v2. `keeps_schedule`: whether a single file has its noise schedule. `probe`: how the
    files that do not say what they predict are known. `unet` and `vae` are diffusers' configurations.
    """

    text: tuple[ClipPart, ...]
    clip_skip: int
    final_norm: bool
    heads: int
    sized: bool
    adapter_names: str
    marks: tuple[str, ...]
    keeps_schedule: bool
    probe: Probe | None
    unet: Mapping[str, Any] = field(repr=False)
    vae: Mapping[str, Any] = field(repr=False)
    denoiser: str = "UNet"
    convolutions: bool = True
    times: str = "uniform"
    shift: float = 1.0
    guidance: float = 6.0

    @property
    def configs(self) -> Mapping[str, Mapping[str, Any]]:
        return {UNET: self.unet, "vae": self.vae}

    @property
    def linear(self) -> bool:
        """Whether projections around its UNet's transformers are linear layers instead of convolutions."""
        return bool(self.unet["use_linear_projection"])

    def text_part(self, key: str) -> ClipPart:
        """A text encoder by its key."""
        return next(part for part in self.text if part.key == key)


@dataclass(frozen=True, kw_only=True)
class DiffusionTransformer(Family):
    """A family with a transformer, trained as rectified flow, whose parts lie in files of their own.

    `transformer` and `vae` are diffusers' configurations; the number of blocks is the file's. `context`: rows of text
    that the transformer always reads.
    """

    latent: ChannelLatents
    context: int
    transformer: Mapping[str, Any] = field(repr=False)
    vae: Mapping[str, Any] = field(repr=False)
    denoiser: str = "transformer"
    convolutions: bool = False

    @property
    def configs(self) -> Mapping[str, Mapping[str, Any]]:
        latents = {"latents_mean": list(self.latent.mean), "latents_std": list(self.latent.std)}
        return {UNET: self.transformer, "vae": {**self.vae, **latents}}


# What several families have alike.

# Settings of what only some have: a second text encoder; CLIP and a schedule of noise; a conditioner and modulation.
OF_SECOND_ENCODER = ("network.train_te2", "optimizer.te2_lr")
OF_UNETS = ("base.clip_skip", "base.zero_terminal_snr", "dataset.token_chunks", "network.train_norm")
OF_TRANSFORMERS = (
    "base.text_encoder",
    "base.empty_caption",
    "network.train_conditioner",
    "network.modulation",
    "optimizer.conditioner_lr",
)

END = "<|endoftext|>"
CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
PLAIN = ("DownBlock2D", "UpBlock2D")


def block_types(attentions: list[bool]) -> dict[str, list[str]]:
    """diffusers' block types of a UNet whose level i has transformers where `attentions[i]`."""
    down = [CROSS[0] if here else PLAIN[0] for here in attentions]
    up = [CROSS[1] if here else PLAIN[1] for here in reversed(attentions)]
    return {"down_block_types": down, "up_block_types": up}


VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
# Of diffusers' UNet and transformers' CLIP.
SD_BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock", "CLIPEncoderLayer")
SD_UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 1, 1, 1],
    **block_types([True, True, True, False]),
}
CLIP_L: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}
OPEN_CLIP_H: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,  # of 24 in the file; the last one is never run
    "num_attention_heads": 16,
    "projection_dim": 1024,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
}
OPEN_CLIP_G: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_act": "gelu",
}


def tier(batch: int, text: bool = False, fp8: bool = False, int8: bool = False) -> dict[str, dict[str, Any]]:
    """What a preset for a card's memory sets: batch size, text encoders trained too, base weights in 8 bits."""
    tables: dict[str, dict[str, Any]] = {"run": {"batch_size": batch}}
    if text:
        tables["network"] = {"train_te": True}
    if fp8 or int8:
        tables["precision"] = {"base_weights": "fp8" if fp8 else "int8"}
    return tables

"""Every setting of a training run, once: the form, the command line, TOML, docs and validation all come from here.

A setting is a dataclass field made by `option(...)`, which carries its default, range, unit, help and dependencies.
0 means 0 wherever that can be meant: "the same as", "found by itself" and "all" are words that such a setting takes
beside numbers (`float | Literal["same"]`). Where 0 can mean nothing, such as a resolution, it is the value left open.
`adapter_lab.validation` refuses what is out of range and what has no effect beside the other settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from adapter_lab import algorithms, families, library_optimizers
from adapter_lab.option import option

ALGORITHMS = algorithms.CHOSEN
# Those whose options are settings of their own, and all.
OWN_OPTIMIZERS = ("prodigy", "adamw", "adamw8bit", "adafactor", "lion", "prodigy-plus-schedule-free")
OPTIMIZERS = OWN_OPTIMIZERS + library_optimizers.NAMES
# Those that save an average of the weights, and of them those that take the place of a schedule.
AVERAGING = ("prodigy-plus-schedule-free", *library_optimizers.AVERAGING)
SCHEDULE_FREE = ("prodigy-plus-schedule-free", *library_optimizers.SCHEDULE_FREE)
PRODIGIES = ("prodigy", "prodigy-plus-schedule-free")
# Schedules that come to their end with the budget, and all.
ENDING_SCHEDULES = ("cosine", "linear", "cosine-restarts", "polynomial", "rex")
SCHEDULES = ("constant", *ENDING_SCHEDULES, "inverse-sqrt")
BASES = tuple(families.BASES)
HUBER_LOSSES = ("huber", "smooth_l1", "pseudo_huber", "pseudo_smooth_l1")
LOSSES = ("mse", "l1", *HUBER_LOSSES)


# What a setting that is a path names: something that must be there, something that is made, adapter files as
# `FILE:STRENGTH`, a model's folder or its name on a hub, and the folder that the program which starts runs decides.
PATHS = ("needed", "made", "adapters", "model", "decided")


# More of either nobody writes by hand, and what reads them may take its time for each.
MOST_ENTRIES, LONGEST_TEXT = 1000, 10_000


def too_long(value: Any) -> str:
    """What is wrong with the length of a setting's value, as the end of a sentence; "" where nothing is."""
    if isinstance(value, list) and len(value) > MOST_ENTRIES:
        return f"has {len(value)} entries, but may have {MOST_ENTRIES}."
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"has {len(value)} letters, but may have {LONGEST_TEXT}."
    return ""


@dataclass
class BaseConfig:
    """The base model the adapter is trained on."""

    checkpoint: str = option(
        "", "Checkpoint file (.safetensors, .ckpt) or diffusers folder.", flag="base", basic=True, path="needed"
    )
    vae: str = option(
        "",
        "VAE file or folder used instead of the checkpoint's own; empty: the checkpoint's own (Anima: the one found "
        "beside it).",
        path="needed",
    )
    text_encoder: str = option(
        "",
        "Text encoder file or folder of a base whose parts lie in files of their own (Anima); empty: the one found "
        "beside it.",
        path="needed",
    )
    family: str = option("auto", "Base-model family; auto reads it from the file.", choices=("auto", *BASES))
    prediction: str = option(
        "auto",
        "What the denoiser predicts, flow: rectified flow; auto reads it from the file.",
        choices=("auto", "epsilon", "v_prediction", "flow"),
    )
    zero_terminal_snr: str = option(
        "auto",
        "Rescale the noise schedule to zero terminal SNR; auto reads it from the file.",
        choices=("auto", "yes", "no"),
    )
    clip_skip: int = option(
        0,
        "Last text-encoder layer used, counted from the end as hosts do; 0: the family's usual (SD1.5 1, SD2, SDXL 2).",
        minimum=0,
        maximum=11,
    )
    empty_caption: str = option(
        "pad",
        "What an empty caption is to a base with a text conditioner (Anima): pad: one visible pad token, as web UIs "
        "show an empty prompt; masked: nothing, as sd-scripts and diffusers do.",
        choices=("pad", "masked"),
    )


@dataclass
class SourceConfig:
    """One further folder of images with options of its own."""

    folder: str = option("", "Folder of images with captions beside them.", path="needed")
    repeats: int | Literal["auto"] = option(
        "auto",
        "Times each image is used per epoch; auto: from an `N_name` folder, else 1; 0: not used.",
        minimum=0,
        maximum=3_000_000,
    )
    resolution: int | Literal["same"] = option(
        "same", "Training resolution of this folder; same: the dataset's.", minimum=8, maximum=4096, unit="px"
    )
    bucket_min: int | Literal["same"] = option(
        "same", "Shortest bucket side; same: the dataset's; 0: a quarter of the resolution.", minimum=0, unit="px"
    )
    bucket_max: int | Literal["same"] = option(
        "same", "Longest bucket side; same: the dataset's; 0: twice the resolution.", minimum=0, unit="px"
    )
    regularisation: bool = option(False, "Regularisation (class) images, weighted by `loss.prior_weight`.")
    trigger: str = option("", "Trigger word put in front of every caption of this folder.")
    class_tokens: str = option("", "Caption for images without a caption file; empty: from an `N_name` folder.")
    keep_tokens: int = option(
        0,
        "Leading tags that shuffle and tag dropout leave in place.",
        minimum=0,
        needs="dataset.shuffle_tags or dataset.tag_dropout",
    )
    flip: bool = option(False, "Mirror half of the images.")
    prefix: str = option("", "Text put before every caption.")
    suffix: str = option("", "Text put after every caption.")


@dataclass
class DatasetConfig:
    """The images and captions to learn from."""

    folder: str = option("", "Folder of images with captions beside them.", basic=True, path="needed")
    regularisation_folder: str = option("", "Folder of regularisation (class) images; empty: none.", path="needed")
    sources: list[SourceConfig] = option([], "Further folders, each with options of its own.")
    recursive: bool = option(True, "Also use images in subfolders.")
    repeats: int | Literal["auto"] = option(
        "auto",
        "Times each image is used per epoch; auto: from `N_name` folders, else 1; 0: not used.",
        minimum=0,
        maximum=3_000_000,
    )
    resolution: int = option(
        0,
        "Training resolution, side of a square with the area of a bucket; 0: the family's (512, 768, 1024).",
        minimum=0,
        maximum=4096,
        unit="px",
        basic=True,
    )
    buckets: bool = option(True, "Group images by aspect ratio instead of cropping all to a square.")
    bucket_step: int = option(64, "Bucket sides are multiples of this.", minimum=8, maximum=512, unit="px")
    bucket_min: int = option(0, "Shortest bucket side; 0: a quarter of the resolution.", minimum=0, unit="px")
    bucket_max: int = option(0, "Longest bucket side; 0: twice the resolution.", minimum=0, unit="px")
    upscale: bool = option(False, "Enlarge images smaller than their bucket instead of giving them a smaller bucket.")
    caption_extensions: list[str] = option([".txt", ".caption"], "Caption file extensions, first found wins.")
    trigger: str = option("", "Trigger word put in front of every caption.", basic=True)
    class_tokens: str = option("", "Caption for images without a caption file; empty: from an `N_name` folder.")
    shuffle_tags: bool = option(False, "Shuffle comma-separated tags each time an image is used.")
    keep_tokens: int = option(
        0,
        "Leading tags that shuffle and tag dropout leave in place.",
        minimum=0,
        needs="dataset.shuffle_tags or dataset.tag_dropout",
    )
    keep_tokens_separator: str = option("", "Text that ends the kept part of a caption, such as `|||`; empty: unused.")
    tag_dropout: float = option(0.0, "Chance to leave out each tag.", minimum=0, maximum=1)
    caption_dropout: float = option(0.0, "Chance to train an image with an empty caption.", minimum=0, maximum=1)
    prefix: str = option("", "Text put before every caption.")
    suffix: str = option("", "Text put after every caption.")
    wildcards: bool = option(False, "Choose one of `{a|b}` and one line of a many-line caption at random.")
    flip: bool = option(False, "Mirror half of the images.")
    color_augment: bool = option(False, "Vary hue and brightness slightly; latents are then not cached.")
    random_crop: bool = option(False, "Crop at a random place instead of the middle; latents are then not cached.")
    mask: str = option(
        "none",
        "Weight the loss by a mask: the alpha channel, or `<name>.mask.png` / `masks/<name>.png` beside it.",
        choices=("none", "alpha", "file"),
    )
    token_chunks: int = option(
        3, "Longest caption in chunks of 75 tokens; the rest is cut off, and said.", minimum=1, maximum=3
    )
    cache_latents: str = option("disk", "Where encoded images are kept.", choices=("disk", "memory", "off"))
    cache_text: str = option(
        "auto",
        "Keep text-encoder outputs; auto: whenever the encoders are frozen and captions do not vary.",
        choices=("auto", "off"),
    )
    cache_folder: str = option("", "Folder of the cache; empty: `.adapter-lab-cache` in the image folder.", path="made")
    validation_fraction: float = option(
        0.0, "Share of the images held out for validation loss.", minimum=0, maximum=0.5
    )


@algorithms.says_users
@dataclass
class RuleConfig:
    """Other settings for the modules whose LDM name matches a pattern; the first matching rule wins."""

    match: str = option("", "Shell pattern on LDM module names, such as `lora_unet_*attn1*` or `lora_te*`.")
    algo: str = option(
        "", "Algorithm for these modules; empty: the network's; `none`: not trained.", choices=("", "none", *ALGORITHMS)
    )
    dim: int | Literal["same"] = option("same", "Dim for these modules; same: the network's.", minimum=1)
    alpha: float | Literal["same", "dim"] = option(
        "same", "Alpha for these modules; same: the network's; dim: as large as their dim.", minimum=0
    )
    factor: int | Literal["same"] = option("same", "LoKr factor for these modules; same: the network's.", minimum=-1)
    lr_scale: float = option(1.0, "Learning rate relative to the part's; 0: kept as they begin.", minimum=0)


@dataclass
class SizeConfig:
    """The adapter's algorithm and size."""

    algo: str = option("lora", "Adapter algorithm. LoRA with conv_dim > 0 is LoCon.", choices=ALGORITHMS, basic=True)
    dim: int = option(
        16,
        "Rank of linear layers and 1x1 convolutions; block size for diag-OFT and BOFT.",
        minimum=1,
        maximum=4096,
        basic=True,
    )
    alpha: float | Literal["dim"] = option(
        8.0,
        "The update is scaled by alpha / dim; dim: as large as the dim, so not scaled.",
        minimum=0,
        basic=True,
    )
    conv_dim: int = option(
        0,
        "Rank of 3x3 convolutions; 0: resnets, up- and down-samplers and time embedding are not trained.",
        minimum=0,
        maximum=4096,
        needs="network.train_unet",
        basic=True,
        lycoris="conv_dim",
    )
    conv_alpha: float | Literal["same", "dim"] = option(
        "same",
        "Alpha of convolutions; same: as alpha; dim: as large as conv_dim.",
        minimum=0,
        needs="network.conv_dim",
        lycoris="conv_alpha",
    )
    train_conv: bool = option(
        False,
        "Also train the convolution set, for algorithms without a dim.",
        needs="network.train_unet",
    )


@algorithms.says_users
@dataclass
class NetworkConfig(algorithms.OwnOptions, SizeConfig):
    """The adapter: its algorithm, its size and the modules it is put on."""

    tucker: bool = option(
        False, "Tucker decomposition of 3x3 convolutions.", needs="network.conv_dim", lycoris="use_tucker"
    )
    dora: bool = option(False, "DoRA: learn the magnitude of the weight separately.", lycoris="dora_wd")
    dora_axis: str = option(
        "output",
        "Axis DoRA's magnitudes belong to.",
        choices=("output", "input"),
        needs="network.dora",
    )
    use_scalar: bool = option(False, "Learn one scalar per module, starting at zero.", lycoris="use_scalar")
    rs_lora: bool = option(False, "Scale by alpha / sqrt(dim) (rank-stabilised).", lycoris="rs_lora")
    train_norm: bool = option(False, "Also train normalisation layers.", lycoris="train_norm")
    dropout: float = option(0.0, "Dropout on the adapter's path.", minimum=0, maximum=0.99, lycoris="dropout")
    rank_dropout: float = option(0.0, "Chance to leave out each rank.", minimum=0, maximum=0.99, lycoris="rank_dropout")
    module_dropout: float = option(
        0.0, "Chance to leave out a module's adapter for a step.", minimum=0, maximum=0.99, lycoris="module_dropout"
    )
    max_norm: float = option(
        0.0,
        "Largest norm of a module's update; larger ones are scaled down; 0: no limit.",
        minimum=0,
    )
    init: str = option(
        "usual",
        "How LoRA's factors begin; orthogonal or svd (PiSSA, the weight's largest directions): subtracted again, so "
        "that a file is a LoRA of twice the dim.",
        choices=("usual", "orthogonal", "svd"),
    )
    lora_plus_ratio: float = option(
        1.0,
        "LoRA+: learning rate of the factors at the output relative to the others'; 1: the same; 16 is usual, not with "
        "Prodigy, which finds both.",
        minimum=0.01,
        maximum=1000,
    )
    train_unet: bool = option(True, "Train the UNet, or the transformer of a base that has one.")
    train_te: bool = option(False, "Train the text encoder (SDXL: both).", basic=True)
    train_te1: bool = option(True, "With train_te: train the first text encoder.", needs="network.train_te")
    train_te2: bool = option(True, "With train_te: train the second text encoder (SDXL).", needs="network.train_te")
    train_conditioner: bool = option(False, "Train the text conditioner (Anima).")
    attention: bool = option(True, "Train the attention projections.")
    feed_forward: bool = option(True, "Train the feed-forward layers.")
    projections: bool = option(True, "Train proj_in and proj_out of transformer blocks.", needs="network.train_unet")
    time_embedding: bool = option(
        True,
        "With convolutions: also train the resnets' time-embedding projections.",
        needs=("network.train_unet", "network.conv_dim or network.train_conv"),
    )
    modulation: bool = option(
        False, "Train the modulation (AdaLN) layers of a transformer's blocks (Anima).", needs="network.train_unet"
    )
    rules: list[RuleConfig] = option([], "Other settings for modules that match a pattern.")
    start_from: str = option("", "Adapter file to go on from; its modules must fit the settings.", path="needed")
    frozen_adapters: list[str] = option(
        [], "Adapter files, `FILE` or `FILE:STRENGTH`, active but not trained.", path="adapters"
    )


@dataclass
class OptimizerConfig:
    """The optimiser, its learning rates and schedule."""

    name: str = option(
        "prodigy",
        "Optimiser: of these, or of the package pytorch-optimizer (docs/optimizers.md).",
        choices=OPTIMIZERS,
        flag="optimizer",
        basic=True,
    )
    args: list[str] = option(
        [],
        "Arguments of an optimiser of pytorch-optimizer, each `name=value`; others have its defaults.",
        optimizers=library_optimizers.NAMES,
        flag="optimizer-args",
    )
    lr: float | Literal["auto"] = option(
        "auto",
        "Learning rate; auto: the optimiser's usual (Prodigy family 1, AdamW and Adafactor 1e-4, Lion 3e-5, others "
        "docs/optimizers.md); 0: the UNet is not trained.",
        minimum=0,
        basic=True,
    )
    te1_lr: float | Literal["same"] = option(
        "same",
        "Learning rate of the first text encoder; same: as lr; 0: it is not trained.",
        minimum=0,
        needs=("network.train_te", "network.train_te1"),
    )
    te2_lr: float | Literal["same"] = option(
        "same",
        "Learning rate of the second text encoder; same: as lr; 0: it is not trained.",
        minimum=0,
        needs=("network.train_te", "network.train_te2"),
    )
    conditioner_lr: float | Literal["same"] = option(
        "same",
        "Learning rate of the text conditioner; same: as lr; 0: it is not trained.",
        minimum=0,
        needs="network.train_conditioner",
    )
    weight_decay: float = option(0.01, "Decoupled weight decay.", minimum=0, optimizers=OWN_OPTIMIZERS)
    betas: list[float] = option(
        [0.9, 0.99],
        "Decay of the first and second moment.",
        optimizers=("prodigy", "adamw", "adamw8bit", "lion", "prodigy-plus-schedule-free"),
    )
    eps: float = option(
        1e-8,
        "Term added to the denominator.",
        minimum=1e-30,
        optimizers=("prodigy", "adamw", "adamw8bit", "prodigy-plus-schedule-free"),
    )
    decouple: bool = option(True, "Prodigy: weight decay as in AdamW.", optimizers=("prodigy",))
    d_coef: float | Literal["auto"] = option(
        "auto",
        "Prodigy: factor on its estimate d of the learning rate; auto: by the budget, 2 (LoKr 4), 1 or 0.5.",
        minimum=0,
        optimizers=PRODIGIES,
    )
    d0: float | Literal["auto"] = option(
        "auto",
        "Prodigy: first estimate d of the learning rate; auto: by the budget, 1e-4 or 1e-6.",
        minimum=1e-20,
        optimizers=PRODIGIES,
    )
    use_bias_correction: bool = option(True, "Prodigy: Adam's bias correction.", optimizers=("prodigy",))
    slice_p: int = option(
        10, "Prodigy: use every n-th element for the estimate, to save memory.", minimum=1, optimizers=("prodigy",)
    )
    safeguard_warmup: bool = option(True, "Prodigy: keep warm-up from inflating the estimate.", optimizers=("prodigy",))
    growth_rate: float | Literal["auto"] = option(
        "auto",
        "Prodigy: largest growth of the estimate d per step; auto: by the budget, unlimited or 1.01; 0: unlimited.",
        minimum=0,
        optimizers=("prodigy",),
    )
    schedule: str = option(
        "constant", "Learning-rate schedule; all but constant begin after the warm-up.", choices=SCHEDULES
    )
    warmup_steps: int = option(0, "Steps of linear warm-up.", minimum=0)
    warmup_ratio: float = option(
        0.0, "Linear warm-up as a share of the budget, in steps, epochs or minutes.", minimum=0, maximum=1
    )
    restarts: int = option(
        1, "Cycles of the cosine-restarts schedule.", minimum=1, needs="optimizer.schedule=cosine-restarts"
    )
    power: float = option(
        1.0, "Power of the polynomial schedule; 1: linear.", minimum=0, needs="optimizer.schedule=polynomial"
    )
    min_lr_ratio: float = option(
        0.0,
        "Share of the learning rate that a schedule ends at.",
        minimum=0,
        maximum=1,
        needs="optimizer.schedule=" + "|".join(ENDING_SCHEDULES),
    )
    timescale: int | Literal["auto"] = option(
        "auto",
        "Steps in which inverse-sqrt falls to 1 / sqrt(2) of the rate; auto: as many as the warm-up, else 10,000.",
        minimum=1,
        needs="optimizer.schedule=inverse-sqrt",
    )
    gradient_accumulation: int = option(1, "Batches per optimiser step.", minimum=1)
    clip_grad_norm: float = option(1.0, "Largest gradient norm; 0: no clipping.", minimum=0)


@dataclass
class LossConfig:
    """The loss and the noise it is measured on."""

    type: str = option(
        "mse",
        "Loss per latent value; the pseudo-Huber forms are sd-scripts' huber and smooth_l1.",
        choices=LOSSES,
        flag="loss",
    )
    huber_delta: float = option(
        0.1,
        "Where Huber and smooth L1 turn from square to straight.",
        minimum=1e-6,
        needs="loss.type=" + "|".join(HUBER_LOSSES),
    )
    huber_schedule: str = option(
        "constant",
        "How huber_delta follows the noise: always the same, or falling to it from 1 by SNR or exponentially.",
        choices=("constant", "snr", "exponential"),
        needs="loss.type=" + "|".join(HUBER_LOSSES),
    )
    min_snr_gamma: float = option(0.0, "Min-SNR weighting gamma; 0: off; 5 is usual.", minimum=0)
    debiased: bool = option(
        False, "Debiased estimation weighting: 1 / sqrt(SNR) for epsilon, 1 / (SNR + 1) for v-prediction."
    )
    v_as_epsilon: bool = option(False, "For v-prediction: weight the loss as epsilon's, by SNR / (SNR + 1).")
    v_like: float = option(0.0, "For epsilon: add the loss as v-prediction weighs it, times this; 0: off.", minimum=0)
    noise_offset: float = option(0.0, "Noise added per channel, for very dark or bright images.", minimum=0, maximum=1)
    multires_noise_iterations: int = option(
        0, "Levels of multi-resolution (pyramid) noise; 0: off.", minimum=0, maximum=10
    )
    multires_noise_discount: float = option(
        0.3, "Weight of each coarser noise level.", minimum=0, maximum=1, needs="loss.multires_noise_iterations"
    )
    input_perturbation: float = option(0.0, "Extra noise on the UNet's input.", minimum=0, maximum=1)
    timestep_min: int = option(0, "First timestep trained.", minimum=0, maximum=999)
    timestep_max: int = option(999, "Last timestep trained.", minimum=0, maximum=999)
    timestep_distribution: str = option(
        "auto",
        "How timesteps are drawn; auto: as the base usually is trained (Stable Diffusion uniform, Anima logit-normal).",
        choices=("auto", "uniform", "logit-normal"),
    )
    timestep_mean: float = option(
        0.0,
        "Mean of the logit-normal distribution; above 0: more noise.",
        minimum=-10,
        maximum=10,
        needs="loss.timestep_distribution=logit-normal",
    )
    timestep_std: float = option(
        1.0,
        "Standard deviation of the logit-normal distribution.",
        minimum=0.01,
        maximum=10,
        needs="loss.timestep_distribution=logit-normal",
    )
    timestep_shift: float = option(
        1.0,
        "Moves drawn timesteps towards noise (above 1) or away from it (below), as SD3 does.",
        minimum=0.01,
        maximum=100,
    )
    prior_weight: float = option(
        1.0, "Weight of regularisation images.", minimum=0, needs="dataset.regularisation_folder or dataset.sources"
    )


@dataclass
class PrecisionConfig:
    """Precision (dtype) and memory saving."""

    mixed: str = option(
        "auto",
        "Compute format; auto: bf16 where the device has it, else fp16, on a CPU fp32.",
        choices=("auto", "bf16", "fp16", "fp32"),
    )
    base_weights: str = option(
        "same", "Storage of the frozen base weights.", choices=("same", "fp8", "int8"), basic=True
    )
    gradient_checkpointing: bool = option(True, "Recompute activations in the backward pass to save memory.")
    phased_loading: bool = option(True, "Encode images and text first, free the encoders, then load the UNet.")
    device: str = option("auto", "Device to train on: auto, cpu, cuda, cuda:1, mps.")


@dataclass
class RunConfig:
    """Name, place, budget and seed of the run."""

    name: str = option("adapter", "Name of the run and of the adapter files.", flag="name", basic=True)
    output_folder: str = option(
        "", "Folder for the adapter files; empty: `adapters/` inside the run folder.", path="made"
    )
    runs_folder: str = option("runs", "Folder that holds the run folders.", path="decided")
    batch_size: int = option(1, "Images per step.", minimum=1, maximum=1024, basic=True)
    steps: int = option(0, "Stop after this many optimiser steps; 0: no limit.", minimum=0, flag="steps", basic=True)
    epochs: int = option(0, "Stop after this many passes over the images; 0: no limit.", minimum=0)
    minutes: float = option(0.0, "Stop after this much training time; 0: no limit.", minimum=0, unit="min")
    seed: int = option(0, "Seed of data order, noise and first weights.", minimum=0, flag="seed")


@dataclass
class SaveConfig:
    """Which adapter files and states are kept."""

    every_steps: int = option(
        0, "Save an adapter every n steps; 0: not by steps.", minimum=0, basic=True, flag="save-every-steps"
    )
    every_epochs: int = option(
        0, "Save an adapter every n epochs; 0: not by epochs.", minimum=0, flag="save-every-epochs"
    )
    every_minutes: float = option(
        0.0,
        "Save an adapter every n minutes of training; 0: not by time.",
        minimum=0,
        unit="min",
        flag="save-every-minutes",
    )
    keep_last: int | Literal["all"] = option(
        "all",
        "Adapter files kept of the run, beside the last.",
        minimum=0,
        needs="save.every_steps or save.every_epochs or save.every_minutes",
    )
    keep_states: int = option(2, "Resume states kept.", minimum=1)
    state_every_steps: int = option(0, "Also save a resume state every n steps; 0: with each adapter.", minimum=0)
    dtype: str = option("fp16", "Precision (dtype) of the adapter file.", choices=("fp16", "bf16", "fp32"))
    ema: float = option(
        0.0, "Decay of a moving average of the weights, which is what is saved; 0: off.", minimum=0, maximum=0.99999
    )


@dataclass
class PreviewConfig:
    """Sample images and validation while training."""

    prompts: list[str] = option([], "Prompts of the sample images; empty: none are made.", basic=True)
    negative: str = option("", "Negative prompt.", needs="preview.prompts")
    seed: int = option(
        1, "Seed of the first sample image; each further prompt adds 1.", minimum=0, needs="preview.prompts"
    )
    steps: int = option(20, "Sampling steps.", minimum=1, maximum=200, needs="preview.prompts")
    guidance: float | Literal["auto"] = option(
        "auto",
        "Classifier-free guidance scale; auto: the base's usual (Stable Diffusion 6, Anima 4).",
        minimum=1,
        maximum=30,
        needs="preview.prompts",
    )
    shift: float | Literal["auto"] = option(
        "auto",
        "On rectified flow: moves the noise levels that are sampled at towards noise, as web UIs' shift does; auto: "
        "the base's usual (Stable Diffusion 1, Anima 3).",
        minimum=0.01,
        maximum=100,
        needs="preview.prompts",
    )
    width: int = option(
        0, "Width; 0: the training resolution.", minimum=0, maximum=4096, unit="px", needs="preview.prompts"
    )
    height: int = option(
        0, "Height; 0: the training resolution.", minimum=0, maximum=4096, unit="px", needs="preview.prompts"
    )
    baseline: bool = option(True, "Also sample before the first step, without the adapter.", needs="preview.prompts")


@dataclass
class TrainConfig:
    """A whole training run."""

    base: BaseConfig = field(default_factory=BaseConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    run: RunConfig = field(default_factory=RunConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)


def settings() -> Iterator[tuple[str, str, Field[Any]]]:
    """Yield (section, name, field) of every setting, in the order of the form."""
    for section, owner in sections():
        for entry in fields(owner):
            yield section, entry.name, entry


def sections() -> list[tuple[str, type]]:
    """Every section of a TrainConfig with its dataclass, in order."""
    return [(entry.name, type_of(TrainConfig, entry.name)) for entry in fields(TrainConfig)]


def default_of(entry: Field[Any]) -> Any:
    """The default value of a setting."""
    return entry.default if entry.default is not MISSING else entry.default_factory()  # type: ignore[operator]


def type_of(owner: type, name: str) -> Any:
    """The type of a setting: str, int, float, bool, a list of str, float or a dataclass, or a number or a word."""
    return _types(owner)[name]


def shown_choices(entry: Field[Any]) -> tuple[str, ...]:
    """The choices of a setting for people: of very many the first and how many more."""
    choices = entry.metadata["choices"] or ()
    if len(choices) <= MOST_SHOWN:
        return tuple(choices)
    return (*choices[: len(OWN_OPTIMIZERS)], f"{len(choices) - len(OWN_OPTIMIZERS)} more (docs/optimizers.md)")


def shown_optimizers(entry: Field[Any]) -> tuple[str, ...]:
    """The optimisers that use a setting for people: those of the package as one."""
    users = entry.metadata["optimizers"] or ()
    return ("those of pytorch-optimizer",) if users == library_optimizers.NAMES else tuple(users)


MOST_SHOWN = 20


def words_of(kind: Any) -> tuple[str, ...]:
    """The words that a setting of this type takes beside numbers: ("auto",) for `float | Literal["auto"]`."""
    if get_origin(kind) not in (Union, UnionType):
        return ()
    return tuple(word for part in get_args(kind) if get_origin(part) is Literal for word in get_args(part))


def number_of(kind: Any) -> Any:
    """The type of a setting without its words: float for `float | Literal["auto"]`; any other type as it is."""
    return get_args(kind)[0] if words_of(kind) else kind


@cache
def _types(owner: type) -> dict[str, Any]:
    return get_type_hints(owner)


def trained_network(config: TrainConfig) -> NetworkConfig:
    """The network's settings without the parts whose learning rate is 0: these are not trained at all."""
    network = config.network
    moves = {part: stated_rate(config.optimizer, part) != 0 for part in families.PARTS}
    text: dict[str, Any] = {
        f"train_{part}": getattr(network, f"train_{part}") and moves[part] for part in families.TEXT_PARTS
    }
    return replace(
        network,
        train_unet=network.train_unet and moves[families.UNET],
        train_te=network.train_te and any(text[f"train_{part}"] for part in families.ENCODERS),
        **text,
    )


def trained_parts(network: NetworkConfig) -> dict[str, bool]:
    """Whether each part (of `families.PARTS`) is to be trained."""
    text = {part: getattr(network, f"train_{part}") for part in families.TEXT_PARTS}
    encoders = {part: network.train_te and text[part] for part in families.ENCODERS}
    return {families.UNET: network.train_unet, **text, **encoders}


def stated_rate(optimizer: OptimizerConfig, part: str) -> float | Literal["auto"]:
    """The learning rate that the settings give a part (of `families.PARTS`); "auto": the optimiser's usual."""
    own = getattr(optimizer, f"{part}_lr", "same")
    return optimizer.lr if isinstance(own, str) else own


def flag_of(section: str, name: str) -> str:
    """The setting's spelling on the command line: its name where no other section has it, else with the section."""
    return _flags()[section, name]


@cache
def _flags() -> dict[tuple[str, str], str]:
    taken = Counter(entry.metadata["flag"] or entry.name for _, _, entry in settings())
    flags = {}
    for section, name, entry in settings():
        flag = entry.metadata["flag"] or (name if taken[name] == 1 else f"{section}-{name}")
        flags[section, name] = "--" + flag.replace("_", "-")
    return flags

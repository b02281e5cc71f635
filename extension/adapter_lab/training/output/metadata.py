"""Metadata of adapter files: what hosts read (`ss_*`, `modelspec.*`), and everything needed to train the file again.

Names follow kohya's sd-scripts, which hosts look for, and Stability's ModelSpec (`modelspec.*`). All values are texts.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import PurePath
from typing import Any

from adapter_lab import __version__
from adapter_lab.adapters.options import OWN_NETWORK
from adapter_lab.algorithms import BY_KEY
from adapter_lab.config import NetworkConfig, TrainConfig
from adapter_lab.training.optim.optimizers import rate_of

# A setting of ours and the name LyCORIS and kohya know it by in `network_args`.
NETWORK_ARGUMENTS = {e.name: e.metadata["lycoris"] for e in fields(NetworkConfig) if e.metadata["lycoris"]}
# Kohya's own LoRA module knows these and nothing else.
PLAIN_LORA = {"conv_dim", "conv_alpha", "dropout", "rank_dropout", "module_dropout"}


@dataclass(frozen=True)
class Progress:
    """How far training was when a file was written: `started_at` in seconds since 1970."""

    step: int
    epoch: int
    total_steps: int
    total_epochs: int
    started_at: float


def run_clock() -> float:
    """Seconds since 1970, or SOURCE_DATE_EPOCH where that is set, so that the same run can give the same bytes."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    return float(fixed) if fixed.isdigit() else time.time()


def network_entries(network: NetworkConfig) -> dict[str, str]:
    """Entries that follow from the network's settings alone."""
    default = NetworkConfig()
    changed = {name for name in NETWORK_ARGUMENTS if getattr(network, name) != getattr(default, name)}
    plain = (BY_KEY[network.algo].saved_as or network.algo) == "lora" and changed <= PLAIN_LORA and not network.rules
    arguments = {} if plain else {"algo": network.algo}
    told = replace(network, **_alphas_as_numbers(network))
    arguments |= {NETWORK_ARGUMENTS[name]: str(getattr(told, name)) for name in sorted(changed)}
    if "dora" in changed:
        arguments["wd_on_output"] = str(network.dora_axis == "output")
    own = {name: value for name, value in asdict(network).items() if value != getattr(default, name)}
    own["algo"] = network.algo
    own = {name: _file_name(value) if name in FILES else value for name, value in own.items()}
    return {
        "ss_network_module": "networks.lora" if plain else "lycoris.kohya",
        "ss_network_dim": str(network.dim),
        "ss_network_alpha": str(told.alpha),
        "ss_network_args": _json(arguments),
        OWN_NETWORK: _json(own),
    }


def _alphas_as_numbers(network: NetworkConfig) -> dict[str, Any]:
    """The alphas that are said to be as large as their dim, as the numbers that other programs read."""
    dims = {"alpha": network.dim, "conv_alpha": network.conv_dim}
    return {name: float(dim) for name, dim in dims.items() if getattr(network, name) == "dim"}


def training_entries(config: TrainConfig) -> dict[str, str]:
    """Entries that follow from how it is trained."""
    c, o, d, loss = config, config.optimizer, config.dataset, config.loss
    unet_rate = str(rate_of(o, "unet")) if c.network.train_unet else "None"
    text_rate = str(rate_of(o, "te1" if c.network.train_te1 else "te2")) if c.network.train_te else "None"
    return {
        "ss_output_name": c.run.name,
        "ss_seed": str(c.run.seed),
        "ss_optimizer": f"{o.name}({', '.join(o.args)})" if o.args else o.name,
        "ss_learning_rate": str(rate_of(o, "unet")),
        "ss_unet_lr": unet_rate,
        "ss_text_encoder_lr": text_rate,
        "ss_lr_scheduler": o.schedule,
        "ss_lr_warmup_steps": str(o.warmup_ratio or o.warmup_steps),  # a share below 1, as sd-scripts writes it
        "ss_gradient_accumulation_steps": str(o.gradient_accumulation),
        "ss_gradient_checkpointing": str(c.precision.gradient_checkpointing),
        "ss_max_grad_norm": str(o.clip_grad_norm),
        "ss_mixed_precision": c.precision.mixed,
        "ss_batch_size_per_device": str(c.run.batch_size),
        "ss_total_batch_size": str(c.run.batch_size * o.gradient_accumulation),
        "ss_cache_latents": str(d.cache_latents != "off"),
        "ss_shuffle_caption": str(d.shuffle_tags),
        "ss_keep_tokens": str(d.keep_tokens),
        "ss_caption_dropout_rate": str(d.caption_dropout),
        "ss_caption_tag_dropout_rate": str(d.tag_dropout),
        "ss_flip_aug": str(d.flip),
        "ss_color_aug": str(d.color_augment),
        "ss_random_crop": str(d.random_crop),
        "ss_enable_bucket": str(d.buckets),
        "ss_bucket_no_upscale": str(not d.upscale),
        "ss_max_token_length": str(75 * d.token_chunks),
        "ss_loss_type": loss.type,
        "ss_min_snr_gamma": str(loss.min_snr_gamma or None),
        "ss_debiased_estimation": str(loss.debiased),
        "ss_noise_offset": str(loss.noise_offset or None),
        "ss_multires_noise_iterations": str(loss.multires_noise_iterations or None),
        "ss_multires_noise_discount": str(loss.multires_noise_discount),
        "ss_ip_noise_gamma": str(loss.input_perturbation or None),
        "ss_prior_loss_weight": str(loss.prior_weight),
    }


def dataset_entries(dataset: Any, batch_size: int, steps_per_epoch: int) -> dict[str, str]:
    """Entries that describe the images: buckets, folders (their names only), and how often each tag occurs."""
    trained = [item for item in dataset.items if not item.is_regularisation]
    buckets = {
        str(index): {"resolution": list(size), "count": uses}
        for index, (size, (_, uses)) in enumerate(sorted(dataset.bucket_counts().items()))
    }
    return {
        "ss_num_train_images": str(sum(item.repeats for item in trained)),
        "ss_num_reg_images": str(sum(item.repeats for item in dataset.items if item.is_regularisation)),
        "ss_num_batches_per_epoch": str(dataset.batches_per_epoch(batch_size)),
        "ss_steps_per_epoch": str(steps_per_epoch),
        "ss_bucket_info": _json({"buckets": buckets}),
        "ss_dataset_dirs": _json(dataset.folder_counts()),
        "ss_tag_frequency": _json(dataset.tag_counts_by_folder()),
    }


def progress_entries(config: TrainConfig, progress: Progress, resolution: int) -> dict[str, str]:
    """Entries that differ between the files of one run, and ModelSpec's."""
    title = config.run.name
    entries = {
        "ss_steps": str(progress.step),
        "ss_epoch": str(progress.epoch),
        "ss_max_train_steps": str(progress.total_steps),
        "ss_num_epochs": str(progress.total_epochs),
        "ss_training_started_at": f"{progress.started_at:.3f}",
        "ss_resolution": f"({resolution}, {resolution})",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(progress.started_at)),
        "modelspec.resolution": f"{resolution}x{resolution}",
    }
    if config.dataset.trigger:
        entries["modelspec.trigger_phrase"] = config.dataset.trigger
    return entries


# Settings that hold places on this machine; a file that is passed on names only the last part of each.
FILES = {
    "checkpoint",
    "vae",
    "folder",
    "regularisation_folder",
    "cache_folder",
    "output_folder",
    "runs_folder",
    "start_from",
    "frozen_adapters",
}


def without_places(config: TrainConfig) -> TrainConfig:
    """A copy of `config` in which every file and folder is named by its last part alone."""
    public = copy.deepcopy(config)
    sections = [public.base, public.dataset, *public.dataset.sources, public.network, public.run]
    for section in sections:
        for name in FILES & vars(section).keys():
            setattr(section, name, _file_name(getattr(section, name)))
    return public


def adapter_metadata(
    config: TrainConfig,
    config_text: str,
    base_entries: Mapping[str, str],
    fixed_entries: Mapping[str, str],
    progress: Progress,
    resolution: int,
) -> dict[str, str]:
    """All metadata of an adapter file, in a fixed order.

    `config_text`: TOML of `without_places(config)`. `base_entries`: what the base decides (architecture, prediction,
    checkpoint name, clip skip). `fixed_entries`: `dataset_entries` and whatever else does not change during a run.
    """
    return {
        **network_entries(config.network),
        **training_entries(config),
        **fixed_entries,
        **progress_entries(config, progress, resolution),
        **base_entries,
        "adapter_lab.version": __version__,
        "adapter_lab.config": config_text,
    }


def _file_name(value: Any) -> Any:
    if isinstance(value, list):
        return [_file_name(entry) for entry in value]
    return PurePath(str(value).replace("\\", "/")).name if value else value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

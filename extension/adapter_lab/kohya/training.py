"""kohya's base model, loss, precision, budget and saving options as ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from adapter_lab.config import TrainConfig
from adapter_lab.kohya.dataset import NOT_CARRIED as NOT_CARRIED_OF_DATASETS
from adapter_lab.kohya.reading import Keys

# theirs -> (section, ours, kind); absent: our default, which is theirs too.
SAME: dict[str, tuple[str, str, str]] = {
    "pretrained_model_name_or_path": ("base", "checkpoint", "text"),
    "vae": ("base", "vae", "text"),
    "output_name": ("run", "name", "text"),
    "output_dir": ("run", "output_folder", "text"),
    "seed": ("run", "seed", "integer"),
    "save_every_n_epochs": ("save", "every_epochs", "integer"),
    "save_every_n_steps": ("save", "every_steps", "integer"),
    "min_snr_gamma": ("loss", "min_snr_gamma", "number"),
    "debiased_estimation_loss": ("loss", "debiased", "boolean"),
    "noise_offset": ("loss", "noise_offset", "number"),
    "multires_noise_iterations": ("loss", "multires_noise_iterations", "integer"),
    "multires_noise_discount": ("loss", "multires_noise_discount", "number"),
    "ip_noise_gamma": ("loss", "input_perturbation", "number"),
    "prior_loss_weight": ("loss", "prior_weight", "number"),
    "min_timestep": ("loss", "timestep_min", "integer"),
    "gradient_checkpointing": ("precision", "gradient_checkpointing", "boolean"),
}
LOSSES = {"l2": "mse", "huber": "huber", "smooth_l1": "smooth_l1"}
FORMATS = {"no": "fp32", "float": "fp32", "fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}

# What needs no setting here, and so is not worth a line in the list of what was left out.
NOT_NEEDED = (
    ("xformers", "sdpa", "mem_eff_attn", "cross_attention", "no_half_vae", "lowram", "highvram", "save_model_as")
    + ("max_data_loader_n_workers", "persistent_data_loader_workers", "vae_batch_size", "save_state", "logging_dir")
    + ("save_state_on_train_end", "log_with", "log_prefix", "log_tracker_name", "console_log_level")
    + ("console_log_simple", "console_log_file", "noise_offset_type", "tokenizer_cache_dir", "deepspeed")
    + ("ddp_timeout", "disable_mmap_load_safetensors", "wandb_api_key", "torch_compile", "dynamo_backend")
    + ("no_metadata", "skip_cache_check", "cache_info", "vae_chunk_size", "text_encoder_batch_size")
    + ("sdxl_no_half_vae", "config_file", "output_config", "dataset_class", "debug_dataset")
)
NOT_CARRIED = {
    **NOT_CARRIED_OF_DATASETS,
    "full_fp16": "adapter weights stay fp32 here, which loses nothing",
    "full_bf16": "adapter weights stay fp32 here, which loses nothing",
    "fp8_base_unet": "use precision.base_weights",
    "adaptive_noise_scale": "there is no such option here",
    "noise_offset_random_strength": "there is no such option here",
    "ip_noise_gamma_random_strength": "there is no such option here",
    "scale_v_pred_loss_like_noise_pred": "there is no such option here",
    "v_pred_like_loss": "there is no such option here",
    "weighted_captions": "captions are taken as plain text here",
    "masked_loss": "set dataset.mask to file or alpha",
    "lr_scheduler_power": "there is no polynomial schedule here",
    "lr_scheduler_type": "only the built-in schedules can be chosen here",
    "lr_scheduler_args": "only the built-in schedules can be chosen here",
    "lr_decay_steps": "there is no such schedule here",
    "lr_scheduler_timescale": "there is no such schedule here",
    "lr_scheduler_min_lr_ratio": "there is no such schedule here",
    "fused_backward_pass": "it belongs to full fine-tuning",
    "resume": "go on with `adapter-lab resume` in a run folder of ours",
    "initial_epoch": "go on with `adapter-lab resume` in a run folder of ours",
    "initial_step": "go on with `adapter-lab resume` in a run folder of ours",
    "skip_until_initial_step": "go on with `adapter-lab resume` in a run folder of ours",
    "sample_every_n_steps": "pictures are made at each save",
    "sample_every_n_epochs": "pictures are made at each save",
    "sample_at_first": "pictures before the first step are made by default",
    "sample_sampler": "the sampler is ours",
    "save_last_n_steps": "use save.keep_last, a number of files",
    "save_last_n_steps_state": "use save.keep_states",
    "save_last_n_epochs_state": "use save.keep_states",
    "huber_scale": "there is no such option here",
    "training_comment": "metadata describe the run by themselves",
    "multi_gpu": "one device is used",
    "train_inpainting": "inpainting models are not trained here",
    "vae_enable_tiling": "pictures are encoded whole",
}

# By the word before the first underscore.
KINDS = {
    "metadata": "metadata describe the run by themselves",
    "huggingface": "nothing is uploaded",
    "wandb": "nothing is uploaded",
    "ddp": "one device is used",
}


def import_training(config: TrainConfig, keys: Keys, named: Callable[[str], str | None]) -> None:
    """Fill everything but network, optimiser and dataset; `named` reads a file of sample prompts."""
    for theirs, (section, ours, kind) in SAME.items():
        if keys.values.get(theirs) not in (None, ""):
            setattr(getattr(config, section), ours, getattr(keys, kind)(theirs))
        keys.take(theirs)
    _base(config, keys)
    _loss(config, keys)
    _precision(config, keys)
    _budget(config, keys)
    _samples(config, keys, named)


def list_the_rest(keys: Keys) -> None:
    """Note every setting that nothing has taken."""
    for name in NOT_NEEDED:
        keys.take(name)
    for name in list(keys.values):
        kind = name.split("_")[0]
        keys.leave(name, NOT_CARRIED.get(name) or KINDS.get(kind) or "this import does not know it")


def _base(config: TrainConfig, keys: Keys) -> None:
    base = config.base
    base.family = "sd2" if keys.boolean("v2") else "auto"
    base.prediction = "v_prediction" if keys.boolean("v_parameterization") else "auto"
    base.zero_terminal_snr = "yes" if keys.boolean("zero_terminal_snr") else "auto"
    base.clip_skip = keys.integer("clip_skip")
    keys.leave("tokenizer", "the tokenizer belongs to the base model")
    config.dataset.token_chunks = max(1, keys.integer("max_token_length", 75) // 75)


def _loss(config: TrainConfig, keys: Keys) -> None:
    loss = config.loss
    loss_type = keys.text("loss_type", "l2")
    if loss_type in LOSSES:
        loss.type = LOSSES[loss_type]
    else:
        keys.note("loss_type", loss_type, "there is no such loss here; mse is used")
    delta, schedule = keys.number("huber_c", 0.1), keys.text("huber_schedule", "snr")
    if loss.type != "mse":
        loss.huber_delta = delta
        if schedule != "constant":
            keys.note("huber_schedule", schedule, "huber_delta is the same for all timesteps here")
    # sd-scripts draws below max_timestep, we draw up to timestep_max.
    loss.timestep_max = keys.integer("max_timestep", 1000) - 1


def _precision(config: TrainConfig, keys: Keys) -> None:
    mixed = keys.text("mixed_precision")
    config.precision.mixed = FORMATS.get(mixed, "auto")
    saved = keys.text("save_precision", "float")
    config.save.dtype = FORMATS.get(saved, "fp16")
    if keys.boolean("fp8_base"):
        config.precision.base_weights = "fp8"
    to_disk, cached = keys.boolean("cache_latents_to_disk"), keys.boolean("cache_latents")
    config.dataset.cache_latents = "disk" if to_disk else "memory" if cached else "off"


def _budget(config: TrainConfig, keys: Keys) -> None:
    run, save = config.run, config.save
    run.epochs = keys.integer("max_train_epochs")
    steps = keys.integer("max_train_steps", 1600)
    if not run.epochs:  # sd-scripts lets epochs win
        run.steps = steps
    keep, every = keys.integer("save_last_n_epochs"), save.every_epochs
    if keep and every:
        save.keep_last = max(1, math.ceil(keep / every))
    ratio = keys.integer("save_n_epoch_ratio")
    if ratio and run.epochs:
        save.every_epochs = max(1, run.epochs // ratio)
    elif ratio:
        keys.note("save_n_epoch_ratio", ratio, "the number of epochs is not known; set save.every_epochs")


def _samples(config: TrainConfig, keys: Keys, named: Callable[[str], str | None]) -> None:
    """Prompts, given as lines or in a file: one per line, with options such as `--n negative --w 1024` behind them."""
    given = keys.take("sample_prompts")
    if given is None:
        return
    lines = given if isinstance(given, list) else []
    if isinstance(given, str) and given.lower().endswith(".txt"):
        lines = (named(given) or "").splitlines()
    for line in (str(line).strip() for line in lines):
        if line and not line.startswith("#"):
            prompt, *options = line.split(" --")
            config.preview.prompts.append(prompt.strip())
            _sample_options(config, options, keys)
    if not config.preview.prompts:
        keys.note("sample_prompts", given, "no prompts could be read from this file; set preview.prompts")


SAMPLE_OPTIONS = {"n": "negative", "w": "width", "h": "height", "d": "seed", "s": "steps", "l": "guidance"}


def _sample_options(config: TrainConfig, options: list[str], keys: Keys) -> None:
    preview, first = config.preview, len(config.preview.prompts) == 1
    for option in options:
        letter, _, text = option.partition(" ")
        name, value = SAMPLE_OPTIONS.get(letter), _read(text.strip())
        if name is None:
            keys.note(f"sample_prompts --{letter}", text, "there is no such option here")
        elif first:
            kind = type(getattr(preview, name))
            setattr(preview, name, kind(value) if isinstance(value, (int, float)) else str(value))
        elif getattr(preview, name) != value and name != "seed":
            keys.note(f"sample_prompts --{letter}", text, f"preview.{name} is one for all prompts: the first one's")


def _read(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text

"""kohya's base model, loss, precision, budget and saving options as ours."""

from __future__ import annotations

import math
from collections.abc import Callable

from adapter_lab.config import PreviewConfig, TrainConfig, number_of, type_of
from adapter_lab.kohya.reading import Keys
from adapter_lab.kohya.table import OPTIONS

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
    "scale_v_pred_loss_like_noise_pred": ("loss", "v_as_epsilon", "boolean"),
    "v_pred_like_loss": ("loss", "v_like", "number"),
    "noise_offset": ("loss", "noise_offset", "number"),
    "multires_noise_iterations": ("loss", "multires_noise_iterations", "integer"),
    "multires_noise_discount": ("loss", "multires_noise_discount", "number"),
    "ip_noise_gamma": ("loss", "input_perturbation", "number"),
    "prior_loss_weight": ("loss", "prior_weight", "number"),
    "min_timestep": ("loss", "timestep_min", "integer"),
    "gradient_checkpointing": ("precision", "gradient_checkpointing", "boolean"),
}
LOSSES = {"l2": "mse", "l1": "l1", "huber": "pseudo_huber", "smooth_l1": "pseudo_smooth_l1"}
HUBER_SCHEDULES = ("constant", "snr", "exponential")
FORMATS = {"no": "fp32", "float": "fp32", "fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}


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


def _base(config: TrainConfig, keys: Keys) -> None:
    base = config.base
    second = keys.boolean("v2")
    base.family = "sd2" if second else "auto"
    base.prediction = "v_prediction" if keys.boolean("v_parameterization") else "auto"
    base.zero_terminal_snr = "yes" if keys.boolean("zero_terminal_snr") else "auto"
    base.clip_skip = _clip_skip(keys, second)
    length = keys.integer("max_token_length", 75)
    config.dataset.token_chunks = max(1, length // 75)
    if length != 75:
        keys.note("max_token_length", length, OPTIONS["max_token_length"].words)


def _clip_skip(keys: Keys, second: bool) -> int:
    """Ours for `clip_skip`: sd-scripts counts the layers of SD2 without the last, and ignores the setting for SDXL."""
    known = "sdxl" in keys.values  # files of the GUI say it, those of sd-scripts are for one script or the other
    sdxl, given = keys.boolean("sdxl"), keys.integer("clip_skip")
    if not given:
        return 0
    if sdxl:
        keys.note("clip_skip", given, "sd-scripts does not use it for SDXL; imported as 0, the family's usual layer")
        return 0
    if second:
        ours = given + 1 if given > 1 else 0
        keys.note("clip_skip", given, f"SD2's last layer is counted here, and not there; imported as {ours}")
        return ours
    if known:
        return 0 if given == 1 else given
    if given == 1:
        keys.note(
            "clip_skip",
            given,
            "imported as 0, each family's usual layer: this one for SD 1.5; sd-scripts does not use it for SDXL",
        )
        return 0
    if given > 2:  # 2 is what SDXL reads anyway
        keys.note("clip_skip", given, "sd-scripts does not use it for SDXL; set it to 0 if the base is one")
    return given


def _loss(config: TrainConfig, keys: Keys) -> None:
    loss = config.loss
    loss_type = keys.text("loss_type", "l2")
    if loss_type in LOSSES:
        loss.type = LOSSES[loss_type]
    else:
        keys.note("loss_type", loss_type, "there is no such loss here; mse is used")
    delta, schedule, scale = (
        keys.number("huber_c", 0.1),
        keys.text("huber_schedule", "snr"),
        keys.number("huber_scale", 1),
    )
    if loss.type.startswith("pseudo"):
        loss.huber_delta, loss.huber_schedule = delta, schedule
        if schedule not in HUBER_SCHEDULES:
            keys.note("huber_schedule", schedule, "there is no such schedule; constant is used")
            loss.huber_schedule = "constant"
        if schedule == "constant":
            loss.huber_delta = delta * scale
        elif schedule == "exponential" and scale != 1:
            keys.note("huber_scale", scale, "it is used with a constant delta only here")
    if loss.multires_noise_iterations:
        name = "multires_noise_iterations"
        keys.note(name, loss.multires_noise_iterations, OPTIONS[name].words)
    if loss.min_snr_gamma and loss.debiased:
        loss.debiased = False
        keys.note("debiased_estimation_loss", True, "it is one of two weightings here, and min_snr_gamma is kept")
    # sd-scripts draws below max_timestep, we draw up to timestep_max.
    loss.timestep_max = keys.integer("max_timestep", 1000) - 1
    weighted = loss.min_snr_gamma or loss.debiased or loss.v_as_epsilon
    if config.base.zero_terminal_snr == "yes" and weighted:
        reason = "the loss is weighted by the SNR of the rescaled schedule here, by that of the ordinary one there"
        keys.note("zero_terminal_snr", True, reason)


def _precision(config: TrainConfig, keys: Keys) -> None:
    mixed = keys.text("mixed_precision")
    config.precision.mixed = FORMATS.get(mixed, "auto")
    saved = keys.text("save_precision", "float")
    config.save.dtype = FORMATS.get(saved, "fp16")
    for name, value in (("mixed_precision", mixed), ("save_precision", saved)):
        if value and value not in FORMATS:
            keys.note(name, value, "there is no such number format here")
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
    kept = [
        math.ceil(keys.integer(f"save_last_n_{unit}") / every)
        for unit, every in (("epochs", save.every_epochs), ("steps", save.every_steps))
        if every > 0 and keys.values.get(f"save_last_n_{unit}")
    ]
    if kept:
        save.keep_last = max(1, *kept)
    for unit in ("epochs", "steps"):
        keys.take(f"save_last_n_{unit}")
    ratio = keys.integer("save_n_epoch_ratio")
    if ratio > 0 and run.epochs:
        save.every_epochs = max(1, run.epochs // ratio)
    elif ratio:
        keys.note("save_n_epoch_ratio", ratio, "the number of epochs is not known; set save.every_epochs")


def _samples(config: TrainConfig, keys: Keys, named: Callable[[str], str | None]) -> None:
    """Prompts, given as lines or in a file: one per line, with options such as `--n negative --w 1024` behind them."""
    given = keys.texts("sample_prompts")
    if not given:
        return
    lines = given
    if len(given) == 1 and "\n" not in given[0] and given[0].lower().endswith((".txt", ".toml", ".json")):
        lines = (named(given[0]) or "").splitlines() if given[0].lower().endswith(".txt") else []
    for line in (line.strip() for line in lines):
        if line and not line.startswith("#"):
            prompt, *options = line.split(" --")
            config.preview.prompts.append(prompt.strip())
            _sample_options(config, options, keys)
    if not config.preview.prompts:
        keys.note("sample_prompts", given[0], "no prompts could be read from this file; set preview.prompts")


SAMPLE_OPTIONS = {"n": "negative", "w": "width", "h": "height", "d": "seed", "s": "steps", "l": "guidance"}


def _sample_options(config: TrainConfig, options: list[str], keys: Keys) -> None:
    preview, first = config.preview, len(config.preview.prompts) == 1
    for option in options:
        letter, _, text = option.partition(" ")
        name, text = SAMPLE_OPTIONS.get(letter), text.strip()
        if name is None:
            keys.note(f"sample_prompts --{letter}", text, "there is no such option here")
            continue
        kind = number_of(type_of(PreviewConfig, name))
        try:
            value = kind(text)
        except ValueError:
            keys.note(f"sample_prompts --{letter}", text, "it is not of the kind that option has")
            continue
        if first:
            setattr(preview, name, value)
        elif getattr(preview, name) != value and name != "seed":
            keys.note(f"sample_prompts --{letter}", text, f"preview.{name} is one for all prompts: the first one's")

"""The kohya_ss GUI's own JSON files: its settings under the names that sd-scripts has for what it makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapter_lab.errors import ConfigError
from adapter_lab.kohya.reading import Keys, shown
from adapter_lab.kohya.table import GUI, HARMLESS, row_of

# LoRA_type -> network_module, algo of its network_args, and which of the GUI's settings go into these.
_BLOCKS: tuple[str, ...] = ("down_lr_weight", "mid_lr_weight", "up_lr_weight", "block_lr_zero_threshold", "block_dims")
_BLOCKS += ("block_alphas", "conv_block_dims", "conv_block_alphas")
_DROPOUT = ("rank_dropout", "module_dropout")
_CONV = ("conv_dim", "conv_alpha")
_LYCORIS = ("LyCORIS_preset", *_CONV, *_DROPOUT, "rank_dropout_scale", "use_tucker", "train_norm")
_LOW_RANK = (*_LYCORIS, "bypass_mode", "dora_wd", "use_scalar")
TYPES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "Standard": ("networks.lora", "", (*_BLOCKS, *_DROPOUT)),
    "Kohya LoCon": ("networks.lora", "", (*_CONV, *_BLOCKS, *_DROPOUT)),
    "Kohya LoHa": ("networks.loha", "", (*_CONV, *_DROPOUT, "use_tucker")),
    "Kohya LoKr": ("networks.lokr", "", (*_CONV, *_DROPOUT, "use_tucker", "factor")),
    "Kohya DyLoRA": ("networks.dylora", "", (*_CONV, *_DROPOUT, "unit")),
    "LoRA-FA": ("networks.lora_fa", "", (*_BLOCKS, *_DROPOUT)),
    "LoCon": ("lycoris.kohya", "locon", _LOW_RANK),
    "LyCORIS/LoCon": ("lycoris.kohya", "locon", _LOW_RANK),
    "LyCORIS/LoHa": ("lycoris.kohya", "loha", _LOW_RANK),
    "LyCORIS/LoKr": ("lycoris.kohya", "lokr", (*_LOW_RANK, "factor", "use_cp", "decompose_both")),
    "LyCORIS/GLoRA": ("lycoris.kohya", "glora", _LYCORIS),
    "LyCORIS/Diag-OFT": ("lycoris.kohya", "diag-oft", (*_LYCORIS, "constrain", "rescaled")),
    "LyCORIS/BOFT": ("lycoris.kohya", "boft", _LYCORIS),
    "LyCORIS/iA3": ("lycoris.kohya", "ia3", ("LyCORIS_preset", *_CONV, "train_on_input")),
    "LyCORIS/Native Fine-Tuning": (
        "lycoris.kohya",
        "full",
        ("LyCORIS_preset", *_DROPOUT, "rank_dropout_scale", "train_norm"),
    ),
}
_LORA_PLUS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")
ARGUMENTS = {"LyCORIS_preset": "preset", "constrain": "constraint"}  # in network_args under another name
RENAMED = {"resolution": "max_resolution", "optimizer_type": "optimizer", "network_weights": "lora_network_weights"}
RENAMED |= {"network_module": "LoRA_type"}
# sd-scripts' name -> the name in the file, for what is said about it.
SPELLED = {
    **RENAMED,
    **{f"network_args.{name}": name for *_, names in TYPES.values() for name in (*names, *_LORA_PLUS)},
    **{f"network_args.{theirs}": name for name, theirs in ARGUMENTS.items()},
}
TEXTS = ("optimizer_args", "lr_scheduler_args")  # arguments in one text, each in quotes or not
# What a setting says where sd-scripts would do the same without it.
DEFAULTS = {"lr_scheduler_power": 1.0}
# Settings that do nothing unless another one, or one value of it, is given.
ONLY_WITH: dict[str, tuple[str, str]] = {
    "lr_scheduler_power": ("lr_scheduler", "polynomial"),
    "multires_noise_iterations": ("noise_offset_type", "Multires"),
    "multires_noise_discount": ("noise_offset_type", "Multires"),
    "noise_offset": ("noise_offset_type", "Original"),
    "adaptive_noise_scale": ("noise_offset_type", "Original"),
    "noise_offset_random_strength": ("noise_offset_type", "Original"),
    "sdxl_cache_text_encoder_outputs": ("sdxl", ""),
    "sample_sampler": ("sample_prompts", ""),
    "sample_every_n_steps": ("sample_prompts", ""),
    "sample_every_n_epochs": ("sample_prompts", ""),
    **dict.fromkeys(
        ("huggingface_path_in_repo", "huggingface_repo_type", "huggingface_repo_visibility", "huggingface_token"),
        ("huggingface_repo_id", ""),
    ),
}
# Other families of models that the GUI trains: the switch, and its words for people.
OTHER_MODELS = {
    "flux1_checkbox": "Flux",
    "sd3_checkbox": "Stable Diffusion 3",
    "hunyuan_image_checkbox": "HunyuanImage",
    "anima_checkbox": "Anima",
    "lumina_checkbox": "Lumina",
}


def is_gui_file(settings: Mapping[str, Any]) -> bool:
    """Whether these are the settings of the kohya_ss GUI's LoRA page rather than of sd-scripts."""
    return "LoRA_type" in settings


def as_scripts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the GUI hands on to sd-scripts, under the names there; a setting nobody knows keeps its name.

    Raises ConfigError for models and networks that are not trained here.
    """
    switches = Keys(dict(settings))
    for switch, title in OTHER_MODELS.items():
        if switches.boolean(switch):
            raise ConfigError(f"The file trains {title} ({switch}), which is not trained here; SD 1.5, 2 and SDXL are.")
    # The GUI hands on nothing that is off, zero or empty: sd-scripts' default holds then.
    left = {key: value for key, value in settings.items() if value not in ("", "0", False, None, [])}
    made = _network(left)
    for theirs, name in RENAMED.items():
        if name in left and theirs not in made:
            made[theirs] = left.pop(name)
    keys = Keys(left)
    for name in TEXTS:
        if name in left:
            made[name] = keys.text(name).replace('"', "").split()
    made |= _rates(left) | _budget(left)
    extra = keys.text("additional_parameters")
    if prompts := keys.text("sample_prompts"):  # the prompts themselves; sd-scripts has the name of a file there
        made["sample_prompts"] = prompts.splitlines()
    dead = [key for key, (other, value) in ONLY_WITH.items() if _without(settings, other, value)]
    dead += [key for key, value in DEFAULTS.items() if left.get(key) == value]
    if "sdxl" in settings:
        made["sdxl"] = switches.boolean("sdxl")
    if "sdxl_cache_text_encoder_outputs" in left and made.get("sdxl"):
        made["cache_text_encoder_outputs"] = left.pop("sdxl_cache_text_encoder_outputs")
    for key in list(left):
        if key in dead or row_of(key, GUI).fate == HARMLESS:
            del left[key]
    return {**left, **made, **_command_line(extra)}


def _without(settings: Mapping[str, Any], other: str, value: str) -> bool:
    """Whether another setting is off, or has another value than the one that matters."""
    given = settings.get(other)
    return given not in (None, value) if value else not given


def _network(left: dict[str, Any]) -> dict[str, Any]:
    """`network_module` and `network_args`; takes every setting that only a network has."""
    kind = Keys(left).text("LoRA_type", "Standard")
    if kind not in TYPES:
        raise ConfigError(f"LoRA_type is {shown(kind)}, which is not trained here; choose one of {', '.join(TYPES)}.")
    module, algo, names = TYPES[kind]
    own = {name for *_, used in TYPES.values() for name in used} | set(_LORA_PLUS)
    given = {name: left.pop(name) for name in sorted(own) if name in left}
    args = {ARGUMENTS.get(name, name): given[name] for name in (*names, *_LORA_PLUS) if name in given}
    return {"network_module": module, "network_args": {"algo": algo, **args} if algo else args}


def _rates(left: dict[str, Any]) -> dict[str, Any]:
    """Which parts are trained: with one of the two rates alone the GUI trains that part alone."""
    keys = Keys(left)
    text, unet, second = (keys.number(name) for name in ("text_encoder_lr", "unet_lr", "t5xxl_lr"))
    made: dict[str, Any] = {"text_encoder_lr": [text, second or text]} if text else {}
    if unet:
        made["unet_lr"] = unet
    if unet and not text:
        made["network_train_unet_only"] = True
    elif text and not unet:
        made["network_train_text_encoder_only"] = True
    return made


def _budget(left: dict[str, Any]) -> dict[str, Any]:
    """Epochs, where no number of steps is given, and the warm-up, which the GUI has in percent."""
    made: dict[str, Any] = {}
    keys = Keys(left)
    epochs, percent = keys.integer("epoch", 1), keys.number("lr_warmup")
    if not any(name in left for name in ("max_train_steps", "max_train_epochs", "dataset_config")):
        made["max_train_epochs"] = epochs
    if percent and "lr_warmup_steps" not in left:
        made["lr_warmup_steps"] = percent / 100
    return made


def _command_line(text: str) -> dict[str, Any]:
    """`--name value ...` as settings; they win over the file's, as on the command line that the GUI makes."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in text.replace('"', "").split():
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name] = [value] if equals else []
        elif name:
            found[name].append(word)
    lists = (*TEXTS, "network_args")
    return {name: values if name in lists else " ".join(values) if values else True for name, values in found.items()}

"""Every option of sd-scripts and every field of the GUI has a row in the table, and the row is true."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from adapter_lab import config_file
from adapter_lab.errors import ConfigError
from adapter_lab.kohya import Imported, import_texts
from adapter_lab.kohya.gui import ARGUMENTS, RENAMED, TYPES
from adapter_lab.kohya.table import (
    CARRIED,
    GUI,
    HARMLESS,
    NETWORK_ARGS,
    NOT_CARRIED,
    OPTIONS,
    OTHERWISE,
    REFUSED,
    UNKNOWN,
    Row,
    row_of,
)

# Made by benchmarks/kohya_names.py from checkouts of both programs.
NAMES = json.loads((Path(__file__).parent / "data" / "kohya" / "names.json").read_text(encoding="utf-8"))

FILE = {"pretrained_model_name_or_path": "a.safetensors", "train_data_dir": "pics", "network_module": "networks.lora"}
FILE |= {"network_dim": 8, "learning_rate": 1e-4, "caption_extension": ".txt", "max_train_steps": 100}
# The value that shows what an option does, where its kind is not enough to say.
VALUES: dict[str, Any] = {
    "base_weights": ["b.safetensors"],
    "base_weights_multiplier": [0.5],
    "huber_c": 0.3,
    "huber_schedule": "exponential",
    "huber_scale": 2.0,
    "lr_scheduler": "cosine",
    "lr_scheduler_min_lr_ratio": 0.1,
    "lr_scheduler_num_cycles": 3,
    "lr_scheduler_type": "pytorch_optimizer.REXScheduler",
    "max_timestep": 900,
    "max_token_length": 150,
    "loss_type": "huber",
    "mixed_precision": "fp16",
    "network_args": ["conv_dim=8"],
    "network_module": "networks.loha",
    "optimizer_args": ["weight_decay=0.5"],
    "optimizer_type": "Lion",
    "resolution": "768,768",
    "sample_prompts": ["a cat"],
    "save_model_as": "ckpt",
    "save_precision": "bf16",
    "text_encoder_lr": [1e-5],
    "validation_seed": 3,
    "face_crop_aug_range": "1.0,2.0",
    "caption_separator": ";",
    "min_bucket_reso": 128,
    "max_bucket_reso": 2048,
    "bucket_reso_steps": 32,
    "algo": "loha",
    "preset": "attn-mlp",
    "LyCORIS_preset": "attn-mlp",
    "caption_extention": ".caption",
    "LoRA_type": "LyCORIS/LoHa",
    "max_resolution": "768,768",
    "optimizer": "Lion",
    "noise_offset_type": "Multires",
    "additional_parameters": "--flip_aug",
    "wd_on_output": "False",
    "disable_conv_cp": "False",
    "image_dir": "elsewhere",
    "dim_from_weights": True,
    "custom_attributes": {"a": 1},
    "save_state_to_huggingface": True,
    "zero_stage": 3,
}
# What else the file must say for an option to do anything.
_BUCKETS = {"enable_bucket": True}
_TAGS = {"shuffle_caption": True}
_HUBER = {"loss_type": "huber"}
_UPLOADED = {"huggingface_repo_id": "me/mine"}
_CYCLES = {"lr_scheduler": "cosine_with_restarts"}
COMPANIONS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale"), _BUCKETS),
    **dict.fromkeys(("keep_tokens",), _TAGS),
    **dict.fromkeys(("huber_c", "huber_schedule"), _HUBER),
    "huber_scale": {"loss_type": "huber", "huber_schedule": "constant"},
    "base_weights_multiplier": {"base_weights": ["b.safetensors"]},
    "cache_latents_to_disk": {"cache_latents": True},
    "lr_scheduler_num_cycles": _CYCLES,
    "lr_scheduler_power": {"lr_scheduler": "polynomial"},
    "lr_scheduler_timescale": {"lr_scheduler": "inverse_sqrt"},
    "lr_scheduler_min_lr_ratio": {"lr_scheduler": "cosine_with_min_lr"},
    "lr_warmup_steps": {"lr_scheduler": "cosine"},
    "lr_warmup": {"lr_scheduler": "cosine"},
    "multires_noise_discount": {"multires_noise_iterations": 4, "noise_offset_type": "Multires"},
    "multires_noise_iterations": {"noise_offset_type": "Multires"},
    "noise_offset_type": {"noise_offset": 0.1},
    "prior_loss_weight": {"reg_data_dir": "reg"},
    "save_last_n_epochs": {"save_every_n_epochs": 2},
    "save_last_n_steps": {"save_every_n_steps": 20},
    "save_n_epoch_ratio": {"max_train_epochs": 20},
    "sample_every_n_steps": {"sample_prompts": ["a cat"]},
    "sample_every_n_epochs": {"sample_prompts": ["a cat"]},
    "sample_sampler": {"sample_prompts": ["a cat"]},
    "scale_v_pred_loss_like_noise_pred": {"v_parameterization": True},
    "t5xxl_lr": {"text_encoder_lr": 1e-4},
    "sdxl": {"clip_skip": 3},
    "sdxl_cache_text_encoder_outputs": {"sdxl": True},
    **dict.fromkeys(
        ("huggingface_path_in_repo", "huggingface_repo_type", "huggingface_repo_visibility", "huggingface_token"),
        _UPLOADED,
    ),
}
BY_KIND: dict[str, Any] = {"flag": True, "int": 7, "float": 0.25, "int_or_float": 7, "list": ["a=1"], "str": "text"}
BY_KIND["Path"] = "text"
# Where the file names another one, tests/test_kohya.py has what comes of it.
ELSEWHERE = {"dataset_config"}


@cache
def _imported(settings: str, dataset: str = "") -> Imported:
    files = {"training.json": settings, **({"dataset.json": dataset} if dataset else {})}
    return import_texts({name: text for name, text in files.items() if text}, lambda name: None)


def _outcome(found: Imported) -> tuple[str, list[str]]:
    return config_file.dumps(found.config), [str(entry) for entry in found.left_out]


def _check(row: Row, name: str, before: Imported, after: Imported) -> None:
    """That `after`, an import of the same file with the option `name` as well, is what the row says."""
    changed = _outcome(before)[0] != _outcome(after)[0]
    told = {entry.key.rsplit(".", 1)[-1]: entry.reason for entry in after.left_out[len(before.left_out) :]}
    told |= {entry.key.rsplit(".", 1)[-1]: entry.reason for entry in after.left_out if entry not in before.left_out}
    assert "does not know it" not in " ".join(told.values())
    if row.fate == CARRIED:
        assert changed, f"{name} changes nothing"
    elif row.fate == OTHERWISE:
        assert row.words and name in told, f"{name} is not told: {told}"
    elif row.fate == NOT_CARRIED:
        assert told.get(name) == row.words, f"{name} is not told: {told}"
    else:
        assert row.fate == HARMLESS
        assert not changed and not told and before.ignored == after.ignored, f"{name} changes something: {told}"


def _value(name: str, kind: str = "str", choices: tuple[str, ...] = ()) -> Any:
    return VALUES[name] if name in VALUES else choices[-1] if choices else BY_KIND[kind]


@pytest.mark.parametrize("name", sorted(set(NAMES["options"]) - ELSEWHERE))
def test_every_option_of_the_scripts_does_what_its_row_says(name: str) -> None:
    about, row = NAMES["options"][name], row_of(name, OPTIONS)
    assert row is not UNKNOWN
    file = {**FILE, **COMPANIONS.get(name, {})}
    for key in (name, "caption_extension" if name == "caption_extention" else name):
        file.pop(key, None)
    value = _value(name, about["kind"], tuple(about["choices"]))
    if name in ("max_train_steps", "network_module"):  # without them a default holds that is another
        file[name] = FILE[name]
    _check(row, name, _imported(json.dumps(file)), _imported(json.dumps({**file, name: value})))


# Names whose kind of value is not that of an argparse option.
DATASET_KINDS = {"is_reg": "flag", "class_tokens": "str", "num_repeats": "int", "batch_size": "int"}
DATASET_KINDS |= {"network_multiplier": "float", "metadata_file": "str"}


@pytest.mark.parametrize("name", NAMES["dataset"])
def test_every_option_of_a_dataset_file_does_what_its_row_says(name: str) -> None:
    row = row_of(name, OPTIONS)
    assert row is not UNKNOWN
    kind = DATASET_KINDS.get(name) or NAMES["options"].get(name, {"kind": "str"})["kind"]
    general = dict(COMPANIONS.get(name, {}))
    whole = {"general": {**general, "caption_extension": ".txt"}, "datasets": [{"subsets": [{"image_dir": "pics"}]}]}
    place: Any = whole["general"]
    if name in ("image_dir", "metadata_file", "is_reg", "class_tokens", "alpha_mask", "conditioning_data_dir"):
        place = whole["datasets"][0]["subsets"][0]  # type: ignore[index]
    before = _imported("", json.dumps(whole))
    place[name] = ".caption" if name == "caption_extension" else _value(name, kind)
    _check(row, name, before, _imported("", json.dumps(whole)))


LYCORIS = {**FILE, "network_module": "lycoris.kohya"}
ALGO_OF = {
    **dict.fromkeys(("factor", "decompose_both", "full_matrix", "unbalanced_factorization"), "lokr"),
    **dict.fromkeys(("constraint", "rescaled"), "diag-oft"),
    "train_on_input": "ia3",
}


@pytest.mark.parametrize("name", NAMES["network_args"])
def test_every_argument_of_a_network_does_what_its_row_says(name: str) -> None:
    row = row_of(name, NETWORK_ARGS)
    assert row is not UNKNOWN
    args = [f"algo={ALGO_OF.get(name, 'locon')}", "preset=unet-transformer-only"]
    args += ["preset=unet-only"] if name.startswith(("conv", "use_", "disable")) else []
    args += ["dora_wd=True"] if name == "wd_on_output" else []
    numbers = {"conv_dim", "conv_alpha", "factor", "block_size", "unit", "loraplus_lr_ratio", "loraplus_unet_lr_ratio"}
    shares = {"dropout", "rank_dropout", "module_dropout", "constraint"}
    value = _value(name) if name in VALUES else 4 if name in numbers else 0.25 if name in shares else True
    file = {**LYCORIS, "network_args": [arg for arg in args if not arg.startswith(f"{name}=")]}
    before = _imported(json.dumps(file))
    file["network_args"] = [*file["network_args"], f"{name}={value}"]
    _check(row, name, before, _imported(json.dumps(file)))


PAGE = {"LoRA_type": "Standard", "pretrained_model_name_or_path": "a.safetensors", "train_data_dir": "pics"}
PAGE |= {"network_dim": 8, "network_alpha": 4, "learning_rate": 1e-4, "caption_extension": ".txt", "optimizer": "AdamW"}
PAGE |= {"max_train_steps": 100, "unet_lr": 1e-4, "text_encoder_lr": 1e-4}
GUI_SPECIAL: dict[str, tuple[dict[str, Any], Any]] = {
    "learning_rate": ({"unet_lr": 0, "text_encoder_lr": 0}, 3e-4),
    "lr_warmup": ({"lr_scheduler": "cosine"}, 10),
    "epoch": ({"max_train_steps": 0}, 7),
    "t5xxl_lr": ({"sdxl": True}, 1e-5),
    "text_encoder_lr": ({}, 1e-5),
    "unet_lr": ({}, 2e-4),
    "train_on_input": ({"LoRA_type": "LyCORIS/iA3"}, True),
    "constrain": ({"LoRA_type": "LyCORIS/Diag-OFT"}, 0.25),
    "use_cp": ({"LoRA_type": "LyCORIS/LoKr"}, True),
    "conv_alpha": ({"LoRA_type": "Kohya LoCon", "conv_dim": 4}, 7),
    "max_train_epochs": ({"max_train_steps": 0}, 7),
    "network_weights": ({}, "w.safetensors"),
    "clip_skip": ({}, 3),
    "unit": ({"LoRA_type": "Kohya DyLoRA"}, 4),
    "loraplus_lr_ratio": ({}, 4),
    "loraplus_unet_lr_ratio": ({}, 4),
}


@pytest.mark.parametrize("name", sorted(set(NAMES["gui"]) - ELSEWHERE))
def test_every_field_of_the_gui_does_what_its_row_says(name: str) -> None:
    argument = ARGUMENTS.get(name, name)
    theirs = {ours: there for there, ours in RENAMED.items()}.get(name, name)
    row = GUI.get(name) or row_of(theirs, GUI, OPTIONS, NETWORK_ARGS)
    assert row is not UNKNOWN
    page = {**PAGE, **COMPANIONS.get(name, {})}
    if isinstance(page.get("sample_prompts"), list):
        page["sample_prompts"] = "a cat"
    types = [kind for kind, (*_, used) in TYPES.items() if name in used]
    if types and "Standard" not in types:
        page["LoRA_type"] = types[-1 if "LyCORIS/LoKr" not in types else types.index("LyCORIS/LoKr")]
    kind = NAMES["options"].get(theirs, {"kind": "str", "choices": []})
    value = VALUES.get(name, VALUES.get(argument, _value(theirs, kind["kind"], tuple(kind["choices"]))))
    if name not in VALUES and theirs not in NAMES["options"]:
        value = 0.25 if "dropout" in name else 4 if name in ("factor", "conv_dim") else True
    if name in GUI_SPECIAL:
        more, value = GUI_SPECIAL[name]
        page |= more
    value = value[0] if isinstance(value, list) else value
    before = {key: there for key, there in page.items() if key != name or key in PAGE}
    if row.fate == REFUSED:
        with pytest.raises(ConfigError, match="not trained here"):
            _imported(json.dumps({**page, name: True}))
        return
    _check(row, name, _imported(json.dumps(before)), _imported(json.dumps({**page, name: value})))


def test_every_row_says_why() -> None:
    for table in (OPTIONS, NETWORK_ARGS, GUI):
        for name, row in table.items():
            assert bool(row.words) == (row.fate in (OTHERWISE, NOT_CARRIED, REFUSED)), name

"""Mistakes in kohya's files: a sentence that names file and option, or a valid configuration, and never a traceback."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from adapter_lab import config_file
from adapter_lab.cli import main
from adapter_lab.errors import ConfigError
from adapter_lab.kohya import Imported, import_kohya, import_texts
from adapter_lab.kohya.dataset import BUCKET_KEYS, OWN, SHARED
from adapter_lab.kohya.table import CARRIED, GUI, NETWORK_ARGS, OPTIONS, OTHERWISE
from adapter_lab.validation import problems

TRAINING = {
    "pretrained_model_name_or_path": "a.safetensors",
    "train_data_dir": "pics",
    "network_module": "networks.lora",
}
LYCORIS = {**TRAINING, "network_module": "lycoris.kohya"}
PAGE = {"LoRA_type": "LyCORIS/LoKr", "pretrained_model_name_or_path": "a.safetensors", "train_data_dir": "pics"}
SUBSET = {"image_dir": "pics"}


def _names(table: dict[str, Any]) -> list[str]:
    return sorted(name for name, row in table.items() if row.fate in (CARRIED, OTHERWISE))


BAD: dict[str, Any] = {
    "text": "1024x1024",
    "unclosed": "(0.9,",
    "empty": "",
    "blank": " ",
    "nan": float("nan"),
    "infinite": float("inf"),
    "negative": -1,
    "fraction": 0.37,
    "2^64": 2**64,
    "true": True,
    "list": [1, [2, "x"]],
    "texts": ["a", "b"],
    "table": {"a": {"b": 1}},
    "null": None,
    "long": "x" * 200_000,
    "control": "a\x00b\nc",
}


def _import(files: dict[str, Any]) -> Imported | str:
    """The import of JSON files, or the sentence that refuses them; what is imported is valid."""
    texts = {name: json.dumps(value) for name, value in files.items()}
    try:
        found = import_texts(texts, lambda name: None)
    except ConfigError as error:
        return str(error)
    written = config_file.loads(config_file.dumps(found.config))
    assert problems(written, complete=False) == []
    assert all(len(str(entry)) < 2_000 for entry in found.left_out)
    return found


def _check(found: Imported | str, file: str, *names: str) -> None:
    if isinstance(found, str):
        assert file in found and any(name in found for name in names), found[:400]
        assert len(found) < 1_000 and "Traceback" not in found


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_value_of_any_option_is_named_or_mended(kind: str) -> None:
    bad = BAD[kind]
    for name in _names(OPTIONS):
        _check(_import({"training.json": {**TRAINING, name: bad}}), "training.json", name, "datasets")
    for name in _names(NETWORK_ARGS):
        for args in ({name: bad}, [f"{name}={bad}"]):
            _check(_import({"t.json": {**LYCORIS, "network_args": args}}), "t.json", name, "network_args")


OPTIMIZER_ARGS = ("betas", "eps", "weight_decay", "d0", "growth_rate", "slice_p", "decouple", "relative_step", "other")


@pytest.mark.parametrize("optimizer", ["AdamW", "Prodigy", "Adafactor", "pytorch_optimizer.CAME", "Tomorrow"])
def test_a_bad_argument_of_an_optimiser_is_named_or_mended(optimizer: str) -> None:
    for bad in (*BAD.values(), "x" * 90_000):
        for name in OPTIMIZER_ARGS:
            # As a table, or as text where the value is text anyway.
            args = [f"{name}={bad}"] if isinstance(bad, str) else {name: bad}
            file = {**TRAINING, "optimizer_type": optimizer, "optimizer_args": args}
            _check(_import({"t.json": file}), "t.json", name, "optimizer_args")


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_value_of_any_field_of_the_gui_is_named_or_mended(kind: str) -> None:
    for name in sorted(set(_names(GUI)) | {"network_dim", "conv_dim", "factor", "use_tucker", "dora_wd"}):
        _check(_import({"gui.json": {**PAGE, name: BAD[kind]}}), "gui.json", name, "network_args", "network_module")


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_value_in_a_dataset_file_is_named_or_mended(kind: str) -> None:
    bad = BAD[kind]
    for name in (*OWN, *SHARED, *BUCKET_KEYS, "image_dir", "caption_extension", "alpha_mask"):
        dataset = {"subsets": [{**SUBSET, name: bad}]} if name not in BUCKET_KEYS else {"subsets": [SUBSET], name: bad}
        for file in ({"datasets": [dataset]}, {"general": {name: bad}, "datasets": [{"subsets": [SUBSET]}]}):
            _check(_import({"data.json": file}), "data.json", name)
    for file in (
        {"datasets": bad},
        {"datasets": [bad]},
        {"datasets": [{"subsets": bad}]},
        {"datasets": [{"subsets": [bad]}]},
        {"general": bad, "datasets": [{"subsets": [SUBSET]}]},
    ):
        _check(_import({"data.json": file}), "data.json", "datasets", "general")


# What a training file says, and the words of the sentence that answers.
TYPOS = [
    ('resolution = "1024x1024"', "resolution is '1024x1024'"),
    ('resolution = "1024,"\nresolution_ = 3', ""),
    ("resolution = [1, 2, 3]", "resolution is [1, 2, 3]"),
    ('optimizer_args = ["betas=(0.9,"]', ""),
    ('optimizer_args = ["betas=(0.9, x)"]', "optimizer_args.betas"),
    ("optimizer_args = 3", "optimizer_args is 3"),
    ("optimizer_args = [1, 2]", "optimizer_args holds 1"),
    ('network_args = [["algo=loha"]]', "network_args holds ['algo=loha']"),
    ("network_dim = 1e400", "network_dim"),
    ("network_dim = inf", "network_dim"),
    ("network_dim = 2024-01-01", "network_dim"),
    ("text_encoder_lr = []", ""),
    ("text_encoder_lr = [[1e-4]]", "text_encoder_lr"),
    ("base_weights = [1, 2]", "base_weights"),
    ("[a.b.c]\nnetwork_dim = 3", ""),
    ("output_name = {a = 1}", ""),
    ("max_train_steps = " + "9" * 5_000, "not valid TOML"),
    ("x = " + "[" * 20_000, "not valid TOML"),
    ("x = " + "{a = " * 5_000, "not valid TOML"),
    ("sample_prompts = [3]", "sample_prompts"),
    ("dataset_config = 3.5", ""),
]


@pytest.mark.parametrize(("text", "words"), TYPOS, ids=lambda value: value[:40])
def test_a_typo_in_a_training_file_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "training.toml"
    path.write_text(f'network_module = "networks.lora"\n{text}\n', encoding="utf-8")
    try:
        found = import_kohya(path)
    except ConfigError as error:
        assert words and words in str(error) and str(path) in str(error)
        assert "\n" not in str(error) and len(str(error)) < 600
    else:
        assert not words
        assert problems(found.config, complete=False) == []


def test_ten_megabytes_of_text_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "training.toml"
    path.write_text('network_module = "networks.lora"\noutput_name = "' + "x" * 10_000_000 + '"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"output_name holds 10,000,000 characters") as raised:
        import_kohya(path)
    assert len(str(raised.value)) < 400


def test_files_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(bytes(range(256)))
    for path in (binary, tmp_path, tmp_path / "absent.json"):
        with pytest.raises(ConfigError, match=path.name):
            import_kohya(path)
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"deep\.json is not valid JSON"):
        import_kohya(deep)


def test_the_command_says_a_mistake_in_a_sentence_and_values_of_any_kind_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "training.toml"
    path.write_text('network_module = "networks.lora"\nresolution = "1024x1024"\n', encoding="utf-8")
    assert main(["import-kohya", str(path)]) != 0
    shown = capsys.readouterr().err
    assert "resolution" in shown and str(path) in shown and "Traceback" not in shown
    path.write_text('network_module = "networks.lora"\na_date = 2024-01-01\nnot_a_number = nan\n', encoding="utf-8")
    assert main(["import-kohya", str(path), "--json"]) == 0
    told = {entry["key"]: entry["value"] for entry in json.loads(capsys.readouterr().out)["left_out"]}
    assert repr(datetime.date(2024, 1, 1)) == told["a_date"] and "not_a_number" in told


ODD: dict[str, Any] = {"fraction": 0.37, "negative": -3, "huge": 10**12, "three": [1e-5, 2e-5, 3e-5]}
# What else a file must say for an option to mean anything to sd-scripts.
NEEDED: dict[str, dict[str, Any]] = {
    **{key: {"loss_type": "huber"} for key in ("huber_c", "huber_schedule")},
    "huber_scale": {"loss_type": "huber", "huber_schedule": "constant"},
    "keep_tokens": {"shuffle_caption": True},
    "lr_scheduler_min_lr_ratio": {"lr_scheduler": "cosine_with_min_lr"},
    "lr_scheduler_num_cycles": {"lr_scheduler": "cosine_with_restarts"},
    "lr_scheduler_power": {"lr_scheduler": "polynomial"},
    "lr_scheduler_timescale": {"lr_scheduler": "inverse_sqrt"},
    **{key: {"enable_bucket": True} for key in ("max_bucket_reso", "min_bucket_reso")},
    "multires_noise_discount": {"multires_noise_iterations": 6},
    "prior_loss_weight": {"reg_data_dir": "reg"},
    "save_last_n_epochs": {"save_every_n_epochs": 1},
    "save_last_n_steps": {"save_every_n_steps": 1},
    "base_weights_multiplier": {"base_weights": ["a.safetensors"]},
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("option", _names(OPTIONS))
def test_an_odd_value_that_changes_nothing_is_said(option: str, odd: str) -> None:
    file = {**TRAINING, **NEEDED.get(option, {})}
    found, without = (_import({"a.json": {**file, **more}}) for more in ({option: ODD[odd]}, {}))
    if isinstance(found, str):
        assert option in found
        return
    assert not isinstance(without, str)
    if found.config == without.config:
        named = " ".join(f"{left.key} {left.reason}" for left in found.left_out)
        assert option in named, named

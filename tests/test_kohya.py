"""Import of kohya sd-scripts' files: what is carried over, what is not, and what is said about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapter_lab import config_file
from adapter_lab.config import SourceConfig, TrainConfig
from adapter_lab.errors import ConfigError
from adapter_lab.kohya import Imported, import_kohya
from adapter_lab.kohya.table import OPTIONS
from adapter_lab.validation import problems

# As the kohya_ss GUI writes it: sections without meaning, booleans as text inside network_args.
STUDY = """
[model]
pretrained_model_name_or_path = "D:/models/wai.safetensors"
[folders]
train_data_dir = "D:/pictures"
output_dir = "D:/loras"
output_name = "hero"
[training]
train_batch_size = 2
max_train_steps = 8700
seed = 42
mixed_precision = "bf16"
save_precision = "fp16"
save_every_n_steps = 200
gradient_checkpointing = true
cache_latents = true
cache_latents_to_disk = true
resolution = "1024,1024"
enable_bucket = true
bucket_no_upscale = true
min_bucket_reso = 256
max_bucket_reso = 2048
caption_extension = ".txt"
shuffle_caption = true
keep_tokens = 1
max_token_length = 225
xformers = true
[network]
network_module = "lycoris.kohya"
network_dim = 32
network_alpha = 16
network_args = ["algo=lokr", "conv_dim=32", "conv_alpha=16", "factor=4", "use_tucker=True", "decompose_both=False",
  "rank_dropout=0.1", "bypass_mode=True", "preset=full"]
learning_rate = 1.0
unet_lr = 1.0
text_encoder_lr = [1.0, 0.5]
optimizer_type = "prodigyopt.Prodigy"
optimizer_args = ["decouple=True", "weight_decay=0.01", "d_coef=0.5", "use_bias_correction=True",
  "betas=(0.9, 0.99)", "slice_p=10", "safeguard_warmup=True", "growth_rate=1.01"]
lr_scheduler = "constant"
weighted_captions = true
some_new_option = 3
"""

DATASET = """
[general]
shuffle_caption = true
caption_extension = ".txt"
keep_tokens = 1
enable_bucket = true

[[datasets]]
resolution = 768
batch_size = 4
max_bucket_reso = 1536

[[datasets.subsets]]
image_dir = "a"
num_repeats = 3
flip_aug = true

[[datasets.subsets]]
image_dir = "b"
class_tokens = "a dog"
caption_prefix = "photo,"
keep_tokens = 2
color_aug = true
face_crop_aug_range = [1.0, 2.0]

[[datasets.subsets]]
image_dir = "r"
is_reg = true
"""


def imported(tmp_path: Path, *texts: str) -> Imported:
    paths = []
    for index, text in enumerate(texts):
        paths.append(tmp_path / f"{index}.toml")
        paths[-1].write_text(text, encoding="utf-8")
    return import_kohya(*paths)


def training(tmp_path: Path, *lines: str) -> Imported:
    return imported(tmp_path, "\n".join(lines) + "\n")


def reasons(result: Imported) -> dict[str, str]:
    return {left.key: left.reason for left in result.left_out}


def test_a_training_file_is_carried_over(tmp_path: Path) -> None:
    config = imported(tmp_path, STUDY).config
    wanted = config_file.loads(
        """
        [base]
        checkpoint = "D:/models/wai.safetensors"
        [dataset]
        folder = "D:/pictures"
        resolution = 1024
        bucket_min = 256
        bucket_max = 2048
        caption_extensions = [".txt"]
        shuffle_tags = true
        keep_tokens = 1
        [network]
        algo = "lokr"
        dim = 32
        alpha = 16.0
        conv_dim = 32
        factor = 4
        tucker = true
        rank_dropout = 0.1
        train_te = true
        [optimizer]
        lr = 1.0
        te2_lr = 0.5
        d_coef = 0.5
        d0 = 1e-06
        growth_rate = 1.01
        [precision]
        mixed = "bf16"
        [run]
        name = "hero"
        output_folder = "D:/loras"
        batch_size = 2
        steps = 8700
        seed = 42
        [save]
        every_steps = 200
        """
    )
    assert config_file.dumps(config, only_changed=True) == config_file.dumps(wanted, only_changed=True)
    assert problems(config) == []


def test_what_is_not_carried_over_is_listed_with_its_reason(tmp_path: Path) -> None:
    result = imported(tmp_path, STUDY)
    assert reasons(result) == {
        "max_token_length": OPTIONS["max_token_length"].words,
        "network_args.preset": "LyCORIS would also train conv_in, conv_out, time_embedding.linear_1, "
        "time_embedding.linear_2, which are never trained here",
        "network_args.bypass_mode": "the cheapest exact forward is chosen here by itself",
        "weighted_captions": "captions are taken as plain text here",
        "some_new_option": "this import does not know it",
    }
    assert str(result.left_out[-1]) == "some_new_option = 3: this import does not know it"


def test_a_dataset_file_is_carried_over_with_its_inheritance(tmp_path: Path) -> None:
    result = imported(tmp_path, DATASET)
    data = result.config.dataset
    assert data.sources == [
        SourceConfig(folder="a", repeats=3, flip=True, keep_tokens=1),
        SourceConfig(folder="b", repeats=1, class_tokens="a dog", prefix="photo,", keep_tokens=2),
        SourceConfig(folder="r", repeats=1, regularisation=True, keep_tokens=1),
    ]
    assert (data.folder, data.resolution, data.bucket_min, data.bucket_max) == ("", 768, 256, 1536)
    assert data.buckets and data.upscale and data.shuffle_tags and not data.color_augment
    assert result.config.run.batch_size == 4
    assert set(reasons(result)) == {
        "datasets[0].subsets[1].color_aug",
        "datasets[0].subsets[1].face_crop_aug_range",
    }


def test_one_subset_becomes_the_training_folder(tmp_path: Path) -> None:
    text = '[[datasets]]\nresolution = [512, 512]\n[[datasets.subsets]]\nimage_dir = "10_x"\nnum_repeats = 2\n'
    data = imported(tmp_path, text).config.dataset
    assert (data.folder, data.repeats, data.resolution, data.sources) == ("10_x", 2, 512, [])


def test_a_dataset_file_wins_over_the_training_file_and_is_found_beside_it(tmp_path: Path) -> None:
    (tmp_path / "data.toml").write_text(DATASET, encoding="utf-8")
    lines = [
        'dataset_config = "/other/machine/data.toml"',
        "resolution = 512",
        "flip_aug = true",
        'train_data_dir = "t"',
    ]
    result = training(tmp_path, *lines)
    data = result.config.dataset
    assert (data.resolution, data.folder) == (768, "")
    assert [source.flip for source in data.sources] == [True, True, True]
    assert reasons(result)["train_data_dir"] == "the dataset file names the folders"


def test_datasets_that_differ_are_named(tmp_path: Path) -> None:
    text = DATASET + '[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = "c"\n'
    result = imported(tmp_path, text)
    assert "the first one's" in reasons(result)["datasets[1].batch_size"]
    assert "datasets[1].resolution" not in reasons(result)
    assert [source.resolution for source in result.config.dataset.sources] == ["same", "same", "same", 512]


NETWORKS: list[tuple[str, list[str], dict[str, Any]]] = [
    ("networks.lora", [], {"algo": "lora", "conv_dim": 0}),
    ("networks.lora", ["conv_dim=8", "conv_alpha=4"], {"algo": "lora", "conv_dim": 8, "conv_alpha": 4.0}),
    ("lycoris.kohya", ["algo=locon"], {"algo": "lora", "conv_dim": 16, "conv_alpha": "same"}),
    ("lycoris.kohya", ["algo=loha", "use_cp=True"], {"algo": "loha", "tucker": True}),
    ("lycoris.kohya", ["algo=loha", "disable_conv_cp=False"], {"algo": "loha", "tucker": True}),
    ("lycoris.kohya", ["algo=loha", "disable_conv_cp=True"], {"algo": "loha", "tucker": False}),
    ("lycoris.kohya", ["algo=lokr", 'decompose_both="False"'], {"algo": "lokr", "decompose_both": False}),
    ("lycoris.kohya", ["algo=lokr", "decompose_both=True"], {"algo": "lokr", "decompose_both": True}),
    ("lycoris.kohya", ["algo=lora", "dora_wd=True"], {"dora": True, "dora_axis": "output"}),
    ("lycoris.kohya", ["algo=lora", "dora_wd=True", "wd_on_output=False"], {"dora_axis": "input"}),
    ("lycoris.kohya", ["algo=diag-oft", "constraint=1e-3", "rescaled=1"], {"algo": "diag-oft", "constraint": 1e-3}),
    ("lycoris.kohya", ["algo=ia3", "train_on_input=true"], {"algo": "ia3", "train_on_input": True, "conv_dim": 0}),
    ("lycoris.kohya", ["algo=full"], {"algo": "full", "train_conv": True}),
    ("lycoris.kohya", ["preset=attn-mlp"], {"conv_dim": 0, "feed_forward": True, "train_te": True}),
    ("lycoris.kohya", ["preset=attn-only"], {"conv_dim": 0, "feed_forward": False, "projections": False}),
    ("lycoris.kohya", ["preset=unet-transformer-only"], {"conv_dim": 0, "train_te": False}),
]


@pytest.mark.parametrize(("module", "args", "wanted"), NETWORKS, ids=lambda value: str(value)[:60])
def test_network_args_mean_what_they_mean_there(
    tmp_path: Path, module: str, args: list[str], wanted: dict[str, Any]
) -> None:
    result = training(
        tmp_path, f'network_module = "{module}"', f"network_args = {args}", "network_dim = 16", "network_alpha = 8"
    )
    network = result.config.network
    assert {name: getattr(network, name) for name in wanted} == wanted
    assert problems(result.config, complete=False) == []


@pytest.mark.parametrize(
    ("lines", "trained", "rates"),
    [
        ([], (True, True, True, True), (2e-6, "same", "same")),
        (["learning_rate = 1e-4", "network_train_unet_only = true"], (True, False, True, True), (1e-4, "same", "same")),
        (["unet_lr = 1e-4", "text_encoder_lr = 5e-5"], (True, True, True, True), (1e-4, 5e-5, 5e-5)),
        (["unet_lr = 1e-4", "text_encoder_lr = 0"], (True, False, True, True), (1e-4, "same", "same")),
        (["unet_lr = 1e-4", "text_encoder_lr = [1e-4, 0]"], (True, True, True, False), (1e-4, "same", "same")),
        (["cache_text_encoder_outputs = true", "unet_lr = 1e-4"], (True, False, True, True), (1e-4, "same", "same")),
        (
            ["network_train_text_encoder_only = true", "text_encoder_lr = 3e-5"],
            (False, True, True, True),
            (3e-5, "same", "same"),
        ),
    ],
)
def test_trained_parts_and_rates(
    tmp_path: Path, lines: list[str], trained: tuple[bool, ...], rates: tuple[float | str, ...]
) -> None:
    config = training(tmp_path, "network_dim = 8", *lines).config
    n, o = config.network, config.optimizer
    assert (n.train_unet, n.train_te, n.train_te1, n.train_te2) == trained
    assert (o.lr, o.te1_lr, o.te2_lr) == rates


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([], {"name": "adamw", "betas": [0.9, 0.999], "weight_decay": 0.01}),
        (['optimizer_type = "AdamW8bit"'], {"name": "adamw8bit"}),
        (["use_8bit_adam = true"], {"name": "adamw8bit"}),
        (['optimizer_type = "Lion"'], {"name": "lion", "weight_decay": 0.0, "betas": [0.9, 0.99]}),
        (
            ['optimizer_type = "Prodigy"'],
            {"d_coef": 1.0, "slice_p": 1, "use_bias_correction": False, "weight_decay": 0.0, "growth_rate": 0.0},
        ),
        (
            ['optimizer_type = "Prodigy"', 'optimizer_args = ["growth_rate=inf", "d0=1e-5", "betas=0.9,0.95"]'],
            {"growth_rate": 0.0, "d0": 1e-5, "betas": [0.9, 0.95]},
        ),
        (
            ['optimizer_type = "prodigyplus.ProdigyPlusScheduleFree"'],
            {"name": "prodigy-plus-schedule-free", "d_coef": 1.0},
        ),
    ],
)
def test_optimisers_have_the_defaults_of_their_package(
    tmp_path: Path, lines: list[str], wanted: dict[str, Any]
) -> None:
    config = training(tmp_path, "network_dim = 8", *lines).config
    assert {name: getattr(config.optimizer, name) for name in wanted} == wanted
    assert problems(config, complete=False) == []


def test_adafactor_with_its_own_rate_is_named(tmp_path: Path) -> None:
    lines = ['optimizer_type = "AdaFactor"', 'optimizer_args = ["relative_step=False", "scale_parameter=True"]']
    found = reasons(training(tmp_path, *lines))
    assert "optimizer_args.scale_parameter" in found
    assert "optimizer_args.relative_step" not in found


@pytest.mark.parametrize(
    ("lines", "schedule", "warmup", "restarts"),
    [
        (['lr_scheduler = "cosine"', "lr_warmup_steps = 0.1", "max_train_steps = 500"], "cosine", 50, 1),
        (['lr_scheduler = "constant_with_warmup"', "lr_warmup_steps = 20"], "constant", 20, 1),
        (['lr_scheduler = "constant"', "lr_warmup_steps = 20"], "constant", 0, 1),
        (['lr_scheduler = "cosine_with_restarts"', "lr_scheduler_num_cycles = 3"], "cosine-restarts", 0, 3),
        (['lr_scheduler = "polynomial"', "lr_scheduler_power = 2"], "polynomial", 0, 1),
        (['lr_scheduler = "inverse_sqrt"', "lr_warmup_steps = 7"], "inverse-sqrt", 7, 1),
        (['lr_scheduler = "cosine_with_min_lr"', "lr_scheduler_min_lr_ratio = 0.1"], "cosine", 0, 1),
        (['lr_scheduler_type = "CosineAnnealingLR"', 'lr_scheduler_args = ["T_max=10"]'], "cosine", 0, 1),
        (['lr_scheduler_type = "pytorch_optimizer.REXScheduler"'], "rex", 0, 1),
        (['lr_scheduler = "warmup_stable_decay"'], "constant", 0, 1),
    ],
)
def test_schedules(tmp_path: Path, lines: list[str], schedule: str, warmup: int, restarts: int) -> None:
    optimizer = training(tmp_path, *lines).config.optimizer
    assert (optimizer.schedule, optimizer.warmup_steps, optimizer.restarts) == (schedule, warmup, restarts)


def test_loss_budget_and_saving(tmp_path: Path) -> None:
    config = training(
        tmp_path,
        'loss_type = "huber"',
        "huber_c = 0.2",
        'huber_schedule = "constant"',
        "min_snr_gamma = 5",
        "max_timestep = 900",
        "max_train_epochs = 10",
        "max_train_steps = 500",
        "save_every_n_epochs = 2",
        "save_last_n_epochs = 5",
        "resolution = '768,1024'",
        "v2 = true",
        "v_parameterization = true",
    ).config
    loss = config.loss
    assert (loss.type, loss.huber_delta, loss.min_snr_gamma, loss.timestep_max) == ("pseudo_huber", 0.2, 5.0, 899)
    assert (config.run.epochs, config.run.steps) == (10, 0)
    assert (config.save.every_epochs, config.save.keep_last) == (2, 3)
    assert (config.dataset.resolution, config.dataset.buckets) == (888, True)
    assert (config.base.family, config.base.prediction) == ("sd2", "v_prediction")


def test_sample_prompts_are_read(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# mine\na cat --n bad --w 832 --h 1216 --d 7 --l 5.5 --s 28 --x 1\na dog --w 1024\n")
    result = training(tmp_path, f"sample_prompts = '{prompts}'")
    preview = result.config.preview
    assert preview.prompts == ["a cat", "a dog"]
    assert (preview.negative, preview.width, preview.height, preview.seed) == ("bad", 832, 1216, 7)
    assert (preview.guidance, preview.steps) == (5.5, 28)
    assert set(reasons(result)) >= {"sample_prompts --x", "sample_prompts --w"}


def test_frozen_adapters_and_first_weights(tmp_path: Path) -> None:
    network = training(
        tmp_path,
        'network_weights = "w.safetensors"',
        'base_weights = ["a.st", "b.st"]',
        "base_weights_multiplier = [0.5]",
    ).config.network
    assert (network.start_from, network.frozen_adapters) == ("w.safetensors", ["a.st:0.5", "b.st"])


def test_settings_that_had_no_effect_there_are_told_apart(tmp_path: Path) -> None:
    result = training(
        tmp_path, 'network_module = "lycoris.kohya"', 'network_args = ["algo=loha", "factor=4"]', "keep_tokens = 2"
    )
    told = " ".join(result.ignored)
    assert "network.factor is used by lokr only" in told
    assert "dataset.keep_tokens" in told
    assert result.config.network.factor == -1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('network_module = "networks.oft"', "network_module is 'networks.oft'"),
        ('network_args = ["algo=dylora"]\nnetwork_module = "lycoris.kohya"', "'dylora', which is not trained here"),
        ('network_args = ["conv_dim"]', "not of the form name=value"),
        ('network_args = ["conv_dim=x"]', "network_args.conv_dim is 'x'"),
        ("network_dim = 2.5", "network_dim is 2.5"),
        ("[[datasets]]\nresolution = 512", "no [[datasets.subsets]]"),
        ('[[datasets]]\n[[datasets.subsets]]\nmetadata_file = "m.json"', "image_dir is missing"),
        ("", "holds no settings"),
    ],
)
def test_what_cannot_be_imported_is_refused_in_a_sentence(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        imported(tmp_path, line)
    assert message in str(raised.value)


def test_an_imported_configuration_survives_being_written(tmp_path: Path) -> None:
    config = imported(tmp_path, STUDY, DATASET).config
    assert config_file.loads(config_file.dumps(config)) == config
    assert config != TrainConfig()

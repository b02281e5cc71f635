"""What a configuration is refused for, and with which words."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest

from adapter_lab.config import (
    ALGORITHMS,
    OWN_OPTIMIZERS,
    RuleConfig,
    SourceConfig,
    TrainConfig,
    default_of,
    number_of,
    sections,
    settings,
    type_of,
)
from adapter_lab.errors import ConfigError
from adapter_lab.validation import advice, ignored_because, problems, validate, without_ignored
from tests.support.settings import set_options


def configured(*changes: str) -> TrainConfig:
    return set_options(TrainConfig(), changes)


def complete(*changes: str) -> TrainConfig:
    return configured("base.checkpoint=a.safetensors", "dataset.folder=pictures", "run.steps=100", *changes)


def other_value(section: str, name: str, entry: dataclasses.Field[Any]) -> Any:
    """An allowed value that is not the default."""
    kind, default, meta = number_of(type_of(dict(sections())[section], name)), default_of(entry), entry.metadata
    if get_args(kind):
        (item,) = get_args(kind)
        if dataclasses.is_dataclass(item):
            return [RuleConfig(match="x", lr_scale=0.5) if item is RuleConfig else SourceConfig(folder="x")]
        return [0.8, 0.9] if item is float else ["other"]
    if meta["choices"]:
        return next(choice for choice in meta["choices"] if choice != default)
    if kind is bool:
        return not default
    if kind is str:
        return {"device": "cpu"}.get(name, "other")
    low = meta["minimum"] if meta["minimum"] is not None else -8
    value = low + 8 if low + 8 != default and (meta["maximum"] is None or low + 8 <= meta["maximum"]) else low + 16
    if meta["maximum"] is not None and value > meta["maximum"]:
        value = (low + meta["maximum"]) / 2 if kind is float else meta["maximum"]
    return kind(value)


def test_the_defaults_with_a_checkpoint_pictures_and_a_budget_are_valid() -> None:
    assert validate(complete()) == []


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("optimizer", OWN_OPTIMIZERS)
def test_every_algorithm_and_optimiser_is_valid_with_its_defaults(algo: str, optimizer: str) -> None:
    validate(complete(f"network.algo={algo}", f"optimizer.name={optimizer}"))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_setting_is_refused_exactly_where_its_algorithm_is_not_in_use(algo: str) -> None:
    for section, name, entry in settings():
        users = entry.metadata["algorithms"]
        if section != "network" or users is None:
            continue
        config = complete(f"network.algo={algo}")
        setattr(config.network, name, other_value(section, name, entry))
        told = [p.message for p in problems(config) if p.setting == f"network.{name}" and "is used by" in p.message]
        assert bool(told) == (algo not in users), (algo, name)
        if told:
            assert told[0].startswith(f"network.{name} is used by ") and algo in told[0]


@pytest.mark.parametrize("optimizer", OWN_OPTIMIZERS)
def test_a_setting_is_refused_exactly_where_its_optimiser_is_not_in_use(optimizer: str) -> None:
    for section, name, entry in settings():
        users = entry.metadata["optimizers"]
        if users is None:
            continue
        config = complete(f"optimizer.name={optimizer}")
        setattr(config.optimizer, name, other_value(section, name, entry))
        refused = any(p.setting == f"{section}.{name}" for p in problems(config))
        assert refused == (optimizer not in users), (optimizer, name)


def test_the_message_on_an_ignored_option_names_it_and_what_uses_it() -> None:
    with pytest.raises(ConfigError) as raised:
        validate(complete("network.factor=4"))
    assert str(raised.value) == ("network.factor is used by lokr only; lora ignores it: remove it or choose algo lokr.")


def test_an_option_that_a_rule_uses_is_not_ignored() -> None:
    config = complete("network.factor=4", 'network.rules=[{match = "lora_te*", algo = "lokr"}]')
    assert problems(config) == []


def test_every_setting_with_a_need_is_refused_without_it() -> None:
    for section, name, entry in settings():
        if not entry.metadata["needs"]:
            continue
        config = complete("network.train_unet=false", "network.train_te=true", "network.train_norm=true")
        if name in ("te1_lr", "te2_lr", "train_te1", "train_te2", "conditioner_lr"):
            config = complete()
        users = entry.metadata["algorithms"]
        config.network.algo = users[0] if users else "lora"
        setattr(getattr(config, section), name, other_value(section, name, entry))
        messages = [p.message for p in problems(config) if p.setting == f"{section}.{name}"]
        assert any("has no effect without" in message for message in messages), (section, name, messages)


@pytest.mark.parametrize(
    "changes",
    [
        ["network.conv_dim=8", "network.conv_alpha=4", "network.tucker=true", "network.time_embedding=false"],
        ["network.algo=ia3", "network.train_conv=true", "network.time_embedding=false"],
        ["network.train_te=true", "network.train_te2=false", "optimizer.te1_lr=0.5"],
        ["dataset.tag_dropout=0.1", "dataset.keep_tokens=1"],
        ["loss.type=smooth_l1", "loss.huber_delta=0.5"],
        ["optimizer.name=adamw", "optimizer.schedule=cosine-restarts", "optimizer.restarts=3"],
        ["preview.prompts=a girl", "preview.steps=10", "preview.width=512"],
        ["save.every_minutes=10", "save.keep_last=3"],
        ["dataset.regularisation_folder=r", "loss.prior_weight=0.5"],
        ["network.algo=lokr", "network.full_matrix=true", "network.factor=8", "network.conv_dim=1"],
        ["network.algo=diag-oft", "network.conv_dim=4", "network.constraint=0.01", "network.rescaled=true"],
    ],
    ids=lambda changes: changes[0],
)
def test_settings_whose_needs_are_met_are_accepted(changes: list[str]) -> None:
    assert validate(complete(*changes)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "network.algo=locon",
            "network.algo is 'locon', but must be one of lora, t-lora, loha, lokr, glora, diag-oft, boft",
        ),
        ("network.algo=locon", "LoCon is lora with conv_dim above 0"),
        ("network.algo=lorka", "did you mean"),
        ("network.dim=0", "network.dim is 0, but must be at least 1"),
        ("dataset.tag_dropout=1.5", "dataset.tag_dropout is 1.5, but must be at most 1"),
        ("dataset.bucket_step=4", "dataset.bucket_step is 4 px, but must be at least 8 px"),
        ("network.alpha=nan", "network.alpha must be a number or dim, but is nan"),
        ("network.alpha=inf", "network.alpha must be a number or dim, but is inf"),
        ("dataset.resolution=1020", "dataset.resolution is 1020 px, but must be a multiple of 8"),
        ("loss.timestep_min=1000", "must be at most 999"),
        ("optimizer.betas=0.9", "optimizer.betas is [0.9], but must be two numbers"),
        ("optimizer.betas=0.9,1.0", "from 0 to below 1"),
        ("run.name=a/b", "run.name is 'a/b', but must be a plain file name"),
        ("run.name=a:b", "plain file name"),
        ("run.name=", "plain file name"),
        ("run.name=..", "plain file name"),
        ("run.name=con", "a name that Windows keeps for itself"),
        ("run.name=LPT1.x", "a name that Windows keeps for itself"),
        ("precision.device=gpu", "precision.device is 'gpu', but must be auto, cpu, cuda, cuda:N or mps"),
        ("network.train_unet=false", "nothing would be trained"),
        ('network.rules=[{match = ""}]', "network.rules[0].match is empty"),
        ('network.rules=[{match = "a", dim = -1}]', "network.rules[0].dim is -1, but must be at least 1"),
        ('network.rules=[{match = "a", factor = 4}]', "network.rules[0].factor is used by lokr only; lora ignores it"),
        ('network.rules=[{match = "a", algo = "none", dim = 4}]', "network.rules[0].dim has no effect with algo none"),
        ('network.rules=[{match = "a", algo = "ia3", alpha = 4}]', "ia3 ignores it"),
        ('dataset.sources=[{folder = ""}]', "dataset.sources[0].folder is empty"),
    ],
)
def test_a_wrong_value_is_refused_in_a_sentence(change: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(complete(change))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["loss.timestep_min=500", "loss.timestep_max=400"], "loss.timestep_min 500 is above loss.timestep_max 400"),
        (["dataset.bucket_min=640", "dataset.bucket_max=512"], "dataset.bucket_min 640 is above dataset.bucket_max"),
        (
            ["network.train_te=true", "network.train_te1=false", "network.train_te2=false"],
            "train_te1 and train_te2 are both off",
        ),
        (
            ["network.attention=false", "network.feed_forward=false", "network.projections=false"],
            "no convolution is trained",
        ),
        (
            ["optimizer.name=prodigy-plus-schedule-free", "optimizer.schedule=cosine"],
            "prodigy-plus-schedule-free averages instead",
        ),
        (["save.ema=0.99", "optimizer.name=prodigy-plus-schedule-free"], "saves an average of its own"),
        (["loss.min_snr_gamma=5", "loss.debiased=true"], "choose one of them"),
        (["network.algo=lokr", "network.full_matrix=true", "network.dim=8"], "has no effect with network.full"),
        (
            ["base.family=sd15", "network.train_te=true", "optimizer.te2_lr=0.1"],
            "optimizer.te2_lr has no effect on SD1.5, whose models have nothing for it",
        ),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(complete(*changes))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("base.checkpoint", "base.checkpoint is empty"),
        ("dataset.folder", "dataset.folder is empty"),
        ("run.steps", "The run has no end"),
    ],
)
def test_a_run_needs_a_checkpoint_pictures_and_an_end_but_a_prediction_does_not(setting: str, message: str) -> None:
    assert validate(TrainConfig(), complete=False) == []
    config = complete()
    section, name = setting.split(".")
    setattr(getattr(config, section), name, type(getattr(getattr(config, section), name))())
    with pytest.raises(ConfigError, match=message):
        validate(config)


@pytest.mark.parametrize("budget", ["run.steps=0 run.epochs=3", "run.steps=0 run.minutes=0.5"])
def test_any_one_budget_is_enough(budget: str) -> None:
    assert validate(complete(*budget.split())) == []


def test_a_value_of_a_wrong_type_is_refused_and_not_compared() -> None:
    config = complete()
    config.network.dim = "32"  # type: ignore[assignment]
    config.network.tucker = 1  # type: ignore[assignment]
    config.preview.prompts = "a girl"  # type: ignore[assignment]
    config.run = None  # type: ignore[assignment]
    messages = [problem.message for problem in problems(config)]
    assert messages == [
        "network.dim must be a whole number, but is '32'.",
        "network.tucker must be true or false, but is 1.",
        "run must hold settings, but is None.",
        "preview.prompts must be a list, but is 'a girl'.",
    ]


def test_all_problems_are_told_at_once_in_the_order_of_the_form() -> None:
    config = configured("network.factor=4", "loss.huber_delta=0.5", "run.name=a/b", "loss.timestep_min=999")
    config.loss.timestep_max = 3
    with pytest.raises(ConfigError) as raised:
        validate(config)
    lines = str(raised.value).splitlines()
    assert lines[0] == "7 settings need a change:"
    told = [line.removeprefix("- ").split()[0] for line in lines[1:]]
    assert told[:5] == ["base.checkpoint", "dataset.folder", "network.factor", "loss.huber_delta", "loss.timestep_min"]


def test_ignored_settings_can_be_dropped_until_none_is_left() -> None:
    config = configured(
        "network.algo=ia3",
        "network.conv_dim=8",
        "network.conv_alpha=4",
        "network.tucker=true",
        "network.dim=32",
        'network.rules=[{match = "a", dim = 4, lr_scale = 0.5}]',
    )
    cleaned, dropped = without_ignored(config)
    assert problems(cleaned, complete=False) == []
    assert cleaned.network.rules == [RuleConfig(match="a", lr_scale=0.5)]
    assert (cleaned.network.dim, cleaned.network.conv_dim, cleaned.network.tucker) == (16, 0, False)
    assert len(dropped) == 5
    assert config.network.dim == 32


def test_the_form_can_ask_why_a_field_is_hidden() -> None:
    assert ignored_because(TrainConfig(), "network", "factor") is not None
    assert ignored_because(configured("network.algo=lokr"), "network", "factor") is None
    with pytest.raises(ConfigError, match=r"no setting network\.none"):
        ignored_because(TrainConfig(), "network", "none")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["optimizer.lr=0.5"], "expects 1"),
        (["optimizer.lr=0.0001"], "Set optimizer.lr to 1"),
        (["optimizer.schedule=cosine-restarts"], "constant or cosine suit it"),
        (["run.steps=100", "optimizer.warmup_steps=100"], "never reached"),
        (["network.dim=4", "network.alpha=16"], "more than twice"),
    ],
)
def test_what_people_seldom_mean_is_allowed_with_advice(changes: list[str], words: str) -> None:
    assert words in " ".join(validate(configured(*changes), complete=False))
    assert advice(TrainConfig()) == []

"""0 means 0: what is meant instead of a number is a word, and files of the first format keep their meaning."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from adapter_lab import config_file
from adapter_lab.cli.options import flag_values
from adapter_lab.cli.parser import make_parser
from adapter_lab.config import (
    RuleConfig,
    SourceConfig,
    TrainConfig,
    default_of,
    flag_of,
    sections,
    settings,
    trained_network,
    type_of,
    words_of,
)
from adapter_lab.errors import ConfigError
from adapter_lab.study.spec import file as study_file
from adapter_lab.validation import advice, problems

OLD = Path(__file__).parent / "data" / "first_format"
# Where 0 can mean nothing, it may stand for what is left open: these say so, and all others mean 0 by 0.
LEFT_OPEN = {
    "base.clip_skip", "dataset.resolution", "dataset.bucket_min", "dataset.bucket_max", "preview.width",
    "preview.height", "network.conv_dim", "network.constraint", "network.max_norm", "optimizer.growth_rate",
    "optimizer.clip_grad_norm", "loss.min_snr_gamma", "loss.v_like", "loss.multires_noise_iterations", "run.steps",
    "run.epochs", "run.minutes", "save.every_steps", "save.every_epochs", "save.every_minutes",
    "save.state_every_steps", "save.ema",
}  # fmt: skip


def with_words() -> list[tuple[type, str, str, str]]:
    """(dataclass, setting, its path, word) of every word that a setting takes beside numbers."""
    owners = [*((owner, section) for section, owner in sections())]
    owners += [(RuleConfig, "network.rules"), (SourceConfig, "dataset.sources")]
    return [
        (owner, entry.name, f"{where}.{entry.name}", word)
        for owner, where in owners
        for entry in dataclasses.fields(owner)
        for word in words_of(type_of(owner, entry.name))
    ]


def test_no_help_gives_zero_another_meaning_where_zero_could_be_meant() -> None:
    odd = {
        f"{section}.{name}"
        for section, name, entry in settings()
        if "; 0: " in entry.metadata["help"] and not words_of(type_of(dict(sections())[section], name))
    }
    assert odd - LEFT_OPEN == set()
    nested = [entry for owner in (RuleConfig, SourceConfig) for entry in dataclasses.fields(owner)]
    assert [e.name for e in nested if default_of(e) == 0 and "; 0: " in e.metadata["help"]] == []


@pytest.mark.parametrize(("owner", "name", "path", "word"), with_words())
def test_a_word_is_read_and_written_by_every_way_in(owner: type, name: str, path: str, word: str) -> None:
    kind = type_of(owner, name)
    assert config_file.parse_value(word.upper(), kind) == word
    assert config_file.literal(word, kind) == f'"{word}"'
    if owner in dict(sections()).values():
        section = path.split(".")[0]
        flags = flag_values(make_parser().parse_args(["train", flag_of(section, name), word]))
        assert flags == {path: word}
        config = config_file.loads(f'[{section}]\n{name} = "{word}"\n')
        assert getattr(getattr(config, section), name) == word
        assert config_file.loads(config_file.dumps(config)) == config
    with pytest.raises(ValueError, match=word):
        config_file.parse_value("nonsense", kind)


def test_a_word_that_is_none_of_the_settings_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.te1_lr must be a number or .same., but is 'auto'"):
        config_file.loads('[optimizer]\nte1_lr = "auto"\n')


def test_a_configuration_of_the_first_format_keeps_its_meaning() -> None:
    text = (OLD / "config.toml").read_text(encoding="utf-8")
    assert "\nte1_lr = 0.0\n" in text and "\nkeep_last = 0\n" in text and "\nrepeats = 0\n" in text
    # The same lines by hand, or in a file of today, mean what they say.
    by_hand = config_file.loads(text.split("\n", 1)[1])
    assert (by_hand.optimizer.te1_lr, by_hand.save.keep_last, by_hand.dataset.repeats) == (0.0, 0, 0)
    assert config_file.loads(config_file.dumps(by_hand)) == by_hand
    expected = by_hand
    expected.optimizer.lr, expected.optimizer.te1_lr, expected.optimizer.te2_lr = "auto", "same", "same"
    # What was a default then, and is "auto" now.
    expected.loss.timestep_distribution = expected.preview.guidance = expected.preview.shift = "auto"
    expected.dataset.repeats, expected.save.keep_last, expected.network.conv_alpha = "auto", "all", "same"
    assert config_file.load(OLD / "config.toml") == expected


def test_a_study_of_the_first_format_keeps_its_meaning_in_variants_too() -> None:
    study = study_file.load(OLD / "study.toml")
    assert study.variants[0].settings == {
        "network.algo": "lora", "optimizer.te1_lr": "same", "network.conv_alpha": "same",
    }  # fmt: skip
    assert study.variants[1].settings == {"optimizer.lr": 0.001, "network.alpha": "dim"}
    assert study_file.loads(study_file.dumps(study)) == study
    zero = study_file.dumps(study).replace('"optimizer.te1_lr" = "same"', '"optimizer.te1_lr" = 0.0')
    assert study_file.loads(zero).variants[0].settings["optimizer.te1_lr"] == 0.0


def network(**changes: Any) -> TrainConfig:
    config = TrainConfig()
    config.network.train_te = True
    for name, value in changes.items():
        setattr(config.optimizer, name, value)
    return config


@pytest.mark.parametrize(
    ("rates", "trained"),
    [
        ({}, (True, True, True, True)),
        ({"te1_lr": 0.0}, (True, True, False, True)),
        ({"te1_lr": 0.0, "te2_lr": 0.0}, (True, False, False, False)),
        ({"lr": 0.0, "te1_lr": 1e-4}, (False, True, True, False)),
        ({"lr": 0.0, "te1_lr": 1e-4, "te2_lr": "same"}, (False, True, True, False)),
        ({"lr": "auto", "te2_lr": 0.0}, (True, True, True, False)),
    ],
)
def test_a_part_whose_rate_is_zero_is_not_trained_and_that_is_said(
    rates: dict[str, Any], trained: tuple[bool, ...]
) -> None:
    config = network(**rates)
    n = trained_network(config)
    assert (n.train_unet, n.train_te, n.train_te1, n.train_te2) == trained
    at_rest = [sentence for sentence in advice(config) if "is not trained" in sentence]
    assert len(at_rest) == [n.train_unet, n.train_te1, n.train_te2].count(False)
    assert problems(config, complete=False) == []


def test_rates_that_are_all_zero_are_refused() -> None:
    (problem,) = problems(network(lr=0.0), complete=False)
    assert problem.setting == "optimizer.lr" and "nothing would be trained" in problem.message


@pytest.mark.parametrize("changes", [{"alpha": 0.0}, {"conv_dim": 4, "conv_alpha": 0.0}])
def test_an_alpha_of_zero_is_refused(changes: dict[str, Any]) -> None:
    config = TrainConfig()
    for name, value in changes.items():
        setattr(config.network, name, value)
    (problem,) = problems(config, complete=False)
    assert "scales the whole update to 0" in problem.message
    rule = TrainConfig()
    rule.network.rules = [RuleConfig(match="*", alpha=0.0)]
    assert [p.setting for p in problems(rule, complete=False)] == ["network.rules[0].alpha"]

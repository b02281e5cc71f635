"""Configurations as TOML, and changes by section.name=value."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any, get_args

import pytest

from adapter_lab import __version__, config_file, upgrades
from adapter_lab.config import (
    RuleConfig,
    SourceConfig,
    TrainConfig,
    default_of,
    number_of,
    sections,
    settings,
    type_of,
    words_of,
)
from adapter_lab.errors import ConfigError
from tests.support.settings import set_options

NASTY = [
    '"',
    "\\",
    'C:\\pictures\\"new"',
    "a\nb\r\n\tc",
    "\x00\x1f\x7f",
    "日本語 🎨",
    "|||",
    "# no comment",
    "'''",
    " ends ",
]


def random_value(kind: Any, choices: tuple[str, ...] | None, draw: random.Random) -> Any:
    if dataclasses.is_dataclass(kind):
        return kind(**{  # type: ignore[operator]
            field.name: random_value(type_of(kind, field.name), field.metadata["choices"], draw)
            for field in dataclasses.fields(kind)
        })  # fmt: skip
    if words_of(kind):
        return draw.choice([*words_of(kind), random_value(number_of(kind), None, draw)])
    if get_args(kind):
        return [random_value(get_args(kind)[0], choices, draw) for _ in range(draw.randrange(4))]
    if kind is bool:
        return draw.random() < 0.5
    if kind is int:
        return draw.choice([0, 1, 7, 4096, -1, 10**12])
    if kind is float:
        return draw.choice([0.0, 1e-6, 1.0, 0.1, 1 / 3, 1e300, 5e-324, -2.5, draw.random()])
    return draw.choice(choices) if choices else draw.choice(NASTY)


def random_config(seed: int) -> TrainConfig:
    draw = random.Random(seed)
    config = TrainConfig()
    for section, name, entry in settings():
        owner = dict(sections())[section]
        setattr(getattr(config, section), name, random_value(type_of(owner, name), entry.metadata["choices"], draw))
    return config


@pytest.mark.parametrize("only_changed", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_any_configuration_is_read_back_equal_and_written_back_byte_for_byte(seed: int, only_changed: bool) -> None:
    config = random_config(seed)
    text = config_file.dumps(config, only_changed)
    assert config_file.loads(text) == config
    assert config_file.dumps(config_file.loads(text), only_changed) == text


def test_the_full_file_names_and_explains_every_setting() -> None:
    text = config_file.dumps(TrainConfig())
    for section, name, entry in settings():
        assert f"\n{name} = " in text or f"[[{section}.{name}]]" in text, name
        assert " ".join(entry.metadata["help"].split()[:4]) in text, name


def test_the_short_file_holds_only_what_differs_from_the_defaults() -> None:
    config = TrainConfig()
    assert "=" not in config_file.dumps(config, only_changed=True)
    config.network.dim = 32
    config.network.rules = [RuleConfig(match="lora_te*", algo="none")]
    text = config_file.dumps(config, only_changed=True)
    assert text == (
        f"# Adapter Lab training configuration, format {upgrades.FORMAT}, release {__version__}\n\n"
        "[network]\ndim = 32\n\n"
        '[[network.rules]]\nmatch = "lora_te*"\nalgo = "none"\n'
    )


def test_a_whole_number_is_taken_for_a_number_and_written_back_as_one() -> None:
    config = config_file.loads("[network]\nalpha = 16\n")
    assert config.network.alpha == 16.0
    assert isinstance(config.network.alpha, float)
    assert "alpha = 16.0\n" in config_file.dumps(config)


def test_files_are_written_whole_and_read_with_a_byte_order_mark(tmp_path: Path) -> None:
    config = TrainConfig()
    config.dataset.sources = [SourceConfig(folder="D:\\2", repeats=2)]
    path = tmp_path / "config.toml"
    config_file.write(config, path)
    assert b"\r" not in path.read_bytes()
    assert config_file.load(path) == config
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert config_file.load(path) == config
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.toml"]


def test_a_file_changes_only_what_it_names() -> None:
    base = TrainConfig()
    base.network.dim = 64
    base.optimizer.name = "lion"
    config = config_file.loads("[network]\nalpha = 4.0\n", into=base)
    assert (config.network.dim, config.network.alpha, config.optimizer.name) == (64, 4.0, "lion")
    assert base.network.alpha == default_of(dataclasses.fields(base.network)[2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[network]\ndmi = 3\n", "no setting network.dmi; did you mean network.dim?"),
        ("[dataset]\nbatch_size = 3\n", "no setting dataset.batch_size; did you mean run.batch_size?"),
        ("[newtork]\ndim = 3\n", "no setting newtork"),
        ("dim = 3\n", "no setting dim; did you mean network.dim?"),
        ("network = 3\n", "network is a section"),
        ('[network]\ndim = "3"\n', "network.dim must be a whole number, but is '3'"),
        ("[network]\ndim = 3.5\n", "network.dim must be a whole number, but is 3.5"),
        ("[network]\ndim = true\n", "network.dim must be a whole number, but is True"),
        ("[network]\ntucker = 1\n", "network.tucker must be true or false, but is 1"),
        ("[network]\nalgo = 1\n", 'network.algo must be text in quotes ("...")'),
        ("[optimizer]\nbetas = 0.9\n", "optimizer.betas must be a list, but is 0.9"),
        ('[optimizer]\nbetas = ["a"]\n', "optimizer.betas[0] must be a number, but is 'a'"),
        ("[[network.rules]]\nmach = 'x'\n", "no setting network.rules[0].mach; did you mean match?"),
        ("[network]\nrules = [3]\n", "network.rules[0] must be a table"),
        ("[network]\ndim = \n", "not valid TOML"),
        ("[network]\ndim = 1\ndim = 2\n", "not valid TOML"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        config_file.load(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


def test_all_mistakes_of_a_file_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        config_file.loads("[network]\ndmi = 3\nalpha = 'x'\n[run]\nstep = 1\n")
    assert str(raised.value).count("\n- ") == 3


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read"):
        config_file.load(tmp_path / "none.toml")
    (tmp_path / "utf16.toml").write_bytes("[run]".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"utf16\.toml is not UTF-8"):
        config_file.load(tmp_path / "utf16.toml")


@pytest.mark.parametrize(
    ("change", "section", "name", "value"),
    [
        ("network.dim=32", "network", "dim", 32),
        ("network.alpha=16", "network", "alpha", 16.0),
        ("optimizer.d0=1e-5", "optimizer", "d0", 1e-5),
        ("network.tucker=true", "network", "tucker", True),
        ("network.tucker=No", "network", "tucker", False),
        ("dataset.trigger=a = b, c", "dataset", "trigger", "a = b, c"),
        ("dataset.trigger=", "dataset", "trigger", ""),
        ("optimizer.betas=0.9,0.999", "optimizer", "betas", [0.9, 0.999]),
        ("optimizer.betas=[0.9, 0.999]", "optimizer", "betas", [0.9, 0.999]),
        ("preview.prompts=1girl, smile", "preview", "prompts", ["1girl, smile"]),
        ('preview.prompts=["a", "b"]', "preview", "prompts", ["a", "b"]),
        ("preview.prompts=", "preview", "prompts", []),
        ('network.rules=[{match = "lora_te*", dim = 8}]', "network", "rules", [RuleConfig(match="lora_te*", dim=8)]),
        ('network.rules=[{"match": "a", "algo": "lokr"}]', "network", "rules", [RuleConfig(match="a", algo="lokr")]),
        ('dataset.sources={"folder": "x"}', "dataset", "sources", [SourceConfig(folder="x")]),
        ("dataset.regularization_folder=x", "dataset", "regularisation_folder", "x"),
        ('dataset.sources={"regularization": true}', "dataset", "sources", [SourceConfig(regularisation=True)]),
    ],
)
def test_changes_are_read_by_the_type_of_their_setting(change: str, section: str, name: str, value: Any) -> None:
    changed = set_options(TrainConfig(), [change])
    found = getattr(getattr(changed, section), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("dim=3", "not of the form section.name=value"),
        ("network.dim", "not of the form section.name=value"),
        ("network.dimm=3", "no setting network.dimm; did you mean network.dim?"),
        ("network.dim=many", "network.dim must be a whole number, but is 'many'"),
        ("network.alpha=x", "network.alpha must be a number or dim, but is 'x'"),
        ("network.tucker=maybe", "network.tucker must be true or false, but is 'maybe'"),
        ("network.rules=lora_te*", "network.rules must be a list of tables"),
        ("network.rules=[{match", "network.rules must be a list in TOML or JSON"),
    ],
)
def test_a_change_that_is_not_understood_is_refused(change: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        set_options(TrainConfig(), [change])
    assert message in str(raised.value)


def test_american_spelling_is_read_in_files_too() -> None:
    read = config_file.loads('[dataset]\nregularization_folder = "x"\n[[dataset.sources]]\nregularization = true\n')
    assert read.dataset.regularisation_folder == "x" and read.dataset.sources[0].regularisation


def test_changes_leave_the_given_configuration_as_it_was() -> None:
    before = TrainConfig()
    after = set_options(before, ["network.dim=3", "preview.prompts=a"])
    assert before == TrainConfig()
    assert after.network.dim == 3


def test_text_that_no_file_can_hold_is_refused() -> None:
    config = TrainConfig()
    config.dataset.trigger = "\ud83d"
    with pytest.raises(ConfigError, match="half of a character"):
        config_file.dumps(config)

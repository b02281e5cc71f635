"""Every setting with values that nobody means, through TOML, --set, its flag and the API: a sentence that names it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from adapter_lab import config_file
from adapter_lab.api.settings import resolved
from adapter_lab.cli.options import add_settings, chosen_config
from adapter_lab.config import TrainConfig, flag_of, sections, settings, type_of
from adapter_lab.errors import AdapterLabError
from adapter_lab.validation import problems
from tests.support.settings import set_options

LONG = "x" * 10_000_000
VALUES: dict[str, Any] = {
    "0": 0, "negative": -1, "nan": float("nan"), "inf": float("inf"), "-inf": float("-inf"), "2^64": 2**64,
    "310 digits": 10**310, "empty": "", "long": LONG, "text": "seven", "number": 7.5, "on": True, "list": [[]],
    "lists": [[[[]]]], "table": {"a": 1}, "tables": [{"a": {"a": 1}}], "control": "\x1b[2J\r\n", "half": "\ud800",
}  # fmt: skip
NAMES = [f"{section}.{name}" for section, name, _ in settings()]
# What no setting can be: of these each must be refused, whatever the setting is.
NEVER = ("nan", "inf", "-inf", "2^64", "310 digits", "long", "lists", "tables")


def toml(value: Any) -> str | None:
    """A value as TOML, which a person may have typed; None for what TOML has no way to write."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(entry) or "" for entry in value) + "]"
    return None if value == "\ud800" else json.dumps(value)


def by_toml(name: str, value: Any) -> list[str]:
    section, _, setting = name.partition(".")
    text = toml(value)
    return [] if text is None else checked(lambda: config_file.loads(f"[{section}]\n{setting} = {text}\n"))


def by_set(name: str, value: Any) -> list[str]:
    return checked(lambda: set_options(TrainConfig(), [f"{name}={as_typed(value)}"]))


def by_flag(name: str, value: Any) -> list[str]:
    return checked(lambda: chosen_config(PARSER.parse_args([f"{flag_of(*name.split('.'))}={as_typed(value)}"]))[0])


def by_api(name: str, value: Any) -> list[str]:
    found = resolved({name: value}, TrainConfig(), False)
    return [problem["message"] for problem in found["problems"]]


def as_typed(value: Any) -> str:
    return value[:200_000] if isinstance(value, str) else (toml(value) or "")


PARSER = argparse.ArgumentParser(exit_on_error=False)
add_settings(PARSER)
WAYS: dict[str, Callable[[str, Any], list[str]]] = {"toml": by_toml, "set": by_set, "flag": by_flag, "api": by_api}


def checked(make: Callable[[], TrainConfig]) -> list[str]:
    """What is said of a configuration, by whoever reads it or checks it."""
    try:
        return [problem.message for problem in problems(make(), complete=False)]
    except AdapterLabError as error:
        return str(error).splitlines()


def cases() -> Iterator[Any]:
    for way in WAYS:
        for what in VALUES:
            if (way, what) not in (("toml", "long"), ("api", "half")):  # below; and no request holds half a character
                yield pytest.param(way, what, id=f"{way} {what}")


@pytest.mark.parametrize(("way", "what"), cases())
def test_every_setting_takes_a_value_or_says_its_name(way: str, what: str) -> None:
    owners, begun = dict(sections()), time.process_time()
    for name in NAMES:
        section, _, setting = name.partition(".")
        kind = type_of(owners[section], setting)
        if way == "flag" and kind is bool:
            continue  # --name and --no-name
        said = WAYS[way](name, VALUES[what])
        about = [sentence for sentence in said if name in sentence or flag_of(section, setting) in sentence]
        assert all(len(sentence) < 2000 and "Traceback" not in sentence for sentence in said)
        typed = way in ("set", "flag")  # there all is text, and a number with a fraction may be large
        fits = typed and (what == "2^64" or kind in (str, list[str])) and what != "long"
        if what in NEVER and not fits:
            assert about, f"{name}: {said}"
        assert all(sentence in about or any(path in sentence for path in NAMES) for sentence in said), said
    assert time.process_time() - begun < 20


def test_a_file_of_ten_million_letters_is_refused_by_name() -> None:
    begun = time.process_time()
    assert any("dataset.trigger" in sentence for sentence in by_toml("dataset.trigger", LONG))
    for text in (LONG, f"[{LONG}]", f"[network]\n{LONG} = 1", "[network]\ndim = " + "9" * 1_000_000, "[" * 1_000_000):
        (sentence, *_) = checked(lambda text=text: config_file.loads(text))
        assert len(sentence) < 2000, sentence[:300]
    assert time.process_time() - begun < 30

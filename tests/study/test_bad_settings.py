"""Every setting of a study's own with values that nobody means: a sentence that names it, or a value it may have."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from adapter_lab.errors import AdapterLabError
from adapter_lab.study.spec import checks
from adapter_lab.study.spec import file as study_file
from adapter_lab.study.spec.file import OWN
from tests.test_bad_values import LONG, VALUES, toml

NAMES = [f"{section}.{entry.name}" for section, (_, owner) in OWN.items() for entry in fields(owner)]
# What none of them can be.
NEVER = ("nan", "inf", "-inf", "2^64", "310 digits", "lists", "tables")
BASE = '[base]\ncheckpoint = "x.safetensors"\n[dataset]\nfolder = "pictures"\n'
VARIANTS = '[[variants]]\nname = "a"\n[variants.settings]\n"network.algo" = "lora"\n'


def said(name: str, value: Any) -> str | None:
    """The sentence that refuses a value; "" where it is accepted, None where TOML cannot say it."""
    section, _, setting = name.partition(".")
    text = toml(value)
    if text is None:
        return None
    try:
        checks.check(study_file.loads(f"[{section}]\n{setting} = {text}\n{BASE}{VARIANTS}"))
        return ""
    except AdapterLabError as error:
        return str(error)


@pytest.mark.parametrize("kind", [kind for kind in VALUES if VALUES[kind] is not LONG])
@pytest.mark.parametrize("name", NAMES)
def test_a_bad_value_is_refused_with_its_name_or_one_that_it_may_have(name: str, kind: str) -> None:
    if (name, kind) == ("race.enabled", "on"):
        return  # what it is for; what such a race needs is told of other settings
    sentence = said(name, VALUES[kind])
    if sentence:
        assert name in sentence or name.partition(".")[2] in sentence, sentence[:300]
        assert len(sentence) < 2_000 and "Traceback" not in sentence
    if kind in NEVER:
        assert sentence, "accepted"

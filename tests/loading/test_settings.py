"""Our section of the Settings page, in the shape every web UI takes, and what was chosen there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from adapter_lab.hosts.settings import EVERY_FILE, ONLY_WRONG, OPTIONS, SECTION, Settings, add_options


class OptionInfo:
    """A web UI's description of an option, as far as we use it."""

    def __init__(self, default: Any, label: str, component: Any, component_args: Any, section: Any = None) -> None:
        self.default, self.label, self.section = default, label, section
        self.component, self.component_args, self.said = component, component_args, ""

    def info(self, text: str) -> OptionInfo:
        self.said = text
        return self


def component(*arguments: str) -> Any:
    """A gradio component that takes these arguments, which it has had from 3.41 to 6."""

    def make(**given: Any) -> Any:
        assert set(given) <= {"label", "value", *arguments}
        return SimpleNamespace(**given)

    return make


GRADIO = SimpleNamespace(
    Checkbox=component(),
    Radio=component("choices"),
    Slider=component("minimum", "maximum", "step"),
    Textbox=component("lines"),
)


def test_settings_are_the_defaults_until_the_page_has_been_built() -> None:
    found = Settings(SimpleNamespace())
    assert found.enabled and not found.every_file
    assert (found.verbosity, found.cache_bytes) == ("normal", 2**30)


def test_settings_follow_the_page_at_once() -> None:
    options = SimpleNamespace(adapter_lab_scope=ONLY_WRONG)
    found = Settings(options)
    assert not found.every_file
    options.adapter_lab_scope, options.adapter_lab_cache_mb, options.adapter_lab_loader = EVERY_FILE, 8, False
    assert found.every_file and found.cache_bytes == 8 * 2**20 and not found.enabled


def test_every_option_is_added_once_in_our_section_and_its_component_can_be_built() -> None:
    added: dict[str, OptionInfo] = {}
    opts = SimpleNamespace(add_option=added.__setitem__)
    add_options(SimpleNamespace(OptionInfo=OptionInfo, opts=opts), GRADIO)
    assert list(added) == list(OPTIONS)
    for info in added.values():
        assert info.section == SECTION and info.said
        built = info.component(label=info.label, value=info.default, **info.component_args)
        assert built.value in getattr(built, "choices", [info.default])


@pytest.mark.parametrize("option", OPTIONS)
def test_options_say_whose_they_are(option: str) -> None:
    assert option.startswith("adapter_lab_")

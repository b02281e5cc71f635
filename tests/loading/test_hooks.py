"""Hooks: in place once, undone wholly, and harmless where the web UI or another extension is not as expected."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from adapter_lab.hosts.families.hooks import Hooks


@pytest.fixture
def module() -> Any:
    def load(name: str, strength: float = 1.0) -> str:
        """Load a file."""
        return f"{name} at {strength}"

    return SimpleNamespace(__name__="networks", load=load, version=3)


def shouting(original: Any) -> Any:
    return lambda *args, **kwargs: original(*args, **kwargs).upper()


def test_a_function_is_replaced_and_put_back(module: Any) -> None:
    original, hooks = module.load, Hooks()
    assert hooks.replace(module, "load", shouting)
    assert module.load("a", strength=0.5) == "A AT 0.5" and module.load.__doc__ == "Load a file."
    hooks.undo()
    assert module.load is original
    hooks.undo()
    assert module.load is original


@pytest.mark.parametrize("reloads", [1, 10])
def test_reloading_never_wraps_twice(reloads: int, module: Any) -> None:
    calls = []

    def counting(original: Any) -> Any:
        return lambda *args, **kwargs: calls.append(args) or original(*args, **kwargs)

    original = module.load
    for _ in range(reloads):
        hooks = Hooks()
        hooks.replace(module, "load", counting)  # what the reload before this left behind is still there
    assert module.load("a") == "a at 1.0" and len(calls) == 1
    hooks.undo()
    assert module.load is original


def test_a_function_the_web_ui_lacks_is_told_and_left_alone(module: Any) -> None:
    hooks = Hooks()
    assert not hooks.replace(module, "absent", shouting) and not hooks.replace(module, "version", shouting)
    assert not hasattr(module, "absent") and module.version == 3
    assert hooks.messages == [
        "networks has no function absent, so what needs it is off.",
        "networks has no function version, so what needs it is off.",
    ]
    hooks.undo()
    assert not hasattr(module, "absent")


def test_ours_only_calls_the_original_once_undone_inside_another_extensions_wrapper(module: Any) -> None:
    hooks = Hooks()
    hooks.replace(module, "load", shouting)
    ours = module.load
    module.load = lambda *args: f"[{ours(*args)}]"
    theirs = module.load
    assert module.load("a") == "[A AT 1.0]"
    hooks.undo()
    assert module.load is theirs and module.load("a") == "[a at 1.0]"


def test_items_and_entries_go_and_others_stay() -> None:
    hooks, calculators, kinds = Hooks(), {"theirs": 1}, ["lora"]
    hooks.set_item(calculators, "ours", 2)
    hooks.insert(kinds, "ours")
    calculators["later"], kinds[2:] = 3, ["later"]
    assert kinds == ["ours", "lora", "later"]
    hooks.undo()
    assert calculators == {"theirs": 1, "later": 3} and kinds == ["lora", "later"]


def test_everything_is_undone_the_last_first() -> None:
    done: list[int] = []

    class Kept(dict[int, str]):
        def pop(self, key: int, *default: Any) -> Any:
            done.append(key)
            return super().pop(key, *default)

    hooks, kept = Hooks(), Kept()
    for number in range(3):
        hooks.set_item(kept, number, "ours")
    hooks.undo()
    assert done == [2, 1, 0] and not kept

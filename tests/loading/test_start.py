"""Loading and unloading: the right web UI, hooks in once and out again, remarks in images, and no error let out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from adapter_lab.hosts import start as starting
from adapter_lab.hosts.families import detect as detection
from adapter_lab.hosts.families.detect import FAMILIES, detect
from adapter_lab.hosts.families.unknown import UnknownHost
from adapter_lab.hosts.loading.loader import Loader
from adapter_lab.hosts.loading.report import FileReport


class Script:
    """A web UI's base class of scripts."""


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The modules of a web UI of no known family."""
    unloaded: list[Any] = []
    found: dict[str, Any] = {
        "modules": {},
        "modules.shared": {"opts": SimpleNamespace(), "cmd_opts": SimpleNamespace(lora_dir=str(tmp_path))},
        "modules.scripts": {"Script": Script, "AlwaysVisible": "always"},
        "modules.sd_models": {
            "checkpoints_list": {"a": SimpleNamespace(title="a.safetensors [123]", filename=str(tmp_path / "a"))}
        },
        "modules.script_callbacks": {
            "on_script_unloaded": unloaded.append, "on_ui_settings": lambda callback: None, "unloaded": unloaded,
        },
    }  # fmt: skip
    for name, contents in found.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    yield found
    starting.stop()


class Recorder(UnknownHost):
    """A web UI that writes down what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.loader: Loader | None = None

    def install_loader(self, loader: Loader) -> list[str]:
        self.asked.append("install")
        self.loader = loader
        return ["It lacks a function."]

    def remove_loader(self) -> None:
        self.asked.append("remove")


@pytest.fixture
def recorder(modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(starting, "detect", lambda: recorder)
    return recorder


def test_no_web_ui_is_no_error() -> None:
    assert detect() is None and starting.start() is None and starting.running() is None


@pytest.mark.parametrize(("needed", "ours"), FAMILIES)
def test_a_family_is_known_by_what_can_be_imported(
    needed: tuple[str, ...], ours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "_can_import", lambda module: module in needed)
    found = detect()
    assert found is not None and found.name == ours


def test_a_module_that_fails_to_import_is_one_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_parent").mkdir()
    (tmp_path / "broken_parent" / "__init__.py").write_text("raise ImportError('needs something')")
    monkeypatch.syspath_prepend(tmp_path)
    assert not detection._can_import("broken_parent.lora") and not detection._can_import("no_such_package.lora")
    assert detection._can_import("json.decoder")


def test_an_unknown_web_ui_gets_what_needs_no_hook(
    modules: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = starting.start()
    assert script is not None and issubclass(script, Script)
    assert capsys.readouterr().out.count("\n") == 1
    running = starting.running()
    assert running is not None
    host = running[0]
    assert host.name == "unknown" and host.adapter_folder() == [tmp_path]
    assert [entry.title for entry in host.checkpoints()] == ["a.safetensors [123]"]
    assert host.xyz_module() is None
    host.free_gpu()


def test_reloading_ten_times_installs_once_each_time(recorder: Recorder, modules: dict[str, Any]) -> None:
    unloaded = modules["modules.script_callbacks"]["unloaded"]
    for _ in range(10):
        starting.start()
        unloaded.pop()()
    assert recorder.asked == ["install", "remove"] * 10 and starting.running() is None


def test_a_reload_without_notice_removes_what_was_there(recorder: Recorder) -> None:
    starting.start()
    starting.start()
    assert recorder.asked == ["install", "remove", "install"]


def test_what_a_web_ui_lacks_is_said(recorder: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    starting.start()
    assert capsys.readouterr().out == "[Adapter Lab] It lacks a function.\n"


def picture() -> Any:
    p = SimpleNamespace(extra_generation_params={}, comments=[])
    p.comment = p.comments.append
    return p


def test_our_script_is_invisible_and_writes_the_reports(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = starting.start()
    assert kind is not None and recorder.loader is not None
    script, p = kind(), picture()
    assert script.title() == "Adapter Lab" and script.show(False) == script.show(True) == "always"
    report = FileReport("a", "a", "lora", 1, 2, reasons={"x": "why"})
    monkeypatch.setattr(recorder.loader, "reports", lambda: [report])
    script.process_batch(p, batch_number=0, prompts=["x"])
    assert p.extra_generation_params == {"Adapter Lab": "a: lora, 1 of 2 modules"} and not p.comments
    script.postprocess_batch(p, None, batch_number=0)
    assert p.comments == [f"Adapter Lab: {report.warning()}"]


def test_an_error_in_a_remark_never_reaches_the_web_ui(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = starting.start()
    assert kind is not None
    monkeypatch.setattr(recorder.loader, "reports", lambda: 1 / 0)
    kind().process_batch(picture())
    assert "could not write into the image's infotext" in capsys.readouterr().out


def test_nothing_of_a_file_stays_in_memory_after_unloading(recorder: Recorder, tmp_path: Path) -> None:
    starting.start()
    assert recorder.loader is not None
    recorder.loader.cache.get(str(tmp_path / "a.safetensors"))
    starting.stop()
    assert len(recorder.loader.cache) == 0

"""The repository keeps what a host and a person rely on."""

from __future__ import annotations

import configparser
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import adapter_lab
from adapter_lab.environment.locks import LOCKS
from adapter_lab.environment.status import ROOT, Status, runtime_python

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]


def load_as_host_does(script: Path) -> None:
    """Run a script as web UIs do: a module called by its file name, not in sys.modules."""
    spec = importlib.util.spec_from_file_location(script.name, script)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.fixture
def search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_thin(script: Path) -> None:
    assert len(script.read_text(encoding="utf-8").splitlines()) < 80


@pytest.mark.usefixtures("search_path")
def test_console_says_what_to_run_while_the_environment_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADAPTER_LAB_RUNTIME", str(tmp_path / "none"))
    load_as_host_does(ROOT / "scripts" / "adapter_lab.py")
    said = capsys.readouterr().out
    assert "is not set up yet" in said
    assert f'"{sys.executable}" "{ROOT / "install.py"}"' in said


@pytest.mark.usefixtures("search_path")
def test_console_repeats_why_the_last_installation_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADAPTER_LAB_RUNTIME", str(tmp_path))
    Status(message="The network broke during a download.", run="this command").write(tmp_path)
    load_as_host_does(ROOT / "scripts" / "adapter_lab.py")
    assert "The network broke during a download. Until this has run, nothing can be trained: this command" in (
        capsys.readouterr().out
    )


@pytest.mark.usefixtures("search_path")
def test_console_names_the_tab_when_all_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADAPTER_LAB_RUNTIME", str(tmp_path))
    runtime_python(tmp_path).parent.mkdir(parents=True)
    runtime_python(tmp_path).touch()
    Status(ready=True).write(tmp_path)
    load_as_host_does(ROOT / "scripts" / "adapter_lab.py")
    assert "is ready: train in the tab Adapter Lab" in capsys.readouterr().out


def test_a_broken_copy_of_the_extension_does_not_stop_the_host(tmp_path: Path) -> None:
    script = tmp_path / "scripts" / "adapter_lab.py"
    script.parent.mkdir()
    shutil.copyfile(ROOT / "scripts" / "adapter_lab.py", script)
    done = subprocess.run([sys.executable, "-I", "-S", str(script)], capture_output=True, text=True)
    assert done.returncode == 0
    assert "is not available: No module named 'adapter_lab" in done.stdout


def test_metadata_names_the_extension_as_web_uis_allow() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "metadata.ini")
    assert re.fullmatch(r"[a-z0-9-]+", parser["Extension"]["Name"])


def test_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] in ("Unreleased", adapter_lab.__version__)
    assert adapter_lab.__version__ in headings


@pytest.mark.parametrize("page", PAGES)
def test_links_in_pages_lead_to_files(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_paths_named_in_pages_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:extension|tests|requirements|scripts|docs|benchmarks)/[\w./-]+)`", text)
    named += [
        f"extension/adapter_lab/{path}"
        for path in re.findall(r"`((?:adapters|training|demo|environment)/[\w./]+)`", text)
    ]
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_licence_is_the_whole_agpl() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.lstrip().startswith("GNU AFFERO GENERAL PUBLIC LICENSE")
    assert "END OF TERMS AND CONDITIONS" in text


def test_continuous_integration_runs_every_lock() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    oldest = LOCKS[-1].file
    assert f"ADAPTER_LAB_LOCK={oldest}" in text
    assert (ROOT / "requirements" / LOCKS[0].file).is_file()

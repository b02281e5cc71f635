from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from adapter_lab.environment import build, pip
from adapter_lab.environment.status import Status, read_status, runtime_python
from adapter_lab.errors import AdapterLabError
from tests.support.wheels import write_wheel


def test_pip_comes_from_the_hosts_pip_where_python_cannot_bring_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's Python without its venv package: `python -m venv` fails unless told to leave pip out."""
    wheels, folder = tmp_path / "wheels", tmp_path / "runtime"
    write_wheel(wheels, "pip", "99.0")
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr(pip, "quiet", lambda command: 1)
    build.Build(folder, with_tests=False).make_environment()
    done = subprocess.run([str(runtime_python(folder)), "-m", "pip", "list"], capture_output=True, text=True)
    assert done.stdout.startswith("pip ")
    assert done.stdout.rstrip().endswith("['list']")


def test_a_python_without_venv_is_told_to_use_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "venv", None)
    with pytest.raises(AdapterLabError, match=r"cannot make environments .* install Python 3\.11 or newer"):
        build.Build(tmp_path, with_tests=False).make_environment()


def test_two_installations_do_not_work_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "runtime"
    first = build.only_one(folder)
    first.__enter__()
    with pytest.raises(AdapterLabError, match="Another installation is at work"), build.only_one(folder):
        pass
    first.__exit__(None, None, None)
    with build.only_one(folder):
        pass  # free again


def test_the_maker_of_an_environment_is_asked_only_while_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    host = tmp_path / "python"
    Status(interpreter=str(host)).write(tmp_path)
    assert build.maker(tmp_path) == ""
    host.touch()
    assert build.maker(tmp_path) == str(host)
    Status(interpreter=sys.executable).write(tmp_path)
    assert build.maker(tmp_path) == ""


def test_the_maker_that_a_web_ui_replaces_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, web_ui = tmp_path / "python", tmp_path / "webui"
    host.touch()
    (web_ui / "modules").mkdir(parents=True)
    (web_ui / "webui.py").touch()
    Status(interpreter=str(host)).write(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(web_ui))
    assert build.maker(tmp_path) == ""


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ready": true, "colour": "red"}'])
def test_a_damaged_status_file_is_an_environment_that_is_not_set_up(text: str, tmp_path: Path) -> None:
    (tmp_path / "STATUS.json").write_text(text)
    status = read_status(tmp_path)
    assert not status.ready
    assert "install.py" in status.run


def test_ready_is_not_believed_when_the_python_is_gone(tmp_path: Path) -> None:
    Status(ready=True).write(tmp_path)
    assert not read_status(tmp_path).ready

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from adapter_lab.environment import pip
from adapter_lab.errors import AdapterLabError
from tests.support.wheels import put_into


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (
            "WARNING: Retrying ... NewConnectionError('failed')\nERROR: No matching distribution found for x",
            "network broke",
        ),
        ("ReadTimeoutError: Read timed out.", "network broke"),
        ("urllib3.exceptions.ProtocolError: ('Connection broken: IncompleteRead(12 bytes read)')", "network broke"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk .* is full"),
        ("ERROR: No matching distribution found for torch==2.13.0+cpu", "No matching distribution found for torch"),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have ...\n"
            "torch==2.13.0 from file:///wheels/torch-2.13.0.whl (from -r torch.txt (line 3)):\nExpected sha256 00",
            r"^torch==2\.13\.0 from file:///wheels/torch-2\.13\.0\.whl was not installed.*ADAPTER_LAB_TORCH_INDEX",
        ),
        ("something odd", "something odd"),
    ],
)
def test_a_failed_pip_is_explained_with_what_to_do(output: str, sentence: str, tmp_path: Path) -> None:
    said = pip.explain(output.splitlines(), tmp_path / "install.log")
    assert re.search(sentence, said)
    assert "run install.py again" in said


def test_a_failing_command_leaves_its_output_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(AdapterLabError, match="the reason"):
        pip.run([sys.executable, "-c", "import sys; print('ERROR: the reason'); sys.exit(3)"], tmp_path)
    assert "ERROR: the reason" in (tmp_path / pip.LOG).read_text()


def test_only_large_downloads_are_said(tmp_path: Path) -> None:
    lines = [
        "  Downloading a/torch-2.13.0.whl (526.6 MB)",
        "  Downloading six-1.whl (11 kB)",
        "Downloading x.whl (1.2 GB)",
    ]
    said: list[str] = []
    pip.run([sys.executable, "-c", f"print({chr(10).join(lines)!r})"], tmp_path, said.append)
    assert said == ["downloading torch-2.13.0.whl (526.6 MB)", "downloading x.whl (1.2 GB)"]


def test_what_a_host_set_for_its_own_python_does_not_reach_the_private_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in pip.MISLEADING:
        monkeypatch.setenv(name, "/somewhere")
    monkeypatch.setenv("PIP_INDEX_URL", "kept")
    environment = pip.clean_environment()
    assert not set(pip.MISLEADING) & set(environment)
    assert environment["PIP_INDEX_URL"] == "kept"


def test_bytecode_that_a_host_does_not_want_is_kept_in_the_private_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ADAPTER_LAB_RUNTIME", str(tmp_path / "private"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    (tmp_path / "module.py").write_text("x = 1")
    subprocess.run([sys.executable, "-c", "import module"], cwd=tmp_path, env=pip.clean_environment(), check=True)
    assert list((tmp_path / "private").rglob("module.*.pyc")) and not list(tmp_path.glob("__pycache__"))


class Recorder:
    """Stands for pip: remembers what was asked for, and offers only the `offered` builds."""

    def __init__(self, *offered: str) -> None:
        self.offered = offered
        self.asked: list[list[str]] = []
        self.said: list[str] = []

    def install(self, folder: Path, arguments: list[str], say: object) -> None:
        self.asked.append(arguments)
        if arguments[-1] not in self.offered:
            raise AdapterLabError(f"pip could not: No matching distribution found for {arguments[-1]}")


def lock_of_torch(folder: Path) -> Path:
    lock = folder / "torch.txt"
    lock.write_text("# The usual build\ntorch==2.13.0 \\\n    --hash=sha256:0\n")
    return lock


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has one build of torch only")
@pytest.mark.parametrize(
    ("gpu", "offered", "asked"),
    [
        ("", ("torch==2.13.0+cpu",), ["torch==2.13.0+cpu"]),
        ("", ("torch==2.13.0",), ["torch==2.13.0+cpu", "torch==2.13.0"]),
        ("nvidia", ("torch==2.13.0", "torch==2.13.0+cpu"), ["torch==2.13.0"]),
        ("amd", ("torch==2.13.0",), ["torch==2.13.0"]),
    ],
)
def test_torch_is_a_cpu_build_only_without_a_gpu(
    gpu: str, offered: tuple[str, ...], asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(*offered)
    monkeypatch.setattr(pip, "install", recorder.install)
    monkeypatch.setattr(pip, "need_space", lambda folder, gigabytes: None)
    monkeypatch.setenv("ADAPTER_LAB_TORCH_INDEX", "file:///builds")
    pip.install_torch(tmp_path, lock_of_torch(tmp_path), [], gpu, recorder.said.append)
    assert [arguments[-1] for arguments in recorder.asked] == asked
    assert all("file:///builds" in arguments for arguments in recorder.asked)
    assert "to download" in recorder.said[0]  # the size is said before anything is fetched


@pytest.mark.parametrize("gpu", ["", "nvidia"])
def test_the_usual_build_of_torch_is_taken_by_its_hashes(
    gpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = lock_of_torch(tmp_path)
    recorder = Recorder(str(usual))
    monkeypatch.setattr(pip, "install", recorder.install)
    monkeypatch.setattr(pip, "need_space", lambda folder, gigabytes: None)
    for name in ("ADAPTER_LAB_TORCH_INDEX", "TORCH_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    pip.install_torch(tmp_path, usual, [], gpu, recorder.said.append)
    assert recorder.asked[-1] == ["--no-deps", "--require-hashes", "--requirement", str(usual)]


def test_another_build_of_torch_may_not_change_what_the_locks_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, needs = lock_of_torch(tmp_path), tmp_path / "torch-needs.txt"
    needs.write_text('sympy==1.14.0; python_version >= "3.10" \\\n    --hash=sha256:0\n')
    recorder = Recorder("torch==2.13.0")
    monkeypatch.setattr(pip, "install", recorder.install)
    monkeypatch.setattr(pip, "need_space", lambda folder, gigabytes: None)
    monkeypatch.setenv("ADAPTER_LAB_TORCH_INDEX", "file:///builds")
    pip.install_torch(tmp_path, usual, [needs], "nvidia", recorder.said.append)
    constraints = Path(recorder.asked[0][recorder.asked[0].index("--constraint") + 1])
    assert constraints.read_text() == 'sympy==1.14.0; python_version >= "3.10"\n'


def test_a_broken_network_is_not_taken_for_a_missing_cpu_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def broken(folder: Path, arguments: list[str], say: object) -> None:
        asked.append(arguments[-1])
        raise AdapterLabError("The network broke during a download")

    monkeypatch.setattr(pip, "install", broken)
    monkeypatch.setattr(pip, "need_space", lambda folder, gigabytes: None)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(AdapterLabError, match="network broke"):
        pip.install_torch(tmp_path, lock_of_torch(tmp_path), [], "", lambda text: None)
    assert asked == ["torch==2.13.0+cpu"]


def test_too_little_space_is_said_before_the_download(tmp_path: Path) -> None:
    with pytest.raises(AdapterLabError, match=r"about 100000000 GB .* ADAPTER_LAB_RUNTIME"):
        pip.need_space(tmp_path, 100_000_000)


@pytest.mark.parametrize("damage", ["no record", "module missing", "module cut off"])
def test_a_distribution_that_was_cut_off_is_forgotten(damage: str, tmp_path: Path) -> None:
    put_into(tmp_path, "whole", "1.0")
    put_into(tmp_path, "half", "1.0")
    if damage == "no record":
        (tmp_path / "half-1.0.dist-info" / "RECORD").unlink()
    elif damage == "module missing":
        (tmp_path / "half" / "__main__.py").unlink()
    else:
        (tmp_path / "half" / "__main__.py").write_text("")
    pip.remove_half_installed(tmp_path)
    assert [path.name for path in tmp_path.glob("*.dist-info")] == ["whole-1.0.dist-info"]

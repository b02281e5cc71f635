"""requirements/hashes.py, which a developer runs after a change of pins, with an index of its own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from adapter_lab.environment.locks import pins
from adapter_lab.environment.status import ROOT

TAKEN = (
    "some_package-1.0-py3-none-any.whl",
    "some_package-1.0-py2.py3-none-any.whl",
    "some_package-1.0-cp37-abi3-win_amd64.whl",
    "some_package-1.0-cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "some_package-1.0-cp313-cp313-macosx_11_0_arm64.whl",
    "some_package-1.0-1-cp313-cp313-musllinux_1_2_x86_64.whl",
)
LEFT = (
    "some_package-1.0.tar.gz",
    "some-package.zip",
    "some_package-1.0.post1-py3-none-any.whl",
    "some_package-1.0-py2-none-any.whl",
    "some_package-1.0-cp39-cp39-win_amd64.whl",
    "some_package-1.0-pp311-pypy311_pp73-win_amd64.whl",
    "some_package-1.0-cp313-cp313-ios_13_0_arm64_iphoneos.whl",
    "some_package-1.0-cp313-cp313-pyodide_2025_0_wasm32.whl",
)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("pip", reason="the private environment always has it")
    specification = importlib.util.spec_from_file_location("hashes", ROOT / "requirements" / "hashes.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    files = [{"filename": name, "hashes": {"sha256": f"{index:064x}"}} for index, name in enumerate(TAKEN + LEFT)]
    monkeypatch.setattr(module, "files", lambda package: files if package == "some-package" else [])
    return module


def test_every_wheel_that_a_python_of_ours_may_take_is_hashed_and_the_rest_stays(
    script: ModuleType, tmp_path: Path
) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text('# A comment\nsome-package==1.0; python_version < "3.11" \\\n    --hash=sha256:old\n')
    script.write(lock)
    wanted = "".join(f" \\\n    --hash=sha256:{index:064x}" for index in range(len(TAKEN)))
    assert lock.read_text() == f'# A comment\nsome-package==1.0; python_version < "3.11"{wanted}\n'
    assert pins(lock) == ['some-package==1.0; python_version < "3.11"']


def test_a_pin_without_a_wheel_is_named(script: ModuleType, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("some-package==1.0\nother==2.0\n")
    before = lock.read_text()
    with pytest.raises(SystemExit, match=r"no wheel of other 2\.0"):
        script.write(lock)
    assert lock.read_text() == before

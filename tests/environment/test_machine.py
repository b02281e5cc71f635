from __future__ import annotations

import sys
from pathlib import Path

import pytest

from adapter_lab.environment import machine
from tests.support.wheels import put_into


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's site-packages as the only place where distributions are found."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.setattr(sys, "path", [str(site)])
    # The Python that runs the tests may itself share a host's torch.
    finders = [finder for finder in sys.meta_path if type(finder).__name__ != "HostPackages"]
    monkeypatch.setattr(sys, "meta_path", finders)
    return site


def test_a_host_without_torch_has_none_to_share(host: Path) -> None:
    put_into(host, "gradio", "3.41.2")
    assert machine.host_torch() is None


def test_torch_comes_with_all_it_needs_and_nothing_else(host: Path) -> None:
    needs = ("filelock", 'nvidia-cublas-cu12==12.4; platform_system == "Linux"', "opt-einsum; extra == 'opt-einsum'")
    put_into(host, "torch", "2.6.0+cu124", needs)
    put_into(host, "filelock", "3.0")
    put_into(host, "nvidia-cublas-cu12", "12.4", module="nvidia")
    put_into(host, "bitsandbytes", "0.45.0", ("torch", "scipy"))
    put_into(host, "scipy", "1.11.0")
    put_into(host, "opt-einsum", "3.3")
    put_into(host, "transformers", "4.30.2")
    found = machine.host_torch()
    assert found is not None
    assert found.version == "2.6.0+cu124"
    assert found.folders == (str(host.resolve()),)
    assert found.modules == ("bitsandbytes", "filelock", "nvidia", "scipy", "torch")
    assert found.distributions == ("bitsandbytes", "filelock", "nvidia-cublas-cu12", "scipy", "torch")


def test_single_file_and_compiled_modules_are_found(host: Path) -> None:
    put_into(host, "torch", "2.6.0", ("typing-extensions",))
    put_into(host, "typing-extensions", "4.12")
    record = host / "typing_extensions-4.12.dist-info" / "RECORD"
    record.write_text("typing_extensions.py,,\n_speed.cpython-311-x86_64-linux-gnu.so,,\n../../../bin/tool,,\n")
    found = machine.host_torch()
    assert found is not None
    assert {"typing_extensions", "_speed"} <= set(found.modules)
    assert "tool" not in found.modules and "bin" not in found.modules


def test_web_ui_is_known_by_what_it_puts_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert not machine.started_by_web_ui()
    (tmp_path / "modules").mkdir()
    assert not machine.started_by_web_ui()
    (tmp_path / "launch.py").touch()
    assert machine.started_by_web_ui()
    monkeypatch.delenv("PYTHONPATH")
    assert not machine.started_by_web_ui()

"""What all descendants of A1111's web UI share: names in a prompt lead to files as the web UI itself finds them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from adapter_lab.hosts.families.conditions import forget_conditions
from adapter_lab.hosts.families.webui import adapter_folders, requests_of, without_missing, xyz_script


class Networks:
    """The web UI's list of adapter files: those it has listed, and those a refresh would add."""

    def __init__(self, listed: dict[str, Path], new: dict[str, Path], ambiguous: Sequence[str] = ()) -> None:
        self.available_networks: dict[str, Any] = {}
        self.available_network_aliases: dict[str, Any] = {}
        self.forbidden_network_aliases = dict.fromkeys(ambiguous, 1)
        self.refreshes = 0
        self._new = new
        self._add(listed)

    def _add(self, files: dict[str, Path]) -> None:
        for name, path in files.items():
            self.available_networks[path.stem] = entry = SimpleNamespace(filename=str(path))
            self.available_network_aliases[name] = entry

    def list_available_networks(self) -> None:
        self.refreshes += 1
        self._add(self._new)


def files(folder: Path, *names: str) -> list[Path]:
    paths = [folder / f"{name}.safetensors" for name in names]
    for path in paths:
        path.touch()
    return paths


def test_a_name_leads_to_its_file_with_both_strengths(tmp_path: Path) -> None:
    (path,) = files(tmp_path, "one")
    (request,) = requests_of(Networks({"one": path}, {}), ["one"], [0.5], [0.7], [None])
    assert (request.path, request.te_strength, request.unet_strength, request.dyn) == (str(path), 0.5, 0.7, None)


def test_strengths_are_one_where_none_are_given(tmp_path: Path) -> None:
    (path,) = files(tmp_path, "one")
    (request,) = requests_of(Networks({"one": path}, {}), ["one"], None, None, None)
    assert (request.te_strength, request.unet_strength) == (1.0, 1.0)


def test_an_alias_that_several_files_claim_means_the_file_of_that_name(tmp_path: Path) -> None:
    own, other = files(tmp_path, "style", "other")
    networks = Networks({"style": other}, {}, ambiguous=["style"])
    networks.available_networks["style"] = SimpleNamespace(filename=str(own))
    assert requests_of(networks, ["style"], None, None, None)[0].path == str(own)


def test_the_list_is_refreshed_once_for_names_that_are_not_in_it(tmp_path: Path) -> None:
    listed, new = files(tmp_path, "listed", "new")
    networks = Networks({"listed": listed}, {"new": new})
    requests = requests_of(networks, ["listed", "new", "nowhere"], None, None, None)
    assert [request.path for request in requests] == [str(listed), str(new), None]
    assert networks.refreshes == 1
    assert requests_of(networks, ["new"], None, None, None)[0].path and networks.refreshes == 1


def test_a_file_deleted_since_it_was_listed_is_missing_and_left_out_of_what_the_web_ui_gets(tmp_path: Path) -> None:
    kept, gone = files(tmp_path, "kept", "gone")
    networks = Networks({"kept": kept, "gone": gone}, {})
    gone.unlink()
    requests = requests_of(networks, ["gone", "kept"], [0.1, 0.2], [0.3, 0.4], None)
    assert [request.path for request in requests] == [None, str(kept)]
    assert without_missing(requests, (["gone", "kept"], [0.1, 0.2], None)) == (["kept"], [0.2], None)


def web_ui_module(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    module = ModuleType(name)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


def test_the_xyz_plot_is_found_among_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = [
        SimpleNamespace(script_class=type("Other", (), {"__module__": "other.py"}), module=ModuleType("other.py")),
        SimpleNamespace(script_class=type("Script", (), {"__module__": "xyz_grid.py"}), module=ModuleType("xyz")),
    ]
    web_ui_module(monkeypatch, "modules.scripts", scripts_data=scripts)
    assert xyz_script() is scripts[1].module
    web_ui_module(monkeypatch, "modules.scripts", scripts_data=scripts[:1])
    assert xyz_script() is None


def test_the_folder_to_save_into_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    web_ui_module(monkeypatch, "modules")
    options = SimpleNamespace(lora_dir="loras", lyco_dir_backcompat="lycos")
    web_ui_module(monkeypatch, "modules.shared", cmd_opts=options)
    assert adapter_folders() == [Path("loras"), Path("lycos")]
    del options.lyco_dir_backcompat
    assert adapter_folders() == [Path("loras")]


def test_conditions_of_all_prompts_are_forgotten_in_the_lists_a_picture_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    both, hires, negative = (["a prompt", "its conditions"] for _ in range(3))
    base = type("StableDiffusionProcessing", (), {"cached_c": both, "cached_uc": negative})
    txt2img = type("StableDiffusionProcessingTxt2Img", (base,), {"cached_hr_c": hires})
    web_ui_module(
        monkeypatch, "modules.processing", StableDiffusionProcessing=base, StableDiffusionProcessingTxt2Img=txt2img
    )
    forget_conditions()
    assert [cache[0] for cache in (both, hires, negative)] == [None, None, None]

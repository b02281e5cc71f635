"""What is made for a web UI alone does what the original does, in a form that this web UI applies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.adapters.svd import RankRule
from adapter_lab.errors import AdapterLabError
from adapter_lab.hosts.loading.verdict_table import HOSTS
from adapter_lab.hosts.loading.verdicts import APPLY, verdict
from adapter_lab.hosts.standalone import convert_for
from tests.adapters.derived import NAMES, NORM_NAME, case_tensors, largest_error, save_base
from tests.adapters.random_adapter import random_tensors
from tests.support.adapter_cases import CASES


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "base.safetensors")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("originals")
    paths = {case: folder / f"{case.replace(' ', '-')}.safetensors" for case in CASES}
    for case, path in paths.items():
        save_adapter(path, case_tensors(case), {})
    return paths


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("case", CASES)
def test_every_web_ui_alone_applies_what_is_made_for_it(
    case: str, host: str, base: Path, originals: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    report = convert_for(originals[case], out, host, base=base)
    assert verdict(AdapterFile.open(out), host).outcome == APPLY and not report.notes and not report.left_out
    assert largest_error([(out, 0.6)], [(originals[case], 0.6)]) <= 1e-6


# What becomes of a module of each kind, where it is not kept: {host: algorithm in its file}.
FORMS = {
    ("lokr factor 2 tucker", "conv 3x3"): dict.fromkeys(HOSTS, "lokr"),
    ("lora dora", "linear"): dict.fromkeys(HOSTS, "full"),
    ("lora dora on inputs", "linear"): {**dict.fromkeys(HOSTS, "lora"), "classic": "full"},
    ("glora", "linear"): dict.fromkeys(HOSTS, "glora"),
    ("glora", "conv 1x1"): {**dict.fromkeys(HOSTS, "glora"), "classic": "full", "a1111": "full"},
    ("boft", "linear"): {**dict.fromkeys(HOSTS, "full"), "a1111": "boft"},
    ("loha", "strided"): dict.fromkeys(HOSTS, "loha"),
    ("ia3", "linear"): {**dict.fromkeys(HOSTS, "full"), "a1111": "ia3"},
    ("ia3", "conv 3x3"): dict.fromkeys(HOSTS, "full"),
}


@pytest.mark.parametrize(("case", "layer_type"), FORMS, ids=" ".join)
def test_modules_keep_their_algorithm_where_that_will_do(
    case: str, layer_type: str, base: Path, originals: dict[str, Path], tmp_path: Path
) -> None:
    for host, algorithm in FORMS[case, layer_type].items():
        convert_for(originals[case], tmp_path / "out.safetensors", host, base=base)
        assert AdapterFile.open(tmp_path / "out.safetensors").algorithm_of(NAMES[layer_type]) == algorithm, host


def test_a_core_is_multiplied_into_a_factor_of_the_same_rank(originals: dict[str, Path], tmp_path: Path) -> None:
    case = "lokr factor 2 tucker"
    for host in HOSTS:
        convert_for(originals[case], tmp_path / "out.safetensors", host)
        module = AdapterFile.open(tmp_path / "out.safetensors").modules[NAMES["conv 3x3"]]
        assert ("lokr_t2" in module) == (host == "a1111")
        if host != "a1111":
            assert module["lokr_w2_a"].shape == (12, 3) and module["lokr_w2_b"].shape == (3, 8 * 9)


def test_glora_for_older_readers_has_their_names_and_no_scale(
    originals: dict[str, Path], base: Path, tmp_path: Path
) -> None:
    """Forge-classic and A1111 compute W a2 a1 + b2 b1, and A1111 leaves alpha out of account."""
    convert_for(originals["glora"], tmp_path / "out.safetensors", "a1111", base=base)
    file = AdapterFile.open(tmp_path / "out.safetensors")
    a1, a2, b1, b2 = (file.file.read(f"{NAMES['linear']}.{name}.weight") for name in ("a1", "a2", "b1", "b2"))
    weight = torch.randn(24, 16, dtype=torch.float64)
    expected = AdapterFile.open(originals["glora"]).load(NAMES["linear"]).delta(weight)
    assert torch.allclose(weight @ a2 @ a1 + b2 @ b1, expected, rtol=1e-6)
    assert float(file.file.read(f"{NAMES['linear']}.alpha")) == len(a1) == 3


def test_a_size_makes_lora_of_what_cannot_be_kept(base: Path, originals: dict[str, Path], tmp_path: Path) -> None:
    report = convert_for(originals["boft"], tmp_path / "out.safetensors", "neo", rule=RankRule(error=0.1), base=base)
    assert {one.algorithm for one in report.made} == {"lora"} and 0 < report.error <= 0.1
    report = convert_for(originals["boft"], tmp_path / "out.safetensors", "a1111", rule=RankRule(error=0.1))
    assert {one.algorithm for one in report.made} == {"boft"} and report.error == 0


@pytest.mark.parametrize("host", HOSTS)
def test_norm_layers_no_form_of_which_is_read_are_left_out_by_name(host: str, tmp_path: Path) -> None:
    te = "lora_te_text_model_encoder_layers_0_layer_norm1"
    modules = {te: random_tensors("norm", (768,)), NORM_NAME: random_tensors("norm", (320,), bias=True)}
    tensors = {f"{name}.{suffix}": tensor for name, found in modules.items() for suffix, tensor in found.items()}
    save_adapter(tmp_path / "a.safetensors", tensors, {})
    report = convert_for(tmp_path / "a.safetensors", tmp_path / "out.safetensors", host)
    left_out = [] if host == "a1111" else [te]
    assert list(report.left_out) == left_out and (HOSTS[host] in report.text() or not left_out)
    assert {te, NORM_NAME} - AdapterFile.open(tmp_path / "out.safetensors").modules.keys() == set(left_out)


def test_what_names_alone_prevent_is_said(tmp_path: Path) -> None:
    name = "lora_te2_text_model_encoder_layers_0_self_attn_q_proj"
    tensors = {f"{name}.{suffix}": tensor for suffix, tensor in random_tensors("lora", (1280, 1280)).items()}
    save_adapter(tmp_path / "a.safetensors", tensors, {})
    report = convert_for(tmp_path / "a.safetensors", tmp_path / "out.safetensors", "a1111")
    assert "A1111 alone would still drop" in report.notes[0]
    assert not convert_for(tmp_path / "a.safetensors", tmp_path / "out.safetensors", "forge").notes


def test_names_and_missing_alpha_are_mended_and_metadata_say_for_whom(tmp_path: Path) -> None:
    up, down = torch.randn(3072, 4), torch.randn(4, 768)
    tensors = {
        "text_encoder.encoder.layers.0.mlp.fc1.lora_B.weight": up,
        "text_encoder.encoder.layers.0.mlp.fc1.lora_A.weight": down,
    }
    save_adapter(tmp_path / "a.safetensors", tensors, {"ss_network_dim": "4"})
    convert_for(tmp_path / "a.safetensors", tmp_path / "out.safetensors", "classic")
    file, name = AdapterFile.open(tmp_path / "out.safetensors"), "lora_te_text_model_encoder_layers_0_mlp_fc1"
    found = {suffix: file.file.read(info.key) for suffix, info in file.modules[name].items()}
    assert torch.equal(found["lora_up.weight"], up) and torch.equal(found["lora_down.weight"], down)
    assert float(found["alpha"]) == 4
    assert file.metadata["ss_network_dim"] == "4"
    assert json.loads(file.metadata["adapter_lab.made_from"])["options"] == {"for": "classic"}


def test_an_unknown_web_ui_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(AdapterLabError, match=r"choose one of classic \(Forge-classic\), a1111"):
        convert_for(tmp_path / "a.safetensors", tmp_path / "out.safetensors", "comfy")

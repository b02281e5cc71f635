"""`convert --names`: the same change of the weights under the names of another program, in every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapter_lab.adapters.apply import apply_adapters
from adapter_lab.adapters.convert import convert
from adapter_lab.adapters.family import adapter_families
from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.adapters.keys import resolve, targets
from adapter_lab.adapters.layers import Layer
from adapter_lab.adapters.names import NAMINGS
from adapter_lab.adapters.standard import standard_targets
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.cli import main
from adapter_lab.errors import AdapterLabError
from tests.adapters.random_adapter import random_tensors
from tests.support.checkpoints import tiny_layout, write_random_checkpoint

FAMILIES = ("sd15", "sd2", "sdxl")
Files = tuple[str, Path, Path, dict[str, torch.Tensor]]
UNET = "model.diffusion_model."


@pytest.fixture(scope="module", params=FAMILIES)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A family, a checkpoint of it, a LoRA of mixed ranks and alphas on all of its layers, and what it changes."""
    family, folder = request.param, tmp_path_factory.mktemp(request.param)
    base = write_random_checkpoint(folder / "base.safetensors", f"tiny-{family}", torch.float32)
    tensors = {}
    for number, (name, target) in enumerate(targets(tiny_layout(family)).items()):
        if target.kind != "norm":
            made = random_tensors("lora", target.shape, rank=2 + number % 3)
            made["alpha"] = torch.tensor(1.0 + number % 4)
            tensors |= {f"{name}.{suffix}": tensor for suffix, tensor in made.items()}
    save_adapter(folder / "a.safetensors", tensors, {})
    return family, base, folder / "a.safetensors", changed(base, folder / "a.safetensors")


def changed(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The tensors of the checkpoint that an adapter changes, by name."""
    out = adapter.with_name(f"{adapter.stem}-applied.safetensors")
    report = apply_adapters(base, [(adapter, 0.7)], out, changed_only=True)
    assert not report.adapters[0].not_applied and not report.adapters[0].unknown and not report.adapters[0].guessed
    file = TensorFile.open(out)
    return file.read_many(file.tensors)


@pytest.mark.parametrize("names", NAMINGS)
def test_a_file_does_the_same_under_other_names(names: str, files: Files, tmp_path: Path) -> None:
    family, base, path, before = files
    out = tmp_path / "out.safetensors"
    report = convert(path, out, "same", base=base, dtype="fp32", names=names)
    if names == "peft":  # of one model
        assert all(name.startswith("lora_te") and "folder of its own" in why for name, why in report.left_out.items())
        before = {key: tensor for key, tensor in before.items() if key.startswith(UNET)}
    else:
        assert not report.left_out
    after = changed(base, out)
    assert after.keys() == before.keys()
    for key, tensor in before.items():
        torch.testing.assert_close(after[key], tensor, rtol=1e-6, atol=1e-6, msg=key)
    assert family in adapter_families(AdapterFile.open(out))


@pytest.mark.parametrize("names", NAMINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_of_the_released_models_has_a_name_that_is_read_again(names: str, family: str) -> None:
    table, left_out = standard_targets(family), dict[str, str]()
    layers = {name: Layer(name, target.shape, target) for name, target in table.items()}
    written = NAMINGS[names].layers(layers, table, family, left_out)
    assert len(written) + len(left_out) == len(table) and (not left_out or names == "peft")
    convert_back = {layer.name: name for name, layer in written.items()}
    assert len(convert_back) == len(written)
    assert [name for spelled, name in convert_back.items() if resolve(spelled, table) is not table[name]] == []


@pytest.mark.parametrize("algorithm", ["lokr", "loha", "dora", "norm"])
def test_what_peft_names_cannot_hold_is_named(algorithm: str, tmp_path: Path) -> None:
    good = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    other = good.replace("to_q", "to_k") if algorithm != "norm" else good.replace("attn1_to_q", "norm1")
    made = {"w_norm": torch.ones(320)} if algorithm == "norm" else random_tensors(algorithm, (320, 320))
    tensors = {f"{good}.{suffix}": tensor for suffix, tensor in random_tensors("lora", (320, 320)).items()}
    path, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    save_adapter(path, tensors | {f"{other}.{suffix}": tensor for suffix, tensor in made.items()}, {"ss_v2": "False"})
    report = convert(path, out, "same", names="diffusers")
    assert list(report.left_out) == [other] and len(AdapterFile.open(out).modules) == 1
    assert not [key for key in AdapterFile.open(out).file.tensors if key.endswith("alpha")]


def test_names_that_cannot_be_are_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    tensors = random_tensors("lora", (8, 8))
    save_adapter(path, {f"lora_unet_joint_blocks_0_x_block_attn_qkv.{s}": t for s, t in tensors.items()}, {})
    with pytest.raises(AdapterLabError, match=r"SD1\.5, SD2, SDXL and Anima only"):
        convert(path, out, "same", names="kohya")
    with pytest.raises(AdapterLabError, match="for LoRA alone"):
        convert(path, out, "full", names="diffusers")
    assert main(["convert", str(path), "--for", "forge", "--names", "kohya", "--out", str(out)]) == 2
    assert "leave --names out" in capsys.readouterr().err and not out.exists()

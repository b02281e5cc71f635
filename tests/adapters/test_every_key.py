"""Every tensor of a file is used, carried along or named, and every strength is stated or said to be a guess."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapter_lab.adapters.base import patch
from adapter_lab.adapters.file import AdapterFile, NoAdapterError, save_adapter
from adapter_lab.adapters.tensors import TensorFile
from tests.adapters.random_adapter import ALGORITHMS, random_tensors

NAME = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
DIFFUSERS = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
SHAPE = (16, 16)
# What may lie beside a module's own tensors, of any shape.
EXTRAS = {
    "diff": SHAPE,
    "diff_b": (16,),
    "hada_w1_a": (16, 2),
    "lokr_w1": (4, 4),
    "lokr_w1_a": (4, 2),
    "lokr_t2": (2, 2, 3, 3),
    "lora_mid.weight": (2, 2, 3, 3),
    "rescale": (16, 1),
    "oft_blocks": (4, 4, 4),
    "oft_diag": (4, 4, 4),
    "a1.weight": (16, 2),
    "w_norm": (16,),
    "b_norm": (16,),
    "set_weight": SHAPE,
    "weight": (16,),
    "on_input": (),
    "scalar": (),
    "dora_scale": (16, 1),
    "lora_magnitude_vector": (16,),
    "initial_norm": (16,),
    "lora_B.bias": (16,),
    "nonsense": (3,),
}


def random_file(folder: Path, chance: random.Random) -> tuple[AdapterFile | None, set[str]]:
    """One module with some tensors that are not its own, and the keys; None for the file if it is no adapter."""
    tensors = random_tensors(chance.choice(ALGORITHMS), SHAPE, bias=chance.random() < 0.3)
    for suffix in chance.sample(sorted(EXTRAS), chance.randint(0, 4)):
        tensors.setdefault(suffix, torch.rand(EXTRAS[suffix]))
    keys = {f"{NAME}.{suffix}": tensor for suffix, tensor in tensors.items()}
    keys |= {"bundle_emb.me.string_to_param.*": torch.zeros(2, 8)} if chance.random() < 0.5 else {}
    keys |= {"unrelated": torch.zeros(1)} if chance.random() < 0.5 else {}
    save_adapter(folder / "a.safetensors", keys, {})
    try:
        return AdapterFile.open(folder / "a.safetensors"), set(keys)
    except NoAdapterError:
        return None, set(keys)


def delta(file: AdapterFile, keys: dict[str, Tensor], base: Tensor) -> tuple[Tensor, Tensor | None]:
    """What the file's module makes of a weight, with `keys` in the place of its own tensors, and its bias."""
    folder = file.path.parent
    save_adapter(folder / "changed.safetensors", keys, {})
    adapter = AdapterFile.open(folder / "changed.safetensors").load(NAME)
    return patch(base, adapter, 1.0), adapter.bias_delta


def test_every_tensor_is_used_or_carried_or_named(tmp_path: Path) -> None:
    chance = random.Random(1)
    base, looked_at = torch.randn(SHAPE, dtype=torch.float64), 0
    for _ in range(150):
        file, keys = random_file(tmp_path, chance)
        if file is None:
            continue
        used = {info.key for infos in file.modules.values() for info in infos.values()}
        groups = (used, set(file.carried), set(file.unknown))
        assert set.union(*groups) == keys and sum(map(len, groups)) == len(keys)
        assert all(file.unknown.values())
        try:
            before = file.load(NAME)
        except Exception:  # factors that do not belong together are named as a whole
            continue
        if not before.fits(SHAPE):
            continue
        tensors = {key: TensorFile.open(file.path).read(key) for key in keys}
        old = patch(base, before, 1.0), before.bias_delta
        for suffix, info in file.modules.get(NAME, {}).items():
            if suffix in ("alpha", "on_input", "oft_R.scaled_oft", "initial_norm") or not info.dtype.is_floating_point:
                continue
            new = delta(file, {**tensors, info.key: tensors[info.key] * 1.5 + 0.1}, base)
            same_bias = old[1] is new[1] or (old[1] is not None and new[1] is not None and torch.equal(old[1], new[1]))
            assert not (torch.equal(old[0], new[0]) and same_bias), (sorted(tensors), suffix)
            looked_at += 1
        rest = {key: tensor for key, tensor in tensors.items() if key in used}
        assert torch.equal(delta(file, rest, base)[0], old[0])  # what is named has no part in it
    assert looked_at > 100


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr"])
def test_a_difference_beside_factors_is_added(algorithm: str, tmp_path: Path) -> None:
    tensors, diff = random_tensors(algorithm, SHAPE), torch.randn(SHAPE)
    keys = {f"{NAME}.{suffix}": tensor for suffix, tensor in tensors.items()}
    save_adapter(tmp_path / "alone.safetensors", keys, {})
    save_adapter(tmp_path / "both.safetensors", {**keys, f"{NAME}.diff": diff}, {})
    base = torch.randn(SHAPE, dtype=torch.float64)
    alone, both = (AdapterFile.open(tmp_path / f"{name}.safetensors").load(NAME) for name in ("alone", "both"))
    torch.testing.assert_close(patch(base, both, 0.7), patch(base, alone, 0.7) + 0.7 * diff.double())
    in_place = base.clone()
    both.add_delta(in_place, 0.7)
    torch.testing.assert_close(in_place, patch(base, both, 0.7))


def opened(folder: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> AdapterFile:
    """A file in a PEFT folder."""
    folder.mkdir(exist_ok=True)
    save_adapter(folder / "adapter_model.safetensors", tensors, metadata or {})
    return AdapterFile.open(folder / "adapter_model.safetensors")


PEFT = f"base_model.model.{DIFFUSERS}"
LORA = {f"{PEFT}.lora_A.weight": torch.randn(8, 16), f"{PEFT}.lora_B.weight": torch.randn(16, 8)}
LOHA = {
    f"{PEFT}.{name}": torch.randn(shape)
    for name, shape in {"hada_w1_a": (16, 8), "hada_w1_b": (8, 16), "hada_w2_a": (16, 8), "hada_w2_b": (8, 16)}.items()
}
LOKR = {f"{PEFT}.lokr_w1": torch.randn(4, 4), f"{PEFT}.lokr_w2": torch.randn(4, 4)}
# A configuration, its file's tensors, and alpha / r as PEFT has it.
FOLDERS: dict[str, tuple[dict[str, object], dict[str, Tensor], float]] = {
    "lora": ({"peft_type": "LORA", "r": 8, "lora_alpha": 32}, LORA, 4.0),
    "rslora": ({"peft_type": "LORA", "r": 8, "lora_alpha": 32, "use_rslora": True}, LORA, 32 / 8**0.5),
    "loha": ({"peft_type": "LOHA", "r": 8, "alpha": 4}, LOHA, 0.5),
    "lokr of whole factors": ({"peft_type": "LOKR", "r": 8, "alpha": 4}, LOKR, 0.5),
    "pattern": ({"r": 8, "lora_alpha": 8, "alpha_pattern": {r".*\.attn1\..*": 16}}, LORA, 2.0),
    "first pattern": ({"r": 8, "lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 16, "to_q": 32}}, LORA, 2.0),
    "part of a name": ({"r": 8, "lora_alpha": 8, "alpha_pattern": {"o_q": 16}}, LORA, 1.0),
    "rank pattern": ({"r": 4, "alpha": 4, "rank_pattern": {"to_q": 8}}, LOKR, 0.5),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_peft_folder_states_its_scale(case: str, tmp_path: Path) -> None:
    configuration, tensors, scale = FOLDERS[case]
    folder = tmp_path / "peft"
    guessed = opened(folder, tensors)
    assert guessed.states_scale(PEFT) == (tensors is LOKR)
    base = torch.zeros(SHAPE, dtype=torch.float64)
    plain = patch(base, guessed.load(PEFT), 1.0)
    (folder / "adapter_config.json").write_text(json.dumps(configuration), encoding="utf-8")
    stated = opened(folder, tensors)
    assert stated.states_scale(PEFT)
    torch.testing.assert_close(patch(base, stated.load(PEFT), 1.0), plain * scale)
    component = {f"unet.{key}": value for key, value in configuration.items()}
    diffusers = {key.replace("base_model.model", "unet"): tensor for key, tensor in tensors.items()}
    inside = opened(tmp_path / "inside", diffusers, {"lora_adapter_metadata": json.dumps(component)})
    torch.testing.assert_close(patch(base, inside.load(f"unet.{DIFFUSERS}"), 1.0), plain * scale)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"lora_alpha": "x"}', '{"lora_alpha": NaN}', "\x00"])
def test_a_broken_configuration_states_nothing(text: str, tmp_path: Path) -> None:
    file = opened(tmp_path, LORA)
    (tmp_path / "adapter_config.json").write_text(text, encoding="utf-8")
    assert not AdapterFile.open(file.path).states_scale(PEFT)


def test_a_pattern_cannot_take_for_ever(tmp_path: Path) -> None:
    patterns = {"(.*.*)*x": 1, ".*" * 20 + "x": 2, "(": 3, "[" * 500: 4}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "alpha_pattern": patterns}))
    assert opened(tmp_path, LORA).outline(PEFT).describe()["alpha"] == 8


def test_a_configuration_of_other_files_is_not_this_ones(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 32}))
    save_adapter(tmp_path / "mine.safetensors", {k.replace(PEFT, NAME): t for k, t in LORA.items()}, {})
    assert not AdapterFile.open(tmp_path / "mine.safetensors").states_scale(NAME)


@pytest.mark.parametrize("algorithm", ["lora", "loha", "lokr", "glora"])
def test_alpha_zero_is_no_change_as_everywhere_else(algorithm: str, tmp_path: Path) -> None:
    tensors = {**random_tensors(algorithm, SHAPE), "alpha": torch.tensor(0.0)}
    save_adapter(tmp_path / "a.safetensors", {f"{NAME}.{suffix}": t for suffix, t in tensors.items()}, {})
    base = torch.randn(SHAPE)
    assert torch.equal(patch(base, AdapterFile.open(tmp_path / "a.safetensors").load(NAME), 1.0), base)


def rotation(blocks: int, size: int) -> Tensor:
    """Random orthogonal matrices (n, s, s) in fp64."""
    return torch.linalg.qr(torch.randn(blocks, size, size, dtype=torch.float64)).Q


def test_old_oft_holds_the_rotation_itself(tmp_path: Path) -> None:
    turn, base = rotation(4, 4), torch.randn(16, 6, 3, 3, dtype=torch.float64)
    save_adapter(tmp_path / "a.safetensors", {f"{NAME}.oft_diag": turn}, {})
    file = AdapterFile.open(tmp_path / "a.safetensors")
    assert file.algorithm_of(NAME) == "diag-oft"
    expected = torch.einsum("knm,kn...->km...", turn, base.reshape(4, 4, 6, 3, 3)).reshape(base.shape)
    torch.testing.assert_close(patch(base, file.load(NAME), 1.0), expected)
    torch.testing.assert_close(patch(base, file.load(NAME), 0.5), (base + expected) / 2)


def test_comfys_whole_weight_takes_the_bases_place(tmp_path: Path) -> None:
    weight, base = torch.randn(SHAPE), torch.randn(SHAPE)
    save_adapter(tmp_path / "a.safetensors", {f"{NAME}.set_weight": weight}, {})
    adapter = AdapterFile.open(tmp_path / "a.safetensors").load(NAME)
    torch.testing.assert_close(patch(base, adapter, 1.0), weight)
    torch.testing.assert_close(patch(base, adapter, 0.25), 0.75 * base + 0.25 * weight)


def test_lora_without_weight_behind_its_letters_is_lora(tmp_path: Path) -> None:
    name = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q"
    down, up = torch.randn(2, 16), torch.randn(16, 2)
    save_adapter(tmp_path / "a.safetensors", {f"{name}.lora_A": down, f"{name}.lora_B": up}, {})
    file, base = AdapterFile.open(tmp_path / "a.safetensors"), torch.randn(SHAPE)
    assert not file.states_scale(name)
    torch.testing.assert_close(patch(base, file.load(name), 1.0), base + up @ down)


FOREIGN: dict[str, tuple[list[str], str]] = {
    "textual inversion": (["emb_params"], "textual inversion embedding"),
    "textual inversion of SDXL": (["clip_l", "clip_g"], "textual inversion embedding"),
    "PEFT's VeRA": ([f"{PEFT}.vera_lambda_b", f"{PEFT}.vera_lambda_d"], "VeRA"),
    "PEFT's BOFT": ([f"{PEFT}.boft_R", f"{PEFT}.boft_s"], "BOFT adapter of PEFT"),
    "PEFT's IA3": ([f"{PEFT}.ia3_l"], "(IA)³ adapter of PEFT"),
    "PEFT's OFT": ([f"{PEFT}.oft_r"], "OFT adapter of an old PEFT"),
    "PEFT's HRA": ([f"{PEFT}.hra_u"], "adapter of PEFT of a type"),
    "ControlNet": (["control_model.input_blocks.0.0.weight"], "a ControlNet"),
    "checkpoint": (["model.diffusion_model.out.2.weight"], "a checkpoint"),
    "VAE": (["encoder.conv_in.weight", "decoder.conv_out.weight"], "a VAE"),
    "anything": (["x"], "something else"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_file_of_something_else_is_called_what_it_is(case: str, tmp_path: Path) -> None:
    keys, words = FOREIGN[case]
    save_adapter(tmp_path / "a.safetensors", {key: torch.zeros(2, 2) for key in keys}, {})
    with pytest.raises(NoAdapterError) as raised:
        AdapterFile.open(tmp_path / "a.safetensors")
    assert words in str(raised.value)

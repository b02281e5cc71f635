"""Anima's files: every naming and storage, the parts beside the transformer, and what they make of captions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLQwenImage, CosmosTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapter_lab.adapters.anima import STARTS, standard_shapes
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.config import BaseConfig
from adapter_lab.errors import AdapterLabError, FileFormatError
from adapter_lab.families import TRANSFORMERS
from adapter_lab.training.bases import Base, open_base, vae
from adapter_lab.training.bases.anima.modules import new_part
from adapter_lab.training.bases.anima.text import CONTEXT, AnimaCaptions, released_tokens
from adapter_lab.training.bases.text import TextOutput
from tests.support.anima import RELEASED, tiny_row, vae_shapes, write_anima
from tests.support.checkpoints import write_random_checkpoint

CAPTIONS = ["a red hat", "", "a person with a blue hat, tok"]
NORMS = ("LayerNorm", "RMSNorm", "Qwen3RMSNorm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_anima(tmp_path_factory.mktemp("anima")).parent


def opened(path: Path, **settings: Any) -> Base:
    base = open_base(BaseConfig(checkpoint=str(path), **settings))
    base.check()
    return base


def answer(base: Base, seed: int = 0) -> Tensor:
    """What the transformer makes of one noise, three captions and times."""
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn((3, 16, 6, 4), generator=generator)
    with torch.no_grad():
        text = base.load_text_encoders(torch.float32).encode(CAPTIONS)
        times = torch.tensor([20.0, 500.0, 990.0])
        return base.denoise(base.load_unet(torch.float32), noisy, times, text, [])


def test_the_released_model_has_the_tensors_that_we_say() -> None:
    own = {name.removeprefix("net."): tuple(shape) for name, shape in RELEASED["transformer"].items()}
    assert standard_shapes(TRANSFORMERS["anima"]) == own | {n: tuple(s) for n, s in RELEASED["text_encoder"].items()}
    assert len(vae_shapes()) == len(RELEASED["vae"]) == 194


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_spelling_of_a_transformer_file_is_the_same_model(
    folder: Path, tmp_path: Path, start: str, dtype: torch.dtype
) -> None:
    files = {path.name: path for path in folder.iterdir()}
    transformer = load_file(files["anima-tiny.safetensors"])
    renamed = {f"{start}{key.removeprefix('net.')}": tensor.to(dtype) for key, tensor in transformer.items()}
    for name, path in files.items():
        shutil.copy(path, tmp_path / name)
    metadata = TensorFile.open(files["anima-tiny.safetensors"]).metadata
    save_file(renamed, tmp_path / "anima-tiny.safetensors", dict(metadata))
    got, want = answer(opened(tmp_path / "anima-tiny.safetensors")), answer(opened(folder / "anima-tiny.safetensors"))
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("blocks", [28, 40, 52])
def test_the_number_of_blocks_is_the_files(tmp_path: Path, blocks: int) -> None:
    base = opened(write_anima(tmp_path, blocks))
    assert base.components["unet"].config["num_layers"] == blocks and f"{blocks} blocks" in base.findings[0]


def test_weights_in_fp8_with_scales_are_read_as_their_values(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        shutil.copy(path, tmp_path / path.name)
    path = tmp_path / "anima-tiny.safetensors"
    metadata = dict(TensorFile.open(path).metadata)
    stored = load_file(path)
    scaled: dict[str, Tensor] = {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}
    for key, tensor in stored.items():
        if tensor.ndim == 2 and ".blocks." in key:
            scale = tensor.abs().max() / 448
            scaled[key] = (tensor / scale).to(torch.float8_e4m3fn)
            scaled[f"{key.removesuffix('weight')}scale_weight"] = scale.view(1)
        else:
            scaled[key] = tensor
    save_file(scaled, path, metadata)
    base, plain = opened(path), opened(folder / "anima-tiny.safetensors")
    for name, parameter in base.load_unet(torch.float32).named_parameters():
        want = plain.load_unet(torch.float32).get_parameter(name)
        torch.testing.assert_close(parameter, want, rtol=0.07, atol=1e-3)


def test_integers_with_scales_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        shutil.copy(path, tmp_path / path.name)
    path = tmp_path / "qwen_3_06b_base.safetensors"
    stored = load_file(path)
    key = "model.layers.0.mlp.up_proj.weight"
    stored[key] = stored[key].mul(10).to(torch.int8)
    stored[f"{key.removesuffix('weight')}weight_scale"] = torch.ones(1)
    save_file(stored, path)
    with pytest.raises(FileFormatError, match=r"int8 with a scale.*bf16"):
        opened(tmp_path / "anima-tiny.safetensors").load_text_encoders(torch.float32)


def test_a_diffusers_folder_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    single = opened(folder / "anima-tiny.safetensors")
    names = {"unet": "transformer", "te1": "text_encoder", "conditioner": "text_conditioner", "vae": "vae"}
    for part, name in names.items():
        (tmp_path / name).mkdir()
        module = single._load(part, torch.float32, "cpu")
        save_file(module.state_dict(), tmp_path / name / "diffusion_pytorch_model.safetensors")
    tokens = single.captions.tokenizers  # type: ignore[attr-defined]
    for name, tokenizer in (("tokenizer", tokens.qwen3), ("t5_tokenizer", tokens.t5)):
        (tmp_path / name).mkdir()
        tokenizer.save(str(tmp_path / name / "tokenizer.json"))
    base = opened(tmp_path)
    torch.testing.assert_close(answer(base), answer(single))
    own = {name.removeprefix("net."): shape for name, shape in single.shapes.items() if "norm" not in name}
    assert own.items() <= {**base.shapes, **{n: s for n, s in own.items() if "embed_tokens" in n}}.items()


@pytest.mark.parametrize("text_encoder, vae_folder", [("text_encoder", "VAE"), ("text_encoders", "vae")])
def test_parts_in_the_folders_of_web_uis_are_found(
    folder: Path, tmp_path: Path, text_encoder: str, vae_folder: str
) -> None:
    places = {"anima-tiny": "Stable-diffusion", "qwen_3_06b_base": text_encoder, "qwen_image_vae": vae_folder}
    for path in folder.iterdir():
        place = tmp_path / "models" / places[path.stem]
        place.mkdir(parents=True)
        shutil.copy(path, place / path.name)
    found = opened(tmp_path / "models/Stable-diffusion/anima-tiny.safetensors").findings
    assert any(f"{text_encoder}/qwen_3_06b_base.safetensors, found" in sentence for sentence in found), found
    assert any(f"{vae_folder}/qwen_image_vae.safetensors, found" in sentence for sentence in found)


@pytest.mark.parametrize(
    "missing, sentence",
    [("qwen_3_06b_base", r"text encoder \(Qwen3 0\.6B.*base\.text_encoder"), ("qwen_image_vae", r"VAE \(.*base\.vae")],
)
def test_a_missing_part_is_named_with_what_to_get(folder: Path, tmp_path: Path, missing: str, sentence: str) -> None:
    for path in folder.iterdir():
        if path.stem != missing:
            shutil.copy(path, tmp_path / path.name)
    with pytest.raises(FileFormatError, match=sentence):
        opened(tmp_path / "anima-tiny.safetensors")
    where = {"qwen_3_06b_base": "text_encoder", "qwen_image_vae": "vae"}[missing]
    named = opened(tmp_path / "anima-tiny.safetensors", **{where: str(folder / f"{missing}.safetensors")})
    assert any(f"as base.{where} says" in sentence for sentence in named.findings)


def wide_text(path: Path) -> None:
    shapes = {name: tuple(2 * side for side in shape) for name, shape in standard_shapes(tiny_row()).items()}
    write_random_checkpoint(path, {name: shape for name, shape in shapes.items() if name.startswith("model.")})


def of_sdxl(path: Path) -> None:
    write_random_checkpoint(path, {"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_in.weight": (512, 4, 3, 3)})


def gguf(path: Path) -> None:
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\0" * 64)


UNFIT = [
    ("text_encoder", wide_text, r"Qwen3 of another size.*64.*32.*Qwen3 0\.6B"),
    ("text_encoder", of_sdxl, "no Qwen3 text encoder"),
    ("vae", of_sdxl, "no VAE of Anima"),
    ("vae", wide_text, "no VAE of Anima"),
    ("text_encoder", gguf, "GGUF file"),
    ("checkpoint", gguf, "GGUF file"),
]


@pytest.mark.parametrize("setting, write, sentence", UNFIT)
def test_another_model_in_the_place_of_a_part_is_refused(
    folder: Path, tmp_path: Path, setting: str, write: Any, sentence: str
) -> None:
    path = tmp_path / ("other.gguf" if write is gguf else "other.safetensors")
    write(path)
    settings = {"checkpoint": str(folder / "anima-tiny.safetensors"), setting: str(path)}
    with pytest.raises(FileFormatError, match=sentence):
        open_base(BaseConfig(**settings)).check()


def test_a_transformer_without_its_conditioner_and_one_with_blocks_missing_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        shutil.copy(path, tmp_path / path.name)
    path = tmp_path / "anima-tiny.safetensors"
    whole = load_file(path)
    save_file({key: tensor for key, tensor in whole.items() if "llm_adapter" not in key}, path)
    with pytest.raises(FileFormatError, match="without its text conditioner"):
        opened(path)
    shutil.copy(folder / path.name, path)
    metadata = TensorFile.open(path).metadata
    save_file({key: tensor for key, tensor in whole.items() if "net.blocks.1.mlp" not in key}, path, dict(metadata))
    with pytest.raises(AdapterLabError, match=r"lacks the weights of transformer_blocks\.1\.ff"):
        opened(path)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"prediction": "epsilon"}, r"base\.prediction is epsilon.*auto"),
        ({"zero_terminal_snr": "yes"}, r"base\.zero_terminal_snr to auto"),
        ({"clip_skip": 2}, r"base\.clip_skip is 2.*set it to 0"),
        ({"family": "sdxl"}, r"base\.family is sdxl.*Anima"),
        ({"text_encoder": "/nowhere/qwen.safetensors"}, r"base\.text_encoder is .*not there"),
    ],
)
def test_settings_that_contradict_it_are_refused(folder: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AdapterLabError, match=sentence):
        opened(folder / "anima-tiny.safetensors", **settings)


# Captions


def test_a_caption_is_encoded_alike_alone_and_among_others(folder: Path) -> None:
    encoders = opened(folder / "anima-tiny.safetensors").load_text_encoders(torch.float64)
    with torch.no_grad():
        together = encoders.encode(CAPTIONS).hidden
        for index, caption in enumerate(CAPTIONS):
            torch.testing.assert_close(encoders.encode([caption]).hidden[0], together[index], rtol=1e-6, atol=1e-6)
    assert together.shape == (3, CONTEXT, 32)


def test_what_is_kept_of_captions_is_put_together_again(folder: Path) -> None:
    base = opened(folder / "anima-tiny.safetensors")
    with torch.no_grad():
        text = base.load_text_encoders(torch.float32).encode(CAPTIONS)
    kept = base.captions.kept(text.hidden)
    assert [len(rows) for rows in kept] == [4, 1, 9]
    again = base.captions.joined([(TextOutput(rows[None], None), 1) for rows in kept], lambda: text)
    assert torch.equal(again.hidden, text.hidden)


def test_an_empty_caption_is_a_pad_token_or_nothing(folder: Path) -> None:
    contexts = []
    for form in ("pad", "masked"):
        base = opened(folder / "anima-tiny.safetensors", empty_caption=form)
        with torch.no_grad():
            contexts.append(base.load_text_encoders(torch.float32).encode(["", "a hat"]).hidden)
    assert not torch.allclose(contexts[0][0], contexts[1][0], rtol=0.1)
    torch.testing.assert_close(contexts[0][1], contexts[1][1])


def test_attention_to_states_of_zeros_is_attention_to_nothing(folder: Path) -> None:
    base = opened(folder / "anima-tiny.safetensors", empty_caption="masked")
    encoders: Any = base.load_text_encoders(torch.float32)
    conditioner = encoders.parts["conditioner"]
    for block in conditioner.blocks:
        block.cross_attn.o_proj.weight.data.zero_()  # so that nothing of the text comes through
    with torch.no_grad():
        want = encoders.encode(["a hat"]).hidden[0, 0]
    again: Any = base.load_text_encoders(torch.float32)
    with torch.no_grad():
        got = again.encode([""]).hidden[0, 0]
    ids = encoders.tokens.target_ids("")
    assert ids == [encoders.tokens.end] and not torch.allclose(got, want)  # "a" and the end token differ
    with torch.no_grad():
        states = torch.zeros(1, 3, 32)
        alone = conditioner(states, torch.tensor([ids]))[0, 0]
    torch.testing.assert_close(got, alone)


def test_the_released_tokenizers_are_those_of_the_models() -> None:
    tokens = released_tokens()
    assert tokens.text_ids("") == [151643] and tokens.target_ids("") == [1]
    assert tokens.text_ids("1girl, solo") == [16, 28552, 11, 13529]
    assert tokens.target_ids("a cat") == [3, 9, 1712, 1]
    assert tokens.lost("かわいい") and tokens.lost("a 😀") and not tokens.lost("a cat")


def test_long_captions_and_those_that_t5_cannot_spell_are_said_once() -> None:
    captions = AnimaCaptions(released_tokens())
    found = captions.findings(["a cat", "cat " * 600, "かわいい", "a 😀"])
    assert len(found) == 2
    assert "1 of 4 captions have more than 512 tokens" in found[0] and "2 of 4 captions" in found[1]


# Images


def test_the_vae_of_one_frame_is_that_of_films() -> None:
    config = {**TRANSFORMERS["anima"].configs["vae"], "base_dim": 8}
    film, image = AutoencoderKLQwenImage(**config).double().eval(), new_part("vae", config).double().eval()
    with torch.no_grad():
        for parameter in film.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, dtype=torch.float64))
        image.load_state_dict(film.state_dict())
        pixels = torch.rand(2, 3, 64, 48, dtype=torch.float64) * 2 - 1
        mean, std = vae.encode(image, torch.device("cpu"), pixels)
        want = film.encode(pixels[:, :, None]).latent_dist.mode()[:, :, 0]
        torch.testing.assert_close(mean.double(), want, rtol=1e-6, atol=1e-6)
        assert not std.any()
        z = torch.randn(2, 16, 8, 6, dtype=torch.float64)
        torch.testing.assert_close(vae.decode(image, z), film.decode(z[:, :, None]).sample[:, :, 0])


def test_latents_have_a_mean_and_deviation_for_each_channel() -> None:
    form = TRANSFORMERS["anima"].latent
    z = torch.randn(2, 16, 4, 4)
    model = AutoencoderKLQwenImage(base_dim=8)
    assert list(form.mean) == model.config.latents_mean and list(form.std) == model.config.latents_std
    x = form.normalise(z)
    torch.testing.assert_close(form.restore(x), z)
    torch.testing.assert_close(x[:, 3], (z[:, 3] - form.mean[3]) / form.std[3])


def test_the_channel_of_padding_is_the_classes_own(folder: Path) -> None:
    base = opened(folder / "anima-tiny.safetensors")
    model = base.load_unet(torch.float32)
    assert model.patch_embed.proj.in_features == 17 * 4
    config = {key: value for key, value in base.components["unet"].config.items() if key != "concat_padding_mask"}
    plain = CosmosTransformer3DModel(**config, concat_padding_mask=True).eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        text = base.load_text_encoders(torch.float32).encode(CAPTIONS)
        noisy, times = torch.randn(3, 16, 6, 4), torch.tensor([20.0, 500.0, 990.0])
        got = base.denoise(model, noisy, times, text, [])
        plain.register_to_config(concat_padding_mask=False)
        film = torch.cat([noisy, torch.zeros(3, 1, 6, 4)], dim=1)[:, :, None]
        want = plain(film, times / 1000, text.hidden, return_dict=False)[0][:, :, 0]
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("part", ["unet", "conditioner", "te1"])
def test_every_norm_adds_the_epsilon_of_web_uis(folder: Path, part: str) -> None:
    modules = opened(folder / "anima-tiny.safetensors")._load(part, torch.float32, "cpu").named_modules()
    norms = {name: module for name, module in modules if type(module).__name__ in NORMS}
    of = {name: getattr(norm, "eps", getattr(norm, "variance_epsilon", None)) for name, norm in norms.items()}
    assert of and set(of.values()) == {1e-6}, of


def test_tokenizers_in_metadata_that_are_none_are_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        shutil.copy(path, tmp_path / path.name)
    path = tmp_path / "anima-tiny.safetensors"
    for text in ("{", json.dumps({"qwen3": {}, "t5": {}})):
        save_file(load_file(path), path, {"adapter_lab.tokenizers": text})
        with pytest.raises(FileFormatError, match=r"malformed adapter_lab\.tokenizers"):
            opened(path)
    save_file(load_file(path), path)
    with pytest.raises(FileFormatError, match="knows 16 tokens, fewer than its tokenizer has"):
        opened(path)

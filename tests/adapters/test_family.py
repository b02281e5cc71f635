"""Of which base-model family a file is: named where its names, metadata or shapes tell, else unknown, never guessed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapter_lab.adapters.apply import apply_adapters
from adapter_lab.adapters.convert import convert
from adapter_lab.adapters.family import (
    FAMILY_NAMES,
    STABLE_DIFFUSION,
    UNKNOWN,
    adapter_families,
    families_of_names,
    in_words,
)
from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.adapters.inspect import describe, text
from adapter_lab.adapters.library import Library, read_entry
from adapter_lab.adapters.merge import merge
from adapter_lab.adapters.resize import resize
from adapter_lab.adapters.standard import standard_targets
from adapter_lab.adapters.svd import RankRule
from adapter_lab.errors import FileFormatError
from tests.support.checkpoints import write_random_checkpoint

Shape = tuple[int, int]


def lora(names: dict[str, Shape], rank: int = 2) -> dict[str, Tensor]:
    """LoRA tensors of modules of these shapes, in kohya's suffixes."""
    tensors: dict[str, Tensor] = {}
    for name, (out, inputs) in names.items():
        tensors[f"{name}.lora_up.weight"] = torch.ones(out, rank, dtype=torch.float16)
        tensors[f"{name}.lora_down.weight"] = torch.ones(rank, inputs, dtype=torch.float16)
        tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    return tensors


# A few modules of each transformer as its authors name them, with the shapes of the released model.
AUTHORS: dict[str, dict[str, Shape]] = {
    "anima": {
        "blocks.0.self_attn.q_proj": (2048, 2048),
        "blocks.27.cross_attn.k_proj": (2048, 1024),
        "blocks.3.mlp.layer1": (8192, 2048),
        "llm_adapter.blocks.0.self_attn.q_proj": (1024, 1024),
    },
    "flux": {
        "double_blocks.0.img_attn.qkv": (9216, 3072),
        "double_blocks.18.txt_mod.lin": (18432, 3072),
        "single_blocks.37.linear1": (21504, 3072),
    },
    "flux2": {"double_blocks.0.img_attn.qkv": (18432, 6144), "single_blocks.3.linear1": (55296, 6144)},
    "chroma": {
        "double_blocks.0.img_attn.qkv": (9216, 3072),
        "distilled_guidance_layer.layers.0.in_layer": (5120, 5120),
    },
    "sd3": {"joint_blocks.0.x_block.attn.qkv": (4608, 1536), "joint_blocks.0.context_block.mlp.fc1": (6144, 1536)},
    "lumina2": {"layers.0.attention.qkv": (3840, 2304), "context_refiner.1.feed_forward.w1": (9216, 2304)},
    "z-image": {"layers.0.attention.qkv": (11520, 3840), "noise_refiner.0.feed_forward.w1": (10240, 3840)},
    "qwen-image": {
        "transformer_blocks.0.attn.to_q": (3072, 3072),
        "transformer_blocks.59.img_mlp.net.2": (3072, 12288),
    },
    "wan": {
        "blocks.0.self_attn.q": (5120, 5120),
        "blocks.39.cross_attn.k_img": (5120, 5120),
        "blocks.0.ffn.0": (64, 5120),
    },
    "hunyuan": {"double_blocks.0.img_attn.qkv": (9216, 3072), "double_blocks.0.img_mlp.fc1": (12288, 3072)},
    "hidream": {"double_stream_blocks.0.block.attn1.to_q": (2560, 2560)},
    "auraflow": {"double_layers.0.attn.w1q": (3072, 3072)},
}
DIFFUSERS: dict[str, dict[str, Shape]] = {
    "anima": {
        "transformer_blocks.0.attn1.to_q": (2048, 2048),
        "transformer_blocks.0.attn2.to_k": (2048, 1024),
        "transformer_blocks.0.ff.net.0.proj": (8192, 2048),
    },
    "flux": {
        "transformer_blocks.0.attn.to_q": (3072, 3072),
        "transformer_blocks.0.norm1.linear": (18432, 3072),
        "single_transformer_blocks.0.proj_mlp": (12288, 3072),
    },
    "flux2": {"single_transformer_blocks.0.attn.to_qkv_mlp_proj": (55296, 6144)},
    "sd3": {
        "transformer_blocks.0.attn.to_q": (1536, 1536),
        "transformer_blocks.0.ff_context.net.0.proj": (6144, 1536),
    },
    "lumina2": {"layers.0.attn.to_q": (2304, 2304), "layers.0.feed_forward.linear_1": (9216, 2304)},
    "z-image": {"layers.0.attention.to_q": (3840, 3840), "layers.0.feed_forward.w1": (10240, 3840)},
    "qwen-image": {"transformer_blocks.0.attn.to_q": (3072, 3072), "transformer_blocks.0.txt_mod.1": (18432, 3072)},
    "wan": {"blocks.0.attn1.to_q": (5120, 5120), "blocks.0.ffn.net.0.proj": (13824, 5120)},
}
SPELLINGS: dict[str, Callable[[str], str]] = {
    "kohya": lambda path: "lora_unet_" + path.replace(".", "_"),
    "comfy": lambda path: "diffusion_model." + path,
    "bare": lambda path: path,
    "net": lambda path: "net." + path,
    "peft": lambda path: "base_model.model." + path,
    "lycoris": lambda path: "lycoris_" + path.replace(".", "_"),
    "transformer": lambda path: "transformer." + path,
    "kohya transformer": lambda path: "lora_transformer_" + path.replace(".", "_"),
}
# What names and shapes cannot tell apart: Cosmos Predict2 is Anima without its conditioner.
ALIKE = {"anima": {"cosmos"}}
CASES = [
    (family, modules, spelling)
    for table, spellings in ((AUTHORS, set(SPELLINGS) - {"transformer"}), (DIFFUSERS, set(SPELLINGS)))
    for family, modules in table.items()
    for spelling in sorted(spellings)
]


def opened(folder: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> AdapterFile:
    """A file of these tensors."""
    save_adapter(folder / "a.safetensors", tensors, metadata or {})
    return AdapterFile.open(folder / "a.safetensors")


@pytest.mark.parametrize(("family", "modules", "spelling"), CASES)
def test_a_transformers_file_is_named_in_every_spelling(
    family: str, modules: dict[str, Shape], spelling: str, tmp_path: Path
) -> None:
    written = SPELLINGS[spelling]
    found = adapter_families(opened(tmp_path, lora({written(path): shape for path, shape in modules.items()})))
    assert family in found and set(found) <= {family} | ALIKE.get(family, set())
    for path in modules:  # one module may not tell, but it is never called Stable Diffusion
        one = families_of_names([written(path)])
        assert family in one and not set(one) & set(STABLE_DIFFUSION)


ANIMA = Path(__file__).parents[1] / "data" / "layouts" / "anima-names.json"


@pytest.mark.parametrize("spelling", ["kohya", "comfy", "diffusers"])
def test_every_module_of_anima_is_known(spelling: str, tmp_path: Path) -> None:
    rows = json.loads(ANIMA.read_text(encoding="utf-8"))
    names = [row[spelling].replace("N", str(n)) for row in rows for n in range(max(row["blocks"], 1))]
    assert len(names) == 514
    for some in (names, [name for name in names if "llm_adapter" not in name and "text_conditioner" not in name]):
        tensors = {f"{name}.diff_b": torch.zeros(1) for name in some}
        found = adapter_families(opened(tmp_path, tensors))
        assert "anima" in found and not set(found) & set(STABLE_DIFFUSION)


# What trainers write: sd-scripts, musubi-tuner, OneTrainer, ai-toolkit and the specification they follow.
SAID: dict[str, tuple[tuple[str, str], ...]] = {
    "sd15": (("ss_base_model_version", "sd_v1"), ("modelspec.architecture", "stable-diffusion-v1/lora")),
    "sd2": (("ss_base_model_version", "sd_v2"), ("modelspec.architecture", "stable-diffusion-v2-768-v/lora")),
    "sdxl": (("ss_base_model_version", "sdxl_1.0"), ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora")),
    "sdxl-refiner": (("modelspec.architecture", "stable-diffusion-xl-v1-refiner/lora"),),
    "sd3": (("modelspec.architecture", "stable-diffusion-3-5-large/lora"), ("ss_network_module", "networks.lora_sd3")),
    "flux": (("ss_base_model_version", "flux1"), ("modelspec.architecture", "Flux.1-dev/lora")),
    "flux2": (("modelspec.architecture", "flux-2-dev/lora"), ("ss_base_model_version", "flux2")),
    "chroma": (("ss_base_model_version", "chroma"), ("modelspec.architecture", "chroma/lora")),
    "anima": (("ss_base_model_version", "anima"), ("modelspec.architecture", "anima-preview/lora")),
    "lumina2": (("ss_base_model_version", "lumina2"), ("modelspec.architecture", "lumina-2/lora")),
    "z-image": (("ss_base_model_version", "zimage"), ("modelspec.architecture", "Z-Image-Turbo/lora")),
    "qwen-image": (("ss_base_model_version", "qwen_image"), ("modelspec.architecture", "Qwen-Image/lora")),
    "wan": (("ss_base_model_version", "wan21_14b"), ("ss_network_module", "networks.lora_wan")),
    "kolors": (("ss_base_model_version", "kolors"),),
    "hunyuan": (("modelspec.architecture", "hunyuan-image-2.1/lora"),),
}


@pytest.mark.parametrize(("family", "entry"), [(family, entry) for family, some in SAID.items() for entry in some])
def test_what_a_trainer_says_names_a_file_whose_names_do_not(
    family: str, entry: tuple[str, str], tmp_path: Path
) -> None:
    tensors = lora({"some_module_nobody_knows": (8, 8)})
    assert adapter_families(opened(tmp_path, tensors, dict([entry]))) == (family,)
    assert adapter_families(opened(tmp_path, tensors)) == ()


def test_a_wrong_entry_does_not_make_it_stable_diffusion(tmp_path: Path) -> None:
    tensors = lora({SPELLINGS["kohya"](path): shape for path, shape in AUTHORS["flux"].items()})
    assert adapter_families(opened(tmp_path, tensors, {"ss_base_model_version": "sd_v1"})) == ("flux",)
    unet = lora({"lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn1_to_q": (640, 640)})
    assert adapter_families(opened(tmp_path, unet, {"ss_base_model_version": "kolors"})) == ("kolors",)


@pytest.mark.parametrize("family", STABLE_DIFFUSION)
@pytest.mark.parametrize("spelling", ["ldm", "kohya", "comfy", "diffusers", "peft"])
def test_every_module_of_a_stable_diffusion_is_known(family: str, spelling: str, tmp_path: Path) -> None:
    names = sorted(spelled(family, spelling))
    assert family in adapter_families(opened(tmp_path, {f"{name}.diff_b": torch.zeros(1) for name in names}))
    assert [name for name in names if family not in families_of_names([name])] == []


def spelled(family: str, spelling: str) -> Iterable[str]:
    """The names of every target of a released model."""
    for name, target in standard_targets(family).items():
        unet = target.part == "unet"
        part = {"unet": "unet", "te1": "text_encoder", "te2": "text_encoder_2"}[target.part]
        if spelling == "ldm":
            yield name
        elif spelling == "kohya":
            yield f"{name.split('_')[0]}_{'unet' if unet else name.split('_')[1]}_{target.module.replace('.', '_')}"
        elif spelling == "comfy" and unet:
            yield target.key.removesuffix(".weight").removeprefix("model.")
        elif spelling == "diffusers":
            yield f"{part}.{target.module}"
        elif spelling == "peft":
            yield f"base_model.model.{target.module}" if unet else f"{part}.base_model.model.{target.module}"


def test_the_refiner_is_not_sdxl(tmp_path: Path) -> None:
    modules = {"lora_unet_input_blocks_4_1_transformer_blocks_3_attn2_to_k": (768, 1280)}
    assert adapter_families(opened(tmp_path, lora(modules))) == ("sdxl-refiner",)


def test_what_uses_the_family_says_the_truth(tmp_path: Path) -> None:
    base = write_random_checkpoint(tmp_path / "base.safetensors", "tiny-sd15")
    tensors = lora({SPELLINGS["kohya"](path): shape for path, shape in AUTHORS["flux"].items()})
    flux, strange = opened(tmp_path, tensors).path, tmp_path / "b.safetensors"
    save_adapter(strange, lora({"some_module_nobody_knows": (8, 8)}), {})
    assert "for Flux.1:" in text(describe(flux)) and UNKNOWN in text(describe(strange))
    with pytest.raises(FileFormatError, match=r"was trained for Flux.1, but .* is an SD1.5 checkpoint"):
        apply_adapters(base, [(flux, 1.0)], tmp_path / "out.safetensors")
    with pytest.raises(FileFormatError, match=r"does not fit .* none of its 1 modules"):
        apply_adapters(base, [(strange, 1.0)], tmp_path / "out.safetensors")
    shelf = Library().scan([tmp_path])
    said = {run.name: run.for_base for run in shelf.runs if run.name in ("a", "b")}
    assert said == {"a": "Flux.1", "b": UNKNOWN}
    assert not any(run.fits(family) for run in shelf.runs for family in STABLE_DIFFUSION)
    entry = read_entry(flux)
    assert entry is not None and in_words(entry.families) == FAMILY_NAMES["flux"]


def test_tools_keep_files_of_other_families_as_what_they_are(tmp_path: Path) -> None:
    modules = {SPELLINGS["kohya"](path): shape for path, shape in DIFFUSERS["lumina2"].items()}
    path = opened(tmp_path, lora(modules), {"ss_base_model_version": "lumina2"}).path
    out = tmp_path / "out.safetensors"
    convert(path, out, "same")
    assert set(AdapterFile.open(out).modules) == set(modules)
    resize(path, out, RankRule.of(1, None, None, None))
    merge([(path, 1.0), (path, 0.5)], out)
    assert adapter_families(AdapterFile.open(out)) == ("lumina2",)
    other = tmp_path / "other.safetensors"
    save_adapter(other, lora({"lora_unet_joint_blocks_0_x_block_attn_qkv": (12, 8)}), {})
    with pytest.raises(FileFormatError, match=r"different base models: .*Lumina 2, .*Stable Diffusion 3"):
        merge([(path, 1.0), (other, 1.0)], out)

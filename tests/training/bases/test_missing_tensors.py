"""A base without one of its tensors is refused before anything is encoded, in a sentence with file and tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from adapter_lab.config import BaseConfig, TrainConfig
from adapter_lab.errors import FileFormatError
from adapter_lab.training.bases import open_base
from adapter_lab.training.estimate.memory import estimate
from tests.support.checkpoints import tiny_layout, write_diffusers_folder, write_random_checkpoint

UNET, VAE = "model.diffusion_model", "first_stage_model"
TE1, TE2 = "conditioner.embedders.0.transformer.text_model", "conditioner.embedders.1.model"
# What is taken out of a tiny SDXL file, and how the sentence calls it. A configuration is derived from some of them.
TAKEN = {
    f"{UNET}.input_blocks.0.0.weight": "input_blocks.0.0.weight",
    f"{UNET}.label_emb.0.0.weight": "label_emb.0.0.weight",
    f"{UNET}.out.2.weight": "out.2.weight",
    f"{UNET}.output_blocks.0.0.emb_layers.1.bias": "time_emb_proj.bias",
    f"{VAE}.encoder.conv_in.weight": "encoder.conv_in.weight",
    f"{TE1}.encoder.layers.0.mlp.fc1.weight": "layers.0.mlp.fc1.weight",
    f"{TE1}.encoder.layers.1.self_attn.k_proj.bias": "layers.1.self_attn.k_proj.bias",
    f"{TE2}.token_embedding.weight": "token_embedding.weight",
    f"{TE2}.positional_embedding": "position_embedding.weight",
    f"{TE2}.transformer.resblocks.1.attn.in_proj_weight": "k_proj.weight and 2 more",
}


def _refused(path: Path) -> str:
    with pytest.raises(FileFormatError) as caught:
        open_base(BaseConfig(checkpoint=str(path))).check()
    return str(caught.value)


@pytest.mark.parametrize("key", TAKEN)
def test_one_tensor_is_missing(tmp_path: Path, key: str) -> None:
    layout = tiny_layout("sdxl")
    path = tmp_path / "base.safetensors"
    kept = {name: shape for name, shape in layout.items() if name != key}
    assert len(kept) == len(layout) - 1
    message = _refused(write_random_checkpoint(path, kept, metadata=layout.metadata))
    assert str(path) in message and TAKEN[key] in message and message.endswith(".")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_diffusers_folder(tmp_path_factory.mktemp("pipeline") / "base", "sdxl")


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("unet", "down_blocks.1.resnets.0.conv1.weight"),
        ("vae", "decoder.conv_in.weight"),
        ("text_encoder", "embeddings.position_embedding.weight"),
        ("text_encoder_2", "encoder.layers.1.self_attn.k_proj.weight"),
    ],
)
def test_one_tensor_of_a_folder_is_missing(pipeline: Path, part: str, key: str) -> None:
    [file] = (pipeline / part).glob("*.safetensors")
    whole, state = file.read_bytes(), load_file(file)
    [full] = [name for name in state if name in (key, f"text_model.{key}")]
    del state[full]
    save_file(state, file)
    message = _refused(pipeline)
    file.write_bytes(whole)
    assert str(pipeline) in message and message.endswith("use a complete checkpoint.")


def test_an_estimate_says_it_too(tmp_path: Path) -> None:
    layout = tiny_layout("sd15")
    key = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"
    kept = {name: shape for name, shape in layout.items() if name != key}
    path = write_random_checkpoint(tmp_path / "base.safetensors", kept, metadata=layout.metadata)
    with pytest.raises(FileFormatError, match=r"base\.safetensors .* text encoder .*position_embedding"):
        estimate(TrainConfig(base=BaseConfig(checkpoint=str(path))))

"""Anima in Forge Neo: kinds of files that it gets wrong, patched into the weights or on the fly.

Collected only where an Anima checkpoint is among the web UI's: any, with its text encoder and VAE in their folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adapter_lab.adapters.checkpoint import open_checkpoint
from adapter_lab.adapters.keys import Target
from tests.support.host_cases import CASES, Base, base_outputs, write
from tests.support.host_measure import PROMPT
from tests.support.host_strengths import FILES
from tests.support.webui import WebUI, difference

TOLERANCE = 1e-4  # of the wanted change
CHECKPOINT, PARTS = "anima", ("qwen_3_06b", "qwen_image_vae")  # how their files' names begin
PREFIXES = ("net.", "model.diffusion_model.", "")  # of a transformer's tensors
# The layers of a file: of one block, with the modulation, and of the conditioner's block of the same number.
LAYERS = (
    "blocks.{number}.self_attn.q_proj",
    "blocks.{number}.cross_attn.k_proj",
    "blocks.{number}.mlp.layer1",
    "blocks.{number}.adaln_modulation_mlp.1",
    "llm_adapter.blocks.{number}.self_attn.q_proj",
    "llm_adapter.blocks.{number}.mlp.0",
)
MERGED, ON_THE_FLY = "Automatic", "Automatic (fp16 LoRA)"


class Anima(Base):
    """The checkpoint's transformer, its linear layers by the names that sd-scripts gives them in files."""

    def __init__(self, path: Path) -> None:
        self.checkpoint = open_checkpoint(path)
        prefix = next(one for one in PREFIXES if f"{one}blocks.0.mlp.layer1.weight" in self.checkpoint.shapes)
        self.table = {}
        for key, shape in self.checkpoint.shapes.items():
            layer = key.removeprefix(prefix).removesuffix(".weight")
            name = "lora_unet_" + layer.replace(".", "_")
            if key.endswith(".weight") and len(shape) == 2:
                bias = key.replace(".weight", ".bias")
                known = bias if bias in self.checkpoint.shapes else None
                self.table[name] = Target(
                    name, "unet", "linear", "other", key, known, None, False, tuple(shape), layer, name
                )


@dataclass
class Files:
    """Adapter files in the web UI's folder: their names, and outputs of their layers alone and as trained."""

    names: list[str]
    base: dict[str, Tensor]
    trained: dict[str, Tensor]


@pytest.fixture(scope="module")
def files(web_ui: WebUI) -> Iterator[Files]:
    """Anima chosen as the base, and one file of each kind for layers of its own."""
    found = {model["title"]: Path(model["filename"]) for model in web_ui.get("/sdapi/v1/sd-models")}
    title = next(title for title, path in found.items() if path.name.startswith(CHECKPOINT))
    before = web_ui.get("/sdapi/v1/options")["sd_model_checkpoint"]
    web_ui.post("/sdapi/v1/options", {"sd_model_checkpoint": title})
    base = Anima(found[title])
    folder = web_ui.adapter_folder() / "adapter-lab-tests"
    folder.mkdir(exist_ok=True)
    made = Files([], {}, {})
    for number, case in enumerate(FILES):
        name = "al-anima-" + re.sub(r"\W+", "-", case)
        modules = ["lora_unet_" + layer.format(number=number).replace(".", "_") for layer in LAYERS]
        trained = write(folder / f"{name}.safetensors", CASES[case], base, modules)
        made.names.append(name)
        for module, adapter in trained.items():
            layer = base.layer(module)
            made.base[base.table[module].module] = base_outputs(layer)
            made.trained[base.table[module].module] = adapter.outputs(layer)
    web_ui.refresh_adapters()
    yield made
    for name in made.names:
        (folder / f"{name}.safetensors").unlink()
    web_ui.post("/sdapi/v1/options", {"forge_unet_storage_dtype": MERGED, "forge_additional_modules": []})
    web_ui.post("/sdapi/v1/options", {"sd_model_checkpoint": before})


def choose(web_ui: WebUI, how: str) -> None:
    """How patches are put on; Neo looks at it when the files beside the checkpoint change."""
    there = (Path(os.environ["WEBUI_DIR"]) / "models").glob("*/*.safetensors")
    parts = [str(path) for path in there if path.name.startswith(PARTS)]
    web_ui.post("/sdapi/v1/options", {"forge_unet_storage_dtype": how, "forge_additional_modules": []})
    web_ui.post("/sdapi/v1/options", {"forge_additional_modules": parts})


@pytest.mark.parametrize("how", [MERGED, ON_THE_FLY], ids=["into the weights", "on the fly"])
def test_files_of_anima_give_the_outputs_of_their_trained_forwards(
    files: Files, scope: str, how: str, web_ui: WebUI, record_property: Any
) -> None:
    choose(web_ui, how)
    plain = web_ui.txt2img(PROMPT)
    assert errors(web_ui, files, 0.0)["largest"] < TOLERANCE
    for strength in (1.0, 0.6):
        tags = [f"<lora:{name}:{strength:g}>" for name in files.names]
        picture = web_ui.txt2img(" ".join([PROMPT, *tags]))
        found = errors(web_ui, files, strength)
        record_property("measured", f"{strength:g}: {found}; {picture.adapter_lab}; {picture.comments}")
        assert found["largest"] < TOLERANCE, found
        assert difference(plain, picture) > 2 and not picture.comments
        counts = re.findall(r"(\d+) of (\d+) modules", picture.adapter_lab)
        assert counts and all(count == (str(len(LAYERS)),) * 2 for count in counts)
    assert difference(plain, web_ui.txt2img(PROMPT)) == 0


def errors(web_ui: WebUI, files: Files, strength: float) -> dict[str, float]:
    """Errors of the layers' outputs, relative to the change at strength 1, by block and the largest."""
    outputs = web_ui.layer_outputs(list(files.base))
    found: dict[str, float] = {}
    for name, base in files.base.items():
        wanted = torch.lerp(base, files.trained[name], strength)
        error = float((outputs[name] - wanted).norm() / (files.trained[name] - base).norm())
        for place in (re.sub(r"^(\D*\d+).*", r"\1", name), "largest"):
            found[place] = max(found.get(place, 0.0), error)
    return found

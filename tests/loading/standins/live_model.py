"""A loaded model as the Forge family keeps it: a UNet and text encoders as module trees, behind model patchers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from adapter_lab.adapters.keys import text_encoder_parameters
from adapter_lab.adapters.tensors import TensorFile

# What the hosts call the text encoder of each part; all keep them in the layout of transformers.
ENCODERS = {
    "sd15": {"te1": "clip_l"},
    "sd2": {"te1": "clip_h"},
    "sdxl": {"te1": "clip_l", "te2": "clip_g"},
}


def host_tensors(checkpoint: Path, family: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint by the names they have in a loaded model."""
    file = TensorFile.open(checkpoint)
    prefix = "model.diffusion_model."
    found = {key.removeprefix("model."): file.read(key) for key in file.tensors if key.startswith(prefix)}
    for part, parameters in text_encoder_parameters(file.shapes).items():
        for name, source in parameters.items():
            whole = file.read(source.key)
            rows = whole if source.rows is None else whole[slice(*source.rows)]
            found[f"{ENCODERS[family][part]}.transformer.{name}"] = (rows.T if source.transposed else rows).clone()
    return found


class Layer(nn.Module):
    """A module of the tree; those with weights have what Forge-likes add to every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters_manual_cast = True
        self.weight_function: list[Any] = []
        self.bias_function: list[Any] = []


def module_tree(tensors: Mapping[str, Tensor]) -> nn.Module:
    """A tree of modules whose parameters have these dotted names."""
    root = Layer()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        module: nn.Module = root
        for step in path:
            if not hasattr(module, step):
                module.add_module(step, Layer())
            module = getattr(module, step)
        module.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    return root


class ForgeObjects:
    """UNet and text encoders of the loaded model, replaced together."""

    def __init__(self, unet: Any, clip: Any) -> None:
        self.unet, self.clip = unet, clip

    def shallow_copy(self) -> ForgeObjects:
        return ForgeObjects(self.unet, self.clip)


class Clip:
    """The text encoders and their patcher."""

    def __init__(self, patcher: Any) -> None:
        self.patcher = patcher
        self.cond_stage_model = patcher.model

    def clone(self) -> Clip:
        return Clip(self.patcher.clone())

    def add_patches(self, *args: Any, **named: Any) -> Any:
        return self.patcher.add_patches(*args, **named)


class LoadedModel:
    """What `model_data.get_sd_model()` gives."""

    def __init__(self, tensors: Mapping[str, Tensor], patcher: Any, filename: str = "base.safetensors") -> None:
        unet = {key: tensor for key, tensor in tensors.items() if key.startswith("diffusion_model.")}
        rest = {key: tensor for key, tensor in tensors.items() if key not in unet}
        tree = module_tree(unet)
        tree.storage_dtype = next(iter(unet.values())).dtype  # type: ignore[assignment]
        self.forge_objects = ForgeObjects(patcher(tree), Clip(patcher(module_tree(rest))))
        self.forge_objects_original = self.forge_objects.shallow_copy()
        self.forge_objects_after_applying_lora = self.forge_objects.shallow_copy()
        self.current_lora_hash = str([])
        self.filename = filename
        self.sd_checkpoint_info = SimpleNamespace(filename=filename, title=Path(filename).stem)

    def weights(self) -> dict[str, Tensor]:
        """Every parameter by its name in the loaded model."""
        objects = self.forge_objects
        found = dict(objects.unet.model.named_parameters()) | dict(objects.clip.patcher.model.named_parameters())
        return {name: parameter.detach().clone() for name, parameter in found.items()}

    def parents(self) -> dict[str, tuple[nn.Module, str]]:
        """The layer and the parameter's name in it of every parameter."""
        objects = self.forge_objects
        trees = (objects.unet.model, objects.clip.patcher.model)
        return {
            f"{path}.{name}": (module, name)
            for tree in trees
            for path, module in tree.named_modules()
            for name, _ in module.named_parameters(recurse=False)
        }


def half_or(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The same tensors in another number format."""
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}

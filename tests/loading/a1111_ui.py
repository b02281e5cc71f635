"""The stand-in of A1111 driven as the web UI is: a prompt's adapters in, weights out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapter_lab.adapters.keys import text_encoder_parameters
from adapter_lab.adapters.tensors import TensorFile
from tests.loading.forge_ui import ForgeUI
from tests.loading.standins.live_model import ENCODERS
from tests.loading.standins.trees import module_tree

UNET = "model.diffusion_model."
ENCODER = "cond_stage_model.wrapped."
WRAPPED = ("cond_stage_model.", "conditioner.embedders.0.", "conditioner.embedders.1.")
SEEN = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)  # whose forward A1111 replaces


class CheckpointInfo:
    """A checkpoint in A1111's list."""

    def __init__(self, filename: str) -> None:
        self.filename, self.title = filename, Path(filename).stem


class A1111Model:
    """A model as A1111 keeps it: a checkpoint's own modules, with the text encoders wrapped once more.

    `read` turns parameters by their own names into weights under the names they have in the Forge family.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], filename: str, read: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    ) -> None:
        self.tree: Any = module_tree(tensors)
        self.read = read
        self.sd_checkpoint_info = self.tree.sd_checkpoint_info = CheckpointInfo(filename)
        self.tree.network_layer_mapping = {}
        for path, module in self.tree.named_modules():
            self._name(path, module)

    def _name(self, path: str, module: Any) -> None:
        """As `networks.assign_network_names_to_compvis_modules` does."""
        for prefix in ("model.", ENCODER, "conditioner.embedders."):
            name = path.removeprefix(prefix).replace(".wrapped.", ".").replace(".", "_")
            if path.startswith(prefix) and (".wrapped." in path or prefix == "model."):
                module.network_layer_name = name
                self.tree.network_layer_mapping[name] = module

    def layers_seen(self) -> list[nn.Module]:
        """The layers whose forward goes through A1111."""
        modules = dict(self.tree.named_modules())
        seen = []
        for path, module in modules.items():
            in_attention = isinstance(modules.get(path.rpartition(".")[0]), nn.MultiheadAttention)
            of_open_clip = ".wrapped.model." in path and isinstance(module, nn.LayerNorm)
            if isinstance(module, SEEN) and not in_attention and not of_open_clip:
                seen.append(module)
        return seen

    def weights(self) -> dict[str, Tensor]:
        """Copies of all weights, under the names they have in the Forge family."""
        found = self.read(dict(self.tree.named_parameters()))
        return {name: tensor.detach().clone() for name, tensor in found.items()}


class A1111UI(ForgeUI):
    """A1111 with a loaded model."""

    hooked = (
        "load_networks",
        "load_network",
        "network_apply_weights",
        "network_forward",
        "network_restore_weights_from_backup",
        "network_reset_cached_weight",
    )
    together = True
    loaded: A1111Model

    def load(self, tensors: dict[str, Tensor], filename: str = "base.safetensors") -> Any:
        """Load an SD1.5 of these tensors."""
        names = {name: _own_name(name) for name in tensors}
        return self._load(
            {names[name]: tensor for name, tensor in tensors.items()},
            filename,
            lambda live: {name: live[own] for name, own in names.items()},
        )

    def load_checkpoint(self, path: Path, family: str, dtype: torch.dtype = torch.float32) -> Any:
        file = TensorFile.open(path)
        names = {key: _wrapped(key) for key in file.tensors if key.startswith((UNET, *WRAPPED))}

        def read(live: dict[str, Tensor]) -> dict[str, Tensor]:
            found = {key.removeprefix("model."): live[own] for key, own in names.items() if key.startswith(UNET)}
            for part, parameters in text_encoder_parameters(file.shapes).items():
                for name, source in parameters.items():
                    whole = live[names[source.key]]
                    rows = whole if source.rows is None else whole[slice(*source.rows)]
                    found[f"{ENCODERS[family][part]}.transformer.{name}"] = rows.T if source.transposed else rows
            return found

        return self._load({own: file.read(key).to(dtype) for key, own in names.items()}, str(path), read)

    def _load(self, tensors: dict[str, Tensor], filename: str, read: Any) -> A1111Model:
        self.loaded = A1111Model(tensors, filename, read)
        self.shared.sd_model = self.models.model_data.sd_model = self.loaded.tree
        return self.loaded

    def use_model(self) -> dict[str, Tensor]:
        """Run every layer; the weights they ran with."""
        self.shared.sd_model = self.models.model_data.sd_model
        with torch.no_grad():
            for layer in self.loaded.layers_seen():
                self.networks.network_apply_weights(layer)
        return self.loaded.weights()

    def check_gpu_is_freed(self) -> None:
        devices: list[str] = []
        self.loaded.tree.to = lambda device: devices.append(str(device))
        self.shared.device = "the GPU"
        self.host.free_gpu()
        assert devices == ["cpu"]
        self.models.reload_model_weights()
        assert devices == ["cpu", "the GPU"]
        self.models.reload_model_weights()
        assert devices == ["cpu", "the GPU"]


def _own_name(name: str) -> str:
    """A1111's name of a weight of the Forge family's SD1.5."""
    return f"model.{name}" if name.startswith("diffusion_model.") else ENCODER + name.removeprefix("clip_l.")


def _wrapped(key: str) -> str:
    """A1111's name of a weight of a checkpoint."""
    prefix = next((prefix for prefix in WRAPPED if key.startswith(prefix)), "")
    return f"{prefix}wrapped.{key.removeprefix(prefix)}" if prefix else key

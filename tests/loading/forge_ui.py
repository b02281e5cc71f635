"""The stand-ins of Forge, Neo and reForge driven as their web UIs are: a prompt's adapters in, weights out."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from adapter_lab.adapters.apply import apply_adapters
from adapter_lab.adapters.file import save_adapter
from adapter_lab.adapters.keys import targets
from adapter_lab.adapters.tensors import TensorFile
from adapter_lab.hosts.families.webui import sampling_step
from adapter_lab.hosts.loading.loader import Loader
from tests.adapters.random_adapter import ALGORITHMS, random_adapter
from tests.loading.standins.live_model import LoadedModel, host_tensors

HOSTS = ("forge", "neo", "reforge")
PATCHERS = {
    "forge": "backend.patcher.base",
    "neo": "backend.patcher.base",
    "reforge": "ldm_patched.modules.model_patcher",
}


@dataclass
class Chosen:
    """What a person chose on the Settings page."""

    enabled: bool = True
    every_file: bool = True
    verbosity: str = "quiet"
    cache_bytes: int = 2**30


class ForgeUI:
    """One web UI with a loaded model; its stand-in must be importable."""

    hooked: tuple[str, ...] = ("load_networks", "load_lora_state_dict", "load_lora_for_models")
    together = False  # whether one file of a prompt being ours makes all of them ours

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.host = importlib.import_module(f"adapter_lab.hosts.families.{name}").HOST
        self.networks: Any = importlib.import_module("networks")
        self.models: Any = importlib.import_module("modules.sd_models")
        self.shared: Any = importlib.import_module("modules.shared")
        self.shared.cmd_opts.lora_dir = str(folder)
        self.chosen = Chosen()
        self.loader = Loader(self.chosen, name, sampling_step)
        self.messages = self.host.install_loader(self.loader)

    def load(self, tensors: dict[str, Tensor], filename: str = "base.safetensors") -> LoadedModel:
        """Load a model of these tensors."""
        patcher = importlib.import_module(PATCHERS[self.name]).ModelPatcher
        self.models.model_data.sd_model = model = LoadedModel(tensors, patcher, filename)
        return model

    def load_checkpoint(self, path: Path, family: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
        """Load a checkpoint, its weights in `dtype`."""
        tensors = {name: tensor.to(dtype) for name, tensor in host_tensors(path, family).items()}
        return self.load(tensors, str(path))

    def activate(self, *prompt: str | tuple[str, float] | tuple[str, float, float], **lists: Any) -> None:
        """Have the adapters of a prompt loaded, each (name[, text strength[, UNet strength]])."""
        asked = [(item,) if isinstance(item, str) else item for item in prompt]
        names = [item[0] for item in asked]
        te = [item[1] if len(item) > 1 else 1.0 for item in asked]
        unet = [item[2] if len(item) > 2 else strength for item, strength in zip(asked, te)]
        self.networks.load_networks(names, te, unet, **lists)

    def use_model(self) -> dict[str, Tensor]:
        """Use the model as an image does; the weights it was used with."""
        model = self.models.model_data.sd_model
        objects = model.forge_objects_after_applying_lora
        for patcher in (objects.unet, objects.clip.patcher):
            patcher.refresh_loras() if self.name == "forge" else patcher.load()
        return model.weights()

    def generate(self, *prompt: str | tuple[str, float] | tuple[str, float, float], **lists: Any) -> dict[str, Tensor]:
        """Activate adapters; the weights the image is made with."""
        self.activate(*prompt, **lists)
        return self.use_model()

    def check_gpu_is_freed(self) -> None:
        """Free the GPU; the model must be gone from there, and be back when it is used."""
        self.host.free_gpu()
        module = "ldm_patched.modules.model_management" if self.name == "reforge" else "backend.memory_management"
        assert "unload_all_models" in importlib.import_module(module).calls
        self.activate()

    def on_the_fly(self, chosen: bool) -> None:
        """Turn the mode on in which layers compute their patched weights each time."""
        arguments = importlib.import_module("backend.args").dynamic_args
        if self.name == "forge":
            arguments["online_lora"] = chosen
        else:
            arguments.online_lora = chosen

    def computed(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The weights the layers compute with, in the dtype of the image."""
        operations = importlib.import_module("backend.operations")
        found: dict[str, Tensor] = {}
        for key, (layer, name) in self.models.model_data.sd_model.parents().items():
            if name not in ("weight", "bias"):
                continue
            if self.name == "forge":
                both = operations.get_weight_and_bias(layer, {"dtype": dtype}, {"dtype": dtype})
            else:
                both = operations.weights_manual_cast(layer, dtype=dtype)
            found[key] = both[name == "bias"]
        return found


def save(path: Path, modules: dict[str, dict[str, Tensor]], metadata: dict[str, str] | None = None) -> Path:
    """An adapter file of these modules."""
    tensors = {f"{name}.{suffix}": tensor for name, found in modules.items() for suffix, tensor in found.items()}
    save_adapter(path, tensors, metadata or {})
    return path


def write_adapter(
    path: Path, base: Path, algorithms: Sequence[str] = ALGORITHMS, seed: int = 0, part: str | None = None
) -> Path:
    """A random adapter of every target of a checkpoint (or of one part's), the algorithms in turn."""
    table = {name: target for name, target in targets(TensorFile.open(base).shapes).items()
             if part is None or target.part == part}  # fmt: skip
    return save(path, random_adapter(table, tuple(algorithms), seed))


_expected: dict[tuple[object, ...], dict[str, Tensor]] = {}


def expected(base: Path, family: str, *steps: tuple[Path, float]) -> dict[str, Tensor]:
    """What `apply_adapters` makes of the checkpoint, by the host's names; computed once for the same files."""
    asked = (base, *((hashlib.sha256(path.read_bytes()).digest(), strength) for path, strength in steps))
    if asked not in _expected:
        with TemporaryDirectory() as folder:
            out = Path(folder) / "out.safetensors"
            apply_adapters(base, steps, out)
            _expected[asked] = host_tensors(out, family)
    return _expected[asked]


def difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest difference of any weight."""
    assert found.keys() == wanted.keys()
    return max(float((found[key].float() - wanted[key].float()).abs().max()) for key in wanted)

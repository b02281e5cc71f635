"""The stand-in of Forge-classic driven as the web UI is: a prompt's adapters in, weights out."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from tests.loading.forge_ui import ForgeUI
from tests.loading.standins.live_model import LoadedModel

# SDXL's projection of the pooled text features, which Forge-classic keeps as a checkpoint has it.
PROJECTION, OURS = "clip_g.text_projection", "clip_g.transformer.text_projection.weight"


class ClassicModel(LoadedModel):
    """The loaded model, weights under the names the other web UIs have."""

    def weights(self) -> dict[str, Tensor]:
        found = super().weights()
        if PROJECTION in found:
            found[OURS] = found.pop(PROJECTION).T
        return found


class ClassicUI(ForgeUI):
    """Forge-classic."""

    def load(self, tensors: dict[str, Tensor], filename: str = "base.safetensors") -> LoadedModel:
        tensors = dict(tensors)
        if OURS in tensors:
            tensors[PROJECTION] = tensors.pop(OURS).T.contiguous()
        patcher: Any = importlib.import_module("ldm_patched.modules.model_patcher").ModelPatcher
        model = ClassicModel(tensors, lambda tree: patcher(tree, "cpu", "cpu"), filename)
        self.models.model_data.sd_model = model
        return model

    def use_model(self) -> dict[str, Tensor]:
        management: Any = importlib.import_module("ldm_patched.modules.model_management")
        model = self.models.model_data.sd_model
        objects = model.forge_objects_after_applying_lora
        management.load_models_gpu([objects.clip.patcher])
        management.load_models_gpu([objects.unet])
        return model.weights()

    def check_gpu_is_freed(self) -> None:
        management: Any = importlib.import_module("ldm_patched.modules.model_management")
        self.use_model()
        assert management.current_loaded_models
        self.host.free_gpu()
        assert not management.current_loaded_models
        self.use_model()
        assert management.current_loaded_models

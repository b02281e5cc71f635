"""Stand-in for `modules.sd_models`: the loaded model and the list of checkpoints."""

from typing import Any

from backend import memory_management

checkpoints_list: dict[str, Any] = {}


class FakeInitialModel:
    """What stands for a model before one is loaded."""


class SdModelData:
    """The loaded model."""

    def __init__(self) -> None:
        self.sd_model: Any = FakeInitialModel()
        self.forge_loading_parameters: dict[str, Any] = {}
        self.forge_hash = ""

    def get_sd_model(self) -> Any:
        return self.sd_model

    def set_sd_model(self, v: Any) -> None:
        self.sd_model = v


model_data = SdModelData()


def unload_model_weights(sd_model: Any = None, info: Any = None) -> None:
    memory_management.unload_all_models()

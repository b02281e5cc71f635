"""Stand-in for `modules.sd_models`: the loaded model and the list of checkpoints."""

from typing import Any

checkpoints_list: dict[str, Any] = {}


class SdModelData:
    """The loaded model."""

    def __init__(self) -> None:
        self.sd_model: Any = None

    def get_sd_model(self) -> Any:
        return self.sd_model

    def set_sd_model(self, v: Any, already_loaded: bool = False) -> None:
        self.sd_model = v


model_data = SdModelData()

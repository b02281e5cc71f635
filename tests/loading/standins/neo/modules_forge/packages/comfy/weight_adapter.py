"""Stand-in for Neo's `weight_adapter`: the class of patches."""

from typing import Any

import torch


class WeightAdapterBase:
    """A patch of one weight."""

    name: str
    loaded_keys: set[str]
    weights: list[torch.Tensor]

    def calculate_weight(
        self,
        weight: Any,
        key: Any,
        strength: Any,
        strength_model: Any,
        offset: Any,
        function: Any,
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Any:
        raise NotImplementedError

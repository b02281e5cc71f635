"""Stand-in for `backend.operations`: the weight a layer computes with when adapters are applied on the fly."""

from __future__ import annotations

from typing import Any


def weights_manual_cast(layer: Any, x: Any = None, *, dtype: Any = None) -> Any:
    found = []
    for name in ("weight", "bias"):
        tensor = getattr(layer, name, None)
        if tensor is not None:
            tensor = tensor.detach().to(dtype, copy=True)
            for function in getattr(layer, f"{name}_function"):
                tensor = function(tensor)
        found.append(tensor)
    return tuple(found)

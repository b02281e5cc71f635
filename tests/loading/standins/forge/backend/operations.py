"""Stand-in for `backend.operations`: the weight a layer computes with when adapters are applied on the fly."""

from typing import Any

from backend.patcher.lora import merge_lora_to_weight


def get_weight_and_bias(
    layer: Any, weight_args: Any = None, bias_args: Any = None, weight_fn: Any = None, bias_fn: Any = None
) -> Any:
    found = []
    for name, args in (("weight", weight_args), ("bias", bias_args)):
        tensor = getattr(layer, name, None)
        if tensor is not None:
            tensor = tensor.to(**args) if args else tensor
            if name == "weight" and getattr(layer, "scale_weight", None) is not None:
                tensor = tensor * layer.scale_weight.to(tensor)
            patches = getattr(layer, "forge_online_loras", {}).get(name)
            if patches is not None:
                tensor = merge_lora_to_weight(patches=patches, weight=tensor, key="", computation_dtype=tensor.dtype)
        found.append(tensor)
    return tuple(found)

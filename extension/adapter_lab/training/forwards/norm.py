"""Difference of the weight and bias of a LayerNorm, GroupNorm or RMSNorm, computed in fp32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_lab.errors import ConfigError
from adapter_lab.training.forwards.layer import AdapterLayer, lycoris
from adapter_lab.training.forwards.operation import without_autocast
from adapter_lab.training.forwards.spec import LayerSpec, Shape


class NormLayer(AdapterLayer):
    """w_norm (n,), and b_norm (n,) where the base has a bias."""

    file_keys: ClassVar[Mapping[str, str]] = {"w_norm": "w_norm", "b_norm": "b_norm"}
    has_alpha: ClassVar[bool] = False

    w_norm: nn.Parameter
    b_norm: nn.Parameter

    @classmethod
    def shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        return dict.fromkeys(("w_norm", "b_norm") if spec.has_bias else ("w_norm",), spec.shape)

    @classmethod
    def lycoris_class(cls) -> Any:
        return lycoris().NormModule

    @classmethod
    def initial_values(cls, spec: LayerSpec, weight: Callable[[], Tensor]) -> dict[str, Tensor]:
        found = dict(cls._lycoris_module(spec).named_parameters())
        return {name: found[name].detach() for name in cls.shapes(spec)}

    def run(self, base_forward: Callable[..., Tensor], x: Tensor, *rest: Any, **named: Any) -> Tensor:
        if not self.switch() or self._dropped():
            return base_forward(x, *rest, **named)
        module: Any = self.base
        dtype = _output_dtype(x, module)
        with without_autocast(x.device):
            working = torch.promote_types(self.w_norm.dtype, torch.float32)
            weight = module.weight.detach().to(working) + self.w_norm
            bias = module.bias.detach().to(working) + self.b_norm if "b_norm" in self._parameters else None
            x = x.to(working)
            if isinstance(module, nn.GroupNorm):
                out = F.group_norm(x, module.num_groups, weight, bias, module.eps)
            elif isinstance(module, nn.LayerNorm):
                out = F.layer_norm(x, weight.shape, weight, bias, module.eps)
            elif type(module).__name__.endswith("RMSNorm"):  # torch's, or that of a model's own code
                out = F.rms_norm(x, weight.shape, weight, _epsilon(module))
            else:
                kind = type(module).__name__
                raise ConfigError(
                    f"Module {self.spec.name} is a {kind}, not a LayerNorm, GroupNorm or RMSNorm; leave it out."
                )
            return out.to(dtype)


def _epsilon(module: Any) -> float | None:
    """What an RMSNorm adds to the mean square; torch's own may leave it to the format."""
    return next((float(value) for name in ("eps", "variance_epsilon") if (value := getattr(module, name, None))), None)


def _output_dtype(x: Tensor, module: Any) -> torch.dtype:
    """What the base's norm returns: CUDA's autocast runs norms in fp32, elsewhere they keep their input's dtype."""
    if torch.is_autocast_enabled(x.device.type) and x.device.type == "cuda":
        return torch.promote_types(x.dtype, torch.float32)
    return x.dtype

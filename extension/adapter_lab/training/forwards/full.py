"""Full difference: W' = W + diff and b' = b + diff_b."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from adapter_lab.training.forwards.layer import AdapterLayer, lycoris
from adapter_lab.training.forwards.merged import WHOLE, merged
from adapter_lab.training.forwards.spec import LayerSpec, Shape


class FullLayer(AdapterLayer):
    """diff: W's shape; diff_b (out,) where the base has a bias and `train_bias` is on."""

    file_keys: ClassVar[Mapping[str, str]] = {"diff": "diff", "diff_b": "diff_b"}
    has_alpha: ClassVar[bool] = False
    stand_in_on: ClassVar[str] = "cpu"

    diff: nn.Parameter
    diff_b: nn.Parameter

    @classmethod
    def shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"diff": spec.shape}
        if spec.has_bias and spec.train_bias:
            shapes["diff_b"] = (spec.shape[0],)
        return shapes

    @classmethod
    def lycoris_class(cls) -> Any:
        return lycoris().FullModule

    @classmethod
    def initial_values(cls, spec: LayerSpec, weight: Callable[[], Tensor]) -> dict[str, Tensor]:
        found = cls._lycoris_module(spec)
        names = {"diff": "weight", "diff_b": "bias"}  # LyCORIS's names while it trains
        return {name: found.get_parameter(names[name]).detach() for name in cls.shapes(spec)}

    def parameters_in_use(self) -> tuple[Tensor, ...]:
        return (self.diff,)

    def multiple(self, axis: int) -> int:
        return WHOLE  # the gradient has the weight's size anyway

    def delta(self, axis: int, chunk: slice, base: Tensor, *parameters: Tensor) -> Tensor:
        return parameters[0] * 1

    def adapted(self, x: Tensor) -> Tensor:
        out = merged(x, self.operation, self._form(0), self.diff)
        if "diff_b" not in self._parameters:
            return out
        bias = self.diff_b.to(x.dtype)
        return out.add_(bias[:, None, None] if self.operation.is_conv else bias)

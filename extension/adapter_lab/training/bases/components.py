"""One part of a base (UNet, VAE or text encoder): its configuration, and where in which file each parameter lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adapter_lab.adapters.layouts import Shapes, Source
from adapter_lab.adapters.tensors import is_finite
from adapter_lab.errors import FileFormatError
from adapter_lab.training.bases.modules import without_weights
from adapter_lab.training.bases.sources import Weights, content_key


@dataclass(frozen=True)
class Component:
    """`sources` maps parameter names of the diffusers or transformers module to places in `weights`."""

    config: dict[str, Any]
    weights: Weights
    sources: Mapping[str, Source]

    def key(self, *more: str) -> str:
        """A key of the component's content and configuration."""
        return content_key(self.weights, self.sources, repr(sorted(self.config.items())), *more)

    def load(self, build: Callable[[], nn.Module], dtype: torch.dtype, device: torch.device | str) -> nn.Module:
        """The module `build` makes, with the file's weights in `dtype` on `device`, frozen and in eval mode.

        Tensors are read and cast one at a time, so no more than the module itself and one tensor is ever in memory.
        Raises FileFormatError if a tensor is missing, has another shape than the configuration asks for, or holds
        values that are not finite.
        """
        module, shapes = without_weights(build), self.weights.shapes
        for owner_name, owner in module.named_modules():
            for name, parameter in owner.named_parameters(recurse=False):
                full = f"{owner_name}.{name}" if owner_name else name
                stored = self._read(full, tuple(parameter.shape), shapes)
                tensor = stored.to(device=device, dtype=dtype)
                if not is_finite(tensor):
                    raise FileFormatError(self._not_finite(full, stored, dtype))
                owner.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
            for name, buffer in owner.named_buffers(recurse=False):
                owner.register_buffer(name, buffer.to(device), persistent=name not in owner._non_persistent_buffers_set)
        return module.eval()

    def _not_finite(self, parameter: str, stored: Tensor, dtype: torch.dtype) -> str:
        what = f"{self.weights.path}: the weights of {parameter}"
        if is_finite(stored):
            name = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, str(dtype).removeprefix("torch."))
            return f"{what} do not fit into {name}; set precision.mixed to bf16 or fp32."
        return f"{what} hold NaN or infinity, so nothing can be trained on it; download it again or use another file."

    def check(self, build: Callable[[], nn.Module], whole: bool) -> None:
        """Raise FileFormatError where the file's tensors are not those of the module `build` makes.

        `whole`: each tensor of `sources` must also have a place in it. Reads nothing but the header.
        """
        module = without_weights(build)
        needed = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        missing = [name for name in needed if self._source(name) is None]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise FileFormatError(self._lacking(f"{missing[0]}{more}"))
        shapes = self.weights.shapes
        for name, shape in needed.items():
            self._fitting(name, shape, shapes)
        extra = [name for name in self.sources if name not in needed]
        if whole and extra:
            raise FileFormatError(
                f"{self.weights.path} has {len(extra)} tensors that no model Adapter Lab can build has a place for, "
                f"such as {self.sources[extra[0]].key}; choose another checkpoint."
            )

    def _source(self, parameter: str) -> Source | None:
        # transformers 5 leaves `text_model.` out inside CLIPTextModel; the table always has it.
        return self.sources.get(parameter) or self.sources.get(f"text_model.{parameter}")

    def _lacking(self, what: str) -> str:
        return f"{self.weights.path} lacks the weights of {what}; use a complete checkpoint."

    def _fitting(self, parameter: str, shape: tuple[int, ...], shapes: Shapes) -> Source:
        """Where a parameter of this shape lies; raises FileFormatError where it is missing or of another shape."""
        source = self._source(parameter)
        if source is None:
            raise FileFormatError(self._lacking(parameter))
        found = tuple(shapes[source.key])
        if source.rows:
            found = (source.rows[1] - source.rows[0], *found[1:])
        if source.transposed:
            found = found[::-1]
        if len(found) == 4 and len(shape) == 2 and found[2:] == (1, 1):
            found = found[:2]  # LDM's 1x1 convolution, diffusers' linear layer
        if found != shape:
            raise FileFormatError(
                f"{self.weights.path}: {source.key} has shape {found}, but a model of this kind needs {shape}; the "
                "file is a pruned or altered model that Adapter Lab cannot train."
            )
        return source

    def _read(self, parameter: str, shape: tuple[int, ...], shapes: Shapes) -> Tensor:
        source = self._fitting(parameter, shape, shapes)
        tensor = self.weights.read(source.key)
        if source.rows:
            tensor = tensor[source.rows[0] : source.rows[1]].clone()  # else the fused tensor would stay in memory
        if source.transposed:
            tensor = tensor.T.contiguous()
        return tensor.view(shape).contiguous()

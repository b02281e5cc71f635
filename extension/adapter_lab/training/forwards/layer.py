"""What all adapter layers share: parameters made by LyCORIS, dropout, DoRA, and the tensors a file gets."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adapter_lab.errors import AdapterLabError
from adapter_lab.training.forwards.merged import WHOLE, WeightForm, merged, merged_delta
from adapter_lab.training.forwards.operation import Operation, without_autocast
from adapter_lab.training.forwards.spec import LayerSpec, Shape

MAGNITUDE = "magnitude"


class AdapterLayer(nn.Module):
    """One module's adapter while it is trained: parameters in fp32 and a forward that replaces the module's.

    A new algorithm says which parameters it has (`shapes`, `file_keys`), what its update is (`delta`) and, where there
    is a cheaper way than adding the update to the weight, how to compute the output (`adapted`, `update`).
    """

    # Parameter name here -> suffix of its key in a file, which is also LyCORIS's name of it.
    file_keys: ClassVar[Mapping[str, str]]
    # Parameters that take what has no place of its own in a file: the scalar, and what alpha's rounding leaves over.
    folded_into: ClassVar[tuple[str, ...]] = ()
    # The factors at the output, which LoRA+ trains at a rate of their own.
    outer: ClassVar[tuple[str, ...]] = ()
    has_alpha: ClassVar[bool] = True
    # Where LyCORIS's stand-in for the base module is made: "cpu" where it copies the weight.
    stand_in_on: ClassVar[str] = "meta"

    scalar: nn.Parameter

    def __init__(self, spec: LayerSpec, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.spec = spec
        self.switch: Callable[[], bool] = lambda: True
        # How much of each sample of the batch is noise, (B,) from 0 to 1 on the device; None where nobody says.
        self.noise_shares: Callable[[], Tensor | None] = lambda: None
        self._base = [module]  # in a list, so that the base's parameters are not taken for this layer's
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(value))

    # What an algorithm defines.

    @classmethod
    @abstractmethod
    def shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        """Shapes of the trained parameters by name, without `scalar` and DoRA's magnitude."""

    @classmethod
    def lycoris_class(cls) -> Any:
        """LyCORIS's module class, where it is what gives the initial values."""
        raise NotImplementedError

    @classmethod
    def refuse_impossible(cls, specs: Sequence[LayerSpec]) -> None:
        """Raise ConfigError for sizes that modules cannot have, with what would fit; `specs`: all of this algorithm."""

    def parameters_in_use(self) -> tuple[Tensor, ...]:
        """What `delta` takes: parameters with scale, scalar and rank dropout applied."""
        raise NotImplementedError

    def delta(self, axis: int, chunk: slice, base: Tensor, *parameters: Tensor) -> Tensor:
        """dW for the slice `chunk` of axis 0 (out) or 1 (in), of which `base` is W's part."""
        raise NotImplementedError

    def multiple(self, axis: int) -> int:
        """Chunks of `delta` along this axis are a multiple of this; WHOLE if it cannot be taken apart."""
        return 1

    def adapted(self, x: Tensor) -> Tensor:
        """The adapted output for x in the compute dtype."""
        return merged(x, self.operation, self._form(0), *self.parameters_in_use())

    def update(self, x: Tensor) -> Tensor:
        """The update's part of the output alone."""
        return merged_delta(x, self.operation, self._form(0), *self.parameters_in_use())

    # What all share.

    @classmethod
    def trained_shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        """Shapes of all trained parameters by name."""
        shapes = dict(cls.shapes(spec))
        if spec.dora:
            ones = (1,) * (len(spec.shape) - 2)
            shapes[MAGNITUDE] = (spec.shape[0], 1, *ones) if spec.dora == "output" else (1, spec.shape[1], *ones)
        if spec.use_scalar and cls.folded_into:
            shapes["scalar"] = ()
        return shapes

    @classmethod
    def file_shapes(cls, spec: LayerSpec) -> dict[str, Shape]:
        """Shapes of the tensors in a file by the suffix of their key."""
        keys = {**cls.file_keys, MAGNITUDE: "dora_scale"}
        shapes = {keys[name]: shape for name, shape in cls.trained_shapes(spec).items() if name != "scalar"}
        return {**shapes, "alpha": ()} if cls.has_alpha else shapes

    @classmethod
    def initial_values(cls, spec: LayerSpec, weight: Callable[[], Tensor]) -> dict[str, Tensor]:
        """Initial parameters on the CPU, fp32, drawn from torch's generator; `weight` gives W (DoRA).

        By default they are LyCORIS's.
        """
        found = dict(cls._lycoris_module(spec).named_parameters())
        values: dict[str, Tensor] = {}
        for name in cls.shapes(spec):
            values[name] = found[cls.file_keys[name]].detach()
        if spec.dora:
            values[MAGNITUDE] = norm_along(weight().float(), 0 if spec.dora == "output" else 1).cpu()
        if spec.use_scalar and cls.folded_into:
            values["scalar"] = found["scalar"].detach()
        return values

    @classmethod
    def _lycoris_module(cls, spec: LayerSpec) -> nn.Module:
        # DoRA's magnitude is measured on the real weight, so LyCORIS needs no more than the shapes.
        options = {
            "lora_dim": spec.dim,
            "alpha": spec.alpha,
            "use_tucker": spec.tucker,
            "use_scalar": spec.use_scalar,
            "factor": spec.factor,
            "decompose_both": spec.decompose_both,
            "full_matrix": spec.full_matrix,
            "unbalanced_factorization": spec.unbalanced,
            "constraint": spec.constraint,
            "rescaled": spec.rescaled,
            "train_on_input": spec.train_on_input,
            "bypass_mode": False,
        }
        module: nn.Module = cls.lycoris_class()(spec.name, stand_in(spec, cls.stand_in_on), 1.0, **options)
        return module

    @property
    def operation(self) -> Operation:
        """The base operation; made at the first use, since base modules may be replaced until then."""
        found: Operation | None = self.__dict__.get("_operation")
        if found is None:
            found = self.__dict__["_operation"] = Operation(self._base[0], self.spec.name)
        return found

    @property
    def base(self) -> nn.Module:
        """The module this layer adapts."""
        return self._base[0]

    def run(self, base_forward: Callable[..., Tensor], x: Tensor, *rest: Any, **named: Any) -> Tensor:
        """The adapted forward, or the base's own where the network is disabled or this module dropped for the step."""
        if not self.switch() or self._dropped():
            return base_forward(x, *rest, **named)
        operation = self.operation
        dtype = operation.compute_dtype(x)
        with without_autocast(x.device):
            x = operation.prepare(x, dtype)
            if self.training and self.spec.dropout > 0:
                update = self._decomposed(x, merged_delta) if self.spec.dora else self.update(x)
                return operation.base(x) + nn.functional.dropout(update, self.spec.dropout)
            return self._decomposed(x, merged) if self.spec.dora else self.adapted(x)

    def _dropped(self) -> bool:
        # torch's CPU generator, so that a recomputed forward (gradient checkpointing restores it) decides alike.
        share = self.spec.module_dropout
        return self.training and share > 0 and float(torch.rand(())) < share

    def _form(self, axis: int) -> WeightForm:
        def delta(chunk: slice, base: Tensor, *parameters: Tensor) -> Tensor:
            return self.delta(axis, chunk, base, *parameters)

        return WeightForm(self.spec.shape, delta, axis, self.multiple(axis))

    def _decomposed(self, x: Tensor, product: Callable[..., Tensor]) -> Tensor:
        """DoRA: W' = m V / |V| with V = W + dW, as dW' = dW + V (m - |V|) / |V|, which does not cancel."""
        axis = 0 if self.spec.dora == "output" else 1
        inner = self._form(axis)

        def delta(chunk: slice, base: Tensor, magnitude: Tensor, *parameters: Tensor) -> Tensor:
            change = inner.delta(chunk, base, *parameters)
            whole = base.to(change.dtype) + change
            norm = norm_along(whole, axis) + torch.finfo(whole.dtype).eps
            return change + whole * ((inner.part(magnitude, chunk) - norm) / norm)

        form = WeightForm(self.spec.shape, delta, axis, inner.multiple)
        return product(x, self.operation, form, self.get_parameter(MAGNITUDE), *self.parameters_in_use())

    def gain(self) -> Tensor | float:
        """scale times the trained scalar."""
        return self.spec.scale * self.scalar if "scalar" in self._parameters else self.spec.scale

    def rank_mask(self, like: Tensor, count: int | None = None) -> Tensor | None:
        """Zero for each rank left out in this step, 1 / share kept for the others (so the mean stays); (r,) or None."""
        share = self.spec.rank_dropout
        if not self.training or share <= 0:
            return None
        kept = torch.rand(count or self.spec.dim, device=like.device) >= share
        return kept.to(like.dtype) / (1 - share) if share < 1 else kept.to(like.dtype)

    # Files.

    def file_tensors(self) -> dict[str, Tensor]:
        """The tensors a file gets by suffix, detached, in the parameters' dtype: read back, they give exactly W'."""
        keys = {**self.file_keys, MAGNITUDE: "dora_scale"}
        found = {keys[name]: value.detach() for name, value in self.named_parameters() if name != "scalar"}
        if not self.has_alpha:
            return found
        alpha, rest = self._alpha_in_file()
        left_over = self.scalar.detach() * rest if "scalar" in self._parameters else rest
        if isinstance(left_over, Tensor) or left_over != 1.0:
            for name in self._folded():
                found[keys[name]] = found[keys[name]] * left_over
        found["alpha"] = torch.tensor(alpha, dtype=torch.float32)
        return found

    def load_file_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the values of `file_tensors`' tensors, also of files with another alpha, so that W' is the file's."""
        keys = {**self.file_keys, MAGNITUDE: "dora_scale"}
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(torch.ones(()) if name == "scalar" else tensors[keys[name]].reshape(parameter.shape))
            if self.has_alpha:
                ratio = self._scale_in_file(tensors) / self.spec.scale
                for name in self._folded() if ratio != 1.0 else ():
                    self.get_parameter(name).mul_(ratio)

    def _folded(self) -> tuple[str, ...]:
        return tuple(name for name in self.folded_into if name in self._parameters)

    def _alpha_in_file(self) -> tuple[float, float]:
        """alpha as every file format can hold it, and what the update still has to be multiplied by."""
        wanted = self.spec.scale * self.spec.dim
        alpha = representable(wanted)
        return alpha, wanted / alpha

    def _scale_in_file(self, tensors: Mapping[str, Tensor]) -> float:
        alpha = float(tensors["alpha"]) if "alpha" in tensors else 0.0
        return (alpha or self.spec.dim) / self.spec.dim

    @torch.no_grad()
    def limit_norm(self, largest: float) -> None:
        """Scale the update down to this Frobenius norm if it is larger, without waiting for the device."""
        if not self.folded_into:
            raise AdapterLabError(f"max_norm does not apply to {self.spec.algo}, the algorithm of {self.spec.name}.")
        norm = self.update_norm()
        ratio = torch.where(norm > largest, largest / norm, torch.ones_like(norm))
        for name in self._folded():
            self.get_parameter(name).mul_(ratio)

    @torch.no_grad()
    def update_norm(self) -> Tensor:
        """Frobenius norm of dW (before DoRA), of the update without dropout."""
        was_training, self.training = self.training, False
        try:
            whole = self.operation.weight(torch.float32) if self.multiple(0) == WHOLE else None
            form = self._form(0)
            parameters = self.parameters_in_use()
            squares = torch.zeros((), device=parameters[0].device, dtype=parameters[0].dtype)
            for chunk in form.chunks(parameters[0].element_size(), parameters[0].device):
                base = whole if whole is not None else parameters[0].new_empty(0)
                squares += form.delta(chunk, base, *parameters).square().sum()
            return squares.sqrt()
        finally:
            self.training = was_training


def norm_along(weight: Tensor, axis: int) -> Tensor:
    """Norms of W's rows (axis 0) or input columns (axis 1), broadcastable to W."""
    return torch.linalg.vector_norm(weight, dim=tuple(d for d in range(weight.dim()) if d != axis), keepdim=True)


def representable(value: float, up: bool = False) -> float:
    """The nearest number (or the next above) that fp16 and bf16 both hold; 0 below fp16's smallest."""
    mantissa, exponent = math.frexp(value)
    digits = min(8, exponent + 24)
    if value == 0 or digits < 1:
        return 0.0
    scaled = mantissa * 2**digits
    return math.ldexp(math.ceil(scaled) if up else round(scaled), exponent - digits)


def stand_in(spec: LayerSpec, device: str) -> nn.Module:
    """A module of the spec's shape without values: what LyCORIS needs to know of the base."""
    if spec.kind == "norm":
        return nn.LayerNorm(spec.shape[0], bias=spec.has_bias, device=device)
    out, into = spec.shape[:2]
    arguments: dict[str, Any] = {"bias": spec.has_bias, "device": device}
    if spec.kind == "conv":
        return nn.utils.skip_init(nn.Conv2d, into, out, spec.kernel, **arguments)
    return nn.utils.skip_init(nn.Linear, into, out, **arguments)


def lycoris() -> Any:
    """LyCORIS's module classes, held to plain torch kernels: a compiled one would be chosen again for every call."""
    os.environ.setdefault("LYCORIS_KERNEL_BACKEND", "torch")
    import logging

    import lycoris.modules as modules

    # It reports block sizes of every module on stdout, and sets its own level when it is imported.
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    return modules

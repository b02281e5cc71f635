"""Prodigy (Mishchenko and Defazio 2023) as prodigyopt has it, in a step that never waits for the device.

prodigyopt reads two numbers from the device for every parameter in every step, thousands of waits for an SDXL adapter.
Here the estimate d and all that it follows from stay on the device. On a CPU, where there is nothing to wait for,
prodigyopt's own step runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import prodigyopt
import torch
from torch import Tensor
from torch.nn import Parameter

# Temporary copies of gradients and weights are made for so many bytes of parameters at a time.
CHUNK_BYTES = 64 * 2**20
ESTIMATE = ("d", "d_max", "d_numerator", "d_hat", "d_denom")


class Prodigy(prodigyopt.Prodigy):
    """prodigyopt.Prodigy with the estimate kept on the device where `stay_on_device` (default: on CUDA)."""

    def __init__(self, params: Any, stay_on_device: bool | None = None, **options: Any) -> None:
        super().__init__(params, **options)
        if stay_on_device is None:
            stay_on_device = all(p.device.type == "cuda" for group in self.param_groups for p in group["params"])
        self.stay_on_device = stay_on_device
        self._estimate: dict[str, Tensor] = {}

    def estimate(self) -> dict[str, float | Tensor]:
        """d and d_hat as they are now, on the device where they are kept there (copies)."""
        if self._estimate:
            return {name: self._estimate[name].clone() for name in ("d", "d_hat")}
        group = self.param_groups[0]
        return {"d": float(group["d"]), "d_hat": float(group.get("d_hat", group["d"]))}

    def step(self, closure: Any = None) -> Any:
        """One step; `closure` only with prodigyopt's own step."""
        if not self.stay_on_device:
            return super().step(closure)
        with torch.no_grad():
            self._step_on_device()
        return None

    def _step_on_device(self) -> None:
        chunks = list(self._chunks())
        if not chunks:
            return
        group = self.param_groups[0]
        self._begin(chunks)
        e = self._estimate
        beta1, beta2 = group["betas"]
        beta3 = math.sqrt(beta2) if group["beta3"] is None else group["beta3"]
        steps, d0, lr = group["k"] + 1, group["d0"], max(g["lr"] for g in self.param_groups)
        correction = math.sqrt(1 - beta2**steps) / (1 - beta1**steps) if group["use_bias_correction"] else 1.0
        d = e["d"].clone()
        dlr = d * (lr * correction)
        growth = (d / d0) * (d if group["safeguard_warmup"] else dlr)
        numerator, denominator = torch.zeros_like(d), torch.zeros_like(d)
        for parameters in chunks:
            if group["weight_decay"] != 0 and not group["decouple"]:
                torch._foreach_add_(self._gradients(parameters), [*parameters], alpha=group["weight_decay"])
            numerator += (d / d0) * dlr * self._progress(parameters, group["slice_p"])
            self._moments(parameters, d, beta1, beta2)
            denominator += self._distance(parameters, growth, beta3, group["slice_p"])
        self._update_estimate(group, numerator + e["d_numerator"] * beta3, denominator)
        # Without any gradient nothing moves, as in prodigyopt.
        dlr = torch.where(denominator > 0, dlr, torch.zeros_like(dlr))
        for parameters in chunks:
            self._move(parameters, dlr, group)
        for g in self.param_groups:
            g["k"] += 1

    def _chunks(self) -> Iterator[list[Parameter]]:
        """Parameters that have a gradient, in lists of at most CHUNK_BYTES."""
        chunk: list[Parameter] = []
        size = 0
        for parameter in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            if chunk and size + parameter.nbytes > CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
            chunk.append(parameter)
            size += parameter.nbytes
        if chunk:
            yield chunk

    def _begin(self, chunks: list[list[Parameter]]) -> None:
        """Make what is missing of the state, with prodigyopt's names; the only place that waits, once per parameter."""
        group = self.param_groups[0]
        if not self._estimate:
            values = {name: group.get(name, group["d"] if name == "d_hat" else 0.0) for name in ESTIMATE}
            device = chunks[0][0].device
            self._estimate = {
                n: torch.full((), float(v), dtype=torch.float64, device=device) for n, v in values.items()
            }
        for parameter in (p for chunk in chunks for p in chunk):
            state = self.state[parameter]
            if "step" not in state:
                sliced = parameter.detach().flatten()[:: group["slice_p"]]
                state["step"] = 0
                state["s"] = torch.zeros_like(sliced)
                zero = torch.zeros((), device=parameter.device, dtype=parameter.dtype)
                state["p0"] = sliced.clone() if parameter.any() else zero
                if group["betas"][0] > 0:
                    state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            state["step"] += 1

    def _sliced(self, tensors: list[Tensor], slice_p: int) -> list[Tensor]:
        return [tensor.flatten()[::slice_p] for tensor in tensors]

    def _gradients(self, parameters: list[Parameter]) -> list[Tensor]:
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    def _named(self, parameters: list[Parameter], name: str) -> list[Tensor]:
        return [self.state[parameter][name] for parameter in parameters]

    def _progress(self, parameters: list[Parameter], slice_p: int) -> Tensor:
        """Sum over all parameters of <g, p0 - p>, of every slice_p-th value."""
        moved = torch._foreach_sub(self._named(parameters, "p0"), self._sliced([*parameters], slice_p))
        products = torch._foreach_mul(moved, self._sliced(self._gradients(parameters), slice_p))
        return torch.stack([product.sum() for product in products]).sum().double()

    def _moments(self, parameters: list[Parameter], d: Tensor, beta1: float, beta2: float) -> None:
        """Adam's moving averages of d g and d^2 g^2."""
        gradients = self._gradients(parameters)
        if beta1 > 0:
            first = self._named(parameters, "exp_avg")
            torch._foreach_mul_(first, beta1)
            torch._foreach_add_(first, torch._foreach_mul(gradients, (d * (1 - beta1)).to(gradients[0])))
        second = self._named(parameters, "exp_avg_sq")
        torch._foreach_mul_(second, beta2)
        scaled = torch._foreach_mul(gradients, (d * d * (1 - beta2)).to(gradients[0]))
        torch._foreach_addcmul_(second, gradients, scaled)

    def _distance(self, parameters: list[Parameter], growth: Tensor, beta3: float, slice_p: int) -> Tensor:
        """Take the gradients into s, and give the sum of |s|."""
        s = self._named(parameters, "s")
        torch._foreach_mul_(s, beta3)
        gradients = self._sliced(self._gradients(parameters), slice_p)
        torch._foreach_add_(s, torch._foreach_mul(gradients, growth.to(gradients[0])))
        return torch.stack(torch._foreach_norm(s, 1)).sum().double()

    def _update_estimate(self, group: dict[str, Any], numerator: Tensor, denominator: Tensor) -> None:
        """The next d: at least d_hat while d is still d0, and growing by at most growth_rate."""
        e = self._estimate
        moved = denominator > 0
        d_hat = torch.where(moved, group["d_coef"] * numerator / denominator, e["d_hat"])
        d = torch.where(e["d"] == group["d0"], torch.maximum(e["d"], d_hat), e["d"])
        d_max = torch.maximum(e["d_max"], d_hat)
        # inf * d is inf, of which the minimum is d_max.
        d = torch.minimum(d_max, d * group["growth_rate"])
        new = {"d": d, "d_max": d_max, "d_numerator": numerator, "d_hat": d_hat, "d_denom": denominator}
        for name, value in new.items():
            e[name].copy_(torch.where(moved, value, e[name]))

    def _move(self, parameters: list[Parameter], dlr: Tensor, group: dict[str, Any]) -> None:
        """Decoupled weight decay and Adam's step of size d lr."""
        weights: list[Tensor] = [*parameters]
        dlr, d = dlr.to(weights[0]), self._estimate["d"].to(weights[0])
        denominators = torch._foreach_sqrt(self._named(parameters, "exp_avg_sq"))
        _add_everywhere(denominators, d * group["eps"])
        if group["weight_decay"] != 0 and group["decouple"]:
            torch._foreach_mul_(weights, 1 - group["weight_decay"] * dlr)
        if group["betas"][0] > 0:
            steps = torch._foreach_mul(self._named(parameters, "exp_avg"), -dlr)
        else:
            steps = torch._foreach_mul(self._gradients(parameters), -dlr * d)
        torch._foreach_addcdiv_(weights, steps, denominators)

    def state_dict(self) -> dict[str, Any]:
        """prodigyopt's state, the estimate as plain numbers."""
        for group in self.param_groups:
            group.update({name: value.item() for name, value in self._estimate.items()})
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state, also one of prodigyopt's own."""
        super().load_state_dict(state_dict)
        self._estimate = {}


def _add_everywhere(tensors: Sequence[Tensor], value: Tensor) -> None:
    """Add a number that is on the device to every tensor."""
    # torch._foreach_add_ takes a tensor without dimensions for a plain number, and so reads it from the device.
    torch.ops.aten._foreach_add_.Tensor([*tensors], value)

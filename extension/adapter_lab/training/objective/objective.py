"""What a denoiser is asked for: how clean latents and noise are mixed at a time, and what it should answer.

Symbols as in the papers: x0 are clean latents, eps the noise, x_t their mixture. A time is told as the denoiser is told
it, on a scale of 1000 steps: whole numbers for diffusion, any number for rectified flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from adapter_lab.config import LossConfig
from adapter_lab.training.device.transfer import to_device
from adapter_lab.training.objective.noise import draw_share

STEPS = 1000
EPSILON, V, FLOW = "epsilon", "v_prediction", "flow"


class Objective(Protocol):
    """How a family of bases is trained and drawn with."""

    @property
    def prediction(self) -> str:
        """What the denoiser answers: EPSILON, V or FLOW."""
        ...

    @property
    def steps(self) -> int:
        """The scale of times, for statistics by noise level."""
        ...

    def draw(self, config: LossConfig, *parts: object) -> float:
        """One time, by the settings; `parts` name its random number (noise.py)."""
        ...

    def times(self, values: Sequence[float]) -> Tensor:
        """Times as a tensor (B,) on the CPU, as `mix` and the denoiser take them."""
        ...

    def mix(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t of x0 `latents` and eps `noise`, both (B, C, h, w), at `times` (B,) on the CPU."""
        ...

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the denoiser should answer, (B, C, h, w)."""
        ...

    def snr(self, times: Tensor) -> Tensor:
        """Ratio of signal to noise (B,) in float64 on the CPU; 0 where there is no signal."""
        ...

    def sampler(self, steps: int, shift: float) -> Any:
        """A scheduler of diffusers with `steps` times set; `shift`: of a flow's noise levels towards noise."""
        ...


@dataclass(frozen=True)
class Diffusion:
    """Diffusion on a schedule of noise: x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps.

    `alphas_cumprod`: (T,) fp32 on the CPU, falling from nearly 1; its last value may be 0 (zero terminal SNR).
    `prediction`: "epsilon" or "v_prediction". `usual`: how times are drawn where the settings leave it open.
    """

    alphas_cumprod: Tensor
    prediction: str
    usual: str = "uniform"

    def __post_init__(self) -> None:
        if self.prediction not in (EPSILON, V):
            raise ValueError(f"prediction is {self.prediction!r}; known are {EPSILON}, {V}")

    @property
    def steps(self) -> int:
        """Timesteps of the schedule."""
        return len(self.alphas_cumprod)

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether nothing of the signal is left at the last timestep."""
        return float(self.alphas_cumprod[-1]) == 0.0

    def draw(self, config: LossConfig, *parts: object) -> float:
        """A timestep between `timestep_min` and `timestep_max`, both included."""
        first, final = config.timestep_min, min(config.timestep_max, self.steps - 1)
        return min(final, first + int(draw_share(config, self.usual, *parts) * (final - first + 1)))

    def times(self, values: Sequence[float]) -> Tensor:
        """Timesteps as whole numbers."""
        return torch.tensor(values, dtype=torch.long)

    def levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t) as (B, 1, 1, 1) on the device and in the dtype of `like`."""
        abar = self.alphas_cumprod[timesteps].double()
        return placed(abar.sqrt(), like), placed((1 - abar).sqrt(), like)

    def mix(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps."""
        signal, sigma = self.levels(times, latents)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """eps, or v = sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans and Ho 2022)."""
        if self.prediction == EPSILON:
            return noise
        signal, sigma = self.levels(times, latents)
        return signal * noise - sigma * latents

    def snr(self, times: Tensor) -> Tensor:
        """abar / (1 - abar)."""
        abar = self.alphas_cumprod[times].double()
        return abar / (1 - abar)

    def sampler(self, steps: int, shift: float) -> DDIMScheduler:
        """DDIM (Song et al. 2021).

        Zero terminal SNR needs the last timestep, so "trailing" spacing (Lin et al. 2023); else "leading", as usual for
        SD.
        """
        scheduler = DDIMScheduler(
            num_train_timesteps=STEPS,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            timestep_spacing="trailing" if self.zero_terminal_snr else "leading",
            prediction_type=self.prediction,
            rescale_betas_zero_snr=self.zero_terminal_snr,
        )
        scheduler.set_timesteps(steps)
        return scheduler


@dataclass(frozen=True)
class Flow:
    """Rectified flow (Liu et al. 2022, Lipman et al. 2023): x_t = (1 - s) x0 + s eps with s = t / 1000.

    `usual`: how times are drawn where the settings leave it open.
    """

    usual: str = "uniform"
    prediction: ClassVar[str] = FLOW
    steps: ClassVar[int] = STEPS

    def draw(self, config: LossConfig, *parts: object) -> float:
        """A time between `timestep_min` and `timestep_max` + 1, never 0."""
        first, final = config.timestep_min, config.timestep_max + 1
        return max(first + draw_share(config, self.usual, *parts) * (final - first), 1e-3)

    def times(self, values: Sequence[float]) -> Tensor:
        """Times in fp32."""
        return torch.tensor(values, dtype=torch.float32)

    def mix(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t = (1 - s) x0 + s eps."""
        s = times / STEPS
        return placed(1 - s, latents) * latents + placed(s, latents) * noise

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """eps - x0."""
        return noise - latents

    def snr(self, times: Tensor) -> Tensor:
        """((1 - s) / s)^2."""
        s = times / STEPS
        return ((1 - s) / s).square()

    def sampler(self, steps: int, shift: float) -> FlowMatchEulerDiscreteScheduler:
        """Euler's method on noise levels s' = shift s / (1 + (shift - 1) s) of evenly spaced s (Esser et al. 2024)."""
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=STEPS, shift=shift)
        scheduler.set_timesteps(sigmas=[1 - index / steps for index in range(steps)])
        return scheduler


def placed(values: Tensor, like: Tensor) -> Tensor:
    """Values (B,) as (B, 1, 1, 1) on the device and in the dtype of `like`."""
    # Placed after the arithmetic, so that every device gets the same rounded values.
    return to_device(values.to(like.dtype), like.device).view((-1,) + (1,) * (like.ndim - 1))


def scaled_linear_alphas_cumprod(start: float = 0.00085, end: float = 0.012, steps: int = STEPS) -> Tensor:
    """abar of the schedule all Stable Diffusion bases were trained with: sqrt(beta) linear in t; (steps,) fp32."""
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """abar shifted and scaled so that it ends at exactly 0 and begins as before (Lin et al. 2023, algorithm 1)."""
    root = alphas_cumprod.double().sqrt()
    first, last = root[0].clone(), root[-1].clone()
    return (((root - last) * (first / (first - last))) ** 2).to(alphas_cumprod.dtype)


def objective_of(prediction: str, zero_terminal_snr: bool, usual: str = "uniform") -> Objective:
    """What a base that predicts so is trained for; `usual`: how its times are drawn by default."""
    if prediction == FLOW:
        return Flow(usual)
    abar = scaled_linear_alphas_cumprod()
    return Diffusion(rescale_zero_terminal_snr(abar) if zero_terminal_snr else abar, prediction, usual)

"""Stand-in for `backend.sampling.sampling_function`: what is done before an image is sampled."""

from __future__ import annotations

from typing import Any

from backend import memory_management, utils


def sampling_prepare(unet: Any, x: Any = None) -> None:
    needed = utils.nested_compute_size(unet.patches, element_size=4) if unet.has_online_lora() else 0
    memory_management.load_models_gpu([unet], memory_required=needed)

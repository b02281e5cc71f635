"""What is to blame for a loss that is not finite: an image's latents, a caption's encoding, the base, the adapter."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adapter_lab.adapters.tensors import is_finite
from adapter_lab.errors import AdapterLabError
from adapter_lab.training.dataset import Batch, Item
from adapter_lab.training.dataset.cache import latents_not_finite, text_not_finite
from adapter_lab.training.dataset.plan import fixed_sample
from adapter_lab.training.prepare import Prepared


def blame(prepared: Prepared, samples: Sequence[tuple[str, float]]) -> str:
    """A sentence on what gives no finite values for (picture, time) `samples` without the adapter; "" if all does.

    Computes each sample again, so it is asked only when a run ends.
    """
    items = {item.key: item for item in prepared.dataset.items}
    try:
        found = (_of(prepared, items[key], time) for key, time in dict(samples).items() if key in items)
        return next((sentence for sentence in found if sentence), "")
    except (AdapterLabError, RuntimeError, OSError):
        return ""  # the loss itself is what must be reported


@torch.no_grad()
def _of(prepared: Prepared, item: Item, time: float) -> str:
    base, batch = prepared.base, Batch((fixed_sample(item),))
    latents = next(iter(prepared.source([batch])))
    if not (is_finite(latents.mean) and is_finite(latents.std)):
        return latents_not_finite(item.path, f"The VAE of {base.vae_path or base.path}")
    with prepared.network.disabled():
        text = prepared.denoiser.conditioning(batch.captions)
        if not is_finite(text.hidden):
            return text_not_finite(batch.captions[0])
        losses, _ = prepared.denoiser.losses(latents, [("blame", item.key)], [time])
    if is_finite(losses):
        return ""
    number_format = str(prepared.denoiser.dtype).removeprefix("torch.")
    return (
        f"It is not the learning rate: without the adapter, too, {base.path} answers {item.path} with values that are "
        f"not finite in {number_format}. Set precision.mixed to bf16 or fp32, or use another base."
    )

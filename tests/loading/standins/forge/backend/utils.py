"""Stand-in for `backend.utils`."""

from typing import Any

import safetensors.torch


def load_torch_file(ckpt: str, safe_load: bool = False, device: Any = None) -> Any:
    return safetensors.torch.load_file(ckpt)

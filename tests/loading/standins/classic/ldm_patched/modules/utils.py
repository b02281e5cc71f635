"""Stand-in of ldm_patched/modules/utils.py."""

from safetensors.torch import load_file


def load_torch_file(ckpt, safe_load=False, device=None):
    return load_file(ckpt)

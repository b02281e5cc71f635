"""The tensor names and shapes of real checkpoints, for tests."""

from __future__ import annotations

import json
from pathlib import Path

LAYOUTS = Path(__file__).parents[1] / "data" / "layouts"


def real_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """Shapes by tensor name of a real "sd15" or "sdxl" single file, or of an "sd2" one derived from them."""
    if family != "sd2":
        return {key: tuple(shape) for key, shape in json.loads((LAYOUTS / f"{family}.json").read_text()).items()}
    # SD2 has SD1.5's UNet with linear projections and a wider context, and an OpenCLIP encoder of width 1024.
    shapes = {}
    for key, shape in real_shapes("sd15").items():
        if key.endswith(("proj_in.weight", "proj_out.weight")) and len(shape) == 4:
            shape = shape[:2]
        if key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            shape = (shape[0], 1024)
        if not key.startswith("cond_stage_model."):
            shapes[key] = shape
    for key, shape in real_shapes("sdxl").items():
        prefix = "conditioner.embedders.1."
        if key.startswith(prefix) and not any(f".resblocks.{layer}." in key for layer in range(24, 32)):
            narrower = tuple({1280: 1024, 3840: 3072, 5120: 4096}.get(n, n) for n in shape)
            shapes["cond_stage_model." + key[len(prefix) :]] = narrower
    return shapes

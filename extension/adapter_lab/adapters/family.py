"""Which base-model family an adapter file was trained for, as far as its names, metadata and shapes tell."""

from __future__ import annotations

import re

from adapter_lab.adapters.file import AdapterFile, ModuleError
from adapter_lab.adapters.keys import canonical

FAMILY_NAMES = {"sd15": "SD1.5", "sd2": "SD2", "sdxl": "SDXL"}
# Width of the text features that attn2.to_k reads.
CONTEXT_WIDTHS = {768: "sd15", 1024: "sd2", 2048: "sdxl"}
UNET_WIDTHS = (320, 640, 1280)
# Blocks only the four levels of SD1.5 and SD2 have, in LDM and in diffusers names.
FOUR_LEVELS = re.compile(r"^lora_unet_((in|out)put_blocks_(9|10|11)|(down|up)_blocks_3)_")
# Transformers of more than one block are SDXL's.
DEEP = re.compile(r"^lora_unet_.*_transformer_blocks_[1-9]")


def adapter_families(file: AdapterFile) -> tuple[str, ...]:
    """The families a file may have been trained for: one if it tells, all three if nothing does."""
    if any(name.startswith("lora_te2_") for name in file.modules):
        return ("sdxl",)
    names = [canonical(name) for name in file.modules]
    if any(name.startswith("lora_te2_") or DEEP.match(name) for name in names):
        return ("sdxl",)
    told = _from_metadata(file.metadata) or _from_context(file)
    if told:
        return (told,)
    if any(FOUR_LEVELS.match(name) for name in names):
        return ("sd15", "sd2")
    return tuple(FAMILY_NAMES)


def _from_metadata(metadata: dict[str, str]) -> str | None:
    """What kohya's and modelspec's entries say."""
    version = metadata.get("ss_base_model_version", "").lower()
    architecture = metadata.get("modelspec.architecture", "").lower()
    if version.startswith("sdxl") or architecture.startswith("stable-diffusion-xl"):
        return "sdxl"
    if version.startswith("sd_v2") or architecture.startswith("stable-diffusion-v2") or metadata.get("ss_v2") == "True":
        return "sd2"
    if version.startswith("sd_v1") or architecture.startswith("stable-diffusion-v1"):
        return "sd15"
    return None


def _from_context(file: AdapterFile) -> str | None:
    """What the shapes of a cross-attention key projection say; None for algorithms that do not see the input width."""
    for name in file.modules:
        if canonical(name).endswith("_attn2_to_k"):
            try:
                outline = file.outline(name)
            except ModuleError:
                continue
            fitting = {CONTEXT_WIDTHS[w] for w in CONTEXT_WIDTHS for out in UNET_WIDTHS if outline.fits((out, w))}
            return fitting.pop() if len(fitting) == 1 else None
    return None

"""What a well-formed file without an adapter that we can read is, by the names of its tensors, in words for people."""

from __future__ import annotations

import re
from collections.abc import Iterable

# How a tensor is named, and what such files are; the first row that any tensor matches counts.
KINDS: tuple[tuple[str, str], ...] = (
    (
        r"emb_params$|string_to_param|^clip_[lg]$",
        "a textual inversion embedding, which belongs into the embeddings folder",
    ),
    (r"\.vera_lambda_[bd]", "a VeRA adapter of PEFT, which needs projections that the file does not hold"),
    (r"\.boft_[RS]", "a BOFT adapter of PEFT, which Adapter Lab does not read: it knows BOFT of LyCORIS"),
    (r"\.ia3_l\b", "an (IA)³ adapter of PEFT, which Adapter Lab does not read: it knows (IA)³ of LyCORIS"),
    (r"\.oft_r\b", "an OFT adapter of an old PEFT, which Adapter Lab does not read: it knows OFTv2 of PEFT"),
    (
        r"\.(?:hra_u|randlora_\w+|fourierft_spectrum|vblora_\w+|shira_\w+|road_\w+|c3a_\w+|bone_\w+|miss_\w+|lora_XS\w*)",
        "an adapter of PEFT of a type that Adapter Lab does not read",
    ),
    (r"\.lora_embedding_[AB]", "a LoRA of token embeddings, which Adapter Lab does not read"),
    (r"^(?:image_proj|ip_adapter|ip_adapter_attn)\b", "an IP-Adapter"),
    (r"^lora_controlnet$|^control_model\.|^controlnet_\w+\.|^input_hint_block\.", "a ControlNet"),
    (r"motion_modules\.", "a motion module of AnimateDiff"),
    (r"(?:^|\.)diffusion_model\.", "a checkpoint"),
    (r"^(?:first_stage_model|cond_stage_model|conditioner)\.", "a checkpoint"),
    (
        r"^(?:down_blocks|mid_block|up_blocks)\.\d|^(?:double_blocks|transformer_blocks|joint_blocks)\.\d",
        "a whole model",
    ),
    (r"^(?:encoder|decoder)\.(?:down|up|mid|conv_in|down_blocks|up_blocks)\b", "a VAE"),
    (r"^(?:text_model|model\.layers|encoder\.block)\.", "a text encoder"),
    (r"^\d+\.\d+\.(?:linear|weight)", "a hypernetwork, which belongs into the hypernetworks folder"),
)
_KINDS = tuple((re.compile(pattern), what) for pattern, what in KINDS)
OTHER = "something else"


def foreign_kind(keys: Iterable[str]) -> str:
    """What a file of these tensors is, as a noun phrase; OTHER where no row knows it."""
    names = list(keys)
    for pattern, what in _KINDS:
        if any(pattern.search(name) for name in names):
            return what
    return OTHER

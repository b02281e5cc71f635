"""Which base-model family an adapter file was trained for, as far as its names, metadata and shapes tell.

What a name may mean is a table (`NAMES`), what a shape rules out another (`SHAPES`); a file of which neither knows a
module is of no known family, never of Stable Diffusion by default.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

from adapter_lab.adapters.file import AdapterFile, ModuleError
from adapter_lab.adapters.keys import canonical
from adapter_lab.families import FAMILIES, UNETS

FAMILY_NAMES = {
    **{row.key: row.title for row in FAMILIES.values()},
    "sdxl-refiner": "the SDXL refiner",
    "sd3": "Stable Diffusion 3",
    "flux": "Flux.1",
    "flux2": "Flux.2",
    "chroma": "Chroma",
    "cosmos": "Cosmos Predict2",
    "lumina2": "Lumina 2",
    "z-image": "Z-Image",
    "qwen-image": "Qwen-Image",
    "wan": "Wan",
    "hunyuan": "Hunyuan",
    "hidream": "HiDream",
    "ltx": "LTX-Video",
    "pixart": "PixArt",
    "auraflow": "AuraFlow",
    "kolors": "Kolors",
    "cascade": "Stable Cascade",
    "svd": "Stable Video Diffusion",
    "animatediff": "AnimateDiff",
}
STABLE_DIFFUSION = tuple(UNETS)
UNKNOWN = "an unknown base model"

SD = frozenset({*STABLE_DIFFUSION, "sdxl-refiner"})
FLUX_LIKE = frozenset({"flux", "flux2", "chroma"})
CLIP = frozenset({*STABLE_DIFFUSION, "flux", "sd3"})
LARGE_TEXT = frozenset({"anima", "lumina2", "z-image", "qwen-image"})
COSMOS = frozenset({"anima", "cosmos"})
LUMINA = frozenset({"lumina2", "z-image"})
# How other programs begin the names of a transformer; `canonical` has replaced those of a UNet by `lora_unet_`.
PREFIX = re.compile(
    r"(?:base_model_model_|lora_unet_|lora_transformer_|lora_prior_unet_|net_)*(?:transformer_(?!blocks_))?"
)
# Taken off before dots become underscores: "transformer.blocks.0" is Wan's, "transformer_blocks.0" others'.
TRANSFORMER = re.compile(r"^(?:base_model\.model\.)?transformer\.")
UNET_TRANSFORMER = (
    r"(?:(?:in|out)put_blocks_\d+_\d|middle_block_\d|(?:(?:down|up)_blocks_\d+|mid_block)_attentions_\d+)"
    r"_transformer_blocks_"
)

# A module's name without its prefix, and the families that have such a module; the first row that matches counts.
NAMES: tuple[tuple[str, frozenset[str]], ...] = (
    (r".*motion_modules_", frozenset({"animatediff"})),
    (r".*_time_(?:stack|mixer)(?:_|$)|.*_temporal_transformer_blocks_", frozenset({"svd"})),
    (r"(?:down|up)_blocks_\d+_\d+_(?:attention|channelwise|mapper|kv_mapper)", frozenset({"cascade"})),
    # Only SDXL has levels of ten transformer blocks, only it and its refiner more than one.
    (UNET_TRANSFORMER + r"(?:[4-9]|\d\d)_", frozenset({"sdxl"})),
    (r"(?:(?:in|out)put_blocks_(?:9|10|11)|(?:down|up)_blocks_3)_", SD - {"sdxl"}),
    (UNET_TRANSFORMER + r"[1-9]_", frozenset({"sdxl", "sdxl-refiner"})),
    (r"(?:(?:in|out)put_blocks|middle_block)_\d+", SD),
    (r"(?:(?:down|up)_blocks_\d+|mid_block)_(?:resnets|downsamplers|upsamplers)_", SD),
    (r"(?:(?:down|up)_blocks_\d+|mid_block)_attentions_\d+_(?:transformer_blocks_|proj_in|proj_out|norm)", SD),
    (r"(?:label_emb_0_[02]|add_embedding_linear_[12])$", frozenset({"sdxl", "sdxl-refiner"})),
    (r"(?:time_embed_[02]|time_embedding_linear_[12]|conv_in|conv_out|conv_norm_out|out_[02])$", SD),
    # Text encoders.
    (r"lora_te2_encoder_block_", frozenset({"flux"})),
    (r"lora_te3_|text_encoder_3_|text_encoders_t5", frozenset({"flux", "sd3"})),
    (r"lora_te2_", frozenset({"sdxl", "sd3"})),
    (r"text_encoders_qwen3_06b_|lora_te1_qwen3_06b_", frozenset({"anima"})),
    (r"lora_te1_(?:transformer_)?(?:model_)?layers_\d+_(?:self_attn|mlp)_", LARGE_TEXT),
    (r"(?:lora_te1_)?(?:text_model_)?(?:encoder_layers_\d+_|final_layer_norm|text_projection)", CLIP),
    # Anima, which is Cosmos Predict2 with a text conditioner of its own.
    (r"llm_adapter_|text_conditioner_", frozenset({"anima"})),
    (r"blocks_\d+_(?:self|cross)_attn_(?:q|k|v|output)_proj", COSMOS),
    (r"blocks_\d+_(?:mlp_layer[12]|adaln_modulation_)", COSMOS),
    (r"(?:x_embedder_proj_1|t_embedder_1_linear_[12]|final_layer_(?:linear|adaln_modulation_\d))$", COSMOS),
    (r"transformer_blocks_\d+_norm[123]_linear_[12]", COSMOS),
    (r"transformer_blocks_\d+_attn2_to_", COSMOS | {"ltx", "pixart", "sd3"}),
    (r"transformer_blocks_\d+_attn1_to_", COSMOS | {"ltx", "pixart"}),
    # Flux in the names of its authors, of which Chroma and Hunyuan's models have most.
    (r"(?:double_stream_modulation|single_stream_modulation)_", frozenset({"flux2"})),
    (r"distilled_guidance_layer_", frozenset({"chroma"})),
    (r".*individual_token_refiner", frozenset({"hunyuan"})),
    (r"double_blocks_\d+_(?:img|txt)_(?:mlp_fc[12]|mod_linear|attn_[qkv]$)", frozenset({"hunyuan"})),
    (r"(?:double_blocks_\d+_(?:img|txt)_mod|single_blocks_\d+_modulation)_lin$", frozenset({"flux"})),
    (r"double_blocks_\d+_(?:img|txt)_mlp_[02]", FLUX_LIKE),
    (r"(?:double|single)_blocks_\d+_", FLUX_LIKE | {"hunyuan"}),
    # The same in diffusers' names, which Stable Diffusion 3 and Qwen-Image share.
    (r"single_transformer_blocks_\d+_attn_to_qkv_mlp_proj", frozenset({"flux2"})),
    (r"single_transformer_blocks_\d+_(?:proj_mlp|proj_out)", FLUX_LIKE - {"flux2"}),
    (r"single_transformer_blocks_\d+_norm_linear", frozenset({"flux"})),
    (r"single_transformer_blocks_", FLUX_LIKE),
    (r"transformer_blocks_\d+_(?:img|txt)_(?:mlp|mod)_", frozenset({"qwen-image"})),
    (r"transformer_blocks_\d+_ff(?:_context)?_linear_(?:in|out)", frozenset({"flux2"})),
    (r"transformer_blocks_\d+_(?:norm1|norm1_context)_linear", frozenset({"flux", "sd3"})),
    (r"transformer_blocks_\d+_ff_context_net_", frozenset({"flux", "chroma", "sd3"})),
    (r"transformer_blocks_\d+_ff_net_", COSMOS | {"flux", "chroma", "sd3", "ltx", "pixart"}),
    (r"transformer_blocks_\d+_attn_", FLUX_LIKE | {"sd3", "qwen-image"}),
    (r"joint_blocks_\d+_", frozenset({"sd3"})),
    (r"(?:layers|noise_refiner|context_refiner)_\d+_attention_to_", frozenset({"z-image"})),
    (r"(?:layers|noise_refiner|context_refiner)_\d+_(?:attn_|feed_forward_linear_)", frozenset({"lumina2"})),
    (r"(?:layers|noise_refiner|context_refiner)_\d+_(?:attention|feed_forward|adaLN_modulation)_", LUMINA),
    (r"blocks_\d+_(?:(?:self|cross)_attn_(?:[qkvo]|k_img|v_img)$|ffn_|attn[12]_(?:to_|add_))", frozenset({"wan"})),
    (r"(?:double|single)_stream_blocks_\d+_block_", frozenset({"hidream"})),
    (r"(?:double|single)_layers_\d+_|joint_transformer_blocks_", frozenset({"auraflow"})),
)
# The same without knowing more: shapes of a module's weight, and whose they are.
Shape = tuple[int, ...]
SHAPES: tuple[tuple[str, Mapping[Shape, frozenset[str]]], ...] = (
    (
        r".*_attn2_to_k$",
        {
            **{
                (out, row.unet["cross_attention_dim"]): frozenset({key})
                for key, row in UNETS.items()
                for out in row.unet["block_out_channels"]
            },
            **{(out, 1280): frozenset({"sdxl-refiner"}) for out in (768, 1536)},
            (2048, 1024): COSMOS,
            (5120, 1024): frozenset({"cosmos"}),
            (2048, 2048): frozenset({"ltx"}),
            (1152, 1152): frozenset({"pixart"}),
        },
    ),
    (
        r"transformer_blocks_\d+_attn1_to_q$|blocks_\d+_self_attn_q_proj$",
        {
            (2048, 2048): COSMOS | {"ltx"},
            (5120, 5120): frozenset({"cosmos"}),
            (4096, 4096): frozenset({"ltx"}),
            (1152, 1152): frozenset({"pixart"}),
        },
    ),
    (
        r"double_blocks_\d+_(?:img|txt)_attn_qkv$",
        {
            (9216, 3072): FLUX_LIKE | {"hunyuan"},
            (18432, 6144): frozenset({"flux2"}),
            (12288, 4096): frozenset({"flux2"}),
            (10752, 3584): frozenset({"hunyuan"}),
        },
    ),
    (
        r"single_blocks_\d+_linear1$",
        {
            (21504, 3072): FLUX_LIKE - {"flux2"} | {"hunyuan"},
            **{(9 * width, width): frozenset({"flux2"}) for width in (3072, 4096, 6144)},
        },
    ),
    (
        r"transformer_blocks_\d+_attn_(?:to_q|add_q_proj)$",
        {
            (3072, 3072): FLUX_LIKE | {"qwen-image"},
            **{(width, width): frozenset({"sd3"}) for width in (1536, 2432)},
            **{(width, width): frozenset({"flux2"}) for width in (4096, 6144)},
        },
    ),
    (
        r"(?:layers|noise_refiner|context_refiner)_\d+_attention_qkv$",
        {(3840, 2304): frozenset({"lumina2"}), (11520, 3840): frozenset({"z-image"})},
    ),
    (
        r"(?:layers|noise_refiner|context_refiner)_\d+_feed_forward_w1$",
        {(9216, 2304): frozenset({"lumina2"}), (10240, 3840): frozenset({"z-image"})},
    ),
)
# What trainers call a base, in lower case without anything but letters and digits.
SPELLINGS = (
    ("refiner", "sdxl-refiner"),
    ("^(stablediffusionxl|sdxl)", "sdxl"),
    ("^(stablediffusion|sd)v?3", "sd3"),
    ("^(stablediffusion|sd)v?2", "sd2"),
    ("^(stablediffusion|sd)v?1", "sd15"),
    ("chroma", "chroma"),
    ("^flux2", "flux2"),
    ("^flux", "flux"),
    ("^anima(?!te)", "anima"),
    ("^animatediff", "animatediff"),
    ("^cosmos", "cosmos"),
    ("^lumina", "lumina2"),
    ("^zimage", "z-image"),
    ("^qwenimage", "qwen-image"),
    ("^wan", "wan"),
    ("^(hunyuan|hv)", "hunyuan"),
    ("^hidream", "hidream"),
    ("^ltx", "ltx"),
    ("^pixart", "pixart"),
    ("^auraflow", "auraflow"),
    ("^kolors", "kolors"),
    ("^(stablecascade|wuerstchen)", "cascade"),
    ("^(stablevideo|svd)", "svd"),
)
_NAMES = tuple((re.compile(pattern), families) for pattern, families in NAMES)
_SHAPES = tuple((re.compile(pattern), shapes) for pattern, shapes in SHAPES)
_SPELLINGS = tuple((re.compile(pattern), family) for pattern, family in SPELLINGS)


def adapter_families(file: AdapterFile) -> tuple[str, ...]:
    """The families (keys of FAMILY_NAMES) a file may have been trained for: one if it tells, none if it is unknown."""
    possible = families_of_names(file.modules)
    told = _from_metadata(file.metadata)
    # An entry that the names contradict is wrong where it says Stable Diffusion, which some trainers write always;
    # other models may share names (Kolors those of SDXL).
    if told and (told in possible or not possible or told not in STABLE_DIFFUSION):
        return (told,)
    if len(possible) > 1:
        possible = possible & _from_shapes(file) or possible
    if len(possible) > 1:  # hardly anybody trains on it: it is named where it alone fits
        possible -= {"sdxl-refiner"}
    return tuple(family for family in FAMILY_NAMES if family in possible)


def families_of_names(names: Iterable[str]) -> frozenset[str]:
    """The families that have all of the modules whose names are known, or most of them where none has all."""
    rows = Counter(found for name in names if (found := _row(name)))
    common = frozenset.intersection(*rows) if rows else frozenset()
    if common or not rows:
        return common
    counts = Counter[str]()
    for families, count in rows.items():
        counts.update(dict.fromkeys(families, count))
    return frozenset(family for family, count in counts.items() if count == max(counts.values()))


def in_words(families: Iterable[str]) -> str:
    """Families as people call them: "SD1.5 or SD2", "an unknown base model"."""
    return " or ".join(FAMILY_NAMES[family] for family in families) or UNKNOWN


@lru_cache(maxsize=2**15)
def _row(name: str) -> frozenset[str]:
    """The families that have a module of this name; none where no row knows it."""
    path = _path(name)
    return next((families for pattern, families in _NAMES if pattern.match(path)), frozenset())


def _path(name: str) -> str:
    """A module's name in a file with underscores only and without the prefix of its program."""
    found = canonical(TRANSFORMER.sub("", name))
    prefix = PREFIX.match(found)
    return found[prefix.end() :] if prefix else found


def _from_metadata(metadata: Mapping[str, str]) -> str | None:
    """What the entries of trainers and of modelspec say."""
    module = metadata.get("ss_network_module", "").rpartition("networks.lora_")[2]
    for entry in (metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", ""), module):
        said = re.sub(r"[^a-z0-9]", "", entry.lower())
        for pattern, family in _SPELLINGS:
            if pattern.search(said):
                return family
    return "sd2" if metadata.get("ss_v2") == "True" else None


def _from_shapes(file: AdapterFile) -> frozenset[str]:
    """Every family whose weights one module of each kind of `SHAPES` fits; none where no shape tells."""
    told: list[frozenset[str]] = []
    for pattern, shapes in _SHAPES:
        for name in file.modules:
            if not pattern.match(_path(name)):
                continue
            try:
                outline = file.outline(name)
            except ModuleError:
                continue
            told.append(frozenset().union(*(families for shape, families in shapes.items() if outline.fits(shape))))
            break
    told = [families for families in told if families]
    return frozenset.intersection(*told) if told else frozenset()

"""Files that are no settings of a network training of kohya's: known by what only they have, and refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adapter_lab.errors import ConfigError

Tables = Mapping[str, Any]


@dataclass(frozen=True)
class ForeignFile:
    """A kind of file: what it is called, how it is known, and what to do instead."""

    title: str
    known: Callable[[Tables], bool]
    remedy: str


def _has(*names: str) -> Callable[[Tables], bool]:
    """Whether one of `names` is there, in a section or without one, and asks for anything."""

    def known(tables: Tables) -> bool:
        inner = [table for table in tables.values() if isinstance(table, dict)]
        return any(table.get(name) not in (None, "", False, 0) for table in (tables, *inner) for name in names)

    return known


def _sections(*names: str) -> Callable[[Tables], bool]:
    return lambda tables: all(isinstance(tables.get(name), dict) for name in names)


def _easy_scripts(tables: Tables) -> bool:
    sections = [table for name, table in tables.items() if name.endswith("_args") and isinstance(table, dict)]
    return any(isinstance(table.get(name), dict) for table in sections for name in ("args", "dataset_args"))


_BY_HAND = "set up the adapter by hand in a configuration of ours"
_ADAPTERS = "an adapter cannot be made of its settings"
KINDS = (
    ForeignFile(
        "a configuration of Adapter Lab",
        _sections("base", "dataset", "network", "optimizer"),
        "give it to `adapter-lab train --config` as it is",
    ),
    ForeignFile(
        "a file of LoRA_Easy_Training_Scripts",
        _easy_scripts,
        "it writes sd-scripts' own two files, config.toml and dataset.toml, before a training: import these",
    ),
    ForeignFile("settings of OneTrainer", _has("training_method", "concept_file_name", "__version"), _BY_HAND),
    ForeignFile("settings of diffusion-pipe", _has("micro_batch_size_per_gpu", "transformer_dtype"), _BY_HAND),
    ForeignFile("settings of musubi-tuner", _has("dit", "dit_dtype"), _BY_HAND),
    ForeignFile("settings of SimpleTuner", _has("model_family", "--model_family", "data_backend_config"), _BY_HAND),
    ForeignFile(
        "settings of a textual inversion",
        _has("token_string", "init_word", "num_vectors_per_token", "use_style_template", "use_object_template"),
        "embeddings are not trained here",
    ),
    ForeignFile("settings of LECO", _has("leco_denoise_guidance_scale", "prompts_file"), _ADAPTERS),
    ForeignFile(
        "settings of a fine-tuning of the whole model",
        _has(
            *("caption_metadata_filename", "latent_metadata_filename", "use_latent_files", "generate_image_buckets"),
            *("train_text_encoder", "diffusers_xformers", "image_folder"),
        ),
        _ADAPTERS,
    ),
    ForeignFile(
        "settings of a DreamBooth training of the whole model",
        _has(
            *("learning_rate_te", "learning_rate_te1", "learning_rate_te2", "block_lr", "fused_optimizer_groups"),
            *("blockwise_fused_optimizers", "no_token_padding"),
        ),
        _ADAPTERS,
    ),
    ForeignFile(
        "settings of a ControlNet training",
        _has("controlnet_model_name_or_path", "cond_emb_dim"),
        "ControlNets are not trained here",
    ),
)
# What a file of a network training has, whatever else is in it.
NETWORK = _has("network_module", "LoRA_type", "network_dim", "network_alpha")


def refuse_foreign(tables: Tables, name: str) -> None:
    """Raise ConfigError for a file that is of another kind than the import is for."""
    for kind in KINDS:
        # The GUI's older LoRA files have fields of its other pages too.
        if kind.known(tables) and not NETWORK(tables):
            raise ConfigError(
                f"{name} is {kind.title}; what is imported are settings of a LoRA or LyCORIS training by kohya's "
                f"sd-scripts or the kohya_ss GUI: {kind.remedy}."
            )

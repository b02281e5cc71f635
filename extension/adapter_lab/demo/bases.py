"""The bases of the toy world by name, and where their files are."""

from __future__ import annotations

from pathlib import Path

from adapter_lab.errors import AdapterLabError

from .toy_file import TOY_FILE

ANIMA_FOLDER = TOY_FILE.with_name("toy-anima")
# The toy Anima's files: the checkpoint, and what lies beside it.
ANIMA_FILE = ANIMA_FOLDER / "anima-toy.safetensors"
TEXT_FILE, VAE_FILE = "qwen3_toy.safetensors", "qwen_image_vae_toy.safetensors"
TOYS = {"sdxl": TOY_FILE, "anima": ANIMA_FILE}


def toy_of(name: str) -> Path:
    """The checkpoint of a base of `TOYS`. Raises AdapterLabError where it is not here."""
    path = TOYS[name]
    if not path.exists():
        raise AdapterLabError(f"{path} is not here; make it with `python -m adapter_lab.demo.make_{name}`.")
    return path


def other_parts(checkpoint: Path) -> dict[str, Path]:
    """The files beside a toy's checkpoint that belong to it, by their settings in `BaseConfig`."""
    beside = {"text_encoder": checkpoint.with_name(TEXT_FILE), "vae": checkpoint.with_name(VAE_FILE)}
    return {setting: path for setting, path in beside.items() if path.exists()}

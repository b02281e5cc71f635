"""What each web UI alone does with each kind of adapter file: data, from measurements; `verdicts` reads it.

Source of every row: patched weights of each web UI's own code compared with the forward of the trained network, as
docs/hosts.md shows them and `benchmarks/truth_table.py` measures them again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from adapter_lab.adapters.file import AdapterFile, ModuleError
from adapter_lab.adapters.tensors import TensorInfo
from adapter_lab.algorithms import ROWS
from adapter_lab.algorithms.row import LIKE_COMFY

HOSTS = {"classic": "Forge-classic", "a1111": "A1111", "forge": "Forge", "reforge": "reForge", "neo": "Forge Neo"}


@dataclass(frozen=True)
class Module:
    """What a row looks at."""

    algorithm: str
    name: str
    tensors: Mapping[str, TensorInfo]  # by suffix
    file: AdapterFile

    @property
    def spelled(self) -> list[str]:
        """Its tensors' suffixes as the file spells them, which is how a web UI looks them up."""
        return [info.key.removeprefix(f"{self.name}.") for info in self.tensors.values()]


Condition = Callable[[Module], bool]


@dataclass(frozen=True)
class Row:
    """One kind of module, and which web UIs fail with it although they read its tensors (`READ`).

    `wrong` and `drop` map a web UI to the reason. A file is as bad as the worst of its modules.
    """

    kind: str
    is_it: Condition
    wrong: Mapping[str, str]
    drop: Mapping[str, str]
    by_name: bool = False  # about names of modules of Stable Diffusion, not about what is in the module


def _has(*suffixes: str) -> Condition:
    return lambda module: any(suffix in module.tensors for suffix in suffixes)


def _is(*algorithms: str) -> Condition:
    return lambda module: module.algorithm in algorithms


def _named(pattern: str) -> Condition:
    found = re.compile(pattern)
    return lambda module: bool(found.search(module.name))


def _all(*conditions: Condition) -> Condition:
    return lambda module: all(condition(module) for condition in conditions)


def _dora(on_output: bool) -> Condition:
    def is_it(module: Module) -> bool:
        info = module.tensors.get("dora_scale") or module.tensors.get("lora_magnitude_vector")
        if info is None or module.algorithm == "oftv2":
            return False
        by_input = len(info.shape) > 1 and info.shape[0] == 1 and info.shape[1] != 1 and "dora_scale" in module.tensors
        return by_input != on_output

    return is_it


def _newer_glora(module: Module) -> bool:
    """Whether a1 reads the layer's inputs, (in, r), as since LyCORIS 4; before, it was (r, in)."""
    shape = module.tensors["a1.weight"].shape if "a1.weight" in module.tensors else (1, 1)
    return len(shape) > 1 and shape[0] > shape[1]


def _of_convolution(suffix: str) -> Condition:
    return lambda module: suffix in module.tensors and len(module.tensors[suffix].shape) > 2


def _options(module: Module) -> Mapping[str, Any]:
    """Its options as its tensors show them; none if it cannot be read."""
    try:
        return module.file.outline(module.name).describe()
    except ModuleError:
        return {}


def _has_scale(module: Module) -> bool:
    """Whether a low-rank product is multiplied by anything but 1."""
    options = _options(module)
    return bool(options) and ("scalar" in module.tensors or options["alpha"] != options["dim"])


def _has_alpha_in_metadata(module: Module) -> bool:
    """Whether its scale is another than 1, though none of its tensors says so."""
    options = _options(module)
    if "alpha" in module.tensors or "scalar" in module.tensors or not {"alpha", "dim"} <= options.keys():
        return False
    return not math.isclose(options["alpha"], options["dim"], rel_tol=1e-6)


def _is_constrained(module: Module) -> bool:
    return bool(_options(module).get("constraint"))


def _gains_outputs(module: Module) -> bool:
    return _options(module).get("train_on_input") is False


def _lacks_a_sibling(module: Module) -> bool:
    """Whether it is one of q, k, v and out of an attention of which the file has not all four."""
    found = re.match(r"(.+_self_attn_)(q|k|v|out)_proj$", module.name)
    return found is not None and not all(
        f"{found[1]}{part}_proj" in module.file.modules for part in ["q", "k", "v", "out"]
    )


WHOLE_FILE = "too many of its keys are unknown there, so the whole file is left out"
UNKNOWN_KEYS = "its keys are unknown there"

# How a name may look that every web UI finds: "lora_unet_..." and "lora_te..._text_model_...", underscores only.
KOHYA_NAME = r"^lora_(unet|te[12]?)_[A-Za-z0-9_]+$"
COMFY_UNET, COMFY_TEXT = r"^diffusion_model\.", r"^text_encoders\."
TEXT_ENCODER = r"^lora_te"

# The tensors of each algorithm that the web UIs named were seen to read, as the file spells them. A module with any
# other tensor, or of any other algorithm, is not known to be applied there; of these, `TABLE` tells what goes wrong.
READ: tuple[tuple[str, Collection[str], str], ...] = tuple(
    (row.key, hosts, tensors) for row in ROWS for hosts, tensors in row.read_by
)

TABLE: tuple[Row, ...] = (
    *(Row(row.key, _is(row.key), row.wrong, row.dropped) for row in ROWS if row.wrong or row.dropped),
    Row(
        "lokr with a tucker core",
        _all(_is("lokr"), _has("lokr_t2")),
        wrong={},
        drop={
            "classic": "its 3x3 convolutions are left out, with a view error on the console",
            "forge": "the generation fails with a view error",
            "reforge": "its 3x3 convolutions are left out",
            "neo": "its 3x3 convolutions are left out",
        },
    ),
    Row(
        "alpha that only the metadata tells",
        _has_alpha_in_metadata,
        wrong=dict.fromkeys(HOSTS, "its scale is taken for 1 there"),
        drop={},
    ),
    Row(
        "lokr of two whole factors with rs_lora",
        _all(_is("lokr"), _has("lokr_w1"), _has("lokr_w2"), lambda module: module.file.options.lycoris_rs_lora),
        wrong=dict.fromkeys(HOSTS, "its scale is taken for 1 there"),
        drop={},
    ),
    Row(
        "DoRA per output",
        _dora(on_output=True),
        wrong={
            "a1111": "magnitudes per output are taken as per input: 6 to 25 times too far off",
            **dict.fromkeys(("forge", "reforge", "neo"), "the norm is taken of the wrong weight: 0.3 to 2.1 off"),
        },
        drop={"classic": WHOLE_FILE},
    ),
    Row("DoRA per input", _dora(on_output=False), wrong={}, drop={"classic": WHOLE_FILE}),
    Row(
        "glora with LyCORIS 4's names",
        _all(_is("glora"), _newer_glora),
        wrong={},
        drop={"classic": "the generation fails", "a1111": "it has no effect"},
    ),
    Row(
        "glora of a convolution with the names before LyCORIS 4",
        _all(_is("glora"), _of_convolution("b1.weight"), lambda module: not _newer_glora(module)),
        wrong={},
        drop={"classic": "the generation fails", "a1111": "it has no effect"},
    ),
    Row(
        "glora with the names before LyCORIS 4 and alpha other than rank",
        _all(_is("glora"), _has_scale),
        wrong={"a1111": "its alpha is left out of account"},
        drop={},
    ),
    Row(
        "glora with rs_lora",
        _all(_is("glora"), lambda module: module.file.options.lycoris_rs_lora),
        wrong=dict.fromkeys(("forge", "reforge", "neo"), "its scale is alpha / dim there"),
        drop={},
    ),
    Row(
        "diag-oft or boft with a constraint",
        _all(_is("diag-oft", "boft"), _is_constrained),
        wrong={},
        drop=dict.fromkeys(("reforge", "neo"), "it has no effect"),
    ),
    Row(
        "ia3 on the outputs of a convolution",
        _all(_is("ia3"), _of_convolution("weight"), _gains_outputs),
        wrong={},
        drop={"a1111": "it is left out or takes all memory"},
    ),
    Row(
        "norm layers of a text encoder",
        _all(_is("norm"), _named(TEXT_ENCODER)),
        wrong={},
        drop=dict.fromkeys(LIKE_COMFY, UNKNOWN_KEYS),
    ),
    Row(
        "norm layers of SDXL's second text encoder",
        _all(_is("norm"), _named(r"^lora_te2_")),
        wrong={},
        drop={"a1111": UNKNOWN_KEYS},
    ),
    Row(
        "text-encoder names of transformers 5",
        _named(r"^lora_te[12]?_(?!text_model_|text_projection)"),
        wrong={},
        drop={"classic": WHOLE_FILE, **dict.fromkeys(("a1111", "forge", "reforge", "neo"), UNKNOWN_KEYS)},
        by_name=True,
    ),
    Row(
        "names of diffusers, PEFT or kohya's OFT",
        lambda module: not re.match(f"{KOHYA_NAME}|{COMFY_UNET}|{COMFY_TEXT}", module.name),
        wrong={},
        drop=dict.fromkeys(HOSTS, UNKNOWN_KEYS),
        by_name=True,
    ),
    Row(
        "ComfyUI's names of the UNet",
        _named(COMFY_UNET),
        wrong={},
        drop=dict.fromkeys(("classic", "a1111"), UNKNOWN_KEYS),
        by_name=True,
    ),
    Row(
        "ComfyUI's names of text encoders",
        _named(COMFY_TEXT),
        wrong={},
        drop=dict.fromkeys(("classic", "a1111", "forge"), UNKNOWN_KEYS),
        by_name=True,
    ),
    Row(
        "the projection of SDXL's second text encoder",
        _named(r"^lora_te2_text_projection$"),
        wrong={},
        drop=dict.fromkeys(("classic", "a1111"), UNKNOWN_KEYS),
        by_name=True,
    ),
    Row(
        "some of q, k, v and out in SDXL's second text encoder",
        _all(_named(r"^lora_te2_"), _lacks_a_sibling),
        wrong={},
        drop={"a1111": "it has them as one layer, and leaves them out unless all four are there"},
        by_name=True,
    ),
    Row(
        "four diffusers names of SDXL",
        _named(r"^lora_unet_(add_embedding_linear_[12]|conv_norm_out|up_blocks_0_upsamplers_0_conv)$"),
        wrong={},
        drop={"a1111": UNKNOWN_KEYS},
        by_name=True,
    ),
)

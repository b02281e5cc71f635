"""Stand-in of sd-webui-lora-block-weight: what it does to a prompt's files between their loading and the first image.

In Forge and Forge-classic it goes through the patches of the loaded model and keeps those of types it knows, in A1111
through the records of loaded files, whose modules it scales by an attribute that depends on the name of their class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

Ratio = Callable[[str], float]  # of a weight or layer, by its name
SCALED = {"NetworkModuleFull": "weight", "NetworkModuleLokr": "w1"}


class BlockWeights:
    """The extension in a web UI's process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.script = SimpleNamespace(LORAS=["lora", "loha", "lokr"])

    @property
    def as_loaded(self) -> Any:
        """The web UI's record of the script it has run."""
        return SimpleNamespace(path="/extensions/lora-block-weight/scripts/lora_block_weight.py", module=self.script,
                               script_class=type("Script", (), {}))  # fmt: skip

    def weigh(self, objects: Any, ratio: Ratio, strength: float, patchers: tuple[str, ...] = ("unet", "clip")) -> None:
        """Give every patch that it knows a strength, and drop all others; Forge's kin."""
        for which in patchers:
            patcher = objects.unet if which == "unet" else objects.clip.patcher
            if self.name == "classic":
                self._weigh(patcher.patches, ratio, strength)
                continue
            for identifier in list(patcher.lora_patches):
                patches = patcher.lora_patches.pop(identifier)
                self._weigh(patches, ratio, strength)
                patcher.lora_patches[(identifier[0], f"{strength} {id(ratio)}", *identifier[2:])] = patches

    def _weigh(self, patches: dict[str, list[Any]], ratio: Ratio, strength: float) -> None:
        for key, found in patches.items():
            known = [patch for patch in found if patch[1][0] in self.script.LORAS]
            patches[key] = [(ratio(key.replace(".", "_")) * strength, *patch[1:]) for patch in known]

    def weigh_records(self, records: list[Any], ratio: Ratio, te: float, unet: float) -> None:
        """Scale every module of the loaded files, name them again, and set their strengths; A1111."""
        for number, record in enumerate(records):
            for key in record.modules.keys():  # noqa: SIM118, as it does
                module = record.modules[key]
                attribute = SCALED[type(module).__name__]
                scaled = torch.nn.Parameter(getattr(module, attribute) * ratio(key), requires_grad=False)
                setattr(module, attribute, scaled)
            record.name = f"{record.name}_in_LBW_{number}"
            record.te_multiplier, record.unet_multiplier = te, unet

    def weigh_now(self, objects: Any, ratio: Ratio, strength: float) -> None:
        """The same to the UNet in the middle of an image, and have it patched again; Forge's kin."""
        if self.name == "classic":
            objects.unet.unpatch_model(device_to="cpu")
            self.weigh(objects, ratio, strength, ("unet",))
            objects.unet.patch_model()
        else:
            self.weigh(objects, ratio, strength, ("unet",))
            objects.unet.refresh_loras()


@contextmanager
def block_weights(name: str) -> Iterator[BlockWeights]:
    """The extension, among the scripts of a web UI whose stand-in is importable."""
    import modules.scripts as scripts  # type: ignore[import-not-found]

    extension = BlockWeights(name)
    scripts.scripts_data.append(extension.as_loaded)
    try:
        yield extension
    finally:
        scripts.scripts_data.clear()

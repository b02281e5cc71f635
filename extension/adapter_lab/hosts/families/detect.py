"""Which family of web UIs we run in, by what can be imported there, never by its name."""

from __future__ import annotations

import importlib
import importlib.util
import sys

from adapter_lab.hosts.protocol import Host

# (modules only this family has, our module for it). The first whose modules are all there is taken, so those that
# have grown out of another stand before it.
FAMILIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("backend.patcher.lora", "modules_forge.packages.comfy.weight_adapter"), "neo"),
    (("backend.patcher.lora", "packages_3rdparty.webui_lora_collection"), "forge"),
    (("ldm_patched.modules.lora", "ldm_patched.modules.weight_adapter"), "reforge"),
    (("ldm_patched.modules.lora", "modules_forge"), "classic"),
    (("modules.sd_hijack", "network_lora"), "a1111"),
    (("modules.shared", "modules.scripts"), "unknown"),
)


def detect() -> Host | None:
    """The web UI this process is; None if it is none."""
    for needed, ours in FAMILIES:
        if all(_can_import(module) for module in needed):
            return importlib.import_module(f"adapter_lab.hosts.families.{ours}").HOST
    return None


def _can_import(module: str) -> bool:
    if module in sys.modules:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False

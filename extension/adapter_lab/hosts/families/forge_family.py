"""What Forge and its relatives share: how their `networks` module turns a prompt's adapters into patches of a model.

`networks.load_networks` asks, per file, `load_lora_state_dict` for its tensors and `load_lora_for_models` for patched
copies of UNet and text encoders, whose weights are computed later, when the model is used.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from adapter_lab.hosts.console import say
from adapter_lab.hosts.families.block_weights import keep_no_longer, keep_patches_of_type
from adapter_lab.hosts.families.conditions import forget_conditions
from adapter_lab.hosts.families.hooks import Hooks
from adapter_lab.hosts.families.webui import adapter_folders, checkpoint_entries, requests_of, xyz_script
from adapter_lab.hosts.guard import guarded
from adapter_lab.hosts.loading.base_model import BaseModel, comfy_base
from adapter_lab.hosts.loading.live_weights import weight_shapes
from adapter_lab.hosts.loading.loader import Loader, Request
from adapter_lab.hosts.loading.plan import Plan, WeightPatch
from adapter_lab.hosts.protocol import CheckpointEntry

HOOKED = ("load_networks", "load_lora_state_dict", "load_lora_for_models")


class OurFile(dict[str, Tensor]):
    """Stands for the tensors of a file that is ours to load: empty, so that the web UI finds nothing in it to use."""

    def __init__(self, plan: Plan | None, tag: str) -> None:
        super().__init__()
        self.plan = plan  # None: it could not be used
        self.tag = tag  # tells this use of this version of the file from every other


class ForgeFamily(ABC):
    """A web UI of the family. Subclasses say where its modules are and what its model patchers take as a patch."""

    name: str
    title: str
    lora_module: str  # of `model_lora_keys_unet` and `model_lora_keys_clip`
    patch_type: str | None = None  # what our patches are called among the web UI's, if patches there have types

    def __init__(self) -> None:
        self._hooks = Hooks()
        self._loader: Loader | None = None
        self._waiting: deque[Request] = deque()  # of the current `load_networks`, in the order the files are read
        self._base: BaseModel | None = None
        self._requests: list[Request] = []  # of the last prompt
        self._uses = 0

    # What differs between the web UIs.

    @abstractmethod
    def hook_weights(self, hooks: Hooks) -> None:
        """Teach the web UI to compute our patches, in fp32 also where it computes in half precision."""

    @abstractmethod
    def add_patches(
        self, patcher: Any, patches: Mapping[str, WeightPatch], strength: float, tag: str, online: bool
    ) -> None:
        """Add patches by weight to a model patcher (or the text encoders), in the form it takes them.

        `tag` tells this use of the file from every other, `online` whether layers compute their weights each time.
        """

    def forget_patched(self, model: Any) -> None:  # noqa: B027, since most have nothing to forget
        """Make the web UI patch the loaded model again, also where it thinks that it has done so."""

    def file_names(self, names: dict[str, Any]) -> dict[str, Any]:
        """The web UI's map from names in adapter files to weights, with what it renames before it looks there."""
        return names

    def patching(self, model: nn.Module) -> AbstractContextManager[None]:
        """Goes around what patches all weights of a UNet or of the text encoders, for the report (`patched.Ledger`)."""
        parts = self.parts_of(model)
        return self._loader.ledger.patching(*parts) if self._loader is not None and parts else nullcontext()

    def parts_of(self, model: nn.Module) -> tuple[str, ...]:
        """The parts of the loaded model that a UNet or the text encoders are, as patches name them; else none."""
        objects = getattr(_loaded_model(), "forge_objects_original", None)
        if objects is not None and model is objects.unet.model:
            return ("unet",)
        if objects is not None and objects.clip is not None and model is objects.clip.cond_stage_model:
            return ("te1", "te2")
        return ()

    def patching_one(self) -> AbstractContextManager[None]:
        """Goes around what computes a single weight from its patches."""
        return nullcontext() if self._loader is None else self._loader.ledger.patching()

    def tag_of(self, path: str, use: int) -> str:
        """What a file's patches are called; as a rule other than those of the same file's other uses."""
        return f"{path} ({use})"

    def keeps_at_zero(self, online: bool) -> bool:
        """Whether the web UI may raise the strength of patches that it adds with none."""
        return False

    def loads_alone(self, model: Any) -> bool:
        """Whether the loaded model is of a kind whose weights only the web UI can patch."""
        return False

    # The loader.

    def install_loader(self, loader: Loader) -> list[str]:
        """Make the web UI load our files through `loader`; sentences about what it lacks, empty if nothing."""
        self._loader, hooks = loader, self._hooks
        try:
            self._hook_networks(hooks)
            if not hooks.messages:
                self.hook_weights(hooks)
                self.reset_caches()
                return list(hooks.messages)  # of what can be done without
        except (ImportError, AttributeError) as error:
            hooks.messages.append(f"{self.title} is not as Adapter Lab knows it ({error}), so it loads files alone.")
        messages = list(hooks.messages)
        hooks.undo()
        return messages

    def _hook_networks(self, hooks: Hooks) -> None:
        networks = _networks()
        reads = getattr(networks, "load_lora_state_dict", None)
        makers = (self._load_networks, self._read_file, self._patch_models)
        for function, make in zip(HOOKED, makers):
            hooks.replace(networks, function, make)
        for attribute in ("cache_clear", "cache_info"):  # others may call these of the function ours replaces
            if hasattr(reads, attribute):
                setattr(networks.load_lora_state_dict, attribute, getattr(reads, attribute))

    def remove_loader(self) -> None:
        """Undo `install_loader`; what we applied goes with the next generation."""
        self._hooks.undo()
        if self.patch_type is not None:
            keep_no_longer(self.patch_type)
        self.reset_caches()
        self._loader = self._base = None

    def reset_caches(self) -> None:
        """Forget what was applied and cached, so that the next generation reads every adapter file again."""
        reads = getattr(sys.modules.get("networks"), "load_lora_state_dict", None)
        clear = getattr(reads, "cache_clear", None)
        if clear is not None:
            clear()
        model = _loaded_model()
        if model is not None:
            model.current_lora_hash = ""
            self.forget_patched(model)
        forget_conditions()

    def _load_networks(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load_networks(
            names: Sequence[str], te_multipliers: Any = None, unet_multipliers: Any = None, *dyn_dims: Any, **named: Any
        ) -> Any:
            lists = [names, te_multipliers, unet_multipliers, *dyn_dims]
            with guarded("preparing the prompt's adapters"):
                dyn = dyn_dims[0] if dyn_dims else named.get("dyn_dims")
                kept = self._prepare(requests_of(_networks(), names, te_multipliers, unet_multipliers, dyn))
                if self.patch_type is not None:
                    keep_patches_of_type(self.patch_type)
                lists = [_only(kept, each) for each in lists]
                named = {name: _only(kept, each) for name, each in named.items()}
            try:
                return original(*lists, **named)
            except Exception as error:
                if self._loader is None or not self._loader.settings.enabled:
                    raise
                say(f"The web UI could not load the prompt's adapters. {type(error).__name__}: {error}")
                self.reset_caches()
            finally:
                self._waiting.clear()

        return load_networks

    def _prepare(self, requests: Sequence[Request]) -> list[int]:
        """Start with a prompt's adapters; the numbers of those that the web UI will not stumble over."""
        loader, model = self._loader, _loaded_model()
        if loader is None or model is None:
            return list(range(len(requests)))
        if loader.begin(requests) or self._means_otherwise(requests):
            self.reset_caches()
        self._requests = list(requests)
        if not loader.settings.enabled:
            return list(range(len(requests)))
        self._base = None if self.loads_alone(model) else self._base_of(model)
        kept = [i for i, request in enumerate(requests) if self._is_readable(request)]
        self._waiting = deque(requests[i] for i in kept)
        return kept

    def _means_otherwise(self, requests: Sequence[Request]) -> bool:
        """Whether the names, which the web UI compares, are the last prompt's, but their files or `dyn=` are not."""
        names, last = ([request.name for request in each] for each in (requests, self._requests))
        meant, before = ([(request.path, request.dyn) for request in each] for each in (requests, self._requests))
        return names == last and meant != before

    def _is_readable(self, request: Request) -> bool:
        """Whether there is such a file, and a safetensors file is one: the web UI loses all adapters over another."""
        assert self._loader is not None
        if request.path is None:
            return False
        entry = self._loader.cache.get(request.path) if _is_safetensors(request.path) else None
        if entry is None or entry.file is not None or entry.foreign:
            return True
        self._loader.refuse(request.path, str(entry.error))
        return False

    def _read_file(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load_lora_state_dict(filename: str, *args: Any, **named: Any) -> Any:
            if not self._waiting or self._waiting[0].path != filename:  # asked by someone else
                return original(filename, *args, **named)
            request, loader, base = self._waiting.popleft(), self._loader, self._base
            assert loader is not None
            try:
                if base is not None and loader.takes(filename, base):
                    return self._our_file(loader.plan(filename, base, request.dyn), filename)
                if base is None or not _is_safetensors(filename) or loader.cache.get(filename).foreign:
                    return original(filename, *args, **named)
                # From memory: mapped, a file that is overwritten would change under the web UI's patches.
                return loader.tensors(filename)
            except Exception as error:
                loader.refuse(filename, f"{filename} could not be read: {type(error).__name__}: {error}")
                return self._our_file(None, filename)

        return load_lora_state_dict

    def _our_file(self, plan: Plan | None, path: str) -> OurFile:
        self._uses += 1
        return OurFile(plan, self.tag_of(path, self._uses))

    def _patch_models(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load_lora_for_models(
            model: Any, clip: Any, lora: Any, strength_model: float, strength_clip: float, *args: Any, **named: Any
        ) -> Any:
            path = str(named.get("filename", args[0] if args else "an adapter file"))
            try:
                if not isinstance(lora, OurFile):
                    return original(model, clip, lora, strength_model, strength_clip, *args, **named)
                if lora.plan is None:
                    return model, clip
                online = bool(named.get("online_mode", args[1] if len(args) > 1 else False))
                plan = lora.plan
                return (
                    self._patched(model, plan.unet, strength_model, lora.tag, online),
                    self._patched(clip, plan.text, strength_clip, lora.tag, online),
                )
            except Exception as error:
                if self._loader is not None:
                    self._loader.refuse(path, f"{path} could not be applied: {type(error).__name__}: {error}")
                return model, clip

        return load_lora_for_models

    def _patched(
        self, patcher: Any, patches: Mapping[str, WeightPatch], strength: float, tag: str, online: bool
    ) -> Any:
        if patcher is None or not patches or (strength == 0 and not self.keeps_at_zero(online)):
            return patcher
        copied = patcher.clone()
        self.add_patches(copied, patches, strength, tag, online)
        return copied

    def _base_of(self, model: Any) -> BaseModel:
        """The targets of the loaded model, by the names its weights have there."""
        assert self._loader is not None
        objects = model.forge_objects_original
        unet, text = objects.unet.model, objects.clip.cond_stage_model if objects.clip is not None else nn.Module()
        keys = importlib.import_module(self.lora_module)

        def names() -> dict[str, Any]:
            return self.file_names({**keys.model_lora_keys_clip(text, {}), **keys.model_lora_keys_unet(unet, {})})

        def make() -> BaseModel:
            return comfy_base(_name_of(model), weight_shapes(unet), weight_shapes(text), names)

        return self._loader.bases.of((unet, text), make)

    # The rest of `protocol.Host`.

    def settle(self) -> None:  # noqa: B027, since the model is patched when it is used
        """Nothing is patched before the model is used."""

    def adapter_folder(self) -> list[Path]:
        """Folders the web UI finds `<lora:...>` files in, the one to save into first."""
        return adapter_folders()

    def checkpoints(self) -> list[CheckpointEntry]:
        """The base models the web UI knows."""
        info = getattr(_loaded_model(), "sd_checkpoint_info", None)
        return checkpoint_entries(getattr(info, "filename", None))

    def xyz_module(self) -> Any | None:
        """The module of the X/Y/Z plot script."""
        return xyz_script()

    @abstractmethod
    def free_gpu(self) -> None:
        """Give the GPU's memory back by unloading the model; the web UI loads it again when it is needed."""


def _networks() -> Any:
    return importlib.import_module("networks")


def _loaded_model() -> Any | None:
    """The web UI's loaded model; None before there is one."""
    model = getattr(importlib.import_module("modules.sd_models").model_data, "sd_model", None)
    return model if hasattr(model, "forge_objects_original") else None


def _name_of(model: Any) -> str:
    info = getattr(model, "sd_checkpoint_info", None)
    return str(getattr(info, "title", None) or getattr(model, "filename", None) or "the loaded model")


def _is_safetensors(path: str) -> bool:
    return path.lower().endswith(".safetensors")


def _only(kept: Sequence[int], values: Any) -> Any:
    return [values[i] for i in kept] if isinstance(values, Sequence) else values

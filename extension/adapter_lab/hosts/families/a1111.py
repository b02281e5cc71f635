"""A1111's web UI and its forks: a layer is patched when it runs, by `networks.network_apply_weights`."""

from __future__ import annotations

import copy
import importlib
import math
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adapter_lab.hosts.families.a1111_layers import NAME, SLOTS, attach_slots, base_of, mark_stale, put_back, slots_of
from adapter_lab.hosts.families.a1111_patching import Patching, Step
from adapter_lab.hosts.families.conditions import forget_conditions
from adapter_lab.hosts.families.hooks import Hooks
from adapter_lab.hosts.families.webui import (
    adapter_folders,
    checkpoint_entries,
    requests_of,
    without_missing,
    xyz_script,
)
from adapter_lab.hosts.guard import guarded
from adapter_lab.hosts.loading.base_model import BaseModel
from adapter_lab.hosts.loading.loader import Loader, Request
from adapter_lab.hosts.loading.plan import Plan
from adapter_lab.hosts.protocol import CheckpointEntry

# On the web UI's record of a file that is ours: it keeps the place in its list, but has no modules.
OURS = "adapter_lab"

Function = Callable[..., Any]


class A1111:
    """Hooks into the functions of `networks`, which everything else calls by their names there."""

    name = "a1111"
    title = "A1111"

    def __init__(self) -> None:
        self._hooks = Hooks()
        self._asleep = Hooks()
        self._loader: Loader | None = None
        self._requests: list[Request] = []
        self._base: BaseModel | None = None
        self._ours: set[str] = set()  # paths of the prompt's files that are ours
        self._plans: dict[tuple[str, int | None], Plan | None] = {}  # by path and ranks kept
        self._planned: tuple[Callable[[], Any], ...] = ()  # model and checkpoint the plans are for, held weakly
        self._patching = Patching(self._follow_model, self._note)

    def install_loader(self, loader: Loader) -> list[str]:
        self._loader = loader
        networks = importlib.import_module("networks")
        self._hooks.replace(networks, "load_networks", self._load_networks)
        self._hooks.replace(networks, "load_network", self._load_network)
        self._patching.hook(self._hooks, networks)
        messages = list(self._hooks.messages)
        if messages:  # half of the hooks would lose adapters
            self._hooks.undo()
        return messages

    def remove_loader(self) -> None:
        networks = importlib.import_module("networks")
        self.reset_caches()
        self._patching.steps = []
        networks.loaded_networks[:] = [net for net in networks.loaded_networks if not hasattr(net, OURS)]
        for name in [name for name, net in networks.networks_in_memory.items() if hasattr(net, OURS)]:
            del networks.networks_in_memory[name]
        self._patching.patch_what_runs_unseen(networks, _models())
        self._hooks.undo()
        self._asleep.undo()
        for layer in (layer for model in _models() for layer in model.modules()):
            put_back(layer)
            layer.__dict__.pop(SLOTS, None)
        self._loader, self._requests, self._base, self._ours = None, [], None, set()

    def settle(self) -> None:
        if self._loader is None or not self._patching.steps:
            return
        networks = importlib.import_module("networks")
        for path in self._patching.unloaded(networks):
            self._loader.ledger.gone(path)
        self._patching.follow_strengths(networks, _models()[:1])

    def _note(self, key: str, strengths: dict[str, float]) -> None:
        if self._loader is not None:
            self._loader.ledger.patched(key, strengths)

    def adapter_folder(self) -> list[Path]:
        return adapter_folders()

    def checkpoints(self) -> list[CheckpointEntry]:
        model = _loaded_model()
        return checkpoint_entries(None if model is None else model.sd_checkpoint_info.filename)

    def free_gpu(self) -> None:
        models = importlib.import_module("modules.sd_models")
        model = models.model_data.sd_model
        if model is None:
            return

        def reload_model_weights(original: Function) -> Function:
            def reload(*args: Any, **named: Any) -> Any:
                self._asleep.undo()
                models.send_model_to_device(model)
                return original(*args, **named)

            return reload

        with importlib.import_module("modules.call_queue").queue_lock:
            models.unload_model_weights()
            # Every generation asks for the model so; A1111 takes one that is there to be on the GPU.
            self._asleep.undo()
            self._asleep.replace(models, "reload_model_weights", reload_model_weights)

    def xyz_module(self) -> Any | None:
        return xyz_script()

    def reset_caches(self) -> None:
        self._plans = {}
        _drop(lambda net: True)
        mark_stale(_models())
        forget_conditions()

    def _load_networks(self, original: Function) -> Function:
        networks = importlib.import_module("networks")

        def load_networks(
            names: Any, te_multipliers: Any = None, unet_multipliers: Any = None, dyn_dims: Any = None
        ) -> Any:
            arguments = (names, te_multipliers, unet_multipliers, dyn_dims)
            self._patching.steps, self._ours, prepared = [], set(), False
            with guarded("choosing who loads the prompt's adapters"):
                requests = requests_of(networks, *arguments)
                prepared = self._prepare(requests)
                if prepared:
                    arguments = without_missing(requests, arguments)
            result = original(*arguments)
            with guarded("reading the prompt's adapters"):
                if prepared:
                    _tell_apart(self._requests, networks.loaded_networks)
                    self._make_steps()
                self._patching.patch_what_runs_unseen(networks, _models()[:1])
            return result

        return load_networks

    def _prepare(self, requests: list[Request]) -> bool:
        """Choose the files that are ours, and have the web UI forget what is wrong now; False: our loader is off."""
        loader = self._loader
        if loader is None:
            return False
        base = self._current_base(loader)
        changed = loader.begin(requests)
        paths = {request.path for request in requests if request.path is not None}
        # The web UI rounds after each file, so it cannot take turns with us.
        self._ours = loader.choose(paths, base, together=True)
        if changed:
            self.reset_caches()
        elif requests != self._requests or base is not self._base:
            mark_stale(_models())
        if base is not self._base:
            self._plans = {}
        _drop(lambda net: hasattr(net, OURS) != (net.network_on_disk.filename in self._ours))
        self._base, self._requests = base, requests
        return loader.settings.enabled

    def _current_base(self, loader: Loader | None) -> BaseModel | None:
        model = _loaded_model()
        if model is None or loader is None:
            return None
        checkpoint = model.sd_checkpoint_info  # A1111 loads one after another into the same modules
        self._planned = (weakref.ref(model), weakref.ref(checkpoint))

        def make() -> BaseModel:
            attach_slots(model)
            return base_of(model, checkpoint.title)

        return loader.bases.of((model, checkpoint), make)

    def _make_steps(self) -> None:
        """The prompt's files that are ours as steps, in order; those that are new in it are said on the console."""
        loader, base = self._loader, self._base
        if loader is None or base is None:
            return
        plans = {}
        records = _records_by_path()
        model = _loaded_model() if records else None
        layers = {slot.key: getattr(slot.layer, NAME) for slot in slots_of(model)} if model is not None else {}
        for request in self._requests:
            if request.path is None or request.path not in self._ours or not records.get(request.path):
                continue
            key, record = (request.path, request.dyn), records[request.path].pop(0)
            plan = plans[key] = self._plans[key] if key in self._plans else loader.plan(request.path, base, request.dyn)
            if plan is not None:
                self._patching.steps.append(Step.begin(plan, record, layers))
        self._plans = plans

    def _follow_model(self) -> None:
        """Plan again where the web UI has changed the model in the middle of an image, as for a refiner."""
        model = _loaded_model() if self._patching.steps else None
        if model is None or [held() for held in self._planned] == [model, model.sd_checkpoint_info]:
            return
        self._patching.steps, self._plans = [], {}
        with guarded("following a change of the model"):
            before, self._base = self._base, self._current_base(self._loader)
            if before and self._base and before.family == self._base.family:
                self._make_steps()

    def _load_network(self, original: Function) -> Function:
        network = importlib.import_module("network")

        def load_network(name: str, network_on_disk: Any) -> Any:
            path = network_on_disk.filename
            if path not in self._ours:
                return original(name, network_on_disk)
            net = network.Network(name, network_on_disk)
            net.mtime = os.path.getmtime(path)
            setattr(net, OURS, True)
            with guarded(f"reading the embeddings in {path}"):
                if self._has_embeddings(path):
                    net.bundle_embeddings = original(name, network_on_disk).bundle_embeddings
            return net

        return load_network

    def _has_embeddings(self, path: str) -> bool:
        file = self._loader.cache.get(path).file if self._loader else None
        return file is not None and bool(file.carried)


def _loaded_model() -> Any | None:
    """The loaded model; asking `shared.sd_model` for it would load one."""
    return importlib.import_module("modules.sd_models").model_data.sd_model


def _models() -> list[Any]:
    """All models in memory, the loaded one first: A1111 can keep several."""
    data = importlib.import_module("modules.sd_models").model_data
    models = [data.sd_model, *getattr(data, "loaded_sd_models", ())]
    return list({id(model): model for model in models if model is not None}.values())


def _records_by_path() -> dict[str, list[Any]]:
    """A1111's records of the files that are ours and loaded, in the prompt's order."""
    found: dict[str, list[Any]] = {}
    for record in importlib.import_module("networks").loaded_networks:
        if hasattr(record, OURS):
            found.setdefault(record.network_on_disk.filename, []).append(record)
    return found


def _tell_apart(requests: Sequence[Request], records: list[Any]) -> None:
    """Give a file that a prompt names twice two records, each with its own strengths: A1111 uses one twice."""
    asked: dict[str, list[Request]] = {}
    for request in requests:
        asked.setdefault(str(request.path), []).append(request)
    for i, record in enumerate(records):
        if hasattr(record, OURS) and len(asked.get(record.network_on_disk.filename, ())) > 1:
            request = asked[record.network_on_disk.filename].pop(0)
            records[i] = record = copy.copy(record)
            record.te_multiplier, record.unet_multiplier = request.te_strength, request.unet_strength
            record.dyn_dim = request.dyn


def _drop(is_wrong: Callable[[Any], bool]) -> None:
    """Have A1111 read again the files it keeps records of that are wrong now."""
    networks = importlib.import_module("networks")
    for net in (*networks.loaded_networks, *networks.networks_in_memory.values()):
        if is_wrong(net):
            net.mtime = -math.inf  # older than any file


HOST = A1111()

"""What the real-host tests ask a running web UI beside its API: patched weights, its functions, its memory, a reload.

A web UI's extension of its own, put into `extensions/adapter-lab-probe` by the tests and removed by them. It changes
nothing and knows nothing of Adapter Lab.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from fastapi import Body, FastAPI, Response
from modules import script_callbacks, shared
from safetensors.torch import save

sys.path.append(str(Path(__file__).resolve().parents[1]))
from adapter_lab_probe_input import probe_input

# The weights that are watched, and what they were before every step of an image.
_watched: tuple[list[str], list[dict[str, torch.Tensor]]] = ([], [])


def parameters(in_a_picture: bool = False) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters of the loaded model's UNet and text encoder under the names of a single-file SD1.5 checkpoint."""
    model = shared.sd_model
    objects = getattr(model, "forge_objects", None)
    if objects is not None:
        if not in_a_picture:
            _put_patches_on(objects)
        unet, encoder = objects.unet.model.diffusion_model, objects.clip.cond_stage_model
    elif hasattr(model, "model"):
        unet, encoder = model.model.diffusion_model, model.cond_stage_model
    else:  # Forge loads its model with the first image
        return
    for name, parameter in unet.named_parameters():
        yield f"model.diffusion_model.{name}", parameter
    for name, parameter in encoder.named_parameters():
        start = name.find("text_model.")
        if start >= 0:
            yield f"cond_stage_model.transformer.{name[start:]}", parameter


def layer_outputs(names: list[str]) -> dict[str, torch.Tensor]:
    """(out, COLUMNS) that linear layers of Forge Neo's Anima make of the probe's inputs, as they are in an image.

    Where it patches on the fly, no weight says it: they are computed each time their layer is used. Names are those of
    the checkpoint's layers; the conditioner, a part of the text encoder here, is one of the transformer's there.
    """
    objects = shared.sd_model.forge_objects
    _put_patches_on(objects)
    found = {}
    with torch.inference_mode():
        for name in names:
            root = objects.clip.cond_stage_model.qwen3_06b if name.startswith("llm_adapter.") else objects.unet.model
            layer = root.get_submodule(name if name.startswith("llm_adapter.") else f"diffusion_model.{name}")
            inputs = probe_input(layer.in_features).T.to(layer.weight.device, layer.weight.dtype)
            found[name] = layer(inputs).double().cpu().T.contiguous()
    return found


def _put_patches_on(objects: Any) -> None:
    """Let Forge's kin load the models of the last image once more, should memory have been short meanwhile."""
    for name in ("backend.memory_management", "ldm_patched.modules.model_management"):
        if name in sys.modules:
            sys.modules[name].load_models_gpu([objects.unet, objects.clip.patcher])
            return


def products(keys: list[str], in_a_picture: bool = False) -> dict[str, torch.Tensor]:
    """W.flatten(1) @ probe_input for weights W of the loaded model, one-dimensional ones as they are."""
    wanted, found = set(keys), {}
    with torch.inference_mode():
        for name, parameter in parameters(in_a_picture):
            if name not in wanted:
                continue
            weight = parameter.detach().double().cpu()
            found[name] = (weight.flatten(1) @ probe_input(weight[0].numel()) if weight.dim() > 1 else weight).clone()
    return found


def watch(keys: list[str]) -> dict[str, torch.Tensor]:
    """Forget what was watched and watch these; the products that were seen, as "step:key"."""
    asked, steps = _watched
    found = {f"{step}:{key}": product for step, each in enumerate(steps[1:]) for key, product in each.items()}
    asked[:], steps[:] = keys, []
    return found


def _look(params: Any) -> None:
    """Before the model runs, and before others change its weights for this step: they are those of the last step."""
    asked, steps = _watched
    if asked:
        steps.append(products(asked, in_a_picture=True))


def _as_file(tensors: dict[str, torch.Tensor]) -> Response:
    return Response(save(tensors), media_type="application/octet-stream")


def functions(names: list[str]) -> dict[str, Any]:
    """Signature, defining file and nesting of our wrappers of functions named "module:attribute"; None if missing."""
    return {name: _described(*name.split(":")) for name in names}


def _described(module: str, path: str) -> dict[str, Any] | None:
    try:
        found = importlib.import_module(module)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError):
        return None
    wrappers = 0
    while hasattr(found, "_adapter_lab_original"):
        found, wrappers = found._adapter_lab_original, wrappers + 1
    if not callable(found):
        return {"wrappers": wrappers, "type": type(found).__name__}
    names = list(inspect.signature(found).parameters)
    return {"wrappers": wrappers, "type": "function", "parameters": names, "repr": str(inspect.unwrap(found))}


def state() -> dict[str, Any]:
    """The process: id, resident bytes, callbacks of Adapter Lab by kind, wrapped functions anywhere, versions."""
    gc.collect()
    callbacks = {
        kind: sum("adapter" in callback.script.replace("-", "_").lower() and "probe" not in callback.script
                  for callback in found)
        for kind, found in vars(script_callbacks).get("callback_map", {}).items()
    }  # fmt: skip
    modules = sorted(name for name in sys.modules if name.split(".")[0] == "adapter_lab")
    wrapped = [
        f"{module.__name__}:{name}"
        for module in list(sys.modules.values())
        if module is not None and not getattr(module, "__name__", "adapter_lab").startswith("adapter_lab")
        for name, value in list(vars(module).items())
        if inspect.isfunction(value) and hasattr(value, "_adapter_lab_original")
    ]
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {
        "pid": os.getpid(),
        "adapter_folder": str(shared.cmd_opts.lora_dir),
        "resident": resident,
        "callbacks": {kind: count for kind, count in callbacks.items() if count},
        "modules": modules,
        "wrapped": sorted(wrapped),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "versions": {
            name: getattr(sys.modules.get(name), "__version__", "")
            for name in ("gradio", "transformers", "diffusers", "numpy")
        },
        "dtypes": sorted({str(parameter.dtype) for _, parameter in parameters()}),
    }


def reload() -> None:
    """What the button "Reload UI" does."""
    shared.state.request_restart()


def add_routes(demo: Any, app: FastAPI) -> None:
    """Routes below /adapter-lab-probe/."""
    app.add_api_route("/adapter-lab-probe/state", state, methods=["GET"])
    app.add_api_route("/adapter-lab-probe/reload", reload, methods=["POST"])

    @app.post("/adapter-lab-probe/products")
    def _products(keys: list[str] = Body(embed=True)) -> Response:  # noqa: B008
        return _as_file(products(keys))

    @app.post("/adapter-lab-probe/layer-outputs")
    def _layer_outputs(names: list[str] = Body(embed=True)) -> Response:  # noqa: B008
        return _as_file(layer_outputs(names))

    @app.post("/adapter-lab-probe/watch")
    def _watch(keys: list[str] = Body(embed=True)) -> Response:  # noqa: B008
        return _as_file(watch(keys))

    @app.post("/adapter-lab-probe/functions")
    def _functions(names: list[str] = Body(embed=True)) -> dict[str, Any]:  # noqa: B008
        return functions(names)


script_callbacks.on_app_started(add_routes)
script_callbacks.on_cfg_denoiser(_look)

"""How far the weights a real web UI computes with are from the trained forward, for any adapter file."""

from __future__ import annotations

import copy
import gc
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tests.support import adapter_cases
from tests.support.host_cases import (
    BLOCKS,
    CASES,
    EVERY_KIND,
    NORMS,
    Base,
    Ours,
    Trained,
    base_outputs,
    modules_at,
    write,
)
from tests.support.webui import Picture, WebUI, WebUIError

# The plain LoRA that lies under the others where two are stacked, and the strengths of both.
STACKED, UNDER, UNDER_STRENGTH, OVER_STRENGTH = "stacked", "al-under", 0.7, 0.6
PROMPT = "a cat sits on a mat"


def _places() -> dict[str, int]:
    """A place in the model for each case. IA3 has the first: A1111 alone takes memory by the cube of its channels."""
    return {case: 0 if "ia3" in case else number % len(BLOCKS) for number, case in enumerate(CASES)}


def _batches() -> list[list[str]]:
    """Cases that are measured in one image: each in a place of its own."""
    batches: list[list[str]] = []
    for case, place in PLACES.items():
        own = case.startswith("own ")
        for batch in batches:
            if batch[0].startswith("own ") == own and place not in [PLACES[other] for other in batch]:
                batch.append(case)
                break
        else:
            batches.append([case])
    return batches


PLACES = _places()
BATCHES = _batches()


@dataclass
class Result:
    """What a web UI made of one adapter file in an image, perhaps beside others in other places of the model."""

    strength: str
    errors: dict[str, float] = field(default_factory=dict)  # module -> error relative to its wanted change
    status: int = 200
    adapter_lab: str = ""  # what the infotext says of this file
    comments: list[str] = field(default_factory=list)  # those that name this file
    console: str = ""
    message: str = ""  # of a failed generation

    @property
    def error(self) -> float:
        """The largest error of a module; 1 where the module was left as it is. Infinite if there is no image."""
        return max(self.errors.values()) if self.status == 200 else float("inf")


@dataclass
class Written:
    """An adapter file in the web UI's folder, and its trained forwards' outputs for the probe's inputs, by module."""

    name: str
    place: int
    outputs: dict[str, Tensor]  # over the base
    over: dict[str, Tensor]  # over the base with the plain LoRA


class Bench:
    """One web UI, the checkpoint it has loaded, and adapter files in a folder of their own below its adapters."""

    def __init__(self, web_ui: WebUI) -> None:
        self.web_ui = web_ui
        self.folder = web_ui.adapter_folder() / "adapter-lab-tests"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.base = Base(web_ui.checkpoint())
        self.results: dict[tuple[str, str, str], Result] = {}
        self._written: dict[str, Written] = {}
        self._under: dict[str, Trained] = {}
        self._failing: set[tuple[str, str]] = set()  # batches no image can be made of, by setting and first case

    def under(self, module: str) -> nn.Module:
        """A module of the base with the plain LoRA on it at its strength, where that LoRA has it."""
        if not self._under:
            names = [name for place in range(len(BLOCKS)) for name in modules_at(EVERY_KIND, place)]
            self._under = write(self.folder / f"{UNDER}.safetensors", CASES["own lora"], self.base, names)
        layer = self.base.layer(module)
        return _patched(layer, self._under[module]) if module in self._under else layer

    def write(self, case: str) -> Written:
        """The file of a case, written once, with the web UI told of it."""
        if case not in self._written:
            self._write(case)
            self.web_ui.refresh_adapters()
        return self._written[case]

    def _write(self, case: str) -> None:
        name, place = f"al-{list(CASES).index(case)}-" + re.sub(r"\W+", "-", case), PLACES[case]
        made = write(self.folder / f"{name}.safetensors", CASES[case], self.base, modules_at(CASES[case].kinds, place))
        outputs = {module: trained.outputs(self.base.layer(module)) for module, trained in made.items()}
        over = {module: trained.outputs(self.under(module)) for module, trained in made.items()}
        self._written[case] = Written(name, place, outputs, over)
        del made
        gc.collect()  # layers and LyCORIS's modules refer to each other

    def measure(self, case: str, strength: float | str, setting: str = "") -> Result:
        """A case's file at a strength, or `STACKED` on a plain LoRA, in an image with other cases in other places.

        Alone in its image if the web UI fails with the others. `setting` keeps results apart.
        """
        strength = strength if isinstance(strength, str) else f"{strength:g}"
        if (setting, case, strength) not in self.results:
            together = next(batch for batch in BATCHES if case in batch)
            if (setting, together[0]) in self._failing:
                together = [case]
            found = self._measure(together, strength)
            if len(together) > 1 and found[case].status != 200:
                self._failing.add((setting, together[0]))
                found = self._measure([case], strength)
            for other, result in found.items():
                self.results[setting, other, strength] = result
        return self.results[setting, case, strength]

    def _measure(self, cases: list[str], strength: str) -> dict[str, Result]:
        for case in [case for case in cases if case not in self._written]:
            self._write(case)
        self.web_ui.refresh_adapters()
        weight = OVER_STRENGTH if strength == STACKED else float(strength)
        tags = [f"<lora:{self._written[case].name}:{weight:g}>" for case in cases]
        if strength == STACKED:
            tags.insert(0, f"<lora:{UNDER}:{UNDER_STRENGTH:g}>")
        start = len(self.web_ui.console())
        try:
            picture = self.web_ui.txt2img(" ".join([PROMPT, *tags]))
        except WebUIError as error:
            said = self.web_ui.console()[start:]
            return {case: Result(strength, status=error.status, message=str(error), console=said) for case in cases}
        said = self.web_ui.console()[start:]
        found = self.outputs([module for case in cases for module in self._written[case].outputs])
        return {case: self._result(case, strength, weight, picture, found, said) for case in cases}

    def _result(
        self, case: str, strength: str, weight: float, picture: Picture, found: Mapping[str, Tensor], said: str
    ) -> Result:
        written = self._written[case]
        result = Result(strength, console=said)
        result.adapter_lab = next(
            (one for one in picture.adapter_lab.split("; ") if one.startswith(f"{written.name}:")), ""
        )
        result.comments = [comment for comment in picture.comments if f"{written.name}:" in comment]
        for module in written.outputs:
            start = self.under_outputs[module] if strength == STACKED else self.base_outputs[module]
            wanted = torch.lerp(start, (written.over if strength == STACKED else written.outputs)[module], weight)
            change = wanted - self.base_outputs[module]
            result.errors[module] = float((found[module] - wanted).norm() / change.norm())
        return result

    def keys(self, modules: list[str]) -> list[str]:
        """The model's weights and biases of these modules."""
        targets = [self.base.table[module] for module in modules]
        return [key for target in targets for key in (target.key, target.bias_key) if key]

    def outputs(self, modules: list[str], products: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Outputs of the loaded model's layers as they are now, or by the probe's `products` of another moment."""
        products = self.web_ui.products(self.keys(modules)) if products is None else products
        found = {}
        for module, target in ((module, self.base.table[module]) for module in modules):
            product, bias = products[target.key], products[target.bias_key] if target.bias_key else None
            if target.kind == "norm":
                assert bias is not None
                found[module] = torch.cat([product, bias])
            else:
                found[module] = product if bias is None else product + bias[:, None]
        return found

    @cached_property
    def base_outputs(self) -> dict[str, Tensor]:
        """Outputs of the base's layers, from the checkpoint file."""
        return {module: base_outputs(self.base.layer(module)) for module in self._modules()}

    @cached_property
    def under_outputs(self) -> dict[str, Tensor]:
        """Outputs of the base's layers with the plain LoRA."""
        return {module: base_outputs(self.under(module)) for module in self._modules()}

    def _modules(self) -> list[str]:
        return [module for place in range(len(BLOCKS)) for module in modules_at(EVERY_KIND + NORMS, place)]

    def remove_files(self) -> None:
        """Remove everything that was written."""
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()


def _patched(layer: nn.Module, trained: Trained) -> nn.Module:
    """A layer with one of our LoRAs on it at UNDER_STRENGTH."""
    assert isinstance(trained, Ours)
    patched = copy.deepcopy(layer)
    made = adapter_cases.adapter_layer(trained.options, patched)
    made.load_file_tensors(trained.tensors)
    changed, _ = adapter_cases.rebuilt(made)
    weight: Any = patched.weight
    with torch.no_grad():
        weight.lerp_(changed, UNDER_STRENGTH)
    return patched

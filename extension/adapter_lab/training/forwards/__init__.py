"""Adapter layers: one file per algorithm, each with its parameters and an exact forward cheaper than rebuilding W'.

A new algorithm is a new file and a row of `LAYERS`.
"""

from __future__ import annotations

from adapter_lab.training.forwards.boft import BOFTLayer
from adapter_lab.training.forwards.full import FullLayer
from adapter_lab.training.forwards.glora import GLoRALayer
from adapter_lab.training.forwards.ia3 import IA3Layer
from adapter_lab.training.forwards.layer import AdapterLayer
from adapter_lab.training.forwards.loha import LoHaLayer
from adapter_lab.training.forwards.lokr import LoKrLayer
from adapter_lab.training.forwards.lora import LoRALayer
from adapter_lab.training.forwards.norm import NormLayer
from adapter_lab.training.forwards.oft import DiagOFTLayer
from adapter_lab.training.forwards.spec import LayerSpec

LAYERS: dict[str, type[AdapterLayer]] = {
    "lora": LoRALayer,
    "loha": LoHaLayer,
    "lokr": LoKrLayer,
    "glora": GLoRALayer,
    "diag-oft": DiagOFTLayer,
    "boft": BOFTLayer,
    "ia3": IA3Layer,
    "full": FullLayer,
    "norm": NormLayer,
}

__all__ = ["LAYERS", "AdapterLayer", "LayerSpec"]

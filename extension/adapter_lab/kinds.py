"""The adapter types a person chooses from: what each is good for and when, and the settings that make it.

A type is an algorithm or a well-known use of one (LoCon is LoRA with convolutions). The sentences say what follows from
the mathematics, what was measured (docs/benchmarks.md, docs/real-size.md) and what the hand-made study of eight types
saw; nobody has shown one type to be the best for every subject.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """One adapter type. `network`: the settings of section [network] that make it, by name."""

    key: str
    title: str
    good_for: str
    network: Mapping[str, Any]


KINDS: dict[str, Kind] = {
    kind.key: kind
    for kind in (
        Kind(
            "lora",
            "LoRA",
            "The product of two thin matrices per layer: fast, small, read by every program. The one to start with.",
            {"algo": "lora", "dim": 32, "alpha": 16.0},
        ),
        Kind(
            "locon",
            "LoCon",
            "LoRA on the convolutions too: for styles and textures, where the attention layers alone are not enough; "
            "about a tenth slower than LoRA.",
            {"algo": "lora", "dim": 32, "alpha": 16.0, "conv_dim": 32, "conv_alpha": 16.0, "tucker": True},
        ),
        Kind(
            "loha",
            "LoHa",
            "The elementwise product of two LoRAs: a rank of up to dim squared from as many numbers, for several "
            "concepts in one file; slower per step, and in the study behind the others at equal time.",
            {"algo": "loha", "dim": 8, "alpha": 4.0, "conv_dim": 8, "conv_alpha": 4.0, "tucker": True},
        ),
        Kind(
            "lokr",
            "LoKr, factor 4",
            "A Kronecker product: small files with a large factor, nearly full rank with a small one. The study's "
            "favourite for characters; a higher factor loses far less quality than the file size suggests.",
            {"algo": "lokr", "dim": 32, "alpha": 16.0, "conv_dim": 32, "conv_alpha": 16.0, "tucker": True, "factor": 4},
        ),
        Kind(
            "glora",
            "GLoRA",
            "Changes a layer's input side and output side at once: more expressive at the same rank, but read by fewer "
            "programs.",
            {"algo": "glora", "dim": 16, "alpha": 8.0, "conv_dim": 16, "conv_alpha": 8.0},
        ),
        Kind(
            "diag-oft",
            "diag-OFT",
            "Rotates blocks of each layer's outputs instead of adding to them, so that the angles between them stay: "
            "for a subject on a base you like as it is. In our demo it learns more slowly than LoRA.",
            {"algo": "diag-oft", "dim": 16, "conv_dim": 16},
        ),
        Kind(
            "dora",
            "DoRA over LoRA",
            "A magnitude per channel beside the LoRA: nearer to full training at a low rank, about 1.6 times LoRA's "
            "work in its layers.",
            {"algo": "lora", "dim": 16, "alpha": 8.0, "dora": True},
        ),
        Kind(
            "boft",
            "BOFT",
            "Several rotations in a butterfly: finer than diag-OFT and the slowest type; skips layers whose size its "
            "blocks do not divide.",
            {"algo": "boft", "dim": 8},
        ),
        Kind(
            "ia3",
            "IA3",
            "One factor per channel: tiny files, for light changes of style.",
            {"algo": "ia3"},
        ),
        Kind(
            "full",
            "Full difference",
            "The whole change of every weight: the most that training can do, at the size of the model and with the "
            "most memory. For comparison, or to shrink with Files afterwards.",
            {"algo": "full"},
        ),
    )
}

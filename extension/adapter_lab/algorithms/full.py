"""Whole differences, trained or extracted; whole weights in the place of the base's; and normalisation layers."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_lab.algorithms.row import EVERY_HOST, NO_DIM, AdapterType, Algorithm
from adapter_lab.option import option


@dataclass(kw_only=True)
class FullOptions:
    """Settings of full training alone."""

    train_bias: bool = option(True, "Also train biases.")


FULL = Algorithm(
    key="full",
    title="full",
    weight="W + D",
    reader="adapters.full:Full",
    layer="training.forwards.full:FullLayer",
    dim=NO_DIM,
    shared=("train_conv",),
    own=FullOptions,
    types=(
        AdapterType(
            "full",
            "Full difference",
            "The whole change of every weight: the most that training can do, at the size of the model and with the "
            "most memory. For comparison, or to shrink with Files afterwards.",
            {"algo": "full"},
        ),
    ),
    spellings=("diff",),
    lycoris=("full",),
    sd_scripts=(),
    read_by=((EVERY_HOST, "diff diff_b"),),
    wrong={},
    dropped={},
    whole_weights=True,
)
SET = Algorithm(
    key="set",
    title="whole weights",
    weight="W'",
    reader="adapters.set_weight:SetWeight",
    layer="",
    dim=NO_DIM,
    shared=(),
    own=None,
    types=(),
    spellings=(),
    lycoris=(),
    sd_scripts=(),
    read_by=(),
    wrong={},
    dropped={},
)
NORM = Algorithm(
    key="norm",
    title="norm",
    weight="w + d",
    reader="adapters.norm:Norm",
    layer="training.forwards.norm:NormLayer",
    dim=NO_DIM,
    shared=(),
    own=None,
    types=(),
    spellings=(),
    lycoris=(),
    sd_scripts=(),
    read_by=((EVERY_HOST, "w_norm b_norm"),),
    wrong={},
    dropped={},
    of_norms=True,
)

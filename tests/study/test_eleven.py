"""The study's eleven are the article's: their files on SDXL have the sizes that the article's have, to the byte."""

from __future__ import annotations

import pytest

from adapter_lab.config import TrainConfig
from adapter_lab.presets import STUDY, preset
from adapter_lab.study.spec.checks import settings_of
from adapter_lab.study.spec.definition import Study
from adapter_lab.study.spec.variants import PRESETS, eleven, product
from adapter_lab.training.estimate.memory import estimate
from adapter_lab.validation import problems

# fp16 without metadata; what the article printed (in MiB, cut off): 162, 217, 226, 226, 226, 113, 57 and 228.
BYTES = {
    "LoRA": 170_537_276,
    "LoRA+TE": 228_447_308,
    "LoCon": 237_185_136,
    "LoHa 16": 237_116_824,
    "LoKr f0": 237_313_056,
    "LoKr f2": 119_294_272,
    "LoKr f4": 60_306_936,
    "GLoRA": 239_840_424,
}
# The article has no size for these.
UNKNOWN = {"LoHa 6", "LoKr full", "diag-OFT"}


def configured() -> dict[str, TrainConfig]:
    shared = preset(STUDY)
    study = Study(shared=shared)
    return {variant.name: settings_of(study, variant) for variant in eleven()}


def test_there_are_eleven_and_every_size_that_is_known_is_the_articles() -> None:
    configs = configured()
    assert set(configs) == {*BYTES, *UNKNOWN} and len(configs) == 11
    predicted = {name: estimate(configs[name], memory=False) for name in BYTES}
    assert {name: found.file_bytes - found.metadata_bytes for name, found in predicted.items()} == BYTES


def test_alpha_is_half_the_rank_and_the_articles_small_loha_has_rank_six() -> None:
    for name, config in configured().items():
        network = config.network
        if name not in ("LoKr full", "diag-OFT"):
            assert network.alpha == network.dim / 2, name
        if network.conv_dim and name != "LoKr full":
            assert network.conv_dim == network.dim, name
    assert configured()["LoHa 6"].network.dim == 6


@pytest.mark.parametrize("name", PRESETS)
def test_every_set_of_variants_can_be_trained_as_it_is(name: str) -> None:
    for variant in PRESETS[name][2]():
        config = settings_of(Study(), variant)
        assert problems(config, complete=False) == [], variant.name


def test_variants_without_text_encoders_train_none_whatever_all_share() -> None:
    shared = preset(STUDY)
    assert shared.network.train_te
    for variant in (eleven()[0], *product(["lora", "ia3"], text_encoders=(False,))):
        assert not settings_of(Study(shared=shared), variant).network.train_te, variant.name

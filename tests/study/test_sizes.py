"""Variants of equal size: the nearest that whole dims, blocks and factors come to a number of parameters."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from adapter_lab.adapters.keys import Target, targets
from adapter_lab.config import RuleConfig, TrainConfig
from adapter_lab.errors import ConfigError
from adapter_lab.study.planning.sizes import of_size, parameters_of
from adapter_lab.study.spec.checks import settings_of
from adapter_lab.study.spec.definition import Study, Variant
from adapter_lab.study.spec.variants import eleven
from tests.adapters.layouts import real_shapes

WANTED = 12_000_000
VARIANTS = {variant.name: variant for variant in eleven()}


@pytest.fixture(scope="module")
def sd15() -> Mapping[str, Target]:
    return targets(real_shapes("sd15"))


def config_of(settings: Mapping[str, object]) -> TrainConfig:
    return settings_of(Study(), Variant("made", dict(settings)))


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "LoKr full"])
def test_the_eleven_come_within_two_percent_of_one_size(name: str, sd15: Mapping[str, Target]) -> None:
    config = config_of(VARIANTS[name].settings)
    sized = of_size(config, sd15, WANTED)
    assert parameters_of(sized, sd15) == pytest.approx(WANTED, rel=0.02)
    assert config == config_of(VARIANTS[name].settings)  # the given one is left as it was


def test_whole_matrices_are_sized_by_their_factor(sd15: Mapping[str, Target]) -> None:
    sized = of_size(config_of(VARIANTS["LoKr full"].settings), sd15, WANTED)

    def distance(factor: int) -> float:
        other = config_of({**VARIANTS["LoKr full"].settings, "network.factor": factor})
        return abs(parameters_of(other, sd15) / WANTED - 1)

    assert sized.network.factor == min(range(1, 65), key=distance)


def test_alpha_and_conv_dim_keep_their_ratio_to_dim(sd15: Mapping[str, Target]) -> None:
    given = {"network.algo": "lora", "network.dim": 32, "network.alpha": 8.0, "network.conv_dim": 16}
    network = of_size(config_of({**given, "network.conv_alpha": 16.0}), sd15, WANTED).network
    assert network.alpha == network.dim / 4 and network.conv_alpha == network.conv_dim
    assert abs(network.conv_dim - network.dim / 2) <= 3.5


@pytest.mark.parametrize("algorithm", ["diag-oft", "boft"])
def test_of_all_blocks_the_nearest_is_found_though_larger_ones_may_have_less_parameters(
    algorithm: str, sd15: Mapping[str, Target]
) -> None:
    def distance(dim: int) -> float:
        try:
            return abs(parameters_of(config_of({"network.algo": algorithm, "network.dim": dim}), sd15) / WANTED - 1)
        except ConfigError:
            return float("inf")

    sized = of_size(config_of({"network.algo": algorithm}), sd15, WANTED)
    assert distance(sized.network.dim) == min(distance(dim) for dim in range(2, 129))


def test_a_rule_whose_blocks_do_not_fit_small_dims_does_not_end_the_search(sd15: Mapping[str, Target]) -> None:
    config = config_of({"network.algo": "lora"})
    config.network.rules = [RuleConfig(match="lora_unet_*attn1_to_q", algo="boft")]
    assert parameters_of(of_size(config, sd15, WANTED), sd15) == pytest.approx(WANTED, rel=0.1)


@pytest.mark.parametrize("algorithm", ["ia3", "full"])
def test_types_without_a_size_are_refused_with_what_to_do(algorithm: str, sd15: Mapping[str, Target]) -> None:
    with pytest.raises(ConfigError, match=f"{algorithm} has no dim.*leave this variant out"):
        of_size(config_of({"network.algo": algorithm}), sd15, WANTED)

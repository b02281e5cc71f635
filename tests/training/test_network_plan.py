"""Which modules get which adapter, and the exact tensors of its file, without any weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adapter_lab.adapters.file import file_bytes
from adapter_lab.adapters.keys import Target, targets
from adapter_lab.config import NetworkConfig, RuleConfig
from adapter_lab.errors import ConfigError
from adapter_lab.training.forwards import LAYERS
from adapter_lab.training.forwards.spec import butterfly_blocks, factorization, smallest_butterfly_dim
from adapter_lab.training.network.plan import plan_network
from tests.adapters.layouts import real_shapes
from tests.support.adapter_cases import CASES, LAYER_TYPES, base_module, spec_of

TE = {"train_te": True}
TUCKER = {**TE, "dim": 32, "alpha": 16.0, "conv_dim": 32, "conv_alpha": 16.0, "tucker": True}
STUDY: dict[str, tuple[dict[str, Any], int]] = {
    "LoRA 32, UNet only": ({"algo": "lora", "dim": 32, "alpha": 16.0}, 170_537_276),
    "LoRA 32": ({"algo": "lora", "dim": 32, "alpha": 16.0, **TE}, 228_447_308),
    "LoCon 32, tucker": ({"algo": "lora", **TUCKER}, 237_185_136),
    "LoHa 16, tucker": ({"algo": "loha", **TUCKER, "dim": 16, "conv_dim": 16}, 237_116_824),
    "LoKr 32, factor 0": ({"algo": "lokr", **TUCKER, "factor": 0}, 237_313_056),
    "LoKr 32, factor 2": ({"algo": "lokr", **TUCKER, "factor": 2}, 119_294_272),
    "LoKr 32, factor 4": ({"algo": "lokr", **TUCKER, "factor": 4}, 60_306_936),
    "GLoRA 16": ({"algo": "glora", **TUCKER, "dim": 16, "conv_dim": 16, "tucker": False}, 239_840_424),
}


@pytest.fixture(scope="module")
def sdxl() -> dict[str, Target]:
    return targets(real_shapes("sdxl"))


@pytest.fixture(scope="module")
def sd15() -> dict[str, Target]:
    return targets(real_shapes("sd15"))


@pytest.mark.parametrize("row", STUDY)
def test_the_studys_settings_give_its_file_sizes_to_the_byte(row: str, sdxl: dict[str, Target]) -> None:
    settings, size = STUDY[row]
    plans = plan_network(NetworkConfig(**settings), sdxl)
    layout = {key: (shape, torch.float16) for plan in plans for key, shape in plan.file_layout.items()}
    assert file_bytes(layout, None) == size


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
@pytest.mark.parametrize("case", CASES)
def test_planned_shapes_are_those_lycoris_trains(case: str, layer_type: str) -> None:
    spec = spec_of(CASES[case], module := base_module(layer_type, True, torch.float32))
    layer = LAYERS[spec.algo]
    weight: Any = module.weight
    values = layer.initial_values(spec, lambda: weight)
    made = layer(spec, module, values)
    trained = {name: tuple(parameter.shape) for name, parameter in made.named_parameters()}
    assert trained == dict(layer.trained_shapes(spec)) and set(trained) <= set(values)
    assert {key: tuple(t.shape) for key, t in made.file_tensors().items()} == dict(layer.file_shapes(spec))


def test_modules_are_chosen_by_role_and_part(sdxl: dict[str, Target], sd15: dict[str, Target]) -> None:
    def count(family: dict[str, Target], **settings: Any) -> int:
        return len(plan_network(NetworkConfig(**settings), family))

    assert count(sdxl) == 722
    assert count(sdxl, train_te=True) == 722 + 72 + 192
    assert count(sdxl, train_te=True, train_unet=False, train_te2=False) == 72
    assert count(sdxl, feed_forward=False, projections=False) == 560
    assert count(sdxl, conv_dim=8) == 722 + 66
    assert count(sdxl, conv_dim=8, time_embedding=False) == 722 + 49
    assert count(sdxl, algo="ia3", train_conv=True) == 722 + 66
    assert count(sd15) == 192
    assert count(sd15, train_te=True) == 192 + 72
    norms = count(sdxl, train_norm=True) - count(sdxl)
    assert norms == sum(target.kind == "norm" and target.part == "unet" for target in sdxl.values())


def test_linear_layers_and_1x1_convolutions_of_the_convolution_set_have_the_linear_dim(sdxl: dict[str, Target]) -> None:
    plans = plan_network(NetworkConfig(dim=16, alpha=8, conv_dim=4, conv_alpha=2), sdxl)
    by_kernel = {plan.target.shape[2:]: (plan.spec.dim, plan.spec.alpha) for plan in plans}
    assert by_kernel == {(): (16, 8), (1, 1): (16, 8), (3, 3): (4, 2)}


def test_the_first_matching_rule_decides(sdxl: dict[str, Target]) -> None:
    rules = [
        RuleConfig(match="lora_unet_*attn2_to_v", algo="none"),
        RuleConfig(match="lora_unet_*attn2*", algo="lokr", dim=4, factor=8, lr_scale=0.5),
        RuleConfig(match="*attn2_to_q", algo="loha"),
        RuleConfig(match="lora_te2*", dim=2, alpha=1),
    ]
    config = NetworkConfig(dim=16, alpha=8, train_te=True, rules=rules[:2] + rules[3:])
    plans = {plan.name: plan for plan in plan_network(config, sdxl)}
    prefix = "lora_unet_middle_block_1_transformer_blocks_0_attn"
    assert f"{prefix}2_to_v" not in plans
    changed = plans[f"{prefix}2_to_q"]
    assert (changed.algo, changed.spec.dim, changed.spec.factor, changed.lr_scale) == ("lokr", 4, 8, 0.5)
    kept = plans[f"{prefix}1_to_q"]
    assert (kept.algo, kept.spec.dim, kept.lr_scale) == ("lora", 16, 1.0)
    assert plans["lora_te2_text_model_encoder_layers_0_mlp_fc1"].spec.dim == 2
    with pytest.raises(ConfigError, match=r"rules\[2\].*attn2_to_q.*changes nothing"):
        plan_network(NetworkConfig(rules=rules[:3]), sdxl)


def test_options_go_only_to_algorithms_that_have_them(sdxl: dict[str, Target]) -> None:
    rules = [RuleConfig(match="*ff_net*", algo="diag-oft", dim=32)]
    plans = plan_network(NetworkConfig(use_scalar=True, dora=True, rules=rules), sdxl)
    by_algo = {plan.algo: plan for plan in plans}
    assert set(by_algo["lora"].parameters) == {"down", "up", "magnitude", "scalar"}
    assert set(by_algo["diag-oft"].parameters) == {"blocks"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"algo": "boft", "dim": 8},
            r"BOFT with dim 8 does not fit 640, 1280, 5120, 10240 outputs for module lora_unet_\S+ and 721 more; "
            r"choose a dim of at least 10\.",
        ),
        ({"algo": "diag-oft", "dim": 1}, r"blocks of one channel.*lora_unet_.*choose a dim that divides"),
        ({"attention": False, "feed_forward": False, "projections": False}, "no module to train"),
    ],
)
def test_impossible_settings_are_refused_in_a_sentence(
    settings: dict[str, Any], message: str, sdxl: dict[str, Target]
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_network(NetworkConfig(**settings), sdxl)


@pytest.mark.parametrize("dim", [10, 16, 32, 64])
def test_boft_fits_every_module_of_sdxl_from_its_smallest_dim_on(dim: int, sdxl: dict[str, Target]) -> None:
    plans = plan_network(NetworkConfig(algo="boft", dim=dim, conv_dim=dim), sdxl)
    for plan in plans:
        stages, count, size, _ = plan.parameters["blocks"]
        assert size <= dim and size % 2 == 0 and count * size == plan.target.shape[0]
        assert 2 ** (stages - 1) == count


def test_factorisations_are_lycoriss() -> None:
    from lycoris.functional.general import factorization as theirs
    from lycoris.functional.general import power2factorization

    sizes = [*range(1, 200), 320, 640, 768, 960, 1280, 1920, 2048, 2560, 3072, 5120, 10240]
    for size in sizes:
        for factor in (-1, 0, 1, 2, 3, 4, 7, 8, 16, 64, 100):
            assert factorization(size, factor) == theirs(size, factor), (size, factor)
        for dim in (2, 4, 6, 8, 10, 16, 64, 400):
            found = butterfly_blocks(size, dim)
            assert found == (power2factorization(size, dim) if found else found), (size, dim)
            assert (found is None) == (power2factorization(size, dim)[1] == 0), (size, dim)
            smallest = smallest_butterfly_dim(size)
            assert (found is None) == (smallest is None or smallest > dim), (size, dim)

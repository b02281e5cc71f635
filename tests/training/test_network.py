"""Networks on tiny models: attaching, saving, loading, frozen adapters, reproducible first values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adapter_lab.adapters.base import patch, patch_bias
from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.adapters.keys import Target, targets
from adapter_lab.config import NetworkConfig, RuleConfig
from adapter_lab.errors import ConfigError
from adapter_lab.training.forwards.quantized import compress
from adapter_lab.training.loop import train
from adapter_lab.training.network.modules import find_module
from adapter_lab.training.network.network import AdapterNetwork, add_frozen_adapters, build_network
from tests.support.checkpoints import tiny_layout, tiny_modules
from tests.support.training import tiny_config

MIXED = NetworkConfig(
    dim=4,
    alpha=2.0,
    conv_dim=2,
    train_te=True,
    train_norm=True,
    rules=[
        RuleConfig(match="*attn2*", algo="lokr", factor=4),
        RuleConfig(match="*ff_net*", algo="diag-oft", dim=8),
        RuleConfig(match="*proj_in", algo="loha", dim=2),
        RuleConfig(match="*proj_out", algo="glora", lr_scale=0.5),
        RuleConfig(match="*in_layers_2", algo="full"),
        RuleConfig(match="*emb_layers_1", algo="ia3"),
        RuleConfig(match="lora_te2*fc1", algo="boft", dim=8),
    ],
)


def tiny_sdxl(seed: int = 0) -> tuple[dict[str, nn.Module], dict[str, Target]]:
    unet, _, encoders = tiny_modules("sdxl", seed)
    return {"unet": unet, **encoders}, targets(tiny_layout("sdxl"))


def shaken(network: AdapterNetwork, size: float = 0.05, seed: int = 3) -> AdapterNetwork:
    """The network with all parameters moved, as by training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * size)
    return network


def predict(parts: dict[str, nn.Module], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """The UNet's prediction and a text encoder's output for fixed inputs."""
    generator = torch.Generator().manual_seed(9)
    ids = torch.randint(0, 300, (1, 77), generator=generator)
    text = parts["te2"](ids, output_hidden_states=True)
    first = parts["te1"](ids, output_hidden_states=True)
    hidden = torch.cat([first.hidden_states[-2], text.hidden_states[-2]], -1)
    sample = torch.randn(1, 4, 8, 8, generator=generator).to(dtype)
    added = {"text_embeds": text.text_embeds, "time_ids": torch.ones(1, 6).to(dtype)}
    out = parts["unet"](sample, torch.tensor([500]), hidden, added_cond_kwargs=added).sample
    return out, hidden


def test_a_new_network_changes_nothing_and_detaching_restores_every_forward() -> None:
    parts, table = tiny_sdxl()
    before = predict(parts)
    network = build_network(MIXED, table, parts, seed=1)
    forwards = {
        name: module.__dict__.get("forward") for part in parts.values() for name, module in part.named_modules()
    }
    assert {plan.algo for plan in network.plans} == {
        "lora", "lokr", "diag-oft", "loha", "glora", "full", "ia3", "boft", "norm",
    }  # fmt: skip
    network.attach()
    network.attach()  # a second time is nothing
    for found, expected in zip(predict(parts), before):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    shaken(network)
    assert (predict(parts)[0] - before[0]).abs().max() > 1e-3
    with network.disabled():
        assert all(torch.equal(found, expected) for found, expected in zip(predict(parts), before))
    network.detach()
    assert all(torch.equal(found, expected) for found, expected in zip(predict(parts), before))
    after = {name: module.__dict__.get("forward") for part in parts.values() for name, module in part.named_modules()}
    assert after == forwards


def test_detaching_gives_back_a_forward_someone_else_had_put_there() -> None:
    parts, table = tiny_sdxl()
    module: Any = parts["unet"].get_submodule("mid_block.attentions.0.proj_in")
    original = module.forward
    module.forward = lambda x: original(x) * 2
    replaced = module.forward
    network = build_network(NetworkConfig(dim=2, alpha=1), table, parts, seed=0)
    network.attach()
    x = torch.randn(1, 3, module.in_features)
    assert torch.equal(module(x), original(x) * 2) is False  # the adapter computes the base's product itself
    network.detach()
    assert module.forward is replaced


@pytest.fixture
def float64_default() -> Iterator[None]:
    """transformers 4 makes CLIP's attention mask in torch's default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64_default")
def test_a_saved_network_read_back_patches_the_base_to_the_trained_predictions(tmp_path: Path) -> None:
    parts, table = tiny_sdxl()
    parts = {name: part.double() for name, part in parts.items()}
    network = shaken(build_network(MIXED, table, parts, seed=1)).double()
    network.attach()
    trained = predict(parts, torch.float64)
    network.detach()
    path = tmp_path / "mixed.safetensors"
    save_adapter(path, network.adapter_tensors(torch.float64), {})
    file = AdapterFile.open(path)
    assert set(file.modules) == {plan.name for plan in network.plans} and not file.unknown
    with torch.no_grad():
        for name in file.modules:
            module: Any = find_module(parts[table[name].part], table[name])
            adapter = file.load(name)
            module.weight.copy_(patch(module.weight, adapter, 1.0))
            if module.bias is not None:
                module.bias.copy_(patch_bias(module.bias, adapter, 1.0))
    for found, expected in zip(predict(parts, torch.float64), trained):
        assert (found - expected).norm() / expected.norm() < 1e-11


def test_loading_a_files_tensors_gives_the_same_predictions() -> None:
    parts, table = tiny_sdxl()
    first = shaken(build_network(MIXED, table, parts, seed=1))
    first.attach()
    trained = predict(parts)
    first.detach()
    second = build_network(MIXED, table, parts, seed=7)
    second.load_adapter_tensors(first.adapter_tensors())
    second.attach()
    for found, expected in zip(predict(parts), trained):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_starting_from_a_file_with_another_alpha_keeps_its_weight(tmp_path: Path) -> None:
    parts, table = tiny_sdxl()
    first = shaken(build_network(NetworkConfig(dim=4, alpha=4.0), table, parts, seed=1))
    path = tmp_path / "start.safetensors"
    save_adapter(path, first.adapter_tensors(), {})
    second = build_network(NetworkConfig(dim=4, alpha=1.0, start_from=str(path)), table, parts, seed=2)
    for one, other in zip(first.layers.values(), second.layers.values()):
        nothing = torch.empty(0)
        chunk = slice(0, one.spec.shape[0])
        torch.testing.assert_close(
            one.delta(0, chunk, nothing, *one.parameters_in_use()),
            other.delta(0, chunk, nothing, *other.parameters_in_use()),
        )


def test_a_file_that_does_not_fit_is_refused_with_a_list() -> None:
    parts, table = tiny_sdxl()
    small = build_network(NetworkConfig(dim=2, alpha=1.0, feed_forward=False), table, parts, seed=1)
    large = build_network(NetworkConfig(dim=4, alpha=1.0, projections=False), table, parts, seed=1)
    with pytest.raises(ConfigError) as caught:
        large.load_adapter_tensors(small.adapter_tensors(), "old.safetensors")
    message = str(caught.value)
    assert message.startswith("old.safetensors does not fit the network's settings: it lacks lora_unet_")
    assert "; it also has lora_unet_" in message and " more; it differs in lora_unet_" in message
    assert "is [2, 64] instead of [4, 64]" in message


def test_first_values_depend_on_the_seed_and_the_modules_name_alone() -> None:
    parts, table = tiny_sdxl()
    state = torch.random.get_rng_state()
    all_modules = build_network(NetworkConfig(dim=4, train_te=True), table, parts, seed=5)
    attention = build_network(NetworkConfig(dim=4, feed_forward=False, projections=False), table, parts, seed=5)
    other = build_network(NetworkConfig(dim=4, feed_forward=False, projections=False), table, parts, seed=6)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, layer in attention.layers.items():
        assert torch.equal(layer.down, all_modules.layers[name].down)
        assert not torch.equal(layer.down, other.layers[name].down)
    downs = [layer.down.flatten()[:8] for layer in attention.layers.values()]
    assert len({tuple(values.tolist()) for values in downs}) == len(downs)


def test_parameters_are_listed_by_part_with_their_rates() -> None:
    parts, table = tiny_sdxl()
    network = build_network(MIXED, table, parts, seed=0)
    by_part = network.parameters_by_part()
    assert set(by_part) == {"unet", "te1", "te2"}
    assert sum(p.numel() for entries in by_part.values() for p, _ in entries) == network.trainable_parameters
    assert network.trainable_parameters == sum(plan.trainable_parameters for plan in network.plans)
    scales = {id(p): scale for entries in by_part.values() for p, scale in entries}
    for plan, layer in zip(network.plans, network.layers.values()):
        assert {scales[id(p)] for p in layer.parameters()} == {plan.lr_scale}
    assert all(p.dtype == torch.float32 and p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for part in parts.values() for p in part.parameters())


def test_frozen_adapters_are_active_and_not_trained(tmp_path: Path) -> None:
    parts, table = tiny_sdxl()
    frozen = shaken(build_network(MIXED, table, parts, seed=1))
    path = tmp_path / "frozen.safetensors"
    save_adapter(path, frozen.adapter_tensors(), {})
    frozen.attach()
    expected = predict(parts)
    frozen.detach()
    config = NetworkConfig(dim=2, alpha=1.0, frozen_adapters=[str(path)])
    network = build_network(config, table, parts, seed=0)
    network.attach()
    for found, wanted in zip(predict(parts), expected):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    with network.disabled():
        torch.testing.assert_close(predict(parts)[0], expected[0], rtol=1e-3, atol=1e-5)
    before = parts["unet"].get_submodule("mid_block.attentions.0.proj_in").weight.clone()  # type: ignore[operator]
    build_network(config, table, parts, seed=0)  # the weights have them already
    assert torch.equal(parts["unet"].get_submodule("mid_block.attentions.0.proj_in").weight, before)  # type: ignore


def test_a_frozen_adapters_strength_counts(tmp_path: Path) -> None:
    parts, table = tiny_sdxl()
    frozen = shaken(build_network(NetworkConfig(dim=2, alpha=1.0), table, parts, seed=1))
    path = tmp_path / "frozen.safetensors"
    save_adapter(path, frozen.adapter_tensors(), {})
    name = "lora_unet_middle_block_1_proj_in"
    module: Any = find_module(parts["unet"], table[name])
    base = module.weight.clone()
    layer: Any = frozen.layers[name]
    delta = layer.delta(0, slice(0, len(base)), base, *layer.parameters_in_use())
    add_frozen_adapters([f"{path}:-0.5"], table, parts)
    torch.testing.assert_close(module.weight, base - 0.5 * delta)


def test_frozen_adapters_must_come_before_8_bit_storage(tmp_path: Path) -> None:
    parts, table = tiny_sdxl()
    path = tmp_path / "frozen.safetensors"
    network = build_network(NetworkConfig(dim=2, alpha=1.0), table, parts, seed=1)
    save_adapter(path, network.adapter_tensors(), {})
    compress(parts["unet"], "int8", lambda path, layer: True)
    with pytest.raises(ConfigError, match=r"before lora_unet_\S+ is stored in 8 bits"):
        add_frozen_adapters([str(path)], table, parts)


def test_a_part_that_is_trained_must_be_loaded() -> None:
    parts, table = tiny_sdxl()
    with pytest.raises(ConfigError, match="train te1, te2, which is not loaded"):
        build_network(NetworkConfig(train_te=True), table, {"unet": parts["unet"]}, seed=0)


@pytest.mark.parametrize("family", ["sd15", "sd2"])
def test_families_with_one_text_encoder_have_its_names(family: str) -> None:
    unet, _, encoders = tiny_modules(family)
    parts = {"unet": unet, **encoders}
    network = build_network(NetworkConfig(dim=2, train_te=True), targets(tiny_layout(family)), parts, seed=0)
    keys = network.adapter_tensors()
    assert any(key.startswith("lora_te_text_model_encoder_layers_0_self_attn_q_proj.") for key in keys)
    assert all(key.startswith(("lora_te_text_model_", "lora_unet_")) for key in keys)


@pytest.mark.parametrize("algo", ["lora", "loha", "lokr"])
def test_max_norm_scales_large_updates_down_and_leaves_small_ones(algo: str) -> None:
    parts, table = tiny_sdxl()
    config = NetworkConfig(algo=algo, dim=2, alpha=2.0, conv_dim=2, tucker=True, factor=4, max_norm=0.5)
    network = shaken(build_network(config, table, parts, seed=0), size=0.1)

    def norms() -> dict[str, float]:
        found = {}
        for name, layer in network.layers.items():
            base = find_module(parts["unet"], table[name]).weight  # type: ignore[operator,union-attr]
            whole = layer.delta(0, slice(0, layer.spec.shape[0]), base, *layer.parameters_in_use())
            found[name] = float(whole.detach().norm())
        return found

    before = norms()
    assert min(before.values()) < 0.5 < max(before.values())
    network.apply_max_norm()
    for name, norm in norms().items():
        assert norm == pytest.approx(min(before[name], 0.5), rel=1e-5)


@pytest.mark.parametrize("value", ["0", "1000000", "missing.safetensors", "missing.safetensors:0.5"])
@pytest.mark.parametrize("setting", ["start_from", "frozen_adapters"])
def test_an_adapter_that_is_not_there_names_its_setting(setting: str, value: str, tmp_path: Path) -> None:
    given = [value] if setting == "frozen_adapters" else value
    config = tiny_config(tmp_path, **{f"network__{setting}": given})
    with pytest.raises(ConfigError, match=rf"network\.{setting}: .*{value.split(':')[0]}"):
        train(config, tmp_path / "run")

"""LoRA+ (Hayou et al. 2024): the factors at the output have a learning rate of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adapter_lab.adapters.file import AdapterFile
from adapter_lab.config import NetworkConfig, OptimizerConfig, RuleConfig
from adapter_lab.kohya import import_kohya
from adapter_lab.training.loop import train
from adapter_lab.training.optim.optimizers import rate_groups
from tests.support.training import tiny_config


def first_step(tmp_path: Path, ratio: float, algo: str = "lora") -> dict[str, float]:
    """How far each kind of factor is from where it began, after two steps of AdamW: the mean of its sizes."""
    config = tiny_config(tmp_path / f"{algo}-{ratio}", run__steps=2, network__algo=algo)
    config.network.lora_plus_ratio = ratio
    config.optimizer.weight_decay = 0.0
    file = AdapterFile.open(train(config).adapters[-1])
    sizes: dict[str, list[float]] = {}
    for infos in file.modules.values():
        for suffix, info in infos.items():
            if suffix != "alpha":
                sizes.setdefault(suffix, []).append(file.file.read(info.key).abs().mean().item())
    return {suffix: sum(found) / len(found) for suffix, found in sizes.items()}


def test_the_output_side_moves_by_the_ratio(tmp_path: Path) -> None:
    plain, faster = first_step(tmp_path, 1.0), first_step(tmp_path, 4.0)
    # up begins at zero, so after AdamW's first steps its size is the rate.
    assert faster["lora_up.weight"] == pytest.approx(4 * plain["lora_up.weight"], rel=0.15)
    assert faster["lora_down.weight"] == pytest.approx(plain["lora_down.weight"], rel=0.15)


def test_rates_are_grouped_and_rules_scale_both() -> None:
    up, down = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = rate_groups({"unet": [(up, 16.0), (down, 1.0)]}, OptimizerConfig(name="adamw", lr=1e-3))
    assert sorted((group.lr, len(group.parameters)) for group in groups) == [(1e-3, 1), (1.6e-2, 1)]
    assert NetworkConfig(rules=[RuleConfig("lora_unet_*", lr_scale=0.5)]).lora_plus_ratio == 1.0


@pytest.mark.parametrize(
    ("arguments", "ratio"),
    [(["loraplus_lr_ratio=16"], 16.0), (["loraplus_lr_ratio=16", "loraplus_unet_lr_ratio=4"], 4.0), ([], 1.0)],
)
def test_it_is_carried_over_from_kohya(tmp_path: Path, arguments: list[str], ratio: float) -> None:
    path = tmp_path / "kohya.toml"
    path.write_text(f'network_module = "networks.lora"\nnetwork_args = {arguments!r}\n', encoding="utf-8")
    assert import_kohya(path).config.network.lora_plus_ratio == ratio

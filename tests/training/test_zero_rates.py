"""A learning rate of 0 in a real run, rules in words, and a dataset whose images are not used."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from adapter_lab.adapters.keys import targets
from adapter_lab.config import BaseConfig, NetworkConfig, RuleConfig, SourceConfig
from adapter_lab.errors import DatasetError
from adapter_lab.runs.run_folder import AdapterFiles
from adapter_lab.training.bases import open_base
from adapter_lab.training.dataset import scan
from adapter_lab.training.estimate.memory import estimate
from adapter_lab.training.loop import train
from adapter_lab.training.network.plan import plan_network
from tests.support.training import draw_pictures, events_of, tiny_base, tiny_config


def test_text_encoders_of_rate_zero_stay_as_they_are_and_their_captions_are_cached(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path, "sdxl", run__steps=1, network__train_te=True, optimizer__te1_lr=0.0, optimizer__te2_lr=0.0
    )
    predicted = estimate(config, memory=False)
    result = train(config)
    (step,) = events_of(result.run_folder, "step")
    assert set(step["rates"]) == {"unet"}
    with safe_open(result.adapters[-1], "pt") as file:
        assert all(key.startswith("lora_unet") for key in file.keys())  # noqa: SIM118
        modules = {key.partition(".")[0] for key in file.keys()}  # noqa: SIM118
    assert len(modules) == predicted.modules
    assert "captions" in [event["what"] for event in events_of(result.run_folder, "cached")]
    said = [event["message"] for event in events_of(result.run_folder, "warning")]
    assert sum("is not trained" in sentence for sentence in said) == 2


def test_one_text_encoder_can_be_left_out_by_its_rate(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "sdxl", run__steps=1, network__train_te=True, optimizer__te1_lr=0.0)
    (step,) = events_of(train(config).run_folder, "step")
    assert set(step["rates"]) == {"unet", "te2"}


def test_a_rule_says_every_number_of_its_own_and_the_networks_by_word() -> None:
    table = targets(open_base_shapes())
    rules = [
        RuleConfig(match="*attn1_to_q", factor=0),
        RuleConfig(match="*attn1_to_k", dim=2, alpha="dim"),
        RuleConfig(match="*attn1_to_v", alpha=1.0),
    ]
    config = NetworkConfig(algo="lokr", dim=4, alpha=2.0, factor=4, rules=rules)
    found = {plan.name.rsplit("_", 1)[1]: plan.spec for plan in plan_network(config, table) if "attn1" in plan.name}
    assert [(found[n].factor, found[n].dim, found[n].alpha) for n in "qkv"] == [(0, 4, 2.0), (4, 2, 2.0), (4, 4, 1.0)]


def open_base_shapes() -> dict[str, tuple[int, ...]]:
    return open_base(BaseConfig(checkpoint=str(tiny_base("sd15")))).shapes


def test_alpha_as_large_as_the_dim_follows_the_dim_of_each_module() -> None:
    table = targets(open_base_shapes())
    plans = plan_network(NetworkConfig(dim=8, alpha="dim", conv_dim=4), table)
    assert {(plan.spec.dim, plan.spec.alpha) for plan in plans} == {(8, 8.0), (4, 4.0)}
    plans = plan_network(NetworkConfig(dim=8, alpha=2.0, conv_dim=4, conv_alpha="dim"), table)
    assert {(plan.spec.dim, plan.spec.alpha) for plan in plans} == {(8, 2.0), (4, 4.0)}


def test_a_source_of_no_repeats_is_not_used_and_the_setting_is_named(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    config.dataset.resolution = 64
    config.dataset.sources = [SourceConfig(str(draw_pictures(tmp_path / "more", 2)), repeats=0)]
    with pytest.raises(DatasetError, match=r"the repeats of dataset\.sources\[0\] are 0; set them to auto"):
        scan(config.dataset)


@pytest.mark.parametrize(("keep", "left"), [("all", 4), (2, 3), (0, 1)])
def test_files_kept_beside_the_last(tmp_path: Path, keep: int | str, left: int) -> None:
    config = tiny_config(tmp_path, run__steps=3, save__every_steps=1, save__keep_last=keep)
    files = AdapterFiles(config.run, tmp_path)
    files.folder.mkdir(parents=True)
    for step in (1, 2, 3, None):
        path = files.path(step)
        path.write_bytes(b"x")
        files.add(path, keep)
        assert path.exists()
    assert len(list(files.folder.iterdir())) == left
    assert files.path(None).exists()

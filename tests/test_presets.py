"""Presets are valid, and the study's is the study's."""

from __future__ import annotations

import pytest

from adapter_lab.errors import ConfigError
from adapter_lab.families import BASES
from adapter_lab.presets import STUDY, TIERS, TYPES, preset, preset_table
from adapter_lab.validation import validate


def test_every_preset_is_valid_and_has_a_name_for_each_base_type_and_memory() -> None:
    names = preset_table()
    # LoCon is LoRA where there are no convolutions.
    same = sum(not BASES[base].convolutions for base, _ in TIERS)
    assert len(names) == 1 + len(TIERS) * len(TYPES) - same
    for name in names:
        assert validate(preset(name), complete=False) == [], name


def test_the_study_is_the_studys_recipe() -> None:
    config = preset(STUDY)
    network, optimizer = config.network, config.optimizer
    assert (network.algo, network.dim, network.alpha, network.train_te) == ("lora", 32, 16.0, True)
    assert (config.dataset.resolution, config.run.batch_size, config.base.family) == (1024, 2, "sdxl")
    assert (optimizer.name, optimizer.betas, optimizer.d_coef, optimizer.slice_p) == ("prodigy", [0.9, 0.99], 0.5, 10)
    assert (optimizer.decouple, optimizer.use_bias_correction, optimizer.safeguard_warmup) == (True, True, True)
    assert (optimizer.weight_decay, optimizer.growth_rate, optimizer.d0) == (0.01, 1.01, 1e-6)


@pytest.mark.parametrize("name", ["sdxl-lora-8", "sdxl", "study", "sd3-lora-8gb", ""])
def test_an_unknown_preset_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no preset"):
        preset(name)

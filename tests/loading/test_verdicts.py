"""The table of what web UIs do alone: complete, with a reason for each, and as it was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from adapter_lab.adapters.file import SUFFIXES, AdapterFile, save_adapter
from adapter_lab.adapters.rewriting import older_glora
from adapter_lab.hosts.loading.verdict_table import HOSTS, READ, TABLE
from adapter_lab.hosts.loading.verdicts import APPLY, DROP, UNSEEN, WRONG, modules_of, verdict, verdict_of, verdicts
from tests.adapters.random_adapter import ALGORITHMS, random_tensors

LDM = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
TE = "lora_te_text_model_encoder_layers_0_mlp_fc1"
LOKR_TUCKER = {
    "lokr_w1": torch.ones(2, 2), "lokr_w2_a": torch.ones(2, 4), "lokr_w2_b": torch.ones(2, 4),
    "lokr_t2": torch.ones(2, 2, 3, 3),
}  # fmt: skip


def lora_with(**more: Tensor) -> dict[str, Tensor]:
    return {**random_tensors("lora", (8, 8)), **more}


def ia3_of_convolution(on_input: float) -> dict[str, Tensor]:
    return {"weight": torch.ones(1, 8, 1, 1), "on_input": torch.tensor(on_input)}


def file_of(path: Path, modules: dict[str, dict[str, Tensor]]) -> AdapterFile:
    tensors = {f"{name}.{suffix}": tensor for name, found in modules.items() for suffix, tensor in found.items()}
    save_adapter(path / "a.safetensors", tensors, {})
    return AdapterFile.open(path / "a.safetensors")


# What was measured, in the order of HOSTS: Forge-classic, A1111, Forge, reForge, Neo.
MEASURED: dict[str, tuple[dict[str, dict[str, Tensor]], tuple[str, ...]]] = {
    "lora": ({LDM: lora_with()}, (APPLY,) * 5),
    "lora on a text encoder": ({TE: lora_with()}, (APPLY,) * 5),
    "loha": ({LDM: random_tensors("loha", (8, 8))}, (APPLY,) * 5),
    "lokr": ({LDM: random_tensors("lokr", (8, 8))}, (APPLY,) * 5),
    "full with bias": ({LDM: random_tensors("full", (8, 8), bias=True)}, (APPLY,) * 5),
    "norm": ({"lora_unet_output_blocks_2_0_in_layers_0": random_tensors("norm", (8,))}, (APPLY,) * 5),
    "norm of a text encoder": (
        {"lora_te_text_model_encoder_layers_0_layer_norm1": random_tensors("norm", (8,))},
        (DROP, APPLY, DROP, DROP, DROP),
    ),
    "norm of SDXL's second text encoder": (
        {"lora_te2_text_model_encoder_layers_0_layer_norm1": random_tensors("norm", (8,))}, (DROP,) * 5
    ),
    "lokr tucker": ({LDM: LOKR_TUCKER}, (DROP, APPLY, DROP, DROP, DROP)),
    "dora": ({LDM: lora_with(dora_scale=torch.ones(8, 1))}, (DROP, WRONG, WRONG, WRONG, WRONG)),
    "dora of PEFT": ({LDM: lora_with(lora_magnitude_vector=torch.ones(8))}, (DROP, WRONG, WRONG, WRONG, WRONG)),
    "dora per input": ({LDM: lora_with(dora_scale=torch.ones(1, 8))}, (DROP, APPLY, APPLY, APPLY, APPLY)),
    "glora": ({LDM: random_tensors("glora", (8, 8))}, (DROP, DROP, APPLY, APPLY, APPLY)),
    "glora of old": (
        {LDM: older_glora(random_tensors("glora", (8, 8)) | {"alpha": torch.tensor(2.0)})}, (APPLY,) * 5
    ),
    "glora of old with a scale": (
        {LDM: older_glora(random_tensors("glora", (8, 8)))}, (APPLY, WRONG, APPLY, APPLY, APPLY)
    ),
    "glora of old on a convolution": (
        {LDM: older_glora(random_tensors("glora", (8, 8, 1, 1)))}, (DROP, DROP, APPLY, APPLY, APPLY)
    ),
    "diag-oft": ({LDM: random_tensors("diag-oft", (8, 8))}, (DROP, APPLY, DROP, WRONG, WRONG)),
    "boft": ({LDM: random_tensors("boft", (8, 8))}, (DROP, APPLY, DROP, WRONG, WRONG)),
    "diag-oft with a constraint": (
        {LDM: random_tensors("diag-oft", (8, 8)) | {"alpha": torch.tensor(0.5)}}, (DROP, APPLY, DROP, DROP, DROP)
    ),
    "boft with a constraint": (
        {LDM: random_tensors("boft", (8, 8)) | {"alpha": torch.tensor(0.5)}}, (DROP, APPLY, DROP, DROP, DROP)
    ),
    "oftv2": ({LDM: random_tensors("oftv2", (8, 8))}, (DROP, DROP, DROP, DROP, APPLY)),
    "ia3": ({LDM: random_tensors("ia3", (8, 8))}, (DROP, APPLY, DROP, DROP, DROP)),
    "ia3 on the outputs of a convolution": ({LDM: ia3_of_convolution(0.0)}, (DROP,) * 5),
    "ia3 on the inputs of a convolution": ({LDM: ia3_of_convolution(1.0)}, (DROP, APPLY, DROP, DROP, DROP)),
    "names of transformers 5": ({"lora_te1_encoder_layers_0_mlp_fc1": lora_with()}, (DROP,) * 5),
    "names of PEFT": ({"unet.down_blocks.0.attentions.0.proj_in": lora_with()}, (DROP,) * 5),
    "ComfyUI's names of the UNet": (
        {"diffusion_model.input_blocks.1.1.proj_in": lora_with()}, (DROP, DROP, APPLY, APPLY, APPLY)
    ),
    "ComfyUI's names of a text encoder": (
        {"text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1": lora_with()},
        (DROP, DROP, DROP, APPLY, APPLY),
    ),
    "names of kohya's OFT": ({"oft_unet_input_blocks_1_1_proj_in": random_tensors("diag-oft", (8, 8))}, (DROP,) * 5),
    "the projection of SDXL's second text encoder": (
        {"lora_te2_text_projection": lora_with()}, (DROP, DROP, APPLY, APPLY, APPLY)
    ),
    "q alone of SDXL's second text encoder": (
        {"lora_te2_text_model_encoder_layers_0_self_attn_q_proj": lora_with()}, (APPLY, DROP, APPLY, APPLY, APPLY)
    ),
    "q, k, v and out of SDXL's second text encoder": (
        {f"lora_te2_text_model_encoder_layers_0_self_attn_{part}_proj": lora_with() for part in ("q", "k", "v", "out")},
        (APPLY,) * 5,
    ),
    "a name A1111 misses": ({"lora_unet_conv_norm_out": random_tensors("norm", (8,))},
                            (APPLY, DROP, APPLY, APPLY, APPLY)),
}  # fmt: skip


@pytest.mark.parametrize("kind", MEASURED)
def test_verdicts_are_as_measured(kind: str, tmp_path: Path) -> None:
    modules, expected = MEASURED[kind]
    found = verdicts(file_of(tmp_path, modules))
    assert tuple(found[host].outcome for host in HOSTS) == expected
    assert all(bool(one.why) == (one.outcome != APPLY) for one in found.values())


def test_rs_lora_of_glora_is_told_by_metadata_alone(tmp_path: Path) -> None:
    tensors = {f"{LDM}.{suffix}": tensor for suffix, tensor in random_tensors("glora", (8, 8)).items()}
    save_adapter(tmp_path / "a.safetensors", tensors, {"ss_network_args": '{"algo":"glora","rs_lora":"True"}'})
    found = verdicts(AdapterFile.open(tmp_path / "a.safetensors"))
    assert [found[host].outcome for host in HOSTS] == [DROP, DROP, WRONG, WRONG, WRONG]


def test_rs_lora_of_a_lokr_of_whole_factors_is_applied_wrongly_everywhere(tmp_path: Path) -> None:
    tensors = {f"{LDM}.lokr_w1": torch.ones(2, 2), f"{LDM}.lokr_w2": torch.ones(4, 4), f"{LDM}.alpha": torch.ones(())}
    save_adapter(tmp_path / "a.safetensors", tensors, {"ss_network_args": '{"rs_lora":"True"}'})
    found = verdicts(AdapterFile.open(tmp_path / "a.safetensors"))
    assert {verdict.outcome for verdict in found.values()} == {WRONG}


def test_a_file_is_as_bad_as_the_worst_of_its_modules_and_every_reason_is_told(tmp_path: Path) -> None:
    file = file_of(
        tmp_path,
        {LDM: lora_with(dora_scale=torch.ones(8, 1)), TE: random_tensors("ia3", (8, 8)), f"{LDM}2": lora_with()},
    )
    assert verdict(file, "forge").outcome == DROP and "ia3" in verdict(file, "forge").why
    assert verdict(file, "classic").why.count(": ") >= 2


def test_names_count_only_where_they_were_measured(tmp_path: Path) -> None:
    file = file_of(tmp_path, {"transformer.single_blocks.0.linear1": lora_with()})
    assert verdict(file, "neo").outcome == DROP and verdict(file, "neo", by_name=False).outcome == APPLY
    rotated = file_of(tmp_path, {"transformer.single_blocks.0.linear1": random_tensors("diag-oft", (8, 8))})
    assert verdict(rotated, "neo", by_name=False).outcome == WRONG


def test_a_web_ui_that_was_not_measured_is_not_said_to_apply_anything(tmp_path: Path) -> None:
    assert verdict(file_of(tmp_path, {LDM: lora_with()}), "unknown").outcome == UNSEEN


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_no_row_names_is_not_said_to_be_applied(algorithm: str, tmp_path: Path) -> None:
    """Every tensor that we can read is named for a web UI, or makes a file of its algorithm unseen there."""
    made = random_tensors(algorithm, (8, 8))
    for extra in (suffix for suffix in SUFFIXES if suffix not in {"alpha", *made}):
        modules = modules_of(file_of(tmp_path, {LDM: made | {extra: torch.ones(8, 8)}}))
        for host in HOSTS:
            rows = [read for name, hosts, read in READ if name == modules[0].algorithm and host in hosts]
            if extra not in " ".join(rows).split():
                assert verdict_of(modules, host).outcome != APPLY, (host, extra)


def test_a_bias_beside_a_lora_is_not_said_to_be_applied(tmp_path: Path) -> None:
    found = verdicts(file_of(tmp_path, {LDM: lora_with(diff_b=torch.ones(8))}))
    assert {verdict.outcome for verdict in found.values()} == {UNSEEN}
    assert found["a1111"].why == "lora: whether it reads diff_b was not seen"


def test_an_alpha_that_only_the_metadata_tells_is_not_read_anywhere(tmp_path: Path) -> None:
    tensors = {f"{LDM}.lora_A.weight": torch.ones(2, 8), f"{LDM}.lora_B.weight": torch.ones(8, 2)}
    for alpha, outcome in ((8, WRONG), (2, APPLY)):
        save_adapter(tmp_path / "a.safetensors", tensors, {"lora_adapter_metadata": f'{{"lora_alpha": {alpha}}}'})
        found = verdicts(AdapterFile.open(tmp_path / "a.safetensors"))
        assert found["neo"].outcome == outcome and found["a1111"].outcome != APPLY


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.kind)
def test_rows_name_web_uis_we_know_and_each_once(row: object) -> None:
    wrong, drop = set(row.wrong), set(row.drop)  # type: ignore[attr-defined]
    assert wrong | drop <= set(HOSTS) and not wrong & drop and wrong | drop

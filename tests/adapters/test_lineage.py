"""Run and step of adapter files, by names and metadata as each trainer writes them."""

from __future__ import annotations

import json

import pytest

from adapter_lab.adapters.lineage import lineage_of, split_name

KOHYA = {"ss_session_id": "1234", "ss_training_started_at": "1700000000.5", "ss_output_name": "lucy"}
TRAINTRAIN = {"ss_session_id": "99", "ss_training_started_at": "1700000000", "ss_max_train_steps": "1000"}
OWN = {"adapter_lab.run": "lucy-20260101-120000", "ss_training_started_at": "1700000000.000", "ss_output_name": "lucy"}


def ai_toolkit(step: int, epoch: int) -> dict[str, str]:
    return {"training_info": json.dumps({"step": step, "epoch": epoch}), "ss_output_name": "lucy", "name": "lucy"}


# trainer and case: (file name, metadata, run, step, epoch)
CASES: dict[str, tuple[str, dict[str, str], str, int | None, int | None]] = {
    "Adapter Lab": ("lucy-000400", {**OWN, "ss_steps": "400", "ss_epoch": "4"}, "lucy", 400, 4),
    "Adapter Lab, the end": ("lucy", {**OWN, "ss_steps": "8000", "ss_epoch": "80"}, "lucy", 8000, 80),
    "Adapter Lab, a name that was taken": ("lucy-000400_2", {**OWN, "ss_steps": "400"}, "lucy", 400, None),
    "Adapter Lab, without metadata": ("lucy-000400", {}, "lucy", 400, None),
    "kohya, by steps": ("lucy-step00000400", {**KOHYA, "ss_steps": "400", "ss_epoch": "3"}, "lucy", 400, 3),
    "kohya, by epochs": ("lucy-000004", {**KOHYA, "ss_steps": "1520", "ss_epoch": "4"}, "lucy", 1520, 4),
    "kohya, the end": ("lucy", {**KOHYA, "ss_steps": "3800", "ss_epoch": "10"}, "lucy", 3800, 10),
    "kohya, before it wrote steps": ("lucy-000004", {"ss_epoch": "4"}, "lucy", None, 4),
    "kohya, --no_metadata, by steps": ("lucy-step00001200", {}, "lucy", 1200, None),
    "kohya, default name": ("epoch-000003", {"ss_steps": "300", "ss_epoch": "3"}, "epoch", 300, 3),
    "kohya with LyCORIS": (
        "lucy-lokr-step00000800",
        {**KOHYA, "ss_network_module": "lycoris.kohya", "ss_steps": "800"},
        "lucy-lokr",
        800,
        None,
    ),
    "OneTrainer, a save": ("lucy-2025-01-31_12-00-00-save-400-2-10", {"ot_branch": "master"}, "lucy", 400, 2),
    "OneTrainer, a save without a prefix": (
        "2025-01-31_12-00-00-save-400-2-10",
        {"modelspec.title": "Lucy"},
        "Lucy",
        400,
        2,
    ),
    "OneTrainer, the end": ("lucy", {"ot_revision": "abc"}, "lucy", None, None),
    "ai-toolkit": ("lucy_000000500", ai_toolkit(500, 2), "lucy", 500, 2),
    "ai-toolkit, the end": ("lucy", ai_toolkit(3000, 12), "lucy", 3000, 12),
    "ai-toolkit, without metadata": ("lucy_000002250", {}, "lucy", 2250, None),
    "traintrain": ("lucy_400steps", {**TRAINTRAIN, "ss_output_name": "lucy_400steps"}, "lucy", 400, None),
    "traintrain, a name that was taken": ("lucy_400steps_1", TRAINTRAIN, "lucy", 400, None),
    "traintrain, the end": ("lucy", {**TRAINTRAIN, "ss_output_name": "lucy"}, "lucy", 1000, None),
    "an epoch in words": ("lucy-epoch-12", {}, "lucy", None, 12),
    "renamed, metadata kept": ("my best lucy", {**KOHYA, "ss_steps": "2400", "ss_epoch": "6"}, "my best lucy", 2400, 6),
    "a year": ("portraits_2023", {}, "portraits_2023", None, None),
    "a version": ("style-v1.5", {}, "style-v1.5", None, None),
    "a site's name": ("furry_e621", {}, "furry_e621", None, None),
    "nothing but numbers": ("000400", {}, "000400", None, None),
    "metadata of another kind": ("lucy", {"ss_steps": "many", "training_info": "[1, 2"}, "lucy", None, None),
    "absurd numbers": (
        "lucy-step99999999999999999999",
        {"ss_steps": "-3"},
        "lucy-step99999999999999999999",
        None,
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_run_and_step_are_told(case: str) -> None:
    name, metadata, run, step, epoch = CASES[case]
    found = lineage_of(name, metadata)
    assert (found.run, found.step, found.epoch) == (run, step, epoch)


def test_a_training_is_told_from_another_of_its_name() -> None:
    one = lineage_of("lucy-000400", {**KOHYA, "ss_steps": "400"})
    other = lineage_of("lucy-000400", {**KOHYA, "ss_session_id": "77", "ss_steps": "400"})
    assert one.session != other.session and one.run == other.run
    assert one.started_at == 1700000000.5
    assert lineage_of("lucy", {}).session is None


def test_an_epoch_orders_files_that_know_no_steps() -> None:
    assert lineage_of("x-000004", {"ss_epoch": "4"}).position == 4
    assert lineage_of("x-000004", {"ss_epoch": "4", "ss_steps": "99"}).position == 99


@pytest.mark.parametrize("stem", ["", "-", "_000000500", "-000400", "steps", "-steps", "x" * 500])
def test_odd_names_are_no_error(stem: str) -> None:
    split_name(stem)
    assert lineage_of(stem, {}).run

"""What is said of a file: one line, a warning with names and reasons, and the same words in every place."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from adapter_lab.adapters.file import AdapterFile, save_adapter
from adapter_lab.hosts.loading.infotext import begin_batch, end_batch
from adapter_lab.hosts.loading.report import FileReport, algorithms
from tests.adapters.random_adapter import random_tensors

WHOLE = FileReport("my-file", "/a/my-file.safetensors", "lokr", 354, 354, 0.4149)
PARTIAL = FileReport(
    "other", "/a/other.safetensors", "lora", 350, 354, 0.1, reasons={f"module_{n}": f"reason {n}" for n in range(4)}
)
REFUSED = FileReport("broken", "/a/broken.safetensors", refused="/a/broken.safetensors is empty.")


def processing() -> Any:
    p = SimpleNamespace(extra_generation_params={"Sampler": "Euler"}, comments=[])
    p.comment = p.comments.append
    return p


def test_a_whole_file_has_one_line_and_no_warning() -> None:
    assert WHOLE.line() == "my-file: lokr, 354 of 354 modules, 0.41 s"
    assert WHOLE.warning() is None and WHOLE.complete


def test_a_warning_names_the_first_modules_and_counts_the_others() -> None:
    assert PARTIAL.warning() == (
        "other: lora, 350 of 354 modules. Not applied: module_0: reason 0; module_1: reason 1; module_2: reason 2; "
        "and 1 more."
    )
    assert "more" not in str(PARTIAL.warning(shown=10)) and not PARTIAL.complete


def test_a_refused_file_says_why() -> None:
    assert REFUSED.line() == REFUSED.warning() == "broken: not applied. /a/broken.safetensors is empty."
    assert not REFUSED.complete


def test_a_module_that_fails_later_counts_once() -> None:
    report = FileReport("my-file", "", "lora", 3, 3)
    assert report.fail("x", "singular") and not report.fail("x", "singular")
    assert report.applied == 2 and report.summary() == "my-file: lora, 2 of 3 modules"


def test_algorithms_are_named_the_most_frequent_first(tmp_path: Path) -> None:
    modules = {"a": "ia3", "b": "dora", "c": "lokr", "d": "lokr", "e": "dora", "f": "lokr"}
    tensors = {f"{n}.{s}": t for n, kind in modules.items() for s, t in random_tensors(kind, (8, 8)).items()}
    save_adapter(tmp_path / "a.safetensors", tensors, {})
    found = algorithms(AdapterFile.open(tmp_path / "a.safetensors"))
    assert found == "lokr + lora with DoRA + ia3"


def test_a_picture_says_what_was_applied_without_times_and_comments_on_what_was_not() -> None:
    p = processing()
    begin_batch(p, [WHOLE, PARTIAL, REFUSED])
    end_batch(p, [WHOLE, PARTIAL, REFUSED])
    assert p.extra_generation_params == {
        "Sampler": "Euler",
        "Adapter Lab": "my-file: lokr, 354 of 354 modules; other: lora, 350 of 354 modules; broken: not applied",
    }
    assert p.comments == [f"Adapter Lab: {PARTIAL.warning()}", f"Adapter Lab: {REFUSED.warning()}"]


def test_a_hires_pass_adds_its_files_and_the_next_batch_begins_anew() -> None:
    p = processing()
    begin_batch(p, [WHOLE])
    end_batch(p, [PARTIAL])
    assert p.extra_generation_params["Adapter Lab"].count("modules") == 2
    begin_batch(p, [PARTIAL])
    assert p.extra_generation_params["Adapter Lab"] == PARTIAL.summary()


def test_a_picture_without_adapters_says_nothing() -> None:
    p = processing()
    begin_batch(p, [])
    end_batch(p, [])
    assert p.extra_generation_params == {"Sampler": "Euler"} and not p.comments

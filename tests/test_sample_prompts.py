"""Flags behind sample prompts, as kohya's files have them: read, or said to be left out, and never drawn as words."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_lab.comparing.sending import run_plot
from adapter_lab.config import TrainConfig
from adapter_lab.sample_prompts import prompt_advice, read_prompt
from adapter_lab.training.loop import train
from adapter_lab.training.output.preview import encode_prompts, sample
from adapter_lab.validation import advice
from tests.support.training import events_of, tiny_config

KOHYA = "a cat, (red:1.2) --n low quality, worst --w 96 --h 64 --d 7 --l 3.5 --s 2"


@pytest.mark.parametrize(
    ("line", "text", "own"),
    [
        (KOHYA, "a cat, (red:1.2)",
         {"negative": "low quality, worst", "width": 96, "height": 64, "seed": 7, "guidance": 3.5, "steps": 2}),
        ("a cat", "a cat", {}),
        ("--s 4 ", "", {"steps": 4}),
        ("a -- b --- c --", "a -- b --- c --", {}),
        ("twenty--one, semi--w 3", "twenty--one, semi--w 3", {}),
        ("a\n--d 3", "a", {"seed": 3}),
        ("a --n ", "a", {"negative": ""}),
    ],
)  # fmt: skip
def test_flags_are_split_from_the_words(line: str, text: str, own: dict[str, object]) -> None:
    read = read_prompt(line)
    assert (read.text, dict(read.own), read.problems) == (text, own, ())


UNREAD = ["--ar 16:9", "--am 1", "--s many", "--s 0", "--s 99999", "--w 1e999", "--l nan", "--l inf", "--d -1", "--w"]


@pytest.mark.parametrize("flag", [*UNREAD, "--d 18446744073709551616"])
def test_a_flag_that_is_not_read_is_said_and_is_no_word(flag: str) -> None:
    read = read_prompt(f"a cat {flag}")
    assert read.text == "a cat" and not read.own
    assert len(read.problems) == 1 and flag in read.problems[0]
    config = TrainConfig()
    config.preview.prompts = ["a dog", f"a cat {flag}"]
    assert [said for said in advice(config) if said.startswith("Sample prompt 2: ")] == prompt_advice(
        config.preview.prompts
    )


def test_a_prompt_is_drawn_with_its_own_settings_and_the_others_with_the_previews(tmp_path: Path) -> None:
    from adapter_lab.training.bases import open_base

    base = open_base(tiny_config(tmp_path, "sdxl").base)
    preview = TrainConfig().preview
    preview.width = preview.height = 64
    preview.steps, preview.seed, preview.guidance = 2, 1, 3.5
    import torch

    encoders, unet = base.load_text_encoders(torch.float32), base.load_unet(torch.float32)

    def drawn(prompts: list[str], **changes: object) -> list[object]:
        for name, value in changes.items():
            setattr(preview, name, value)
        preview.prompts = prompts
        return sample(base, unet, preview, encode_prompts(encoders, preview))

    flagged, plain = drawn([KOHYA, "a dog"])
    assert flagged.size == (96, 64) and plain.size == (64, 64)
    [expected] = drawn(["a cat, (red:1.2)"], negative="low quality, worst", width=96, seed=7)
    assert flagged.tobytes() == expected.tobytes()
    [dog] = drawn(["a dog"], negative="", width=64, seed=2)
    assert plain.tobytes() == dog.tobytes()


def test_a_run_says_which_flags_it_leaves_out_and_draws_the_rest(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, run__steps=1, preview__steps=1, preview__baseline=False)
    config.preview.prompts = ["a cat --w 96 --h 64 --ar 2:1"]
    run = train(config, tmp_path / "run").run_folder
    [said] = [event["message"] for event in events_of(run, "warning") if "--ar 2:1" in event["message"]]
    assert said.startswith("Sample prompt 1: ")
    assert len(events_of(run, "sample")[0]["paths"]) == 1


def test_a_web_ui_is_sent_the_words_alone() -> None:
    plot = run_plot([("a", 1)], [KOHYA, "a dog --s 3"], [1])
    assert "--" not in plot.prompt and plot.prompt.startswith("a cat, (red:1.2) <lora:a:1>")
    assert ("a cat, (red:1.2)", "a dog") in [values for _, values in plot.axes]

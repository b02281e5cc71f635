"""What a study states that it does not do is said before it starts."""

from __future__ import annotations

from adapter_lab.study.spec.checks import remarks
from adapter_lab.study.spec.definition import Study


def test_sizes_and_seeds_of_single_prompts_are_not_used_and_said() -> None:
    study = Study()
    study.shared.preview.prompts = ["a cat --w 640 --h 512 --d 3", "a dog --s 12 --l 4", "a bird"]
    (said,) = remarks(study)
    assert said.startswith("Sample prompt 1: --w, --h, --d is not used in a study")

"""Other people's settings files: each is imported as told, or refused by name, and what is written is valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapter_lab import config_file
from adapter_lab.errors import ConfigError
from adapter_lab.kohya import import_kohya
from adapter_lab.validation import problems
from tests.support.kohya_cases import CASES, Case


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text(CASES[name].text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.refused])
def test_a_case_becomes_what_it_means_there_and_what_is_lost_is_said(tmp_path: Path, name: str) -> None:
    case: Case = CASES[name]
    imported = import_kohya(_file(tmp_path, name))
    config = imported.config
    for path, value in case.wanted.items():
        if path == "arguments":
            assert set(config.optimizer.args) == value
            continue
        section, setting = path.split(".")
        assert getattr(getattr(config, section), setting) == pytest.approx(value) if isinstance(value, float) else True
        assert isinstance(value, float) or getattr(getattr(config, section), setting) == value, path
    said = {left.key: left.reason for left in imported.left_out}
    for key, words in case.said.items():
        assert words in said[key], (key, said)
    assert set(said) - set(case.said) <= {"optimizer_args.scale_parameter"}
    # What is still missing is said, and nothing else is wrong; so it is when written and read again.
    written = config_file.loads(config_file.dumps(config))
    assert [problem.message for problem in problems(written)] == imported.missing
    assert {problem.setting for problem in problems(written)} <= {"base.checkpoint"}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.refused])
def test_a_case_that_cannot_be_imported_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = _file(tmp_path, name)
    with pytest.raises(ConfigError) as raised:
        import_kohya(path)
    assert CASES[name].refused in str(raised.value) and str(path) in str(raised.value)
    assert "\n" not in str(raised.value)

"""The reference of settings: complete, and what config.py says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapter_lab import config_file, docs
from adapter_lab.algorithms import ADAPTER_TYPES
from adapter_lab.config import TrainConfig, default_of, flag_of, settings
from adapter_lab.errors import ConfigError


def test_the_page_in_the_repository_is_what_config_says() -> None:
    assert docs.main(["--check"]) == 0, "run `python -m adapter_lab.docs` and commit what it writes"


def test_a_stale_page_is_found_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(docs, "PAGE", tmp_path / "docs" / "configuration.md")
    monkeypatch.setattr(docs, "API_PAGE", tmp_path / "docs" / "api.md")
    monkeypatch.setattr(docs, "README", tmp_path / "README.md")
    docs.README.write_text(f"before\n{docs.TYPES_BEGIN}old\n{docs.MADE_END}after\n", encoding="utf-8")
    monkeypatch.setattr(docs, "IMPORT_PAGE", tmp_path / "docs" / "importing.md")
    docs.IMPORT_PAGE.parent.mkdir()
    docs.IMPORT_PAGE.write_text(f"before\n{docs.OPTIONS_BEGIN}old\n{docs.MADE_END}after\n", encoding="utf-8")
    assert docs.main(["--check"]) == 1
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0
    pages = ((docs.PAGE, b"`dim`"), (docs.API_PAGE, b"/status"), (docs.README, b"Kronecker"))
    for path, word in (*pages, (docs.IMPORT_PAGE, b"`dim_from_weights`")):
        path.write_bytes(path.read_bytes().replace(word, b"`dims`"))
        assert docs.main(["--check"]) == 1
        assert docs.main([]) == 0
    docs.PAGE.write_bytes(b"")
    assert docs.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err


def test_the_readme_says_of_every_adapter_type_what_the_tab_says() -> None:
    text = docs.README.read_text(encoding="utf-8")
    for kind in ADAPTER_TYPES.values():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {kind.title} |")]
        assert kind.good_for in row and f'`algo = "{kind.network["algo"]}"`' in row


def test_a_readme_without_room_for_the_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "README", tmp_path / "README.md")
    docs.README.write_text("no table", encoding="utf-8")
    with pytest.raises(ConfigError, match="table of types"):
        docs.readme()


def test_every_setting_has_a_row_with_its_flag_default_and_meaning() -> None:
    rows = [line for line in docs.page().splitlines() if line.startswith("| `")]
    for section, name, entry in settings():
        flag = flag_of(section, name)
        assert any(
            row.startswith(f"| `{name}` | `{flag}`") and entry.metadata["help"].replace("|", "\\|") in row
            for row in rows
        ), name


def test_the_schema_describes_every_setting_and_a_written_configuration() -> None:
    schema = json.loads(json.dumps(docs.schema()))
    tables = config_file.parse_toml(config_file.dumps(TrainConfig()))
    assert set(schema["properties"]) == set(tables)
    for section, name, entry in settings():
        described = schema["properties"][section]["properties"][name]
        assert described["description"] == entry.metadata["help"]
        assert described["default"] == default_of(entry)
    dim = schema["properties"]["network"]["properties"]["dim"]
    assert (dim["type"], dim["minimum"], dim["maximum"]) == ("integer", 1, 4096)
    assert "lokr" in dim["x-algorithms"] and "ia3" not in dim["x-algorithms"]
    assert schema["properties"]["network"]["properties"]["rules"]["items"]["properties"]["match"]["type"] == "string"

"""Settings from files that a person drops on the page: kohya's, or a configuration of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from adapter_lab import config_file
from adapter_lab.api.errors import BadRequest
from adapter_lab.api.settings import flat
from adapter_lab.kohya import import_texts


def imported(files: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Settings, and what was not carried over, from (name, content) of files.

    No file of this machine is read: a dataset file, or a text file of sample prompts, that a training file names must
    be among `files`. Raises ConfigError for files that are neither kohya's nor ours.
    """
    texts = {_base_name(name): content for name, content in files}
    asked = {name: content for name, content in texts.items() if not name.lower().endswith(".txt")}
    if not asked:
        raise BadRequest("No file was given: choose kohya's training file, its dataset file, or both.")
    if len(files) == 1 and files[0][1].lstrip("\ufeff").startswith(f"# {config_file.HEADER}"):
        name, content = files[0]
        config = config_file.loads(content.lstrip("\ufeff"), name)
        return {"settings": flat(config, only_changed=True), "left_out": [], "ignored": [], "missing": []}
    made = import_texts(asked, lambda named: texts.get(_base_name(named)))
    return {
        "settings": flat(made.config, only_changed=True),
        "left_out": [str(entry) for entry in made.left_out],
        "ignored": made.ignored,
        "missing": made.missing,
    }


def _base_name(path: str) -> str:
    return PureWindowsPath(PurePosixPath(path).name).name

"""Writes the hashes of what is pinned into the lock files beside it, after a pin was changed.

python requirements/hashes.py [FILE ...]

For every pin the sha256 of all wheels of that version which a Python of ours may take on Linux, Windows or macOS: pip
then installs no other file. They are what the package index that pip is configured with says, asked in pip's own way
(its certificates, proxy and password).
"""

import os
import re
import sys
from functools import cache
from pathlib import Path

from pip._internal.commands import create_command
from pip._vendor.packaging.tags import Tag
from pip._vendor.packaging.utils import InvalidWheelFilename, parse_wheel_filename
from pip._vendor.packaging.version import InvalidVersion, Version

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "extension"))

from adapter_lab.environment.locks import OLDEST_PYTHON, pins

HERE = Path(__file__).resolve().parent
JSON = "application/vnd.pypi.simple.v1+json"
SYSTEMS = ("any", "linux", "manylinux", "musllinux", "win", "macosx")


PIP = create_command("download")
OPTIONS, _ = PIP.parse_args([])
SESSION = PIP._build_session(OPTIONS)


@cache
def files(package: str) -> list[dict]:
    """Every file that the index has of `package`."""
    answer = SESSION.get(f"{OPTIONS.index_url}/{package}/", headers={"Accept": JSON})
    if answer.status_code != 200 or JSON not in answer.headers.get("Content-Type", ""):
        sys.exit(
            f"{OPTIONS.index_url} does not list {package} as JSON (status {answer.status_code}); use another index."
        )
    return answer.json()["files"]


def usable(tag: Tag) -> bool:
    """Whether a CPython that we run on takes wheels of `tag`."""
    python = re.fullmatch(r"cp3(\d+)", tag.interpreter)
    interpreter = int(python[1]) >= OLDEST_PYTHON[1] or tag.abi == "abi3" if python else tag.interpreter[:3] == "py3"
    return interpreter and re.split(r"[\d_]", tag.platform)[0] in SYSTEMS


def hashes(package: str, version: str) -> list[str]:
    """The sha256 of every usable wheel of this version, sorted."""
    found = set()
    for file in files(package):
        try:
            _, of, _, tags = parse_wheel_filename(file["filename"])
        except (InvalidWheelFilename, InvalidVersion):
            continue  # a source archive, or a name older than the rules for names
        if of == Version(version) and any(map(usable, tags)):
            found.add(file["hashes"]["sha256"])
    if not found:
        sys.exit(f"The index has no wheel of {package} {version}; pin a version that has some.")
    return sorted(found)


def write(path: Path) -> None:
    """The lock at `path` with the hashes of today's index; comments and the order of lines stay."""
    comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    entries = []
    for pin in pins(path):
        package, version = pin.partition(";")[0].split("==")
        entries.append(
            " \\\n".join([pin, *(f"    --hash=sha256:{value}" for value in hashes(package, version.strip()))])
        )
    path.write_text("\n".join([*comments, *entries]) + "\n", encoding="utf-8")
    print(f"{path.name}: {len(entries)} packages, {sum(entry.count('--hash') for entry in entries)} hashes")


if __name__ == "__main__":
    for lock in map(Path, sys.argv[1:] or sorted(map(str, HERE.glob("*.txt")))):
        write(lock)

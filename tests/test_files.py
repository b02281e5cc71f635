"""Files are replaced whole or not at all, and what killed programs left beside them is removed."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapter_lab import files
from adapter_lab.environment.status import ROOT
from adapter_lab.errors import WriteError
from tests.support.full_disk import FullDisk

PACKAGE = ROOT / "extension" / "adapter_lab"


@pytest.mark.parametrize("where", ["first byte", "in the middle", "flush", "fsync", "rename"])
def test_a_full_disk_leaves_the_older_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "a.json"
    files.write_text(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if where in ("fsync", "rename"):
        monkeypatch.setattr(os, {"fsync": "fsync", "rename": "replace"}[where], full)
    else:
        FullDisk(monkeypatch, {"first byte": 0, "in the middle": 20_000, "flush": 3}[where])
    with pytest.raises(WriteError, match=rf"^The disk is full, so {re.escape(str(path))} .*make room") as raised:
        files.write_bytes(path, b"new!" * (1 if where == "flush" else 10_000))
    assert raised.value.errno == errno.ENOSPC
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.json"]


def test_other_errors_of_the_block_pass_through_and_leave_nothing(tmp_path: Path) -> None:
    for wrong in (KeyError("x"), FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "read" / "b"))):
        with pytest.raises(type(wrong)), files.replacing(tmp_path / "a.json") as file:
            file.write(b"half")
            raise wrong
        assert os.listdir(tmp_path) == []


def test_a_name_as_long_as_names_may_be_is_written(tmp_path: Path) -> None:
    for name in ("n" * 250 + ".toml", "\u65e5" * 80 + ".toml"):
        files.write_text(tmp_path / name, "x")
        assert (tmp_path / name).read_text() == "x"
    assert len(os.listdir(tmp_path)) == 2


def test_threads_that_write_one_file_at_once_each_write_it_whole(tmp_path: Path) -> None:
    texts = [letter * 50_000 for letter in "abcdefgh"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: files.write_text(tmp_path / "a", text, sync=False), texts))
    assert (tmp_path / "a").read_text() in texts and os.listdir(tmp_path) == ["a"]


def test_what_a_killed_program_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from adapter_lab import files
for kind in (files.PART, files.SPOOL):
    files.temporary_path(Path({str(tmp_path)!r}, "a.safetensors"), kind).write_bytes(b"half")
os.abort() if len(sys.argv) > 1 else (print("there", flush=True), sys.stdin.read())
"""
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "extension")}
    subprocess.run([*command, "and die"], env=environment, stderr=subprocess.DEVNULL)
    dead = set(tmp_path.iterdir())
    living = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert living.stdin is not None and living.stdout is not None and living.stdout.readline()
    try:
        mine = files.temporary_path(tmp_path / "b.toml")
        mine.write_text("being written")
        others = set(tmp_path.iterdir()) - dead
        assert len(dead) == 2 and len(others) == 3
        assert set(files.remove_leftovers(tmp_path)) == dead and set(tmp_path.iterdir()) == others
    finally:
        living.stdin.close()
        living.wait()
    assert set(files.remove_leftovers(tmp_path)) == others - {mine}


def test_the_number_of_a_dead_process_that_another_one_has_now_protects_nothing(tmp_path: Path) -> None:
    left = files.temporary_path(tmp_path / "a.toml")
    left.write_text("half")
    long_ago = time.time() - 365 * files.DAY
    os.utime(left, (long_ago, long_ago))
    assert files.remove_leftovers(tmp_path) == [left]


OLDER = (".queue.json.123.tmp", ".mine.toml.77.tmp", ".a.safetensors.5.part", ".a.safetensors.5.spool", "starting.tmp")
OLDER += ("events.read.npz.9.tmp", "pictures.json.9.partial", "step-00000002.pt.tmp", "000010-0.part", ".stop.7.tmp")


def test_what_older_releases_and_other_machines_left_goes_after_a_day(tmp_path: Path) -> None:
    others = [".a.safetensors.0f0f0f-1-0.part", *OLDER]
    kept = ["notes.tmp", "a.part", ".hidden", "a.safetensors", ".a.b.c.tmp", "x.json.tmp", "1.part"]
    (tmp_path / "below").mkdir()
    for name in [*others, *kept]:
        (tmp_path / "below" / name).write_text("x")
    assert files.remove_leftovers(tmp_path, below=True) == []
    old = time.time() - 2 * files.DAY
    for name in [*others, *kept]:
        os.utime(tmp_path / "below" / name, (old, old))
    assert files.remove_leftovers(tmp_path) == []
    assert {path.name for path in files.remove_leftovers(tmp_path, below=True)} == set(others)


def test_nothing_else_writes_through_files_of_its_own_naming() -> None:
    own = re.compile(r"os\.(replace|rename)\(|\.(tmp|part|partial|spool)\"|\.replace\(path\)")
    found = {
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if path.name != "files.py" and own.search(line)
    }
    assert found == {"worker/queue.py: os.replace(self.path, aside)"}  # which puts a broken queue aside

from __future__ import annotations

import re

import pytest

from adapter_lab.environment.locks import LOCKS, choose, content_key, major_minor, pinned, pins
from adapter_lab.environment.status import ROOT
from adapter_lab.errors import AdapterLabError

REQUIREMENTS = ROOT / "requirements"
FILES = sorted(path.name for path in REQUIREMENTS.glob("*.txt"))
PIN = r'[a-z0-9-]+==[0-9][0-9a-z.]*(?:; (?:python_version|sys_platform) [<>=]+ "[0-9a-z.]+")?'
HASH = r" \\\n    --hash=sha256:[0-9a-f]{64}"
NEWEST, OLDEST = "runtime-py311.txt", "runtime-py310.txt"


@pytest.fixture(autouse=True)
def no_asked_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADAPTER_LAB_LOCK", raising=False)


@pytest.mark.parametrize(
    ("python", "torch", "lock", "share"),
    [
        ((3, 10), "2.1.2+cu121", OLDEST, False),  # A1111: torch too old for LyCORIS
        ((3, 10), "2.3.1+cu121", OLDEST, False),  # Forge
        ((3, 10), "2.4.1", OLDEST, True),
        ((3, 10), "2.14.1+cu130", OLDEST, True),
        ((3, 11), "2.6.0+cu124", NEWEST, True),  # Forge-classic
        ((3, 11), "2.5.1+cu124", OLDEST, True),  # the newest transformers refuse this torch, the oldest lock does not
        ((3, 11), "2.3.1", NEWEST, False),
        ((3, 13), "2.11.0+cu130", NEWEST, True),  # Neo
        ((3, 11), None, NEWEST, False),
        ((3, 10), None, OLDEST, False),
    ],
)
def test_lock_follows_python_and_host_torch(python: tuple[int, int], torch: str | None, lock: str, share: bool) -> None:
    choice = choose(python, torch)
    assert (choice.lock.file, choice.share_torch) == (lock, share)


def test_python_older_than_every_lock_is_refused_in_a_sentence() -> None:
    with pytest.raises(AdapterLabError, match=r"needs Python 3\.10 or newer; this is 3\.9"):
        choose((3, 9), None)


def test_a_lock_can_be_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTER_LAB_LOCK", OLDEST)
    assert choose((3, 12), "2.13.0").lock.file == OLDEST
    monkeypatch.setenv("ADAPTER_LAB_LOCK", "runtime.txt")
    with pytest.raises(AdapterLabError, match=r"runtime\.txt.*runtime-py311\.txt, runtime-py310\.txt"):
        choose((3, 12), "2.13.0")


def test_major_minor_reads_local_and_development_versions() -> None:
    assert [major_minor(text) for text in ("2.6.0+cu124", "2.10.0a0+git1", "nightly")] == [(2, 6), (2, 10), (0, 0)]


@pytest.mark.parametrize("file", FILES)
def test_lock_files_pin_everything_exactly_with_hashes_and_name_no_index(file: str) -> None:
    text = (REQUIREMENTS / file).read_text(encoding="utf-8")
    assert re.fullmatch(rf"(?:#[^\n]*\n)+(?:{PIN}(?:{HASH})+\n)+", text)
    found = pins(REQUIREMENTS / file)
    assert found == re.findall(rf"^{PIN}", text, re.MULTILINE) and len(set(found)) == len(found)


def test_a_version_has_the_same_hashes_in_every_lock() -> None:
    """So a pin that was copied or changed by hand, without its hashes, is seen."""
    seen: dict[str, str] = {}
    for file in FILES:
        text = (REQUIREMENTS / file).read_text(encoding="utf-8")
        for version, hashes in re.findall(rf"^([a-z0-9-]+==[0-9a-z.]+)[^\n\\]*?((?:{HASH})+)", text, re.MULTILINE):
            assert seen.setdefault(version, hashes) == hashes, f"{file}: {version}"
    assert len(seen) > 100


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.file)
def test_test_tools_never_change_a_version_of_a_lock(lock: object) -> None:
    locked = dict(line.split("==", 1) for line in pins(REQUIREMENTS / lock.file))  # type: ignore[attr-defined]
    # Of two lines for a package, the one for Python 3.11 and newer, as that lock is.
    lines = [line.partition(";") for line in pins(REQUIREMENTS / "test.txt")]
    tools = dict(pin.strip().split("==", 1) for pin, _, marker in lines if "<" not in marker)
    assert {name: tools[name] for name in tools.keys() & locked.keys()} == {
        name: locked[name] for name in tools.keys() & locked.keys()
    }


def test_every_declared_dependency_is_pinned_in_every_lock() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text.split("\ndependencies = [", 1)[1].split("]", 1)[0]
    names = set(re.findall(r'"([a-z0-9-]+)[>=<]', block))
    assert "diffusers" in names
    for lock in LOCKS:
        files = (lock.file, "torch.txt", "torch-needs.txt")
        locked = {pin.partition("==")[0] for file in files for pin in pins(REQUIREMENTS / file)}
        missing = names - locked - ({"tomli"} if lock.python >= (3, 11) else set())
        assert not missing, f"{lock.file}: {missing}"


def test_pinned_names_the_file_that_lacks_the_package() -> None:
    assert pinned(REQUIREMENTS / "torch.txt", "torch").startswith("2.")
    with pytest.raises(AdapterLabError, match=r"torch\.txt does not pin numpy"):
        pinned(REQUIREMENTS / "torch.txt", "numpy")


def test_content_key_changes_with_any_byte(tmp_path: object) -> None:
    first = tmp_path / "a.txt"  # type: ignore[operator]
    first.write_text("torch==2.13.0\n")
    before = content_key(first)
    first.write_text("torch==2.13.1\n")
    assert content_key(first) != before

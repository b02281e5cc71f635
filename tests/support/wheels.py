"""Tiny wheels and installed packages made on the spot, so that installation is tested without a network."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path


def contents(name: str, version: str, requires: tuple[str, ...], module: str) -> dict[str, str]:
    """Files of a pure-Python package: one module that knows its version, and its metadata."""
    module = module or name.replace("-", "_")
    information = f"{name.replace('-', '_')}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    return {
        f"{module}/__init__.py": f"__version__ = {version!r}\n",
        f"{module}/__main__.py": f"import os, sys\nprint({name!r}, os.getcwd(), sys.argv[1:])\n",
        f"{information}/METADATA": metadata,
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/RECORD": "",
    }


def record(files: dict[str, str]) -> str:
    lines = []
    for path, text in files.items():
        data = text.encode()
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{path},," if path.endswith("RECORD") else f"{path},sha256={digest},{len(data)}")
    return "\n".join(lines) + "\n"


def package_files(name: str, version: str, requires: tuple[str, ...] = (), module: str = "") -> dict[str, str]:
    """Path in site-packages -> text, with a right RECORD."""
    files = contents(name, version, requires, module)
    path = next(path for path in files if path.endswith("RECORD"))
    files[path] = record(files)
    return files


def write_wheel(folder: Path, name: str, version: str, requires: tuple[str, ...] = (), module: str = "") -> Path:
    """A wheel that pip installs."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in package_files(name, version, requires, module).items():
            archive.writestr(member, text)
    return path


def pin(wheel: Path) -> str:
    """The lines of a lock for this wheel alone."""
    name, version = wheel.name.split("-")[:2]
    # As the index has it: a pin leaves the local part of a version open.
    version = version.partition("+")[0]
    return (
        f"{name.replace('_', '-')}=={version} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    )


def put_into(site: Path, name: str, version: str, requires: tuple[str, ...] = (), module: str = "") -> None:
    """The package as if installed in the site-packages folder `site`."""
    for member, text in package_files(name, version, requires, module).items():
        path = site / member
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

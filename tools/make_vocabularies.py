"""Writes the vocabularies of Anima's tokenizers, T5's and Qwen3's, from a wheel of the registry package `invokeai`.

    pip download invokeai --no-deps --dest FOLDER
    python tools/make_vocabularies.py FOLDER/invokeai-*.whl

Both are in it as they were published, under the Apache License 2.0, which `vocabularies/LICENSE` has.
"""

from __future__ import annotations

import argparse
import gzip
import zipfile
from pathlib import Path

OUT = Path(__file__).parent.parent / "extension/adapter_lab/training/bases/anima/vocabularies"
# Our name -> the file in the wheel.
FILES = {
    "qwen3": "invokeai/backend/qwen3/tokenizer/tokenizer.json.gz",
    "t5": "invokeai/backend/t5/tokenizer/tokenizer.json",
}


def main() -> None:
    """Read both files of the wheel and write each compressed, equal for equal input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel
    OUT.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name, path in FILES.items():
            content = archive.read(path)
            plain = gzip.decompress(content) if path.endswith(".gz") else content
            (OUT / f"{name}.json.gz").write_bytes(gzip.compress(plain, compresslevel=9, mtime=0))


if __name__ == "__main__":
    main()

"""Stand-in for reForge's `network`: entries of the Lora folder."""

from __future__ import annotations

from pathlib import Path


class NetworkOnDisk:
    """A file in the Lora folder."""

    def __init__(self, name: str, filename: str) -> None:
        self.name, self.filename = name, filename
        self.alias = name
        self.hash = self.shorthash = ""

    def read_hash(self) -> None:
        header = int.from_bytes(Path(self.filename).read_bytes()[:8], "little")
        with open(self.filename, "rb") as file:
            file.seek(header + 8)  # as the host does, whatever the header says

    def get_alias(self) -> str:
        return self.alias


class Network:
    """A file of the prompt."""

    def __init__(self, name: str, network_on_disk: NetworkOnDisk) -> None:
        self.name, self.network_on_disk = name, network_on_disk
        self.mentioned_name: str | None = None
        self.mtime: float | None = None

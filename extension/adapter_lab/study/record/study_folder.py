"""The folder of a study: everything that belongs to it, but for adapter files that are written elsewhere."""

from __future__ import annotations

from pathlib import Path


class StudyFolder:
    """Paths inside a study's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan = path / "study.toml"  # what a person writes
        self.running = path / "plan.toml"  # what the study last went by, whatever was edited since
        self.state = path / "state.json"
        self.runs = path / "runs"
        self.adapters = path / "adapters"
        self.report = path / "report.html"
        self.log = path / "log.txt"

    def run(self, name: str) -> Path:
        """The run folder of one training."""
        return self.runs / name

    def scores(self, name: str, step: int) -> Path:
        """The file of measurements of the adapter a training saved after `step`; name "base", step 0: none."""
        return self.path / "scores" / name / f"{step}.json"

    def pictures(self, name: str, step: int) -> Path:
        """The folder of images that were drawn with that adapter."""
        return self.path / "pictures" / name / str(step)

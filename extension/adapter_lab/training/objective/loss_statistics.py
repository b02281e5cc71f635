"""Loss per image, corrected for the noise level it was measured at.

The loss of one step says mostly how noisy its timestep was. Divided by what images usually cost at that noise level
at that time, and by the same of the median image, it says how well this image is learned: 1 is usual, 2 is twice as
hard as the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

BINS = 20
# The usual loss of a noise level follows the last ten or so images there, since it falls while training goes on.
LEVEL_DECAY = 0.9
PICTURE_DECAY = 0.85
# Fewer visits than this say little about an image.
ENOUGH_VISITS = 5
HARD = 1.25


@dataclass
class PictureLoss:
    """How one image's corrected loss stands: at its first visits, and now."""

    key: str
    visits: int
    first: float
    recent: float

    @property
    def not_learned(self) -> bool:
        """Whether it costs clearly more than others and has not come nearer to them."""
        return self.visits >= ENOUGH_VISITS and self.recent > HARD and self.recent >= 0.9 * self.first


@dataclass
class LossStatistics:
    """Running loss per noise level and corrected loss per image; a pure function of the losses added, in order."""

    timesteps: int = 1000
    level_mean: list[float] = field(default_factory=lambda: [0.0] * BINS)
    level_count: list[int] = field(default_factory=lambda: [0] * BINS)
    pictures: dict[str, PictureLoss] = field(default_factory=dict)

    def add(self, key: str, timestep: float, loss: float) -> float:
        """Take one sample's unweighted loss into account; returns it relative to the usual loss of its noise level."""
        level = min(BINS - 1, int(timestep * BINS // self.timesteps))
        count = self.level_count[level] + 1
        rate = max(1 / count, 1 - LEVEL_DECAY)
        self.level_count[level] = count
        self.level_mean[level] += rate * (loss - self.level_mean[level])
        usual = self.level_mean[level]
        relative = loss / usual if usual > 0 else 1.0
        picture = self.pictures.setdefault(key, PictureLoss(key, 0, 0.0, 0.0))
        picture.visits += 1
        if picture.visits <= ENOUGH_VISITS:
            picture.first += (relative - picture.first) / picture.visits
        picture.recent += max(1 / picture.visits, 1 - PICTURE_DECAY) * (relative - picture.recent)
        return relative

    def ranking(self) -> list[PictureLoss]:
        """All images relative to the median one, the hardest first; those seen too rarely to judge come last."""
        judged = [picture for picture in self.pictures.values() if picture.visits >= ENOUGH_VISITS]
        first = (median(picture.first for picture in judged) if judged else 0.0) or 1.0
        recent = (median(picture.recent for picture in judged) if judged else 0.0) or 1.0
        relative = [replace(p, first=p.first / first, recent=p.recent / recent) for p in self.pictures.values()]
        return sorted(relative, key=lambda p: (p.visits < ENOUGH_VISITS, -p.recent, p.key))

    def state_dict(self) -> dict[str, Any]:
        """Plain values from which `load_state_dict` restores these statistics exactly."""
        return {
            "timesteps": self.timesteps,
            "level_mean": list(self.level_mean),
            "level_count": list(self.level_count),
            "pictures": [[p.key, p.visits, p.first, p.recent] for p in self.pictures.values()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.timesteps = state["timesteps"]
        self.level_mean = list(state["level_mean"])
        self.level_count = list(state["level_count"])
        self.pictures = {row[0]: PictureLoss(*row) for row in state["pictures"]}

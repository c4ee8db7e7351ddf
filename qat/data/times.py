"""When events come: the steps of a recording share a duration, and what comes later is dropped, counted and said.

Where hardly anything is left, or all of it comes at once, times are not in the unit, or not from the start, that the
format says; then the data are refused.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantal.qat.data.common import bad

MOST_DROPPED = 0.95
"""The share of a split's events that may come after the duration."""

LEAST_SPAN = 0.01
"""What some recording has to last at least, of the duration: units are mistaken by a factor of 1000."""

LATEST_US = float(1 << 50)
"""36 years: what is later is taken to be so late, which no sum of times and steps overflows."""


@dataclass
class Clock:
    """The steps of all recordings of a split, which share `duration_us` evenly.

    where: the file or folder that has the times; unit: what they are in, as the format says; us: that in microseconds.
    """

    where: Path
    steps: int
    duration_us: int
    unit: str = "microseconds"
    us: int = 1
    events = 0
    dropped = 0
    latest = 0.0

    def steps_of(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(which events of a recording are kept, bool (events,); the steps of those, int64), from times (events,)."""
        late = np.minimum(times.astype(np.float64), LATEST_US / self.us) * self.us
        kept = late < self.duration_us
        self.events, self.dropped = self.events + len(late), self.dropped + int((~kept).sum())
        self.latest = max(self.latest, float(times.max(initial=0)))
        step = (late[kept] * self.steps // self.duration_us).astype(np.int64)
        return kept, np.minimum(step, self.steps - 1)  # of the last moment a product may be rounded up

    def notes(self) -> tuple[str, ...]:
        """The share that was dropped, if any. Raises BadInput where times cannot be in that unit from the start on."""
        if not self.events:
            return ()
        share, end = f"{100 * self.dropped / self.events:.1f} % of the events", f"duration_us = {self.duration_us}"
        last = f"{self.latest:g} {self.unit}"
        if self.dropped > MOST_DROPPED * self.events:
            got = f"{share} come after {end}, the last at {last}"
            raise bad(self.where, "times", f"{self.unit} from a recording's start on, but {got}")
        if self.latest * self.us < LEAST_SPAN * self.duration_us:
            raise bad(self.where, "times", f"{self.unit} over {end}, but the last event comes at {last}")
        return (f"{self.where}: {share} come after {end}, and are dropped",) if self.dropped else ()

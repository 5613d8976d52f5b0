"""What each step since the last checkpoint learned from, written before it was taken."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from .record_stream import Offset


@dataclass(frozen=True)
class StepPlan:
    """What one pass of the loop takes: records of each stream up to an offset, and index changes up to a number.

    Attributes:
        number: Of the pass, from 1.
        taken: Stream -> how many records it takes.
        offsets: Stream -> the place after them; None = the beginning.
        changes: Number of the last index change that it applies.
        refused: Stream -> how many of the records were found useless already when it was made.
    """

    number: int
    taken: dict[str, int]
    offsets: dict[str, Offset | None]
    changes: int
    refused: dict[str, int]


class StepJournal:
    """A file of plans, one JSON line each, on the disk before a plan is carried out.

    Which records had arrived by when is nowhere else: a run that goes on from a checkpoint repeats the plans after it
    and so comes to the same weights. A last line that is cut off belongs to a plan that was not begun.

    Args:
        path: The file; a missing one is an empty journal.
    """

    def __init__(self, path: Path):
        self.path = path

    def after(self, number: int) -> list[StepPlan]:
        """Plans with higher numbers, in order. Raises ValueError if a line other than the last is damaged, or a number
        is missing."""
        if not self.path.is_file():
            return []
        lines = self.path.read_bytes().split(b"\n")
        if lines[-1]:  # cut off by a crash, so that the next line must not be glued to it
            os.truncate(self.path, self.path.stat().st_size - len(lines[-1]))
        plans = []
        for place, line in enumerate(lines[:-1], start=1):
            try:
                plans.append(StepPlan(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{self.path}, line {place}: not a plan ({error}). Remove the file.") from error
        plans = [plan for plan in plans if plan.number > number]
        if [plan.number for plan in plans] != list(range(number + 1, number + 1 + len(plans))):
            raise ValueError(f"{self.path}: plans are missing after {number}. Remove the file.")
        return plans

    def append(self, plan: StepPlan) -> None:
        with open(self.path, "ab") as file:
            file.write(json.dumps(asdict(plan)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def clear(self) -> None:
        """Forgets all plans: a checkpoint holds what they led to."""
        self.path.unlink(missing_ok=True)

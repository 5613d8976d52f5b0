"""The verdicts on the parts of a file as the one on the whole: counts added up, and the first error of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .checking import BadRows, DataError, RowChecks, Verdict
from .event_columns import EVENT_NAMES


@dataclass
class _First:
    """The first error of a file so far: its check, what orders the rows of a check, the bad rows, and the text."""

    step: float
    at: int
    count: int
    text: Callable[[int], str]


class PartVerdicts:
    """Collects the verdicts on the parts of a file. Use as a context around the checks of a part, which keeps their
    error back; `require` raises the one that checks of the whole file would have raised.

    ```python
    verdicts = PartVerdicts("log.csv")
    for part in parts:
        checks = RowChecks(...)
        with verdicts.of(checks):
            read_log(...)
    verdicts.require()
    ```
    """

    def __init__(self, file: str):
        self.file = file
        self._verdicts: list[Verdict] = []
        self._dropped_at: dict[str, int] = {}
        self._first: _First | None = None
        self._met: dict[int, bool] = {}
        self._unmet: dict[int, tuple[int, Callable[[Verdict], str]]] = {}
        self._checks: RowChecks | None = None

    def of(self, checks: RowChecks) -> PartVerdicts:
        """A context for the checks of a part."""
        self._checks = checks
        return self

    def __enter__(self) -> None:
        assert self._checks is not None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> bool:
        checks, self._checks = self._checks, None
        assert checks is not None
        if error is not None and not isinstance(error, DataError):
            return False
        self._verdicts.append(checks.verdict)
        for reason, step in checks.dropped_at.items():
            self._dropped_at[reason] = min(step, self._dropped_at.get(reason, step))
        for demand in checks.demands:
            self._met[demand.step] = demand.met or self._met.get(demand.step, False)
            at = demand.at
            if not demand.met and at is not None and at <= self._unmet.get(demand.step, (at,))[0]:
                self._unmet[demand.step] = at, demand.text
        if isinstance(error, BadRows):
            self._add(_First(error.step, error.at, error.count, error.text))
        elif isinstance(error, DataError):  # of the file as such, after the checks so far
            told = str(error)
            self._add(_First(checks.step + 0.5, 0, 0, lambda _: told))
        return error is not None

    @property
    def failed(self) -> bool:
        """An error has been kept back: no later step of any part matters."""
        return self._first is not None

    def require(self) -> Verdict:
        """The verdict on the whole file. Raises DataError for its first error."""
        whole = self._whole()
        unmet = [step for step in self._unmet if not self._met[step]]
        if unmet and (self._first is None or min(unmet) < self._first.step):
            raise DataError(self._unmet[min(unmet)][1](whole))
        if self._first is not None:
            raise DataError(self._first.text(self._first.count))
        return whole

    def _add(self, error: _First) -> None:
        first = self._first
        if first is None or error.step < first.step:
            self._first = error
        elif error.step == first.step:
            if error.at < first.at:
                first.at, first.text = error.at, error.text
            first.count += error.count

    def _whole(self) -> Verdict:
        parts = self._verdicts
        dropped = {
            reason: sum(part.dropped.get(reason, 0) for part in parts)
            for reason in sorted(self._dropped_at, key=lambda reason: self._dropped_at[reason])
        }
        notes = [part.notes for part in parts]
        return Verdict(self.file, sum(p.rows for p in parts), sum(p.kept for p in parts), dropped, _joined(notes))


def _joined(notes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for part in notes for name in part):
        values = [part[name] for part in notes if name in part]
        if name == "event_names":
            found[name] = {
                kind: {"as": told["as"], "rows": sum(value[kind]["rows"] for value in values)}
                for kind, told in values[0].items()
            }
        elif name == "blank_values":
            sums = {kind: sum(value.get(kind, 0) for value in values) for kind in EVENT_NAMES}
            found[name] = {kind: count for kind, count in sums.items() if count}
        elif name == "kept_kinds":
            found[name] = [sum(counts) for counts in zip(*values, strict=True)]
        elif name in ("any_value", "whole_float_ids"):  # facts of the whole file
            found[name] = values[0]
        else:
            found[name] = sum(values)
    return found

"""What a folder's sample holds, in counts, and what about it is a danger to a run or to its figures."""

from __future__ import annotations

from dataclasses import dataclass, field

from gr4ad.inspection.log_view import LogView
from gr4ad.inspection.splitting import Split

TIES_SHARE = 0.2
REPEAT_SHARE = 0.05


@dataclass
class Findings:
    """Counts and shares of a sample.

    Attributes:
        view, split: The log as arrays, and its cut.
        items: Of the catalog (an estimate of a sampled one). users: With events that make up histories.
        events: Rows that make up histories, of the whole log (an estimate where it was sampled). scale: Events of the
            whole log over those of the sample.
        mean_length, long_length: Mean and 99th percentile of events a user.
        repeats: Share of events whose item the user had before. again: Share whose item is that of the event before.
        ties: Share of events that stand at one moment of their user with another. visit: Events at the moment of an
            event, on average, 1 without ties.
        shared_text: Share of the catalog's items whose text another item has too.
        list_size: Mean size of impression lists, 0 without any. lists: Their number.
        drop: Reason of `gr4ad.data.checking.DROP_REASONS` -> rows.
        negative: Rows with a value below 0. distinct_values: Of the history's rows.
        ordered_items: Rank correlation of the items' numbers with their first appearance, 0 where ids are no numbers.
        counts: What is printed, as (what, how many). warnings: What may mislead. stops: What no run gets past.
    """

    view: LogView
    split: Split
    items: int
    users: int
    events: int
    scale: float
    mean_length: float
    long_length: int
    repeats: float = 0.0
    again: float = 0.0
    ties: float = 0.0
    visit: float = 1.0
    shared_text: float = 0.0
    list_size: float = 0.0
    lists: int = 0
    drop: dict[str, int] = field(default_factory=dict)
    negative: int = 0
    distinct_values: int = 0
    ordered_items: float = 0.0
    counts: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)

    @property
    def test_users(self) -> int:
        """Users of the test part, of the whole log where the sample is all rows of some users."""
        return round(self.split.targets * self.users / max(1, len(self.view.lengths)))

    @property
    def events_an_item(self) -> float:
        return self.split.seen * self.scale / max(1, self.items)


def percent(share: float) -> str:
    """A share in words: 12%, 0.4%, 0%."""
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{100 * share:.2g}%"

# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Lists of items: the best of scored items, at most so many of one group, and two lists merged into one.

Shapes: B batch, n scored items, k items of a list, T SID levels, R item rows.
"""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class ItemRanking(ModelOutput):
    """items (int64, (B, k)): item rows, -1 where nothing is left; scores (float, (B, k)); expected_values
    (float, (B, k)); sequences (int64, (B, k, T)): the SID each item came from."""

    items: torch.Tensor = None
    scores: torch.Tensor = None
    expected_values: torch.Tensor = None
    sequences: torch.Tensor = None

    def parts(self) -> dict[str, torch.Tensor]:
        """Its tensors by name: `items` hides the method of a dictionary."""
        return {name: getattr(self, name) for name in ("items", "scores", "expected_values", "sequences")}


@dataclass(frozen=True)
class GroupLimit:
    """How many items of one group a list may hold.

    groups (int64, (R,)): group of each item row, -1 = none, which is not limited; most: items of a group, >= 1.
    """

    groups: torch.Tensor
    most: int

    def beyond(self, items: torch.Tensor) -> torch.Tensor:
        """Bool (B, n), True where items (int64, (B, n), -1 = none), best first, hold enough of the group already."""
        groups = self.groups[items]
        return (places_in_group(groups) >= self.most) & (groups >= 0)

    def rows_of_full_groups(self, items: torch.Tensor) -> torch.Tensor:
        """Rows (int64, (n,)) of all items of the groups of which a list (int64, (k,), -1 = none) holds enough. Reads
        all R groups."""
        groups, counts = self.groups[items[items >= 0]].unique(return_counts=True)
        full = torch.zeros(int(self.groups.max()) + 2, dtype=torch.bool, device=groups.device)  # the last is of -1
        full[groups[(counts >= self.most) & (groups >= 0)]] = True
        return full[self.groups].nonzero()[:, 0]

    def fitting(self, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Those of item rows (int64, (n,)), best first, that all fit into a list beside its items (int64, (k,), -1 =
        none)."""
        groups, listed = self.groups[rows], self.groups[items[items >= 0]]
        held = torch.bincount(listed[listed >= 0], minlength=int(self.groups.max()) + 2)  # the last is of -1: none
        places = places_in_group(groups.unsqueeze(0))[0]
        return rows[(places + held[groups] < self.most) | (groups < 0)]


def best_places(
    scores: torch.Tensor, items: torch.Tensor, top_k: int, limit: GroupLimit | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and places, both (B, min(n, top_k)), of the best of scored items, best first; -inf is none.

    Args:
        scores (float, (B, n)), items (int64, (B, n)): Each item at most once in its line.
    """
    # A stable sort, so that equal scores keep the order of beams and leaves; topk promises no order among ties.
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    if limit is not None:
        beyond = limit.beyond(items.gather(1, order))
        scores, places = scores.masked_fill(beyond, -torch.inf).sort(dim=-1, descending=True, stable=True)
        order = order.gather(1, places)
    return scores[:, :top_k], order[:, :top_k]


def merged(first: ItemRanking, second: ItemRanking, top_k: int, limit: GroupLimit | None) -> ItemRanking:
    """The best of two rankings without a common item, both of the same requests; where scores are equal, the first
    comes first."""
    both = ItemRanking(
        **{name: torch.cat([part, second.parts()[name]], dim=1) for name, part in first.parts().items()}
    )
    scores, places = best_places(both.scores, both.items, top_k, limit)
    kept = scores > -torch.inf
    return ItemRanking(
        items=both.items.gather(1, places).masked_fill(~kept, -1),
        scores=scores,
        expected_values=both.expected_values.gather(1, places).masked_fill(~kept, 0.0),
        sequences=both.sequences.gather(1, places.unsqueeze(-1).expand(-1, -1, both.sequences.shape[-1])),
    )


def padded(ranking: ItemRanking, length: int) -> ItemRanking:
    """The ranking with lines of `length` items at least; what is added is none."""
    missing = length - ranking.items.shape[1]
    if missing <= 0:
        return ranking
    pad = torch.nn.functional.pad
    return ItemRanking(
        items=pad(ranking.items, (0, missing), value=-1),
        scores=pad(ranking.scores, (0, missing), value=-torch.inf),
        expected_values=pad(ranking.expected_values, (0, missing)),
        sequences=pad(ranking.sequences, (0, 0, 0, missing)),
    )


def places_in_group(groups: torch.Tensor) -> torch.Tensor:
    """How many earlier entries of its line have the same group, int64 (B, n), of groups (int64, (B, n))."""
    sorted_groups, order = groups.sort(dim=-1, stable=True)
    place = torch.arange(groups.shape[1], device=groups.device).expand_as(groups)
    starts = torch.ones_like(groups, dtype=torch.bool)
    starts[:, 1:] = sorted_groups[:, 1:] != sorted_groups[:, :-1]
    first = place.where(starts, 0).cummax(dim=-1).values
    return torch.empty_like(groups).scatter_(1, order, place - first)


__all__ = ["GroupLimit", "ItemRanking", "best_places", "merged", "padded", "places_in_group"]

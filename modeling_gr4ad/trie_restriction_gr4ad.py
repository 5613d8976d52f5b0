# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Which items each request of a batch may be given, as masks over the trie: block and allow lists of the beam search.

A node of the trie is closed to a request when no item below it may be given. The search leaves closed nodes out, so no
beam is spent on what could not be returned. Nothing is renormalised: what is left keeps the log-probability that it
has without a restriction.

Shapes: B batch, T SID levels, M children of a trie node at most, R item rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .trie_gr4ad import SIDTrie

LONG_LISTS = 16
"""Lists that name more than one item of so many are read by going through all items instead."""
ItemLists = Sequence[torch.Tensor | None] | torch.Tensor
"""Item rows of each request: int64 (n,) each, or (B, n) with -1 = padding; None = no list."""


@dataclass(eq=False)
class TrieRestriction:
    """What is closed to each request of a batch.

    Making one costs time in proportion to the lists, or to the items where lists are long, and one byte for each node,
    item and request: 2.3 MB a request where a million items have four SIDs to a prefix.

    ```python
    >>> restriction = TrieRestriction.from_items(trie, 2, blocked=[torch.tensor([7]), None])
    >>> model.beam_search(**batch, beam_widths=[128] * 3, trie=trie, restriction=restriction)
    ```

    Attributes:
        closed (`list[torch.Tensor]`): T masks, bool, (B, len(trie.codes[t])): True for nodes of level t + 1 that are
            closed; what lies behind the nodes of a level means nothing.
        closed_items (`torch.Tensor`): bool, (B, R): True for item rows that are closed.
        open_items (`torch.Tensor`): int64, (B,): Items of the trie that are open.
    """

    closed: list[torch.Tensor]
    closed_items: torch.Tensor
    open_items: torch.Tensor

    @classmethod
    def from_items(
        cls, trie: SIDTrie, batch: int, *, blocked: ItemLists | None = None, allowed: ItemLists | None = None
    ) -> "TrieRestriction":
        """The restriction that lists of items make.

        Args:
            trie ([`SIDTrie`]): Of the search. batch: B, requests.
            blocked: Items that each request is not given.
            allowed: Items that alone each request is given, those of `blocked` excepted. A list without items allows
                nothing; None allows all.

            A row that the trie does not hold has no effect in either.

        Raises:
            ValueError: If there is not one list, or None, for each request.
        """
        device, rows = trie.leaf_items.device, len(trie.row_leaves)
        blocked = request_lists("blocked", blocked, batch, device)
        allowed = request_lists("allowed", allowed, batch, device)
        listed = torch.tensor([rows_of is not None for rows_of in allowed], device=device)
        closing, opening = item_keys(blocked, rows, device), item_keys(allowed, rows, device)
        closed_items = torch.zeros((batch, rows), dtype=torch.bool, device=device)
        if (len(closing) + len(opening)) * LONG_LISTS > batch * rows:
            closed_items.view(-1)[closing] = True
            open_items = torch.zeros_like(closed_items)
            open_items.view(-1)[opening] = True
            closed_items |= listed.unsqueeze(1) & ~open_items
            return cls.from_closed_items(trie, closed_items)
        closing, opening = torch.unique(closing), torch.unique(opening)
        flat = closed_items.view(-1)
        flat[closing] = True
        opening = opening[~flat[opening]]
        closing = closing[~listed[closing // rows]]  # of an allow list, what it does not open is closed already
        closed_items |= listed.unsqueeze(1)
        flat[opening] = False
        closing, opening = leaf_keys(trie, closing), leaf_keys(trie, opening)
        items = len(trie.leaf_items)
        open_items = torch.where(listed, 0, items)
        open_items = open_items - count_requests(closing, batch, trie.num_sids)
        open_items = open_items + count_requests(opening, batch, trie.num_sids)
        return cls(closed_nodes(trie, listed, closing, opening), closed_items, open_items)

    @classmethod
    def from_closed_items(cls, trie: SIDTrie, closed_items: torch.Tensor) -> "TrieRestriction":
        """The restriction that closes these items (bool, (B, R)): reads all of them, and all nodes."""
        inside, offsets = closed_items[:, trie.leaf_items], trie.leaf_offsets
        open_items = (~inside).sum(1)
        masks: list[torch.Tensor] = []
        for level in reversed(range(trie.num_levels)):
            sums = torch.nn.functional.pad(inside.cumsum(1, dtype=torch.int32), (1, 0))
            inside = sums[:, offsets[1:]] - sums[:, offsets[:-1]] == offsets.diff()
            masks.append(torch.nn.functional.pad(inside, (0, trie.max_children[level])))
            offsets = trie.offsets[level]
        return cls(masks[::-1], closed_items, open_items)

    def check(self, trie: SIDTrie, batch: int) -> None:
        """Raises ValueError unless it is of a batch of this size and, as far as sizes tell, of this trie."""
        wanted = [(batch, len(codes)) for codes in trie.codes]
        received = [tuple(mask.shape) for mask in self.closed]
        if received != wanted:
            raise ValueError(
                f"`restriction` must be of the trie and batch of the search: masks {wanted}. Received: {received}. "
                "Make it by `TrieRestriction.from_items` of the same trie."
            )

    def take(self, requests: Sequence[int]) -> "TrieRestriction":
        """That of some requests of the batch."""
        places = torch.tensor(requests, device=self.open_items.device)
        closed = [mask.index_select(0, places) for mask in self.closed]
        return TrieRestriction(closed, self.closed_items.index_select(0, places), self.open_items[places])

    def closes(self, leaves: torch.Tensor) -> torch.Tensor:
        """Bool (B, n), True where a leaf (int64, (B, n), -1 = none) is closed."""
        return self.closed[-1].gather(1, leaves.clamp(min=0))

    def closes_items(self, items: torch.Tensor) -> torch.Tensor:
        """Bool (B, n), True where an item row of the trie (int64, (B, n)) is closed."""
        return self.closed_items.gather(1, items)


def request_lists(name: str, lists: ItemLists | None, batch: int, device: torch.device) -> list[torch.Tensor | None]:
    """One list of item rows a request (int64, (n,)), None without one. Raises ValueError for another number of
    lists."""
    if lists is None:
        return [None] * batch
    if len(lists) != batch:
        raise ValueError(
            f"`{name}` needs one list of item rows for each of the {batch} requests. Received: {len(lists)}."
        )
    return [None if rows is None else rows.to(device, torch.int64) for rows in lists]


def item_keys(lists: Sequence[torch.Tensor | None], rows: int, device: torch.device) -> torch.Tensor:
    """request * `rows` + row of the items in lists, int64 (n,); rows outside the table left out."""
    given = [(request, listed) for request, listed in enumerate(lists) if listed is not None and len(listed)]
    if not given:
        return torch.zeros(0, dtype=torch.int64, device=device)
    items = torch.cat([listed for _, listed in given])
    lengths = torch.tensor([len(listed) for _, listed in given])
    requests = torch.tensor([request for request, _ in given]).repeat_interleave(lengths).to(device)
    known = (items >= 0) & (items < rows)
    return requests[known] * rows + items[known]


def leaf_keys(trie: SIDTrie, keys: torch.Tensor) -> torch.Tensor:
    """request * leaves + leaf of each item in keys of `item_keys`; items without a leaf left out."""
    rows = len(trie.row_leaves)
    leaves = trie.row_leaves[keys % rows]
    return (keys // rows * trie.num_sids + leaves)[leaves >= 0]


def count_requests(keys: torch.Tensor, batch: int, nodes: int) -> torch.Tensor:
    """How many keys each request has, int64 (B,)."""
    return torch.zeros(batch, dtype=torch.int64, device=keys.device).index_add_(
        0, keys // nodes, torch.ones_like(keys)
    )


def closed_nodes(
    trie: SIDTrie, listed: torch.Tensor, closing: torch.Tensor, opening: torch.Tensor
) -> list[torch.Tensor]:
    """`closed` of a restriction, from leaves to the root: a node closes when as many of its children have as it has.

    Args:
        listed (bool, (B,)): Requests with an allow list, to which all nodes are closed but those above `opening`.
        closing, opening (int64): request * leaves + leaf, one for each item that is closed, or open.
    """
    masks: list[torch.Tensor] = []
    sizes, nodes = trie.leaf_offsets.diff(), trie.num_sids
    for level in reversed(range(trie.num_levels)):
        closing, counts = torch.unique(closing, return_counts=True)
        closing = closing[counts == sizes[closing % nodes]]
        opening = torch.unique(opening)
        mask = listed.unsqueeze(1).repeat(1, len(trie.codes[level]))
        mask[closing // nodes, closing % nodes] = True
        mask[opening // nodes, opening % nodes] = False
        masks.append(mask)
        offsets = trie.offsets[level]
        above = len(offsets) - 1
        closing, opening = (
            keys // nodes * above + torch.searchsorted(offsets, keys % nodes, right=True) - 1
            for keys in (closing, opening)
        )
        sizes, nodes = offsets.diff(), above
    return masks[::-1]


__all__ = ["ItemLists", "TrieRestriction"]

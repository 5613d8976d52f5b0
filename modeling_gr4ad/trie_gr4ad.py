# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The valid semantic IDs of a catalog as compressed sparse rows: the constraint of the beam search."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch


@dataclass(eq=False)
class SIDTrie:
    """Trie of the semantic IDs (SIDs) of a catalog, as flat int64 tensors, one CSR table a level.

    The nodes of a level are numbered in lexicographic order of their prefixes, so the children of one node are
    neighbours, and a child's number is its place in the level's table: no pointers, and one gather descends a level
    for every beam of every request at once (the layout of STATIC, arXiv 2602.22647, without its dense first levels).
    A prefix that is not in the trie has no node: an invalid SID cannot be formed.

    Attributes:
        offsets (`list[torch.Tensor]`): T tensors; children of node n of level t are rows `offsets[t][n]:offsets[t][n +
            1]`. Level 0 holds the root only.
        codes (`list[torch.Tensor]`): T tensors; the code (0..V_t-1) on the edge to each node of level t + 1, and zeros
            behind them, so that `max_children` codes can be read from any node on.
        max_children (`list[int]`): T ints, the widest node of each level: the static width of one gather.
        code_limits (`list[int]`): T ints, 1 + the largest code of each level: codebooks may not be smaller.
        leaf_offsets, leaf_items (`torch.Tensor`): CSR of the items of each leaf, item rows of the table the trie was
            built from; items that share an SID stand in the order of `priority`.
        item_leaves (`torch.Tensor`): The leaf of each entry of `leaf_items`.
        prefix_rows: What [`GR4ADPrefixVectors.rows`] has found.
    """

    offsets: list[torch.Tensor]
    codes: list[torch.Tensor]
    max_children: list[int]
    code_limits: list[int]
    leaf_offsets: torch.Tensor
    leaf_items: torch.Tensor
    max_items: int
    prefix_rows: list[tuple[torch.Tensor, list[torch.Tensor]]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        self.item_leaves = torch.arange(self.num_sids, device=self.leaf_offsets.device).repeat_interleave(
            self.leaf_offsets.diff(), output_size=len(self.leaf_items)
        )

    @classmethod
    def from_codes(cls, codes: torch.Tensor, item_rows: torch.Tensor | None = None) -> "SIDTrie":
        """Builds the trie of a catalog.

        Args:
            codes (`torch.Tensor`, int64, (N, T)): The SID of each item, codes within their levels (no token offsets).
            item_rows (`torch.Tensor`, int64, (N,), *optional*): The item row behind each SID; default 0..N-1. Where
                items share an SID, the earlier in this order ranks first.

        Raises:
            ValueError: If `codes` is empty or not two-dimensional, or holds a negative code.
        """
        if codes.ndim != 2 or codes.shape[0] == 0 or codes.shape[1] == 0:
            raise ValueError(f"`codes` must have shape (items >= 1, levels >= 1). Received: {tuple(codes.shape)}.")
        if int(codes.min()) < 0:
            raise ValueError(f"`codes` must be >= 0. Received a minimum of {int(codes.min())}.")
        codes = codes.to(torch.int64)
        code_limits = (codes.amax(0) + 1).tolist()
        if item_rows is None:
            item_rows = torch.arange(codes.shape[0], device=codes.device)
        columns, item_rows = sorted_by_sid(codes, item_rows.to(torch.int64))

        # Whether a node of the level above, or of this one, starts at an item.
        above = torch.zeros(codes.shape[0], dtype=torch.bool, device=codes.device)
        above[0] = True
        offsets, edges, max_children = [], [], []
        for column in columns:
            starts_node = above.clone()
            starts_node[1:] |= column[1:] != column[:-1]
            starts = starts_node.nonzero()[:, 0]
            first_children = above[starts].nonzero()[:, 0]
            offsets.append(torch.nn.functional.pad(first_children, (0, 1), value=len(starts)))
            max_children.append(int(offsets[-1].diff().max()))
            edges.append(torch.nn.functional.pad(column[starts], (0, max_children[-1])))
            above = starts_node
        leaf_offsets = torch.nn.functional.pad(starts, (0, 1), value=codes.shape[0])
        return cls(offsets, edges, max_children, code_limits, leaf_offsets, item_rows, int(leaf_offsets.diff().max()))

    @classmethod
    def from_index(cls, index: Any, device: torch.device | str = "cpu", *, removed: bool = False) -> "SIDTrie":
        """The trie of the active items of a [`SIDIndex`], e.g. `tokenizer.index`; its leaves hold the index's rows,
        best rank first. It does not follow later changes of the index: build it again.

        Args:
            removed: Hold the items that were removed from the index too: what a log may contain, as training sees it.

        Raises:
            ValueError: If no item is active: a beam search would have nothing to find.
        """
        rows = torch.from_numpy(index.rows_by_sid().copy())
        if removed:
            rows = torch.cat([rows, torch.from_numpy(~index.active).nonzero()[:, 0]])
        if not len(rows):
            raise ValueError(
                f"The index of {len(index)} items has no active item, so nothing can be served. Add items to it "
                "(`SIDIndex.add`; removed ones come back the same way), or keep at least one."
            )
        return cls.from_codes(torch.from_numpy(index.codes[rows.numpy()]), rows).to(device)

    @cached_property
    def row_leaves(self) -> torch.Tensor:
        """The leaf of each item row up to the last that the trie holds, int64; -1 for a row that it does not hold.
        Made when it is first asked for: only restricted searches need it."""
        leaves = torch.full((int(self.leaf_items.max()) + 1,), -1, dtype=torch.int64, device=self.leaf_items.device)
        leaves[self.leaf_items] = self.item_leaves
        return leaves

    @property
    def num_levels(self) -> int:
        return len(self.codes)

    @property
    def num_sids(self) -> int:
        return len(self.leaf_offsets) - 1

    def to(self, device: torch.device | str) -> "SIDTrie":
        return replace(
            self,
            offsets=[offsets.to(device) for offsets in self.offsets],
            codes=[codes.to(device) for codes in self.codes],
            leaf_offsets=self.leaf_offsets.to(device),
            leaf_items=self.leaf_items.to(device),
        )

    def children(self, level: int, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Children of nodes of one level.

        Args:
            level (`int`): 0 (the root) .. T-1.
            nodes (`torch.Tensor`, int64, (...)): Nodes of that level.

        Returns:
            The codes (int64, (..., M), M = `max_children[level]`), the first child's node of level + 1 (int64, (...,
            1); the others follow it), and whether each of the M places holds a child (bool). A place without one holds
            a code of no meaning, within 0..V_t-1.
        """
        first = self.offsets[level][nodes].unsqueeze(-1)
        count = self.offsets[level][nodes + 1].unsqueeze(-1) - first
        step = torch.arange(self.max_children[level], device=nodes.device)
        # Twice as fast as indexing by a tensor of places.
        codes = self.codes[level].index_select(0, (first + step).flatten()).view(*nodes.shape, -1)
        return codes, first, step < count

    @cached_property
    def parents(self) -> list[torch.Tensor]:
        """T tensors int64: the node of level t above each node of level t + 1."""
        return [
            torch.arange(len(offsets) - 1, device=offsets.device).repeat_interleave(
                offsets.diff(), output_size=len(codes) - most
            )
            for offsets, codes, most in zip(self.offsets, self.codes, self.max_children, strict=True)
        ]

    @cached_property
    def edges(self) -> list[torch.Tensor]:
        """T tensors int64: parent * `code_limits[t]` + code of each node of level t + 1, in ascending order."""
        return [
            parents * limit + codes[: len(parents)]
            for parents, limit, codes in zip(self.parents, self.code_limits, self.codes, strict=True)
        ]

    @cached_property
    def sid_counts(self) -> list[torch.Tensor]:
        """T tensors int64: how many SIDs lie below each node of level t + 1; 1 at the last."""
        counts = [torch.ones(self.num_sids, dtype=torch.int64, device=self.leaf_offsets.device)]
        for offsets in reversed(self.offsets[1:]):
            sums = torch.nn.functional.pad(counts[0].cumsum(0), (1, 0))
            counts.insert(0, sums[offsets[1:]] - sums[offsets[:-1]])
        return counts

    def leaves_of(self, item_rows: Sequence[int]) -> list[int]:
        """The leaves of item rows; without those that the trie does not hold."""
        held = [row for row in item_rows if row < len(self.row_leaves)]
        return [leaf for leaf in self.row_leaves[held].tolist() if leaf >= 0]

    def paths(self, codes: torch.Tensor) -> torch.Tensor:
        """Nodes (int64, (..., T)) of levels 1..T that SIDs (int64, (..., T), given as codes) lead through; -1 at all
        levels of an SID that the trie does not hold."""
        limits = torch.tensor(self.code_limits, device=codes.device)
        found = ((codes >= 0) & (codes < limits)).all(-1)
        node, path = torch.zeros_like(found, dtype=torch.int64), []
        for code, limit, edges in zip(codes.unbind(-1), self.code_limits, self.edges, strict=True):
            edge = torch.add(code, node, alpha=limit)
            node = torch.searchsorted(edges, edge).clamp(max=len(edges) - 1)
            found = found & (edges[node] == edge)
            path.append(node)
        return torch.stack(path, dim=-1).masked_fill(~found.unsqueeze(-1), -1)

    def find(self, codes: torch.Tensor) -> torch.Tensor:
        """Leaves (int64, (...)) of SIDs (int64, (..., T)) given as codes; -1 for an SID that is not in the trie."""
        return self.paths(codes)[..., -1]

    def ancestors(self, leaves: torch.Tensor) -> torch.Tensor:
        """Nodes (int64, (..., T)) of levels 1..T that lead to leaves (int64, (...)), themselves included."""
        path = [leaves.contiguous()]
        for offsets in reversed(self.offsets[1:]):
            path.insert(0, torch.searchsorted(offsets, path[0], right=True) - 1)
        return torch.stack(path, dim=-1)

    def sids(self, leaves: torch.Tensor) -> torch.Tensor:
        """Codes (int64, (..., T)) of leaves (int64, (...)), which must be of this trie: the inverse of `find`."""
        nodes = self.ancestors(leaves).unbind(-1)
        return torch.stack([codes[node] for codes, node in zip(self.codes, nodes, strict=True)], dim=-1)

    def items(self, leaves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Items of leaves (int64, (...)): item rows (..., M) with M = `max_items`, and whether the place holds an
        item."""
        start = self.leaf_offsets[leaves].unsqueeze(-1)
        count = self.leaf_offsets[leaves + 1].unsqueeze(-1) - start
        step = torch.arange(self.max_items, device=leaves.device)
        valid = step < count
        return self.leaf_items[torch.where(valid, start + step, 0)], valid


def sorted_by_sid(codes: torch.Tensor, item_rows: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """SIDs (int64, (N, T)) in lexicographic order, as T columns (N,), and the items (int64, (N,)) with them; equal
    SIDs keep their order."""
    bits = [max(1, int(code).bit_length()) for code in codes.amax(0).tolist()]
    if sum(bits) > 63:  # least significant level first: a stable radix sort
        order = torch.arange(codes.shape[0], device=codes.device)
        for column in reversed(codes.unbind(1)):
            order = order[torch.sort(column[order], stable=True).indices]
        return [column[order] for column in codes.unbind(1)], item_rows[order]
    keys = torch.zeros_like(item_rows)
    for column, width in zip(codes.unbind(1), bits, strict=True):
        keys = (keys << width) | column
    if bool((keys[1:] >= keys[:-1]).all()):
        return [column.contiguous() for column in codes.unbind(1)], item_rows.clone()
    keys, order = torch.sort(keys, stable=True)
    # Codes are read off the sorted keys: a million of random reads cost more than the sort.
    return [(keys >> sum(bits[t + 1 :])) & ((1 << width) - 1) for t, width in enumerate(bits)], item_rows[order]


__all__ = ["SIDTrie"]

# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What an ad that has no item vector yet starts from: the ads nearest to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, SIDTrie
from gr4ad.modeling_gr4ad.new_items_gr4ad import LARGEST_SHARE

from .sid_index import SIDIndex

PEERS_AT_ONCE = 65_536  # item vectors averaged in one step: bounds the memory it takes


@torch.no_grad()
def peer_vectors(
    index: SIDIndex, first: int, table: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Item vectors and biases of the rows `first`.. of an index.

    An ad of which the index knows its peers, the ads nearest to it by their embeddings, gets the mean of their vectors
    at the mean of their lengths (a mean is shorter than they are, and would score lower for that alone), and the log
    of the mean of exp(bias): as popular as its peers are on average. Any other ad gets the mean vector and bias of the
    active ads before `first` that share the longest prefix of their SID, of all of these where none shares its first
    code, 0 where there are none.

    Args:
        table (float, (rows + 1, d)): Item vectors, row + 1 of each ad; at least those of the rows before `first`.
        bias (float, (rows + 1,)): Their biases.

    Returns:
        float64 (n, d) and (n,), on the CPU.
    """
    known = index.snapshot()
    known.remove([item for item in index.item_ids[first:].tolist() if index.active[index.rows[item]]])
    rows = torch.from_numpy(known.rows_by_sid().copy())
    ranges, group = np.unique(known.prefix_ranges(index.codes[first:]), axis=0, return_inverse=True)
    vectors = torch.zeros((len(ranges), table.shape[1]), dtype=torch.float64)
    biases = torch.zeros(len(ranges), dtype=torch.float64)
    for place, (start, stop) in enumerate(ranges.tolist()):
        for peers in rows[start:stop].to(table.device).split(PEERS_AT_ONCE):
            vectors[place] += table[peers + 1].float().sum(0).cpu()
            biases[place] += bias[peers + 1].float().sum().cpu()
    peers_of = torch.from_numpy(ranges[:, 1] - ranges[:, 0]).clamp(min=1)  # 0 where no ad was active before
    places = torch.from_numpy(group.reshape(-1))
    found, offsets = (vectors / peers_of.unsqueeze(1))[places], (biases / peers_of)[places]
    for place, near in enumerate(rows_of_peers(index, first)):
        if near:
            own = table[torch.tensor(near, device=table.device) + 1].double().cpu()
            mean = own.mean(0)
            found[place] = mean * own.norm(dim=1).mean() / mean.norm().clamp(min=1e-12)
            offsets[place] = bias[torch.tensor(near, device=bias.device) + 1].double().cpu().exp().mean().log()
    return found, offsets


@torch.no_grad()
def extend_tables(
    model: GR4ADForRecommendation, index: SIDIndex, contents: np.ndarray | None = None, trie: SIDTrie | None = None
) -> int:
    """Gives every row of the index that the model's item tables lack what its peers have, see `peer_vectors`: their
    item neighbours too, and the new prefixes of its SID vectors from those of its peers; returns how many rows there
    were. A model without item tables needs nothing.

    Args:
        contents (float, (n, c)): What the first n rows of the index say, `AdNeighbours.vectors`, by which the model
            finds the new ones, see [`GR4ADNewItems`]; not needed by a model that has new items already. Default: new
            ads are found by their item vectors alone, as a model needs it that goes on training.
        trie: Of the index, if it is at hand.
    """
    if model.model.context_processor.item_embeddings is None:
        return 0
    table = model.item_table
    bias = table.new_zeros(len(table)) if model.item_head is None else model.item_head.bias
    first = len(table) - 1  # of the rows without a vector
    if first >= len(index):
        return 0
    near = rows_of_peers(index, first)
    peers = [[row + 1 for row in rows] for rows in near]
    said, share = None, 0.0
    if contents is not None or model.new_items is not None:
        said = contents_of_peers(model, contents, first, peers)
        before = 0.0 if model.new_items is None else float(model.new_items.share)
        share = min(before + share_of_events(index, first, near), LARGEST_SHARE)
    model.extend_item_tables(*peer_vectors(index, first, table, bias), peers, said, share)
    if model.prefix_vectors is not None:
        own = {first + place: rows for place, rows in enumerate(near) if rows}
        model.extend_prefixes(SIDTrie.from_index(index, model.device, removed=True) if trie is None else trie, own)
    return len(index) - first


def contents_of_peers(
    model: GR4ADForRecommendation, contents: np.ndarray | None, first: int, peers: Sequence[Sequence[int]]
) -> torch.Tensor:
    """What all items say, float16 (rows + 1, c): of the rows before `first` what is known of them, of the new ones the
    direction of the mean of their peers (rows + 1 each); zeros where nothing is known."""
    if model.new_items is not None:
        known = model.new_items.contents.cpu()
    else:
        assert contents is not None
        known = torch.zeros((first + 1, contents.shape[1]), dtype=torch.float16)
        known[1 : len(contents) + 1] = torch.from_numpy(contents[:first])
    said = torch.zeros((len(peers), known.shape[1]))
    for place, rows in enumerate(peers):
        if rows:
            said[place] = torch.nn.functional.normalize(known[list(rows)].float().mean(0), dim=0)
    return torch.cat([known, said.to(known)])


def share_of_events(index: SIDIndex, first: int, peers: Sequence[Sequence[int]]) -> float:
    """Half the share of the log's events that the rows from `first` on have if each is as popular as its peers (rows,
    empty for an ad that takes no part) are on average."""
    events = index.priority[:first] + 1.0
    expected = sum(float(events[rows].mean()) for rows in map(list, peers) if rows)
    return 0.5 * expected / max(float(events.sum()) + expected, 1e-12)


def rows_of_peers(index: SIDIndex, first: int) -> list[list[int]]:
    """Rows before `first` of the ads that those from `first` on are most like, as far as the index was told."""
    return [
        [index.rows[peer] for peer in index.peers.get(item, ()) if index.rows.get(peer, first) < first]
        for item in index.item_ids[first:].tolist()
    ]


__all__ = ["extend_tables", "peer_vectors"]

# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What an ad that has no item vector yet starts from: the ads nearest to it."""

from __future__ import annotations

import numpy as np
import torch

from gr4ad.modeling_gr4ad import GR4ADForRecommendation

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
def extend_tables(model: GR4ADForRecommendation, index: SIDIndex) -> int:
    """Gives every row of the index that the model's item tables lack what its peers have, see `peer_vectors`, and
    their item neighbours; returns how many there were. A model without item tables needs nothing."""
    if model.model.context_processor.item_embeddings is None:
        return 0
    table = model.item_table
    bias = table.new_zeros(len(table)) if model.item_head is None else model.item_head.bias
    first = len(table) - 1  # of the rows without a vector
    if first >= len(index):
        return 0
    peers = [[row + 1 for row in near] for near in rows_of_peers(index, first)]
    model.extend_item_tables(*peer_vectors(index, first, table, bias), peers)
    return len(index) - first


def rows_of_peers(index: SIDIndex, first: int) -> list[list[int]]:
    """Rows before `first` of the ads that those from `first` on are most like, as far as the index was told."""
    return [
        [index.rows[peer] for peer in index.peers.get(item, ()) if index.rows.get(peer, first) < first]
        for item in index.item_ids[first:].tolist()
    ]


__all__ = ["extend_tables", "peer_vectors"]

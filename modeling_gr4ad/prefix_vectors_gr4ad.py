# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Prefix vectors: what the model knows of a prefix of semantic IDs (SIDs) beside its codes. Beyond the paper.

The heads of the levels score codes one by one: what an SID says about a user is then a sum over its codes, and codes
of later levels mean something else under every prefix. A vector for each prefix says the rest.

Shapes: N nodes, F children of all nodes, M children of a node at most, T SID levels, d hidden size, c prefix size.
"""

import warnings
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_gr4ad import GR4ADConfig
from .trie_gr4ad import SIDTrie

UNUSED = torch.iinfo(torch.int64).max
"""Key of a row of the table that stands for no prefix."""
KNOWN_TABLES = 2
"""Tables of which a trie keeps the rows: of a policy and its reference, which take turns."""
SAMPLED_DTYPES = (torch.float32, torch.float64)
"""Of products at chosen places of a matrix, on a processor."""
BLOCK = 2048
"""Children whose products are taken at once: a block of vectors stays in the cache of a processor."""

with warnings.catch_warnings():  # torch says once that the layout is in beta; here, as threads must not set filters
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1), dtype=torch.float32, device="cpu")


class GR4ADPrefixVectors(nn.Module):
    """Adds v_n . (P s) + b_n to the logit of each child n of a trie node, with s the decoder state of its level; b_n
    alone to children of the root, whose codes say all there is to say. Without `prefix_size` P is the identity.

    `keys` (int64, (R,)) holds the prefixes of the table as sorted hashes of their codes, so that neither other
    catalogs nor larger codebooks change which row a prefix has; `places` (int64, (R,)) holds these rows, in which
    siblings stand side by side: the children of a node are read in one stretch of memory. `vectors` (float, (R + 1,
    c)) and `bias` (float, (R + 1,)) have one row more in front, which all prefixes share that the table does not hold:
    they are told apart by their codes alone.
    """

    keys: torch.Tensor
    places: torch.Tensor

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        size = config.prefix_size or config.hidden_size
        self.projects = size < config.hidden_size
        self.register_buffer("keys", torch.full((config.num_prefix_vectors,), UNUSED))
        self.register_buffer("places", torch.zeros(config.num_prefix_vectors, dtype=torch.int64))
        self.vectors = nn.Parameter(torch.zeros(config.num_prefix_vectors + 1, size))
        self.bias = nn.Parameter(torch.zeros(config.num_prefix_vectors + 1))
        if self.projects:
            self.query = nn.Parameter(torch.eye(size, config.hidden_size))
        self.tells_values = config.num_value_buckets > 0
        if self.tells_values:
            self.token = nn.Parameter(torch.eye(config.hidden_size, size))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Into another tensor, where they differ: rows that a trie keeps are those of the earlier keys.
        keys = state_dict.get(f"{prefix}keys")
        if keys is not None and not torch.equal(keys.to(self.keys.device), self.keys):
            self.keys = torch.empty_like(self.keys)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def rows(self, trie: SIDTrie) -> list[torch.Tensor]:
        """Row of the table of each node of levels 1..T, int64; behind them zeros, so that the rows of the widest
        node's children can be read from any node on. Found once for a trie, which keeps them. Raises ValueError where
        the table was offloaded: it is read in places, which accelerate cannot fetch."""
        if self.vectors.is_meta:
            raise ValueError(
                "`prefix_vectors` is offloaded, and is read row by row. Give it a device in `device_map`, e.g. "
                "'prefix_vectors': 'cpu'; layers and heads may be offloaded."
            )
        for keys, found in trie.prefix_rows:
            if keys is self.keys:
                return found
        found = []
        for hashes, most in zip(prefix_hashes(trie), trie.max_children, strict=True):
            found.append(F.pad(self.rows_of(hashes), (0, most)))
        trie.prefix_rows = [(self.keys, found), *trie.prefix_rows[: KNOWN_TABLES - 1]]
        return found

    def sid_rows(self, codes: torch.Tensor) -> torch.Tensor:
        """Row of the table of whole SIDs, int64 (...), of SIDs (int64, (..., T)) given as codes."""
        hashes = torch.zeros_like(codes[..., 0])
        for code in codes.unbind(-1):
            hashes = mixed(hashes, code)
        return self.rows_of(hashes)

    def rows_of(self, hashes: torch.Tensor) -> torch.Tensor:
        """Rows (int64, (...)) of prefixes by their hashes; 0 for one that the table does not hold."""
        near = torch.searchsorted(self.keys, hashes).clamp(max=len(self.keys) - 1)
        return self.places[near].where(self.keys[near] == hashes, 0)

    def tokens(self, rows: torch.Tensor) -> torch.Tensor:
        """Vectors of prefixes as tokens of the decoder, (..., d), of rows (int64, (...))."""
        return F.linear(F.embedding(rows, self.vectors, padding_idx=0), self.token)

    def biases(self, rows: torch.Tensor) -> torch.Tensor:
        """Biases (...) of rows (int64, (...)); that of unknown prefixes is not learned."""
        return F.embedding(rows, self.bias.unsqueeze(1), padding_idx=0).squeeze(-1)

    def queries(self, states: torch.Tensor) -> torch.Tensor:
        """P s, (..., c), of decoder states (..., d)."""
        return F.linear(states, self.query) if self.projects else states

    def of_children(self, queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """What is added to the logits of the children of nodes below the root: (..., M) from queries (..., c) and the
        children's rows (int64, (..., M))."""
        if samples_products(queries, self.vectors):
            own = rows.flatten()
            ends = torch.arange(0, len(own) + 1, rows.shape[-1])
            products = sampled_products(queries.reshape(-1, queries.shape[-1]), self.vectors, ends, own)
            return (products + self.bias.index_select(0, own)).view(rows.shape)
        vectors = F.embedding(rows, self.vectors, padding_idx=0)
        return torch.matmul(vectors.to(queries.dtype), queries.unsqueeze(-1)).squeeze(-1) + self.bias[rows]

    def of_all_children(self, queries: torch.Tensor, counts: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The same for training, without padding: (F,) of all children of N nodes, from queries (N, c), the number of
        children of each (int64, (N,)) and their rows (int64, (F,)), node after node; float32 or wider."""
        wide = torch.promote_types(queries.dtype, torch.float32)
        products = ChildProducts.apply(queries.to(wide), self.vectors.to(wide), counts, rows)
        return products + self.biases(rows).to(wide)

    @torch.no_grad()
    def set_prefixes(self, trie: SIDTrie, item_counts: torch.Tensor, item_vectors: torch.Tensor | None = None) -> None:
        """Chooses the prefixes of the table, the most frequent where it cannot hold all, and starts their rows: `bias`
        at log(1 + events below the prefix), `vectors` at the mean of the items' vectors below it.

        Args:
            trie: The catalog as training sees it. item_counts (float, (items,)): Training events of each item row.
            item_vectors (float, (items, >= c), *optional*): Of each item row; default: vectors start at zero.
        """
        size = self.vectors.shape[1]
        counts = item_counts[trie.leaf_items]
        vectors = self.vectors.new_zeros(len(item_counts), size) if item_vectors is None else item_vectors[:, :size]
        sums, items = vectors[trie.leaf_items].double(), torch.ones_like(counts)
        keys, events, means = [], [], []
        offsets = trie.leaf_offsets
        for hashes, above in zip(reversed(prefix_hashes(trie)), reversed(trie.offsets), strict=True):
            counts, items = segment_sums(counts, offsets), segment_sums(items, offsets)
            sums = segment_sums(sums, offsets)
            keys.append(hashes)
            events.append(counts)
            means.append(sums / items.unsqueeze(1))
            offsets = above
        key, count = torch.cat(keys[::-1]), torch.cat(events[::-1])
        kept = count.argsort(descending=True, stable=True)[: len(self.keys)].sort().values  # in the order of the trie
        hashes, order = key[kept].sort()
        # Other tensors: rows that a trie keeps are those of the earlier keys.
        self.keys = F.pad(hashes, (0, len(self.keys) - len(kept)), value=UNUSED)
        self.places = F.pad(order + 1, (0, len(self.keys) - len(kept)))
        self.vectors.zero_()
        self.bias.zero_()
        self.bias[1 : len(kept) + 1] = torch.log1p(count[kept]).to(self.bias)
        self.vectors[1 : len(kept) + 1] = torch.cat(means[::-1])[kept].to(self.vectors)

    @torch.no_grad()
    def extend(self, hashes: torch.Tensor, vectors: torch.Tensor, bias: torch.Tensor) -> None:
        """Appends rows for n prefixes that the table does not hold.

        Args:
            hashes (int64, (n,)): Distinct, of `prefix_hashes`. vectors (float, (n, c)), bias (float, (n,)): Of these.
        """
        first = len(self.vectors)
        rows = torch.arange(first, first + len(hashes), device=self.keys.device)
        keys, order = torch.cat([self.keys, hashes.to(self.keys)]).sort(stable=True)
        places = torch.cat([self.places, rows])[order]
        for name, new in (("vectors", vectors), ("bias", bias)):
            old = getattr(self, name)
            grown = torch.cat([old.data, new.to(old)])
            setattr(self, name, nn.Parameter(grown, requires_grad=old.requires_grad))
        # After the parameters: whoever has read the keys finds rows that are there.
        self.places, self.keys = places, keys


class ChildProducts(torch.autograd.Function):
    """queries[i] . vectors[row] for each row of the children of node i. The (F, c) tensors that torch would make of it
    are read once and never whole: products at chosen places of a matrix, weighted sums of rows, and blocks."""

    @staticmethod
    def forward(
        ctx: Any, queries: torch.Tensor, vectors: torch.Tensor, counts: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        ends = F.pad(counts.cumsum(0), (1, 0))
        ctx.save_for_backward(queries, vectors, counts, ends, rows)
        return sampled_products(queries, vectors, ends, rows)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:  # type: ignore[override]
        queries, vectors, counts, ends, rows = ctx.saved_tensors
        of_queries = F.embedding_bag(rows, vectors, ends[:-1], mode="sum", per_sample_weights=gradient)
        of_vectors = torch.zeros_like(vectors)
        owners = torch.arange(len(queries), device=rows.device).repeat_interleave(counts, output_size=len(rows))
        for first in range(0, len(rows), BLOCK):
            block = slice(first, first + BLOCK)
            scaled = queries.index_select(0, owners[block]).mul_(gradient[block].unsqueeze(1))
            of_vectors.index_add_(0, rows[block], scaled)
        of_vectors[0] = 0  # unknown prefixes are told apart by their codes: where siblings share it, this is noise
        return of_queries, of_vectors, None, None


def samples_products(queries: torch.Tensor, vectors: torch.Tensor) -> bool:
    """Whether `sampled_products` is for these: on a processor, in one precision, single or wider, not compiled."""
    known = queries.is_cpu and vectors.is_cpu and queries.dtype == vectors.dtype in SAMPLED_DTYPES
    return known and not torch.compiler.is_compiling()


def sampled_products(
    queries: torch.Tensor, vectors: torch.Tensor, ends: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """queries[i] . vectors[row] for rows[ends[i]:ends[i + 1]] of each i, (F,): rows are read where they lie. On a
    processor that is a third of the time of a product with a copy of them."""
    size = (len(queries), len(vectors))
    places = torch.sparse_csr_tensor(ends, rows, queries.new_zeros(len(rows)), size, check_invariants=False)
    return torch.sparse.sampled_addmm(places, queries, vectors.T, beta=0.0).values()


def segment_sums(values: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Sums (n, ...) of rows offsets[i]:offsets[i + 1] of values."""
    owners = torch.arange(len(offsets) - 1, device=values.device).repeat_interleave(offsets.diff())
    return values.new_zeros((len(offsets) - 1, *values.shape[1:])).index_add_(0, owners, values)


def prefix_hashes(trie: SIDTrie) -> list[torch.Tensor]:
    """T tensors int64: a hash of the codes of each prefix of a length, the same in every trie. Among a
    million prefixes two share one with a probability of 3e-8."""
    hashes = torch.zeros(1, dtype=torch.int64, device=trie.leaf_offsets.device)
    found = []
    for parents, codes in zip(trie.parents, trie.codes, strict=True):
        hashes = mixed(hashes[parents], codes[: len(parents)])
        found.append(hashes)
    return found


def mixed(hashes: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The hashes (int64) of prefixes that go on with a code each: multiplied and shifted, as int64 wraps."""
    hashes = hashes * 0x2545F4914F6CDD1D + codes + 1
    hashes = (hashes ^ (hashes >> 31)) * 0x27220A95FE5D0B1D
    return hashes ^ (hashes >> 29)


def count_prefixes(trie: SIDTrie) -> int:
    """Prefixes of all lengths that a trie holds."""
    return sum(map(len, trie.parents))


__all__ = ["GR4ADPrefixVectors", "count_prefixes", "prefix_hashes", "sampled_products", "samples_products"]

# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Growing a trained model: more items, larger codebooks.

Shapes: d hidden size, V_t codes of level t.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from .backbone_gr4ad import GR4ADHeads
from .item_neighbours_gr4ad import GR4ADItemNeighbours
from .new_items_gr4ad import GR4ADNewItems
from .prefix_vectors_gr4ad import prefix_hashes
from .trie_gr4ad import SIDTrie


class GR4ADResizingMixin(GR4ADHeads):
    """What of [`GR4ADForRecommendation`] follows a catalog and a tokenizer that grow."""

    @torch.no_grad()
    def extend_item_tables(
        self,
        vectors: torch.Tensor,
        biases: torch.Tensor | None = None,
        peers: Sequence[Sequence[int]] | None = None,
        contents: torch.Tensor | None = None,
        share: float = 0.0,
    ) -> None:
        """Appends n items to the item embeddings, the item head's bias, the item neighbours and the item values;
        `config.num_items` follows, so that a saved model has them.

        Requests that run meanwhile stay right: they see a table without the new items, or with them. An optimizer that
        holds the earlier parameters does not learn the new ones: build it again.

        Args:
            vectors (float, (n, d)): Embeddings of the new items, in the order of their rows; cast to the table's
                dtype and device. The table is copied: for a moment it takes its memory twice.
            biases (float, (n,), *optional*): Their biases (log popularity); default 0. Not used without an item head.
            peers: Rows of the table (item row + 1) that each is most like, from which its item neighbours come, see
                [`GR4ADItemNeighbours.extend`]; default: they have none.
            contents (float, (num_items + n, c), *optional*), share: What all items say, by which the new ones, and
                those that were new before, are found: see [`GR4ADNewItems`]. Not used without an item head.

        Raises:
            ValueError: If the model has no item embeddings, or a shape is wrong. Nothing has changed then.
        """
        embeddings = self.model.context_processor.item_embeddings
        if embeddings is None:
            raise ValueError("This model has no item tables (`num_items` = 0): there is nothing to extend.")
        biases = vectors.new_zeros(len(vectors)) if biases is None else biases
        if vectors.ndim != 2 or vectors.shape[1] != self.config.hidden_size or biases.shape != vectors.shape[:1]:
            raise ValueError(
                f"`vectors` must have shape (n, {self.config.hidden_size}) and `biases` (n,). "
                f"Received: {tuple(vectors.shape)} and {tuple(biases.shape)}."
            )

        def longer(old: torch.Tensor, new: torch.Tensor) -> nn.Parameter:
            return replaced(old, torch.cat([old.data, new.to(old)]))

        if contents is None and self.new_items is not None:  # of these it is not known what they say
            before = self.new_items.contents
            contents, share = (
                torch.cat([before, before.new_zeros(len(vectors), before.shape[1])]),
                float(self.new_items.share),
            )
        if contents is not None and len(contents) != len(embeddings.weight) + len(vectors):
            raise ValueError(
                f"`contents` must have a row for each of {len(embeddings.weight) + len(vectors)} items, old and new. "
                f"Received: {len(contents)}."
            )
        table = longer(embeddings.weight, vectors)
        if self.item_head is not None:
            self.item_head.bias = longer(self.item_head.bias, biases)
        if self.item_neighbours is not None:
            self.item_neighbours.extend(len(vectors), peers)
        if self.item_values is not None:
            self.item_values.extend(len(vectors))
        if contents is not None and self.item_head is not None:
            config = copy.deepcopy(self.config)
            config.num_items, config.content_size = contents.shape
            config.num_new_items += len(vectors)
            new_items = GR4ADNewItems(config)
            new_items.contents = contents.to(table.device, new_items.contents.dtype)  # in place of zeros: no copy
            new_items.share = torch.full_like(new_items.share, share, device=table.device)
            self.new_items = new_items
            self.config.num_new_items, self.config.content_size = config.num_new_items, config.content_size
        # After the bias: whoever has read a table finds a bias that is as long at least.
        embeddings.weight = table
        embeddings.num_embeddings = self.config.num_items = len(table)

    @torch.no_grad()
    def extend_prefixes(self, trie: SIDTrie, peers: Mapping[int, Sequence[int]]) -> int:
        """Gives vectors to the prefixes of new items that the table of prefixes does not hold; returns how many there
        were. `config` follows. A model without prefix vectors needs nothing.

        The vector of such a prefix is the mean of those of its peers' SIDs, its bias the log of the mean of exp(bias):
        it is then as likely, beside its siblings, as its peers are beside theirs. A prefix whose items have no peers
        stays unknown.

        Args:
            trie: Of the catalog with the new items. peers: New item row -> rows of the items that it is most like.
        """
        table = self.prefix_vectors
        if table is None or not peers:
            return 0
        rows, hashes = table.rows(trie), prefix_hashes(trie)
        leaf_rows = rows[-1]
        found: dict[tuple[int, int], list[int]] = {}
        for item, near in peers.items():
            known = [leaf for leaf in trie.leaves_of(near) if leaf_rows[leaf]]
            for leaf in trie.leaves_of([item]) if known else ():
                path = trie.ancestors(torch.tensor([leaf], device=self.device))[0]
                for level, node in enumerate(path.tolist()):
                    if not rows[level][node]:
                        found.setdefault((level, node), []).extend(known)
        if not found:
            return 0
        of_peers = [leaf_rows[torch.tensor(leaves, device=self.device)] for leaves in found.values()]
        vectors = torch.stack([table.vectors[own].float().mean(0) for own in of_peers])
        bias = torch.stack([table.bias[own].float().exp().mean().log() for own in of_peers])
        new = torch.stack([hashes[level][node] for level, node in found])
        table.extend(new, vectors, bias)
        self.config.num_prefix_vectors = len(table.keys)
        return len(found)

    @torch.no_grad()
    def set_item_neighbours(self, items: torch.Tensor, similarity: torch.Tensor, decay: float) -> None:
        """Gives the model a table of item neighbours, or another one; `config` follows.

        Args:
            items (int, (num_items, n)): Rows of the item table; 0 = no more.
            similarity (float, (num_items, n)): How similar each is, 0 or more; 0 = no more.
            decay (`float`): `neighbour_decay`.

        Raises:
            ValueError: If the model has no item head, or a shape or value is wrong. Nothing has changed then.
        """
        rows = self.config.num_items
        if items.ndim != 2 or items.shape != similarity.shape or len(items) != rows or not items.shape[1]:
            raise ValueError(
                f"`items` and `similarity` must both have shape ({rows}, n), n >= 1. Received: {tuple(items.shape)} "
                f"and {tuple(similarity.shape)}."
            )
        if not (0 <= items.min() and items.max() < rows and 0 <= similarity.min() < torch.inf):
            raise ValueError(
                f"`items` must be rows 0..{rows - 1}, and `similarity` 0 or more. Received: {items.min()}.."
                f"{items.max()} and {similarity.min():g}..{similarity.max():g}."
            )
        config = copy.deepcopy(self.config)
        config.num_item_neighbours, config.neighbour_decay = items.shape[1], decay
        config.validate_architecture()
        table = GR4ADItemNeighbours(config).to(self.item_table.device)
        table.items.copy_(items)
        table.similarity.copy_(similarity)
        self.config.num_item_neighbours, self.config.neighbour_decay = items.shape[1], decay
        self.item_neighbours = table

    @torch.no_grad()
    def resize_codebooks(self, codebook_sizes: Sequence[int]) -> None:
        """Follows a tokenizer whose codebooks have grown: token ids move to the new layout, every old code keeps its
        embedding and its head row, and a new one starts from the mean of its level's. `config` follows.

        An optimizer that holds the earlier parameters does not learn the new ones: build it again. A trie stays
        right: it holds codes, not token ids.

        Args:
            codebook_sizes (`Sequence[int]`): The new V_1..V_T, none smaller than before.

        Raises:
            ValueError: If the number of levels differs or a codebook would shrink. Nothing has changed then.
        """
        config = self.config
        old, new = list(config.codebook_sizes), [int(size) for size in codebook_sizes]
        if len(new) != len(old) or any(n < o for n, o in zip(new, old, strict=True)):
            raise ValueError(
                f"`codebook_sizes` must keep {len(old)} levels and may only grow from {old}. Received: {new}. "
                "Codes that are no longer in use cost nothing: keep them."
            )
        tokens = self.model.embed_tokens
        special = config.level_offsets[0]
        blocks = tokens.weight.data.split([special, *old, config.num_value_buckets])
        levels = [grown(block, size) for block, size in zip(blocks[1:-1], new, strict=True)]
        tokens.weight = replaced(tokens.weight, torch.cat([blocks[0], *levels, blocks[-1]]))
        tokens.num_embeddings = len(tokens.weight)
        for head, size in zip(self.sid_heads, new, strict=True):
            assert isinstance(head, nn.Linear)
            head.weight = replaced(head.weight, grown(head.weight.data, size))
            head.out_features = size
        config.codebook_sizes = new

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """The input embeddings, if they have `new_num_tokens` rows already.

        Raises:
            ValueError: Otherwise: one number does not say which codebook grows. Use `resize_codebooks`.
        """
        if new_num_tokens not in (None, self.config.vocab_size):
            raise ValueError(
                f"`resize_token_embeddings` cannot tell which codebook should grow from {self.config.vocab_size} to "
                f"{new_num_tokens} tokens: call `resize_codebooks(tokenizer.level_sizes)`."
            )
        return self.model.embed_tokens


def grown(rows: torch.Tensor, size: int) -> torch.Tensor:
    """`rows` (n, d), followed by their mean until there are `size`."""
    return torch.cat([rows, rows.mean(0, keepdim=True).expand(size - len(rows), -1)])


def replaced(old: torch.Tensor, data: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(data, requires_grad=old.requires_grad)


__all__ = ["GR4ADResizingMixin"]

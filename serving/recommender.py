# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""A trained folder or hub id as one object that answers "which ads for this user?"."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights, SIDTrie
from gr4ad.modeling_gr4ad.beam_selection_gr4ad import width_table
from gr4ad.tokenization import HISTORY_FEATURES, SIDIndex, UASIDTokenizer, UserHistory
from gr4ad.tokenization.ad_encoder import AdEncoder
from gr4ad.tokenization.peer_vectors import extend_tables

from .ad_recommender import AdRecommender
from .new_ads import AdRecords
from .precision import precision_of, quantize_layers
from .request_types import ITEM_LISTS, Recommendation, RecommendQuery, UnknownItemError

ACCOUNT_COLUMN = "account_id"  # of the item table


class Recommender(AdRecommender):
    """Model, tokenizer and trie of one artifact, in this process.

    ```python
    >>> recommender = Recommender.from_pretrained("out/beauty")
    >>> recommender.recommend([["B001", "B002"]], top_k=10)[0][0].item_id
    ```

    `add_ads`, `replace_ads` and `remove_ads` change what is served, from any thread and while requests run: a request
    sees the ads as they were before or as they are after. They last as long as this object; to keep them, save the
    model and the tokenizer.

    Args:
        model, tokenizer: As loaded; the tokenizer's active items are what can be recommended.
        weights: How the artifact ranks.
        name: What the artifact is called, in errors and metrics.
        source: Folder or hub id with what embeds new ads; default: ads can be added by their codes alone.
        hub_kwargs: Of the hub, for `source`.

    Raises:
        ValueError: If model, tokenizer and weights do not belong together.
    """

    def __init__(
        self,
        model: GR4ADForRecommendation,
        tokenizer: UASIDTokenizer,
        weights: RankingWeights,
        name: str = "gr4ad",
        source: str | Path | None = None,
        hub_kwargs: Mapping[str, Any] | None = None,
    ):
        self.model = model.eval()
        self.tokenizer = tokenizer
        weights.check(model.config)
        self.weights = weights
        self.name = name
        self.trie = model.build_trie(tokenizer)
        model.prefix_rows(self.trie)  # found now, not by the first request
        self.token_table = model.token_table()
        self.account_groups = account_groups(tokenizer.index, model.device)
        read = model.config.history_inputs
        self.features = tuple(feature.name for feature in HISTORY_FEATURES if feature.model_input in read)
        self._changing = threading.Lock()
        self._source, self._hub_kwargs = source, dict(hub_kwargs or {})
        self._ad_encoder: AdEncoder | None = None
        self._loading = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = torch.float32,
        **hub_kwargs: Any,
    ) -> Recommender:
        """Loads a folder written by `gr4ad run` or `push_to_hub`, or a hub id.

        Args:
            device: Where the model computes.
            dtype: `float32`, `bfloat16`, `float16`, or `int8` on the CPU: see [`quantize_layers`].

        Raises:
            ValueError: If the folder lacks a file or a file is damaged, a weight is not a number, or model and
                tokenizer do not belong together; names it. If the `dtype` is another, or not for this device.
        """
        if "backend" in hub_kwargs:
            raise ValueError(
                f"`backend` = {hub_kwargs['backend']!r}: this class computes on torch. Call "
                "`gr4ad.serving.load_recommender(name_or_path, backend=...)` instead."
            )
        precision = precision_of(dtype)
        loaded = torch.float32 if precision == torch.int8 else precision
        try:
            model = GR4ADForRecommendation.from_pretrained(name_or_path, dtype=loaded, **hub_kwargs)
            tokenizer = UASIDTokenizer.from_pretrained(name_or_path, **hub_kwargs)
            weights = RankingWeights.from_pretrained(str(name_or_path), **hub_kwargs)
        except (OSError, SafetensorError) as error:
            message = str(error).splitlines()[0]
            raise ValueError(
                f"{name_or_path}: not a GR4AD artifact ({message}). Give the `--out` folder of a finished "
                "`gr4ad run`, or a hub id."
            ) from error
        check_finite(model, name_or_path)
        torch.nn.Module.to(model, device)
        # The weights may be a map of their file: whoever writes over it would end a process that serves from it.
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        if precision == torch.int8:
            quantize_layers(model)
        return cls(model, tokenizer, weights, Path(name_or_path).name, name_or_path, hub_kwargs)

    @property
    def beam_widths(self) -> list[int]:
        """Default W_1..W_T."""
        return list(self.weights.widths(self.tokenizer.num_levels))

    @torch.no_grad()
    def rank(self, queries: Sequence[RecommendQuery]) -> list[list[Recommendation]]:
        if not queries:
            return []
        tokenizer, users, limit = self.tokenizer, [query.user for query in queries], queries[0].max_per_account
        trie = self.trie  # read first: index, accounts and tables are never older than the trie
        accounts = self.account_groups
        default = self.beam_widths
        widths = width_table([query.beam_widths or default for query in queries], len(queries), tokenizer.num_levels)
        lengths = [
            line[-1] if query.top_k is None else query.top_k for query, line in zip(queries, widths, strict=True)
        ]
        for length, line in zip(lengths, widths, strict=True):
            if not 1 <= length <= line[-1]:
                raise ValueError(f"`top_k` must be in 1..{line[-1]} (the last beam width). Received: {length}.")
        if limit is not None:
            self.check_max_per_account(limit)
        known = [
            user if len(places) == len(user) else user.take(places)
            for user, places in zip(users, self.known_places(users), strict=True)
        ]
        index_rows, device, config = tokenizer.index.rows, self.model.device, self.model.config
        arrays = tokenizer.encode_rows(
            known, max_items=config.max_context_items, max_cross_domain=config.max_cross_domain_items
        )
        batch = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}  # "pt" would copy each
        blocked, allowed = [], []
        for query, user in zip(queries, known, strict=True):
            exclude = self.weights.exclude_history if query.exclude_history is None else query.exclude_history
            out = [*(user.items if exclude else ()), *(query.block_items or ())]
            blocked.append(known_rows(index_rows, out) if out else None)
            allowed.append(None if query.allow_items is None else known_rows(index_rows, query.allow_items))
        ranking = self.model.recommend(
            **batch,
            weights=self.weights,
            beam_widths=widths,
            trie=trie,
            top_k=lengths,
            exclude_items=blocked,
            allow_items=allowed,
            item_groups=accounts,
            max_per_group=limit,
            token_table=self.token_table,
        )
        has_values = self.model.value_head is not None
        columns, ids, tokens = tokenizer.index.columns, tokenizer.index.item_ids, tokenizer.token_names
        found = (ranking.items, ranking.scores, ranking.expected_values, ranking.sequences)
        return [
            [
                Recommendation(
                    item_id=ids[item],
                    score=score,
                    value=value if has_values else None,
                    sid="".join([tokens[token] for token in sid]),
                    attributes={name: values[item] for name, values in columns.items()},
                )
                for item, score, value, sid in islice(zip(*lists, strict=True), length)
                if item >= 0
            ]
            for length, *lists in zip(lengths, *(part.tolist() for part in found), strict=True)
        ]

    def serves(self, ad: Recommendation) -> bool:
        """Whether an ad of an earlier list is served as it was then."""
        tokenizer, index = self.tokenizer, self.tokenizer.index
        row = index.rows.get(ad.item_id)
        if row is None or not index.active[row]:
            return False
        sid = "".join(tokenizer.convert_ids_to_tokens(tokenizer.encode_items([ad.item_id])[0].tolist()))
        return sid == ad.sid and {name: values[row] for name, values in index.columns.items()} == ad.attributes

    def known_places(self, users: Sequence[UserHistory]) -> list[list[int]]:
        """Places of each history's items that the index knows, active or not.

        Raises:
            UnknownItemError: If a history is empty, or none of its items is known; names the history and its first
                item.
        """
        index = self.tokenizer.index
        known = [[place for place, item in enumerate(user.items) if item in index.rows] for user in users]
        for number, (user, places) in enumerate(zip(users, known, strict=True)):
            if not len(user):
                raise UnknownItemError(f"History {number} is empty: give at least one item id of the catalog.")
            if not places and isinstance(user.items, np.ndarray):
                raise UnknownItemError(
                    f"History {number} holds integers, {user.items[:3].tolist()}; item ids are text. Write them as "
                    f"the catalog does, e.g. [{str(user.items[0])!r}]. The index of {self.name!r} holds "
                    f"{index.item_ids[0]!r}."
                )
            if not places:
                raise UnknownItemError(
                    f"History {number} names no item of the catalog; its first id is {user.items[0]!r}. The index of "
                    f"{self.name!r} holds {len(index)} items, e.g. {index.item_ids[0]!r}."
                )
        return known

    def unknown_items(self, query: RecommendQuery) -> dict[str, list[str]]:
        """Ids of a query that the index does not know, each once, by field: `history`, `allow_items`, `block_items`;
        without fields that have none."""
        named = {"history": query.user.items, **{name: vars(query)[name] or () for name in ITEM_LISTS}}
        rows = self.tokenizer.index.rows
        unknown = {name: list(dict.fromkeys(id for id in ids if id not in rows)) for name, ids in named.items()}
        return {name: ids for name, ids in unknown.items() if ids}

    def check_max_per_account(self, limit: int) -> None:
        """Raises ValueError unless a list can be limited to so many items of an account."""
        if limit < 1:
            raise ValueError(f"`max_per_account` must be at least 1. Received: {limit}. Leave it out for no limit.")
        if self.account_groups is None:
            raise ValueError(
                f"`max_per_account` = {limit} needs the column `{ACCOUNT_COLUMN}`, which the item table of "
                f"{self.name!r} lacks. It has: {', '.join(self.tokenizer.index.columns) or 'none'}. Build the "
                "tokenizer from a catalog with accounts, or leave `max_per_account` out."
            )

    # --- changing ads

    @property
    def ad_encoder(self) -> AdEncoder:
        """What embeds new ads. Raises ValueError for a recommender that was put together without a folder."""
        with self._loading:
            if self._ad_encoder is None:
                if self._source is None:
                    raise ValueError(
                        f"{self.name!r} was not loaded from an artifact, which would hold what embeds new ads. Load "
                        "it by `Recommender.from_pretrained`, name its folder as `source`, or give `codes`."
                    )
                self._ad_encoder = AdEncoder.load(self._source, self.tokenizer, **self._hub_kwargs)
            return self._ad_encoder

    def add_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        ads = AdRecords(records).embedded(self.ad_encoder)  # before the lock: it takes the longest

        def add(index: SIDIndex) -> None:
            change = ads.resolved(index)
            change.apply_to(index)

        self.change_index(add)

    def change_ads(self, op: str, item_ids: Sequence[str], **given: Any) -> None:
        if given.get("codes") is not None:
            self.check_codes(given["codes"])
        if "attributes" in given:
            given["columns"] = given.pop("attributes")
        changes: dict[str, Callable[..., None]] = {
            "add": SIDIndex.add,
            "replace": SIDIndex.replace,
            "remove": SIDIndex.remove,
        }
        self.change_index(lambda index: changes[op](index, item_ids, **given))

    def check_codes(self, codes: np.ndarray) -> None:
        """Raises ValueError for a code beyond its codebook; all else that can be wrong the index checks."""
        codes, sizes = np.asarray(codes), self.tokenizer.level_sizes
        if codes.ndim == 2 and codes.shape[1] == len(sizes) and codes.dtype.kind in "iuf":
            wrong = (codes < 0) | (codes >= np.array(sizes))
            if wrong.any():
                line, level = np.argwhere(wrong)[0].tolist()
                raise ValueError(
                    f"`codes[{line}]` has code {codes[line, level]} at level {level + 1}, whose codes are "
                    f"0..{sizes[level] - 1}. Encode it with the quantizer that this tokenizer was built with."
                )

    def change_index(self, change: Callable[[SIDIndex], None]) -> bool:
        """Applies a change to a copy of the index and publishes what follows from it: tables, accounts, then index,
        then trie, so that whatever a request reads first, the rest holds its rows.

        Args:
            change: Changes the index it is given, or raises; then what is served has not changed.

        Returns:
            False if it changed nothing.
        """
        with self._changing:
            index = self.tokenizer.index.snapshot()
            change(index)
            if index.version == self.tokenizer.index.version:
                return False
            trie = SIDTrie.from_index(index, self.model.device)
            groups = account_groups(index, self.model.device)
            extend_tables(self.model, index, self._contents(index), trie)
            self.model.prefix_rows(trie)  # found now, not by the first request
            self.account_groups = groups
            self.tokenizer.index = index
            self.trie = trie
            return True

    def _contents(self, index: SIDIndex) -> np.ndarray | None:
        """What the ads of the catalog say, as the artifact stores it; None where it does not, or is not needed."""
        model = self.model
        needed = model.item_head is not None and model.new_items is None and len(index) >= model.config.num_items
        if not needed or self._source is None:
            return None
        neighbours = self.ad_encoder.neighbours
        return None if neighbours is None else neighbours.vectors


def known_rows(index_rows: Mapping[str, int], items: Iterable[str]) -> torch.Tensor:
    """Rows (int64, (n,)) of the items that an index knows."""
    rows = [index_rows.get(item, -1) for item in items]
    return torch.tensor([row for row in rows if row >= 0], dtype=torch.int64)


def check_finite(model: torch.nn.Module, name: str | Path) -> None:
    """Raises ValueError, naming the tensor, if a weight is NaN or infinite."""
    for tensor_name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ValueError(
                f"{name}: `{tensor_name}` holds {int((~torch.isfinite(tensor)).sum())} weights that are NaN or "
                "infinite. The training failed or the file is damaged: take another checkpoint."
            )


def account_groups(index: SIDIndex, device: torch.device) -> torch.Tensor | None:
    """Number of each row's account, int64 (rows,), -1 = it has none; None for an item table without accounts.

    Raises:
        ValueError: If accounts are of several types.
    """
    accounts = index.columns.get(ACCOUNT_COLUMN)
    if accounts is None:
        return None
    try:
        numbers = pa.array(accounts, from_pandas=True).dictionary_encode().indices
    except pa.ArrowException as error:
        raise ValueError(f"Column `{ACCOUNT_COLUMN}` cannot be read ({error}). Give all items one type.") from error
    return torch.from_numpy(numbers.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)).to(device)

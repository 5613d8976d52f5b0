# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""A trained folder or hub id as one object that answers "which ads for this user?"."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from transformers import GenerationConfig

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights, SIDTrie
from gr4ad.modeling_gr4ad.beam_selection_gr4ad import width_table
from gr4ad.tokenization import SIDIndex, UASIDTokenizer
from gr4ad.tokenization.peer_vectors import extend_tables
from gr4ad.tokenization.user_history import user_histories

from .precision import precision_of, quantize_layers

ACCOUNT_COLUMN = "account_id"  # of the item table
BACKENDS = ("torch", "vllm")


@dataclass(frozen=True)
class Recommendation:
    """One ranked ad.

    item_id; score: log-probability-based ranking score, higher is better, comparable within one request; value:
    expected value in the tokenizer's `value_unit` (None for a model without value head); sid: its semantic ID as text,
    e.g. `<a_3><b_17><c_9>`;
    attributes: the item table's further columns, e.g. `{"title": ...}`.
    """

    item_id: str
    score: float
    value: float | None
    sid: str
    attributes: dict


class UnknownItemError(ValueError):
    """A history holds no item of the index: there is nothing to recommend from."""


class Recommender:
    """Model, tokenizer and trie of one artifact.

    ```python
    >>> recommender = Recommender.from_pretrained("out/beauty")
    >>> recommender.recommend([["B001", "B002"]], top_k=10)[0][0].item_id
    ```

    `add_ads`, `replace_ads` and `remove_ads` change what is served, from any thread and while requests run: a request
    sees the ads as they were before or as they are after. They last as long as this object; to keep them, save the
    model and the tokenizer.

    Args:
        model, tokenizer: As loaded; the tokenizer's active items are what can be recommended.
        generation_config: Carries `beam_widths` (list of T ints), `item_weight`, `value_weight`,
            `item_candidates`, `neighbour_weight`, `score_history`, `exclude_history`.
        name: What the artifact is called, in errors and metrics.

    Raises:
        ValueError: If model and tokenizer do not belong together.
    """

    def __init__(
        self,
        model: GR4ADForRecommendation,
        tokenizer: UASIDTokenizer,
        generation_config: GenerationConfig,
        name: str = "gr4ad",
    ):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.generation_config = generation_config
        self.name = name
        self.trie = model.build_trie(tokenizer)
        self.account_groups = account_groups(tokenizer.index, model.device)
        self._changing = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = torch.float32,
        backend: str = "torch",
        **hub_kwargs,
    ) -> Any:
        """Loads a folder written by `gr4ad run` or `push_to_hub`, or a hub id.

        Args:
            device: Where the model computes; with `backend="vllm"` vLLM's build decides.
            dtype: `float32`, `bfloat16`, `float16`, or `int8` on the CPU: see [`quantize_layers`].
            backend: `torch`, in this process; or `vllm`, a [`VLLMRecommender`] with the same methods, which needs the
                extra `gr4ad[vllm]` and takes the options of `vllm.LLM` as further arguments.

        Raises:
            ValueError: If the folder lacks a file or a file is damaged, or model and tokenizer do not belong together;
                names it. If the `dtype` or `backend` is another, or not for this device.
        """
        if backend not in BACKENDS:
            raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}. Received: {backend!r}.")
        precision = precision_of(dtype)
        if backend == "vllm":
            if precision == torch.int8:
                raise ValueError('`dtype` int8 is of `backend="torch"`. Take float32, bfloat16 or float16 on vLLM.')
            return vllm_recommender(name_or_path, dtype=precision, **hub_kwargs)
        loaded = torch.float32 if precision == torch.int8 else precision
        try:
            model = GR4ADForRecommendation.from_pretrained(name_or_path, dtype=loaded, **hub_kwargs).to(device)
            tokenizer = UASIDTokenizer.from_pretrained(name_or_path, **hub_kwargs)
            generation_config = GenerationConfig.from_pretrained(name_or_path, **hub_kwargs)
        except (OSError, SafetensorError) as error:
            message = str(error).splitlines()[0]
            raise ValueError(
                f"{name_or_path}: not a GR4AD artifact ({message}). Give the `--out` folder of a finished "
                "`gr4ad run`, or a hub id."
            ) from error
        # The weights may be a map of their file: whoever writes over it would end a process that serves from it.
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        if precision == torch.int8:
            quantize_layers(model)
        return cls(model, tokenizer, generation_config, name=Path(name_or_path).name)

    @property
    def beam_widths(self) -> list[int]:
        """Default W_1..W_T."""
        return list(self.generation_config.beam_widths)

    @property
    def excludes_history(self) -> bool:
        """Whether lists leave out the history by default."""
        return bool(self.generation_config.exclude_history)

    @torch.no_grad()
    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        *,
        events: Sequence[Sequence[str]] | None = None,
        values: Sequence[Sequence[float]] | None = None,
        user_features: Mapping[str, Sequence[str | None]] | None = None,
        times: Sequence[Sequence[float | None]] | None = None,
        cross_domain: Sequence[Sequence[str]] | None = None,
        top_k: int | Sequence[int] = 10,
        beam_widths: Sequence[int] | Sequence[Sequence[int]] | None = None,
        exclude_history: bool | Sequence[bool] | None = None,
        max_per_account: int | None = None,
    ) -> list[list[Recommendation]]:
        """Ranks ads for a batch of users; a user's list does not depend on the others of the batch.

        Args:
            histories: Item ids of each user, oldest first. Ids that the index does not know are skipped.
            events, values: Event name and value of each item, same lengths as `histories`.
            user_features: Category of each feature for each user; missing features count as unknown.
            times: When each item was engaged with, seconds of any clock, same lengths as `histories`.
            cross_domain: What each user did elsewhere, any ids, oldest first; the last `max_cross_domain_items` of the
                model's are read. What the model was trained without is ignored.
            top_k: 1.. number of beams, for all or for each user. beam_widths: W_t, default the artifact's; or a line
                of T widths for each user.
            exclude_history: Never return an item of the history, for all or for each user; default the artifact's.
            max_per_account: Items of one account that a list may hold, the best of them; accounts are the item table's
                column `account_id`, and an item without one is not limited. Where the beams hold too few others, the
                list is shorter than `top_k`: widen them. Default: no limit.

        Returns:
            At most `top_k` recommendations a user, best first; every one an active item of the index.

        Raises:
            UnknownItemError: If a history is empty, or none of its items is known; names the history and its first
                item.
            ValueError: On a bad `top_k`, bad widths, lists of other lengths than the histories, or a `max_per_account`
                below 1 or without accounts in the item table.
        """
        tokenizer, defaults = self.tokenizer, self.generation_config
        trie = self.trie  # read first: index, accounts and tables are never older than the trie
        accounts = self.account_groups
        users = len(histories)
        widths = width_table(self.beam_widths if beam_widths is None else beam_widths, users, tokenizer.num_levels)
        lengths = of_each(top_k, users, "top_k")
        for length, line in zip(lengths, widths if len(widths) == users else widths * users, strict=True):
            if not 1 <= length <= line[-1]:
                raise ValueError(f"`top_k` must be in 1..{line[-1]} (the last beam width). Received: {length}.")
        if max_per_account is not None:
            self.check_max_per_account(max_per_account)
        known = self.known_places(histories)

        rows = user_histories(
            histories,
            events=events,
            values=values,
            times=times,
            cross_domain=cross_domain,
            user_features=user_features,
        )
        rows = [row.take(places) for row, places in zip(rows, known, strict=True)]
        batch = tokenizer.encode_rows(
            rows,
            max_items=self.model.config.max_context_items,
            max_cross_domain=self.model.config.max_cross_domain_items,
            return_tensors="pt",
        ).to(self.model.device)
        excluded = None
        exclude = of_each(
            self.excludes_history if exclude_history is None else exclude_history, users, "exclude_history"
        )
        if any(exclude):
            seen = [
                torch.from_numpy(tokenizer.item_rows(row.items if wanted else []))
                for row, wanted in zip(rows, exclude, strict=True)
            ]
            excluded = torch.nn.utils.rnn.pad_sequence(seen, batch_first=True, padding_value=-1).to(self.model.device)
        ranking = self.model.recommend(
            **batch,
            beam_widths=widths,
            trie=trie,
            top_k=max(lengths, default=1),
            weights=RankingWeights.from_generation_config(defaults),
            exclude_items=excluded,
            item_groups=accounts,
            max_per_group=max_per_account,
        )
        has_values = self.model.value_head is not None
        columns, ids = tokenizer.index.columns, tokenizer.index.item_ids
        results = []
        for length, items, scores, item_values, sids in zip(
            lengths,
            ranking.items.tolist(),
            ranking.scores.tolist(),
            ranking.expected_values.tolist(),
            ranking.sequences.tolist(),
            strict=True,
        ):
            results.append(
                [
                    Recommendation(
                        item_id=ids[item],
                        score=score,
                        value=value if has_values else None,
                        sid="".join(tokenizer.convert_ids_to_tokens(sid)),
                        attributes={name: values[item] for name, values in columns.items()},
                    )
                    for item, score, value, sid in zip(
                        items[:length], scores[:length], item_values[:length], sids[:length], strict=True
                    )
                    if item >= 0
                ]
            )
        return results

    def known_places(self, histories: Sequence[Sequence[str]]) -> list[list[int]]:
        """Places of each history whose items the index knows, active or not.

        Raises:
            UnknownItemError: If a history is empty, or none of its items is known; names the history and its first
                item.
        """
        index = self.tokenizer.index
        known = [[place for place, item in enumerate(history) if item in index.rows] for history in histories]
        for number, (history, places) in enumerate(zip(histories, known, strict=True)):
            if not history:
                raise UnknownItemError(f"History {number} is empty: give at least one item id of the catalog.")
            if not places:
                raise UnknownItemError(
                    f"History {number} names no item of the catalog; its first id is {history[0]!r}. The index of "
                    f"{self.name!r} holds {len(index)} items, e.g. {index.item_ids[0]!r}."
                )
        return known

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
    # -------------------------------------------------------------------------------------------------------

    def add_ads(
        self,
        item_ids: Sequence[str],
        codes: np.ndarray,
        *,
        priority: np.ndarray | None = None,
        attributes: Mapping[str, Sequence] | None = None,
    ) -> None:
        """Serves new ads, or removed ones again, from the next request on.

        A new ad starts with the mean item vector and bias of the active ads that share the longest prefix of its SID
        (of all active ads where none shares its first code), so that the item head ranks it at once. An ad that comes
        back keeps what was learned of it.

        Args:
            item_ids: n distinct ids. codes (int, (n, T)): Their SIDs, e.g. from the quantizer's `encode`.
            priority (float, (n,)): Rank among ads of one SID; default 0.
            attributes: n values of columns of the item table, e.g. `{"title": [...]}`; the others are None.

        Raises:
            ValueError: As `SIDIndex.add`, or if a code is outside its codebook. Nothing has changed then.
        """
        self.check_codes(codes)
        self.change_index(lambda index: index.add(item_ids, codes, priority, attributes))

    def replace_ads(
        self,
        item_ids: Sequence[str],
        codes: np.ndarray | None = None,
        *,
        priority: np.ndarray | None = None,
        attributes: Mapping[str, Sequence] | None = None,
    ) -> None:
        """Changes SIDs, priorities or attributes of ads that are served; item vectors stay.

        Args:
            As of `add_ads`; what is not given stays.

        Raises:
            ValueError: As `SIDIndex.replace`, or if a code is outside its codebook. Nothing has changed then.
        """
        if codes is not None:
            self.check_codes(codes)
        self.change_index(lambda index: index.replace(item_ids, codes, priority, attributes))

    def remove_ads(self, item_ids: Sequence[str]) -> None:
        """Serves ads no more from the next request on; histories may still hold them.

        Raises:
            ValueError: As `SIDIndex.remove`, or if no ad would be left. Nothing has changed then.
        """
        self.change_index(lambda index: index.remove(item_ids))

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
            extend_tables(self.model, index)
            self.account_groups = groups
            self.tokenizer.index = index
            self.trie = trie
            return True


def vllm_recommender(name_or_path: str | Path, **kwargs: Any) -> Any:
    try:
        from .vllm_backend.offline import VLLMRecommender
    except ModuleNotFoundError as error:
        raise ImportError(
            f"`backend=\"vllm\"` needs {error.name!r}, which is missing: pip install 'gr4ad[vllm]'.", name=error.name
        ) from error
    return VLLMRecommender(name_or_path, **kwargs)


def of_each(value: Any, users: int, name: str) -> list:
    """One value a user, of one for all or one for each.

    Raises:
        ValueError: If there is neither one nor one a user.
    """
    if not isinstance(value, Sequence):
        return [value] * users
    if len(value) != users:
        raise ValueError(f"`{name}` needs one value, or one for each of the {users} users. Received: {len(value)}.")
    return list(value)


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


__all__ = ["Recommendation", "Recommender", "UnknownItemError"]

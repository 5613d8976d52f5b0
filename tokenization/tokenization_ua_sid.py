# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""UA-SID tokenizer: ads as short semantic IDs (arXiv 2602.22732, section "UA-SID")."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BatchEncoding
from transformers.tokenization_python import PythonBackend

from .sid_index import SIDIndex
from .user_history import ITEM_INPUTS, HistoryError, UserHistory, history_places, user_histories

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
SID_TOKEN = re.compile(r"<(?:[a-z]_\d+|value_\d+|pad|bos|eos|unk)>")
VOCAB_FILES_NAMES = {
    "item_table_file": "items.parquet",
    "codebooks_file": "codebooks.safetensors",
    "item_vectors_file": "item_vectors.safetensors",
}

SAVED_SETTINGS = ("codebook_sizes", "business_fields", "event_names", "user_features", "user_feature_edges",
                  "value_bucket_edges", "value_bucket_means", "value_unit", "num_time_buckets",
                  "num_cross_domain_items", "event_aliases")  # fmt: skip


class UASIDTokenizer(PythonBackend):
    """Tokens are the codes of semantic IDs, level by level (`<a_12><b_3><c_200>`), then value buckets (`<value_7>`).

    Token ids: `[<pad> <bos> <eos> <unk> | level 1 | ... | level T | value buckets]`, the layout of [`GR4ADConfig`].

    Args:
        item_table_file: Parquet table of items and their codes, see [`SIDIndex`]; its rows number the items.
        codebooks_file: The quantizer's codebooks, carried along so that new ads can be encoded.
        item_vectors_file: The vectors from which a training starts its item table, see `item_vectors`; optional, and
            not needed to serve.
        codebook_sizes: T sizes, a hashed last level written as `"256*"`.
        business_fields: Catalog columns that a hashed level joins.
        event_names: Event kinds of histories; their places are the model's `event_ids`.
        event_aliases: What the log calls events, and which of `event_names` each is: `{"buy": "conversion"}`.
            Histories may hold either name; one of `event_names` is always itself.
        user_features: Categories of each structured user feature, in the order of the model's `user_feature_sizes`;
            feature index 0 is "missing or new".
        user_feature_edges: Inner edges, ascending, of the bins of features that are numbers: bin i, category i, holds
            edges[i-1] <= number < edges[i]. Such a feature is given as the number's text, `"37"`.
        value_bucket_edges: Inner edges of the value buckets, ascending: bucket i holds edges[i-1] <= value < edges[i].
        value_bucket_means: Mean training value of each bucket; `value_unit` says in what.
        num_time_buckets: Buckets of the time that passed before each history item, see `time_indices`; 0 = none. With
            24 the last one begins at 97 days.
        num_cross_domain_items: Rows that ids of the cross-domain sequence are hashed to, and row 0, which is padding:
            0 = none, else at least 2.

    ```python
    >>> tokenizer.encode_items(["ad_00042"])  # (1, 3) token ids
    >>> batch = tokenizer.encode_histories([["ad_00042", "ad_00007"]], return_tensors="pt")
    >>> tokenizer.decode_items([[16, 270, 530]])  # [["ad_00042"]]
    ```
    """

    vocab_files_names = VOCAB_FILES_NAMES
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        item_table_file: str | None = None,
        codebooks_file: str | None = None,
        codebook_sizes: Sequence[int | str] = (256, 256, 256),
        business_fields: Sequence[str] = (),
        event_names: Sequence[str] = (),
        user_features: Mapping[str, Sequence[str]] | None = None,
        value_bucket_edges: Sequence[float] = (),
        value_bucket_means: Sequence[float] = (),
        value_unit: str = "",
        num_time_buckets: int = 0,
        num_cross_domain_items: int = 0,
        item_vectors_file: str | None = None,
        user_feature_edges: Mapping[str, Sequence[float]] | None = None,
        event_aliases: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.item_table_file = item_table_file
        self.codebooks_file = codebooks_file
        self.item_vectors_file = item_vectors_file
        self.codebook_sizes = [str(size) for size in codebook_sizes]
        self.business_fields = list(business_fields)
        self.event_names = list(event_names)
        self.user_features = {name: list(values) for name, values in (user_features or {}).items()}
        self.event_aliases = dict(event_aliases or {})
        own = {name: place for place, name in enumerate(self.event_names)}
        strange = next((name for name in self.event_aliases.values() if name not in own), None)
        if strange is not None:
            raise ValueError(
                f"`event_aliases` should map to {', '.join(own) or 'nothing, without `event_names`'}. Received: "
                f"{strange!r:.100}."
            )
        self.event_places = {alias: own[name] for alias, name in self.event_aliases.items()} | own
        self.feature_places = {
            name: {value: place for place, value in enumerate(values, start=1)}
            for name, values in self.user_features.items()
        }
        self.user_feature_edges = {name: list(map(float, edges)) for name, edges in (user_feature_edges or {}).items()}
        for name, edges in self.user_feature_edges.items():
            if len(self.user_features.get(name, ())) != len(edges) + 1:
                raise ValueError(
                    f"`user_feature_edges` of {name!r} must be one fewer than its categories in `user_features`. "
                    f"Received: {len(edges)} and {len(self.user_features.get(name, ()))}."
                )
        self.value_bucket_edges = [float(edge) for edge in value_bucket_edges]
        self.value_bucket_means = [float(mean) for mean in value_bucket_means]
        self.value_unit = value_unit
        self.num_time_buckets = num_time_buckets
        self.num_cross_domain_items = num_cross_domain_items

        self.level_sizes = [int(size.removesuffix("*")) for size in self.codebook_sizes]
        if len(self.level_sizes) > 26:
            raise ValueError(f"`codebook_sizes` may name at most 26 levels. Received: {len(self.level_sizes)}.")
        if num_time_buckets < 0:
            raise ValueError(f"`num_time_buckets` must be 0 (none) or more. Received: {num_time_buckets}.")
        if num_cross_domain_items < 0 or num_cross_domain_items == 1:
            raise ValueError(
                "`num_cross_domain_items` must be 0 (none), or at least 2: row 0 is padding. "
                f"Received: {num_cross_domain_items}."
            )
        names = list(SPECIAL_TOKENS)
        for level, size in enumerate(self.level_sizes):
            names.extend(f"<{chr(ord('a') + level)}_{code}>" for code in range(size))
        names.extend(f"<value_{bucket}>" for bucket in range(len(self.value_bucket_means)))
        self.token_names = names
        self.token_ids = {name: token for token, name in enumerate(names)}
        self.level_offsets = len(SPECIAL_TOKENS) + np.cumsum([0, *self.level_sizes[:-1]])
        self.index = (
            SIDIndex([], np.zeros((0, self.num_levels))) if item_table_file is None else SIDIndex.load(item_table_file)
        )
        sizes = np.array(self.level_sizes)
        if self.index.codes.shape[1] != self.num_levels or (self.index.codes >= sizes).any():
            raise ValueError(
                f"{item_table_file}: the SIDs of the item table do not fit `codebook_sizes` {self.codebook_sizes}."
            )

        super().__init__(
            **{name: vars(self)[name] for name in SAVED_SETTINGS},
            **{f"{token.strip('<>')}_token": token for token in SPECIAL_TOKENS} | kwargs,
        )

    @property
    def num_levels(self) -> int:
        return len(self.level_sizes)

    @property
    def vocab_size(self) -> int:
        return len(self.token_names)

    def get_vocab(self) -> dict[str, int]:
        return {**self.token_ids, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return SID_TOKEN.findall(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.token_ids.get(token, self.token_ids["<unk>"])

    def _convert_id_to_token(self, index: int) -> str:
        return self.token_names[index] if 0 <= index < len(self.token_names) else "<unk>"

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        table = Path(save_directory) / f"{prefix}{VOCAB_FILES_NAMES['item_table_file']}"
        self.index.save(table)
        written = [str(table)]
        for name, source in (("codebooks_file", self.codebooks_file), ("item_vectors_file", self.item_vectors_file)):
            if source is None:
                continue
            target = Path(save_directory) / f"{prefix}{VOCAB_FILES_NAMES[name]}"
            if Path(source).resolve() != target.resolve():
                shutil.copyfile(source, target)
            written.append(str(target))
        return tuple(written)

    def item_rows(self, item_ids: Sequence[str]) -> np.ndarray:
        """Rows of items in the item table, int64 (n,).

        Raises:
            KeyError: Naming the first item that is not in the table.
        """
        try:
            return np.fromiter((self.index.rows[item] for item in item_ids), np.int64, len(item_ids))
        except KeyError as error:
            raise KeyError(
                f"item {error.args[0]!r} is not in the item table of {len(self.index)} items: use an id of the "
                "catalog the tokenizer was built on, or add the item to the index."
            ) from None

    def encode_items(self, item_ids: Sequence[str]) -> np.ndarray:
        """Token ids of the SIDs of items, int64 (n, T). Raises KeyError for an unknown item."""
        return self.index.codes[self.item_rows(item_ids)] + self.level_offsets

    def decode_items(self, sids: Sequence[Sequence[int]]) -> list[list[str]]:
        """Items of each SID of token ids (n, T), best rank first; an empty list for an SID that no item has. Sequences
        as `generate` returns them, (n, 1 + T) with the start token, will do."""
        if not len(sids):
            return []
        return self.index.lookup(np.asarray(sids, dtype=np.int64)[:, -self.num_levels :] - self.level_offsets)

    def item_vectors(self) -> np.ndarray | None:
        """The vectors of the items from which a training starts its item table, float32 (items, dimension), in the
        order of the item table when the tokenizer was built; None where the tokenizer carries none.

        Raises:
            ValueError: If the file is damaged.
        """
        if self.item_vectors_file is None:
            return None
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(self.item_vectors_file)["item_vectors"]
        except (OSError, SafetensorError, KeyError) as error:
            raise ValueError(
                f"{self.item_vectors_file}: not readable item vectors ({error}). Build the tokenizer again, or remove "
                "the file."
            ) from error

    def encode_rows(
        self,
        rows: Sequence[UserHistory | Mapping[str, Any]],
        *,
        max_items: int | None = None,
        max_cross_domain: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Model inputs of a batch of histories, padded on the right to the longest. Rows may differ in what they have.

        Args:
            rows: [`UserHistory`], or rows as [`UserHistory.from_row`] takes them.
            max_items, max_cross_domain: Keep the last so many items and cross-domain entries.

        Returns:
            `input_ids` and `attention_mask` (int64, (B, S * T)), `item_ids` (int64, (B, S)): item row + 1; and, where
            a row and the tokenizer have the feature, int64: `event_ids` (B, S), `value_ids` (B, S): bucket + 1,
            `time_ids` (B, S): bucket + 1 of the time since the item before, kept or not, 0 = not known, each of them
            -1 in rows without the feature; `cross_domain_ids` (B, X): 0 = padding, `cross_domain_places` (B, X): see
            `history_places`, counted among the kept items; `user_feature_ids` (B, features) where the tokenizer has
            user features.

        Raises:
            HistoryError: As [`UserHistory`], or if a history is empty or names an event that the tokenizer does not
                know; with the row. KeyError: If an item is unknown.
        """
        encoded = []
        for number, row in enumerate(rows):
            try:
                encoded.append(self.encode_row(row, max_items=max_items, max_cross_domain=max_cross_domain))
            except HistoryError as error:
                raise error.at(number) from None
        return self.pad_rows(encoded, return_tensors=return_tensors)

    def encode_row(
        self,
        row: UserHistory | Mapping[str, Any],
        *,
        max_items: int | None = None,
        max_cross_domain: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Model inputs of one history, int64 arrays without padding, as `encode_rows`: `item_ids` (S,), those of
        `event_ids`, `value_ids`, `time_ids` (S,) and `cross_domain_ids`, `cross_domain_places` (X,) that row and
        tokenizer have, and `user_feature_ids` (features,)."""
        # Not `isinstance(row, UserHistory)`: where this file is loaded as remote code, that class has two copies.
        history = UserHistory.from_row(row, self.user_features) if isinstance(row, Mapping) else row
        if not len(history):
            raise HistoryError("items", "The history is empty: give at least one item the user engaged with.")
        keep = slice(-max_items, None) if max_items else slice(None)
        items = history.items if isinstance(history.items, np.ndarray) else self.item_rows(history.items)
        encoded = {"item_ids": items[keep] + 1}
        if history.events is not None and self.event_names:
            encoded["event_ids"] = self.event_indices(history.events)[keep]
        if history.values is not None and self.value_bucket_means:
            encoded["value_ids"] = self.value_buckets(history.values)[keep] + 1
        if history.times is not None and self.num_time_buckets:
            encoded["time_ids"] = self.time_indices(history.times)[keep]
        if history.cross_domain is not None and self.num_cross_domain_items:
            last = slice(-max_cross_domain, None) if max_cross_domain else slice(None)
            encoded["cross_domain_ids"] = self.cross_domain_indices(history.cross_domain[last])
            encoded["cross_domain_places"] = np.zeros_like(encoded["cross_domain_ids"])
            if history.cross_domain_times is not None and history.times is not None:
                moments = history.cross_domain_times[last]
                encoded["cross_domain_places"] = history_places(history.times[keep], moments)
        if self.user_features:
            unknown = [name for name in history.user_features if name not in self.user_features]
            if unknown:
                raise HistoryError(
                    "user_features",
                    f"`user_features` names {unknown[0]!r}. Allowed: {', '.join(self.user_features)}. Leave it out.",
                )
            encoded["user_feature_ids"] = np.array(
                [self.feature_index(name, history.user_features.get(name)) for name in self.user_features], np.int64
            )
        return encoded

    def pad_rows(self, rows: Sequence[Mapping[str, np.ndarray]], return_tensors: str | None = None) -> BatchEncoding:
        """A batch, as `encode_rows` returns it, of rows of `encode_row`."""
        item_ids = padded([row["item_ids"] for row in rows])
        present = item_ids > 0
        tokens = (self.index.codes[np.maximum(item_ids - 1, 0)] + self.level_offsets) * present[..., None]
        data = {
            "input_ids": tokens.reshape(len(rows), -1),
            "attention_mask": np.repeat(present, self.num_levels, axis=1).astype(np.int64),
            "item_ids": item_ids,
        }
        for name in ITEM_INPUTS[1:]:
            if any(name in row for row in rows):
                absent = np.full(item_ids.shape[1], -1)
                data[name] = padded([row.get(name, absent) for row in rows])
        for name in ("cross_domain_ids", "cross_domain_places"):
            if any(name in row for row in rows):
                data[name] = padded([row.get(name, ()) for row in rows])
        if self.user_features:
            data["user_feature_ids"] = np.stack([row["user_feature_ids"] for row in rows])
        return BatchEncoding(data, tensor_type=return_tensors)

    def encode_histories(
        self,
        items: Sequence[Sequence[str]] | Sequence[np.ndarray],
        events: Sequence[Sequence[str]] | None = None,
        values: Sequence[Sequence[float]] | None = None,
        user_features: Mapping[str, Sequence[str | None]] | None = None,
        *,
        max_items: int | None = None,
        max_cross_domain: int | None = None,
        return_tensors: str | None = None,
        **columns: Sequence[Sequence[Any]] | None,
    ) -> BatchEncoding:
        """`encode_rows` of histories that are given column by column.

        Args:
            items: Item ids of each history, oldest first; or int arrays of item rows.
            events, values, **columns: One list a history of each further column of [`UserHistory`]: `times`,
                `cross_domain`, `cross_domain_times`.
            user_features: Categories of each feature, one a history; a feature that is not given is missing.
        """
        histories = user_histories(items, events=events, values=values, user_features=user_features, **columns)
        return self.encode_rows(
            histories, max_items=max_items, max_cross_domain=max_cross_domain, return_tensors=return_tensors
        )

    def own_event(self, name: str) -> str:
        """Our name of an event that a history names by ours or the log's; any other name as it is."""
        return name if name in self.event_names else self.event_aliases.get(name, name)

    @property
    def allowed_events(self) -> str:
        """The names that `events` of a history may hold, with what the log calls each, as errors list them."""
        names = []
        for name in self.event_names:
            given = self.event_aliases.items()
            aliases = [alias for alias, ours in given if ours == name and alias not in self.event_names]
            names.append(f"{name} ({', '.join(aliases)})" if aliases else name)
        return ", ".join(names)

    def event_indices(self, events: Sequence[str]) -> np.ndarray:
        """Place of each event name, ours or the log's, int64 (n,). Raises HistoryError for any other name."""
        try:
            return np.array([self.event_places[event] for event in events], dtype=np.int64)
        except KeyError as error:
            raise HistoryError(
                "events",
                f"`events` holds {error.args[0]!r:.100}. Allowed: {self.allowed_events}. Use one of these, or leave "
                "`events` out.",
            ) from None

    def value_buckets(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Bucket of each value, int64, 0..buckets-1."""
        return np.searchsorted(self.value_bucket_edges, np.asarray(values, dtype=np.float64), side="right")

    def feature_index(self, name: str, category: str | None) -> int:
        """Index of a category of a user feature, of numbers that of their bin; 0 for a missing or new one, and for
        what is no number where numbers are binned."""
        if category is None or name not in self.user_feature_edges:
            return 0 if category is None else self.feature_places[name].get(category, 0)
        try:
            number = float(category)
        except ValueError:
            return 0
        return int(np.searchsorted(self.user_feature_edges[name], number, side="right")) + 1 if number == number else 0

    def time_indices(self, times: Sequence[float | None] | np.ndarray) -> np.ndarray:
        """Bucket + 1 of the gap before each item of one history, int64 (n,), 0 = not known.

        A gap of g seconds since the item before has the bucket min(floor(log2(1 + g)), num_time_buckets - 1): under
        1 s, 1 to 3 s, 3 to 7 s, and so on. Not known are the first item's gap, one beside a time that is None or NaN,
        and a negative one: a clock that went back says nothing of how much time has passed.
        """
        moments = np.asarray(times, dtype=np.float64)
        gaps = np.full_like(moments, np.nan)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is not known
            np.subtract(moments[1:], moments[:-1], out=gaps[1:])
        known = np.isfinite(gaps) & (gaps >= 0)
        _, exponent = np.frexp(1 + np.where(known, gaps, 0))  # exact, where log2 rounds up just below a power of 2
        return np.where(known, np.minimum(exponent - 1, self.num_time_buckets - 1) + 1, 0).astype(np.int64)

    def cross_domain_indices(self, ids: Sequence[str]) -> np.ndarray:
        """Row of each cross-domain id, int64 (n,), 1..num_cross_domain_items-1: a stable hash, so that any id has one
        and none has to be known before."""
        try:  # within `try`, so that transformers does not ask for it wherever this file is loaded as remote code
            import xxhash
        except ImportError as error:
            raise ImportError("`cross_domain` is hashed with xxhash, which is missing: pip install xxhash.") from error
        hashes = np.fromiter((xxhash.xxh64_intdigest(item.encode()) for item in ids), np.uint64, len(ids))
        return (hashes % np.uint64(self.num_cross_domain_items - 1)).astype(np.int64) + 1


def padded(parts: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
    """One line each, padded on the right with 0 to the longest: int64 (parts, longest)."""
    out = np.zeros((len(parts), max(map(len, parts))), dtype=np.int64)
    for line, part in zip(out, parts, strict=True):
        line[: len(part)] = part
    return out


__all__ = ["UASIDTokenizer"]

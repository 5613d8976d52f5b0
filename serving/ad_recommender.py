# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The interface of a recommender on any engine: which ads for these users?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from gr4ad.tokenization.user_history import UserHistory, user_histories

from .request_types import Recommendation, RecommendQuery

T = TypeVar("T")


class AdRecommender(Protocol):
    """An artifact that answers, and whose ads can be changed while it does."""

    def recommend(
        self,
        histories: Sequence[Sequence[str]] | Sequence[UserHistory],
        *,
        user_features: Mapping[str, Sequence[str | None]] | None = None,
        top_k: int | Sequence[int] = 10,
        beam_widths: Sequence[int] | Sequence[Sequence[int]] | None = None,
        exclude_history: bool | Sequence[bool] | None = None,
        max_per_account: int | None = None,
        allow_items: Sequence[str] | Sequence[Sequence[str] | None] | None = None,
        block_items: Sequence[str] | Sequence[Sequence[str] | None] | None = None,
        **columns: Sequence[Sequence[Any]] | None,
    ) -> list[list[Recommendation]]:
        """Ranks ads for a batch of users; a user's list does not depend on the others of the batch.

        `exclude_history`, `max_per_account`, `allow_items` and `block_items` act inside the search: a list with one of
        them is full whenever enough ads may be returned. They change no score.

        Args:
            histories: Item ids of each user, oldest first; ids that the index does not know are skipped. Or a
                [`UserHistory`] of each, which holds all that is known of a user; then `user_features` and `columns`
                are left out.
            user_features: Category of each feature for each user; missing features count as unknown.
            **columns: One list a user of each further column of [`UserHistory`]: `events`, `values`, `times`,
                `cross_domain`, ... What the model was trained without is ignored.
            top_k: 1.. number of beams, for all or for each user. beam_widths: W_t, default the artifact's; or a line
                of T widths for each user.
            exclude_history: Never return an item of the history, for all or for each user; default the artifact's.
            max_per_account: Items of one account that a list may hold, the best of them; accounts are the item table's
                column `account_id`, and an item without one is not limited. Default: no limit.
            allow_items: Ids that alone may be returned, e.g. those that targeting leaves; an empty list allows none.
            block_items: Ids that may not be, e.g. of paused campaigns. Either is one list for all, or a list or None
                for each user; ids that the index does not know have no effect.

        Returns:
            At most `top_k` recommendations a user, best first; every one an active item of the index.

        Raises:
            UnknownItemError: If a history is empty, or none of its items is known; names the history and its first
                item.
            ValueError: On a bad `top_k`, bad widths, lists of other lengths than the histories, ids that are no text,
                or a `max_per_account` below 1 or without accounts in the item table.
        """
        users = users_of(histories, user_features, columns)
        if isinstance(beam_widths, int | float | str) or (beam_widths is not None and not len(beam_widths)):
            width = beam_widths if type(beam_widths) is int else 64
            raise ValueError(
                f"`beam_widths` must be a list of widths, one a level. Received: {beam_widths!r:.100}. Write e.g. "
                f"{[width] * 3} for a model of three levels."
            )
        each = beam_widths is not None and is_list(next(iter(beam_widths)))
        widths: list[Any] = of_each(beam_widths, len(users), "beam_widths") if each else [beam_widths] * len(users)
        lengths, exclude = of_each(top_k, len(users), "top_k"), of_each(exclude_history, len(users), "exclude_history")
        for name, values in (("top_k", lengths), ("max_per_account", [max_per_account])):
            check_kind(name, values, (int, np.integer), "a whole number")
        check_kind("exclude_history", exclude, (bool, np.bool_), "True or False")
        allow = id_lists(allow_items, len(users), "allow_items")
        block = id_lists(block_items, len(users), "block_items")
        return self.rank(
            [
                RecommendQuery(
                    user,
                    length,
                    None if line is None else tuple(line),
                    excludes,
                    max_per_account,
                    allow_items=only,
                    block_items=out,
                )
                for user, length, line, excludes, only, out in zip(
                    users, lengths, widths, exclude, allow, block, strict=True
                )
            ]
        )

    def rank(self, queries: Sequence[RecommendQuery]) -> list[list[Recommendation]]:
        """`recommend` of queries that name their `top_k` and have one `max_per_account`."""

    def change_ads(self, op: str, item_ids: Sequence[str], **given: Any) -> None:
        """`add`, `replace` or `remove`, with what is given of `codes`, `priority` and `attributes`."""

    def add_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """`add_ads` of records."""

    def add_ads(
        self,
        ads: Sequence[Mapping[str, Any]] | Sequence[str],
        codes: np.ndarray | None = None,
        *,
        priority: np.ndarray | None = None,
        attributes: Mapping[str, Sequence] | None = None,
    ) -> None:
        """Serves new ads, or removed ones again, from the next request on.

        A new ad's item vector starts from the ads nearest to it, so that the item head ranks it at once: by their
        embeddings where a record says what it is; where its codes alone are known, the mean of the active ads that
        share the longest prefix of its SID (of all where none shares its first code). An ad that comes back keeps what
        was learned of it.

        ```python
        >>> recommender.add_ads([{"item_id": "ad_7", "title": "Red shoes", "brand": "Acme"}])
        ```

        Args:
            ads: Records, at most 10,000: `item_id` and the columns of the catalog that the artifact was built on,
                which embeds them and finds their SIDs, see [`AdEncoder`]; an ad that is served becomes what its record
                says. Or n distinct ids of ads that are not served, with their codes.
            codes (int, (n, T)): SIDs of ids, e.g. from the quantizer's `encode`.
            priority (float, (n,)): Rank among ads of one SID; default 0. attributes: n values of columns of the item
                table, e.g. `{"title": [...]}`; the others are None. Both beside ids alone: records have their own.

        Raises:
            ValueError: If a record is no ad of the catalog, names record and field; as `SIDIndex.add`, or if a code is
                outside its codebook. Nothing has changed then.
        """
        if codes is not None:
            self.change_ads("add", ads, codes=codes, priority=priority, attributes=attributes)  # type: ignore[arg-type]
            return
        records = list(ads) if is_list(ads) and not isinstance(ads, Mapping) else []
        if not records or not isinstance(records[0], Mapping):
            received = repr(ads).partition("\n")[0]
            raise ValueError(
                'Without `codes`, `ads` must be a list of records, e.g. [{"item_id": "ad_7", "title": "Red shoes"}], '
                f'or frame.to_dict("records") of a data frame. Received: {received:.100}.'
            )
        given = [name for name, value in (("priority", priority), ("attributes", attributes)) if value is not None]
        if given:
            raise ValueError(f"`{given[0]}` stands in the records. Leave the argument out.")
        self.add_records(records)  # type: ignore[arg-type]

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
        self.change_ads("replace", item_ids, codes=codes, priority=priority, attributes=attributes)

    def remove_ads(self, item_ids: Sequence[str]) -> None:
        """Serves ads no more from the next request on; histories may still hold them.

        Raises:
            ValueError: As `SIDIndex.remove`, or if no ad would be left. Nothing has changed then.
        """
        self.change_ads("remove", item_ids)


def users_of(histories: Sequence[Any], user_features: Any, columns: Mapping[str, Any]) -> list[UserHistory]:
    """One history a user, of whole histories or of columns with one list a user.

    Raises:
        ValueError: As [`user_histories`], or if columns are given beside whole histories.
    """
    histories = list(histories) if isinstance(histories, Iterator) else histories
    first = next(iter(histories), None) if is_list(histories) else None
    if not isinstance(first, UserHistory):
        return user_histories(histories, user_features=user_features, **columns)
    given = [name for name, lists in {**columns, "user_features": user_features}.items() if lists is not None]
    if given:
        raise ValueError(f"`{given[0]}` stands in the histories, which are of UserHistory. Leave the argument out.")
    return list(histories)


def id_lists(given: Any, users: int, name: str) -> list[tuple[str, ...] | None]:
    """A list of ids or None for each user, of one list for all or one for each.

    Raises:
        ValueError: If there is neither one list nor one a user, or an id is no text.
    """
    if given is None:
        return [None] * users
    lists = list(given) if is_list(given) else []
    if is_list(given) and not any(part is None or is_list(part) for part in lists):
        lists = [lists] * users
    elif len(lists) != users or not all(part is None or is_list(part) for part in lists):
        raise ValueError(
            f"`{name}` needs one list of item ids for all users, or a list or None for each of the {users}. Received: "
            f"{given!r:.100}. Write e.g. ['ad_1', 'ad_2']."
        )
    for ids in lists:
        wrong = next((id for id in ids or () if not isinstance(id, str)), None)
        if wrong is not None:
            raise ValueError(
                f"`{name}` must hold ids as text. Received: {wrong!r:.100} ({type(wrong).__name__}). Write "
                f"{str(wrong)!r:.50}."
            )
    return [None if ids is None else tuple(ids) for ids in lists]


def is_list(part: Any) -> bool:
    return isinstance(part, Iterable) and not isinstance(part, str)


def check_kind(name: str, values: Sequence[Any], kinds: tuple[type, ...], allowed: str) -> None:
    """Raises ValueError for a value that is neither of some kinds nor None; True and False are no numbers."""
    for value in values:
        if value is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise ValueError(f"`{name}` must be {allowed}. Received: {value!r:.100} ({type(value).__name__}).")


def of_each(value: T | Sequence[T], users: int, name: str) -> list[T]:
    """One value a user, of one for all or one for each, in a list or an array of numpy or pandas.

    Raises:
        ValueError: If there is neither one nor one a user.
    """
    if not is_list(value) or getattr(value, "ndim", 1) == 0:
        return [value] * users  # type: ignore[list-item]
    values: list[T] = list(value)  # type: ignore[arg-type]
    if len(values) != users:
        raise ValueError(f"`{name}` needs one value, or one for each of the {users} users. Received: {len(values)}.")
    return values

"""Baselines worth beating: popularity, what the user already buys, and nearest neighbours of items.

All of them are fitted on `train.history` alone, rank `k` places for the U users of `evaluation` from
`evaluation.history`, and return int64 (U, k) catalog rows, never repeated within a user, -1 only when fewer than k
items may be ranked. Ties are broken by `tie_order`. With `exclude_history` a user's own history items are not ranked.
They raise ValueError where `k` < 1, or the two tables come from different catalogs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from .item_similarity import check_similarity, item_similarity, largest_of_rows
from .metrics import ranking_metrics
from .selection import best_of, deciding_metrics
from .sequences import Sequences, SequenceTable

_USERS_PER_BATCH = 1024


def popularity_by_count(
    train: SequenceTable, evaluation: SequenceTable, k: int, *, exclude_history: bool = False
) -> np.ndarray:
    """Items by their number of training events (a user's repeated purchases all count): int64 (U, k), see above."""
    return _rank_by_popularity(train, evaluation, k, "count", exclude_history)


def popularity_by_revenue(
    train: SequenceTable, evaluation: SequenceTable, k: int, *, exclude_history: bool = False
) -> np.ndarray:
    """Items by the sum of their training values: int64 (U, k), see above."""
    return _rank_by_popularity(train, evaluation, k, "revenue", exclude_history)


def repeat_then_popularity(
    train: SequenceTable,
    evaluation: SequenceTable,
    k: int,
    *,
    min_count: int = 2,
    popularity: Literal["count", "revenue"] = "count",
    exclude_history: bool = False,
) -> np.ndarray:
    """What the user buys again and again, then what everybody buys: int64 (U, k), see above.

    First the items that stand at least `min_count` times in the user's own history, by descending count, then by
    their latest event; after them popularity in `train`, items already ranked left out.

    Args:
        min_count: Events of one item in a user's history that make it a habit, at least 1.
        popularity: Fill by number of events or by sum of values.
        exclude_history: Every habit is a history item, so only popularity remains.

    Raises:
        ValueError: `min_count` < 1.
    """
    if min_count < 1:
        raise ValueError(f"`min_count` should be at least 1 event. Received: {min_count}.")
    if exclude_history:
        return _rank_by_popularity(train, evaluation, k, popularity, exclude_history)
    _check_request(train, evaluation, k)
    history, n_items = evaluation.history, len(train.item_ids)
    # Reversed, the first entry that unique() reports for a (user, item) is the user's latest event of that item.
    keys, latest, counts = np.unique(
        (history.users * n_items + history.items)[::-1], return_index=True, return_counts=True
    )
    habit = counts >= min_count
    users, items = np.divmod(keys[habit], n_items)
    order = np.lexsort((latest[habit], -counts[habit], users))
    rankings = _first_per_user(users[order], items[order], len(history), k)
    return _fill(rankings, _popularity(train, popularity), history, exclude_history=False)


@dataclass(frozen=True)
class KNNSettings:
    """Settings of `ItemKNN`.

    Args:
        neighbours: Most similar items kept per item, at least 1.
        shrinkage: Added to the norm of the cosine, in users, >= 0: pulls similarities that rest on few users to 0.
        decay: Weight of a history event against the next newer one of the same user, above 0 up to 1 (1: no decay).
        distance_decay, backward: How much less two events count that lie further apart, and where the neighbour came
            first, see `item_similarity`; 1 and 1 count the users who have both items, in whatever order.
        value_power: Scores are multiplied by (mean training value of the item) ** value_power; 0 ranks by
            likelihood alone, 1 by expected value.
        include_self: Keep each item as its own neighbour, so that a history item may be ranked for its own sake.

    Raises:
        ValueError: A setting is out of its range.
    """

    neighbours: int = 100
    shrinkage: float = 10.0
    decay: float = 0.8
    value_power: float = 0.0
    include_self: bool = False
    distance_decay: float = 1.0
    backward: float = 1.0

    def __post_init__(self) -> None:
        check_similarity(self.neighbours, self.shrinkage, self.distance_decay, self.backward)
        if not 0 < self.decay <= 1:
            raise ValueError(f"`decay` should be above 0 and at most 1 (no decay). Received: {self.decay}.")
        if self.value_power < 0:
            raise ValueError(f"`value_power` should be at least 0 (values unused). Received: {self.value_power}.")


class ItemKNN:
    """Nearest neighbours of the items in a user's history.

    With similarity(i, j) of `item_similarity`,

        score(u, j) = value_j ** value_power * sum over history events e of u: decay ** age(e) * similarity(item(e), j)

    where age counts the user's newer events. Items with no score follow by popularity (by count when `value_power`
    is 0, else by revenue).

    Example:
        >>> knn = ItemKNN(KNNSettings(neighbours=50)).fit(train)
        >>> knn.rank(test, k=10, exclude_history=True).shape
        (22363, 10)
    """

    def __init__(self, settings: KNNSettings | None = None) -> None:
        self.settings = settings or KNNSettings()

    def fit(self, train: SequenceTable, similarity: sparse.csr_array | None = None) -> ItemKNN:
        """Count co-occurrences and keep the neighbours. Memory: O(items x neighbours). `similarity` is what
        `similarities(train)` gave under settings that differ in `decay` and `value_power` alone."""
        self._train = train
        # Inside, items are numbered by their tie rank: a stable sort then breaks ties by rule, and floating-point
        # sums run in an order that does not depend on the catalog's.
        self._rank_of = _inverse(train.ties)
        settings, history, n_items = self.settings, train.history, len(train.ties)
        if similarity is None:
            similarity = self.similarities(train)
        events = np.bincount(history.items, minlength=n_items)
        mean_value = np.bincount(history.items, history.values, n_items) / np.maximum(events, 1)
        weight = mean_value[train.ties] ** settings.value_power
        self._similarity = similarity @ sparse.diags_array(weight, format="csr")
        self._fallback = _popularity(train, "revenue" if settings.value_power else "count")
        return self

    def similarities(self, train: SequenceTable) -> sparse.csr_array:
        """`item_similarity` under these settings, (N, N), of items numbered by their tie rank."""
        settings, history = self.settings, train.history
        return item_similarity(
            Sequences(history.offsets, _inverse(train.ties)[history.items], history.values),
            len(train.ties),
            neighbours=settings.neighbours,
            shrinkage=settings.shrinkage,
            distance_decay=settings.distance_decay,
            backward=settings.backward,
            include_self=settings.include_self,
        )

    def rank(self, evaluation: SequenceTable, k: int, *, exclude_history: bool = False) -> np.ndarray:
        """Rank for each user of `evaluation` from the user's history: int64 (U, k), see above."""
        _check_request(self._train, evaluation, k)
        history, n_items = evaluation.history, len(self._train.item_ids)
        # A copy: sum_duplicates() works in place and would rewrite the offsets of the history.
        events = (self.settings.decay**history.age, self._rank_of[history.items], history.offsets)
        weights = sparse.csr_array(events, shape=(len(history), n_items), copy=True)
        weights.sum_duplicates()
        rankings = np.full((len(history), k), -1, dtype=np.int64)
        for start in range(0, len(history), _USERS_PER_BATCH):
            own = weights[start : start + _USERS_PER_BATCH]
            scores = (own @ self._similarity).tocoo()
            user, item, score = scores.row, scores.col, scores.data
            wanted = score > 0
            if exclude_history:
                known = own.tocoo()
                wanted &= ~np.isin(user * np.int64(n_items) + item, known.row * np.int64(n_items) + known.col)
            user, item, _ = largest_of_rows(user[wanted], item[wanted], score[wanted], k)
            rankings[start : start + own.shape[0]] = _first_per_user(user, self._train.ties[item], own.shape[0], k)
        return _fill(rankings, self._fallback, history, exclude_history)


# For metrics of value, or where users buy an item again, add `value_power` and `include_self` to a grid of your own.
DEFAULT_GRID: dict[str, Sequence[Any]] = {
    "neighbours": (20, 200),
    "shrinkage": (10.0, 50.0, 200.0),
    "decay": (0.4, 0.6, 0.8, 1.0),
}


def tune_item_knn(
    train: SequenceTable,
    validation: SequenceTable,
    metric: str = "ndcg@10",
    grid: Mapping[str, Sequence[Any]] = DEFAULT_GRID,
    *,
    start: KNNSettings | None = None,
    exclude_history: bool = False,
) -> tuple[KNNSettings, pd.DataFrame]:
    """Choose the settings of `ItemKNN` on the validation split alone.

    Args:
        train: What each candidate is fitted on.
        validation: Users with held-out `targets`, from the same catalog.
        metric: A per-user metric of `ranking_metrics` with its cut-off, such as `revenue@10`.
        grid: Values to try per field of `KNNSettings`; all combinations are run, other fields keep those of `start`.
        start: Tried too, first; default: the defaults of `KNNSettings`, not tried.
        exclude_history: As in `ItemKNN.rank`: tune under the protocol that is reported.

    Returns:
        The settings taken (see `best_of`) and one row per combination, by descending `metric`: the settings, `metric`
        (mean over users) and `METRIC_se` (its standard error).

    Raises:
        ValueError: `metric` or a field of `grid` is unknown, or `validation` has no targets.
    """
    allowed = [field.name for field in fields(KNNSettings)]
    if unknown := [name for name in grid if name not in allowed]:
        raise ValueError(f"`grid` should name fields of `KNNSettings`: {allowed}. Received: {unknown[0]!r}.")
    if validation.targets is None:
        raise ValueError("`validation` should hold `target_items` and `target_values`. Received: a table without.")
    name, _, cut = metric.partition("@")
    names = ("recall", "hit", "ndcg", "revenue", "value_ndcg")
    if name not in names or not cut.isdecimal() or int(cut) < 1:
        raise ValueError(f"`metric` should be one of {names} with a cut-off, as `ndcg@10`. Received: {metric!r}.")

    k, rows, found = int(cut), [], []
    counted: dict[KNNSettings, sparse.csr_array] = {}
    candidates = [] if start is None else [start]
    candidates += [
        replace(start or KNNSettings(), **dict(zip(grid, values, strict=True)))
        for values in itertools.product(*grid.values())
    ]
    for settings in candidates:
        pairs = replace(settings, decay=1.0, value_power=0.0)  # what the similarities do not depend on
        if pairs not in counted:
            counted[pairs] = ItemKNN(pairs).similarities(train)
        rankings = ItemKNN(settings).fit(train, counted[pairs]).rank(validation, k, exclude_history=exclude_history)
        metrics = ranking_metrics(rankings, validation.targets, ks=(k,), catalog_size=len(train.item_ids))
        found.append({name: metrics[name] for name in deciding_metrics(metric)})
        values = metrics[metric]
        error = values.std(ddof=1) / np.sqrt(len(values))
        rows.append({**asdict(settings), metric: values.mean(), f"{metric}_se": error})
    table = pd.DataFrame(rows).sort_values(metric, ascending=False, kind="stable", ignore_index=True)
    return candidates[best_of(found, metric)], table


def _check_request(train: SequenceTable, evaluation: SequenceTable, k: int) -> None:
    if k < 1:
        raise ValueError(f"`k` should be at least 1 place. Received: {k}.")
    train.require_same_catalog(evaluation)


def _popularity(train: SequenceTable, by: Literal["count", "revenue"]) -> np.ndarray:
    """int64 (N,), all catalog rows by descending popularity; unseen items come last, in tie order."""
    history = train.history
    score = np.bincount(history.items, history.values if by == "revenue" else None, len(train.item_ids))
    return train.ties[np.argsort(-score[train.ties], kind="stable")]


def _rank_by_popularity(
    train: SequenceTable, evaluation: SequenceTable, k: int, by: Literal["count", "revenue"], exclude_history: bool
) -> np.ndarray:
    _check_request(train, evaluation, k)
    nothing = np.full((len(evaluation.history), k), -1, dtype=np.int64)
    return _fill(nothing, _popularity(train, by), evaluation.history, exclude_history)


def _inverse(permutation: np.ndarray) -> np.ndarray:
    inverse = np.empty_like(permutation)
    inverse[permutation] = np.arange(len(permutation))
    return inverse


def _first_per_user(users: np.ndarray, items: np.ndarray, n_users: int, k: int) -> np.ndarray:
    """int64 (U, k) from entries sorted by user, best first; missing places are -1."""
    place = np.arange(len(users)) - np.searchsorted(users, users)
    kept = place < k
    rankings = np.full((n_users, k), -1, dtype=np.int64)
    rankings[users[kept], place[kept]] = items[kept]
    return rankings


def _fill(rankings: np.ndarray, order: np.ndarray, history: Sequences, exclude_history: bool) -> np.ndarray:
    """Fill the -1 places at each ranking's end with the first items of `order` (N,) that may still be ranked."""
    n_users, k = rankings.shape
    rank_of = _inverse(order)
    filled = (rankings >= 0).sum(axis=1)
    result = rankings.copy()
    for start in range(0, n_users, _USERS_PER_BATCH):
        stop = min(start + _USERS_PER_BATCH, n_users)
        first, last = history.offsets[start], history.offsets[stop]
        # k free places and one blocked place per ranked or excluded item: no user needs to look further down.
        blocked_at_most = k + (int(history.lengths[start:stop].max()) if exclude_history else 0)
        width = min(len(order), k + blocked_at_most)
        free = np.ones((stop - start, width), dtype=bool)
        user, place = np.nonzero(rankings[start:stop] >= 0)
        rank = rank_of[rankings[start:stop][user, place]]
        free[user[rank < width], rank[rank < width]] = False
        if exclude_history:
            user = np.repeat(np.arange(stop - start), history.lengths[start:stop])
            rank = rank_of[history.items[first:last]]
            free[user[rank < width], rank[rank < width]] = False
        target = filled[start:stop, None] + free.cumsum(axis=1) - 1
        user, rank = np.nonzero(free & (target < k))
        result[start + user, target[user, rank]] = order[rank]
    return result


__all__ = [
    "DEFAULT_GRID",
    "ItemKNN",
    "KNNSettings",
    "popularity_by_count",
    "popularity_by_revenue",
    "repeat_then_popularity",
    "tune_item_knn",
]

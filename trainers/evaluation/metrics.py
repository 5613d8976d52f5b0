"""Ranking metrics at the level of items, per user and over users.

A shared semantic ID is never a hit: rankings and targets are catalog rows. Notation of the formulas below, for one
user: r_1 .. r_K the ranking, T the distinct held-out items, v(i) the value of item i in T (values of repeated target
entries are summed), d(p) = 1 / log2(p + 1) the discount of place p (from 1), and
h_p = 1 when r_p is in T and r_p occurs at no earlier place, else 0. A repeated item wastes its later places.

| metric | formula | range |
|---|---|---|
| `recall@k` | sum_{p<=k} h_p / abs(T) | 0 to 1 |
| `hit@k` | 1 when any h_p = 1, p <= k | 0 or 1 |
| `ndcg@k` | sum_{p<=k} h_p d(p) / sum_{p<=min(k, abs(T))} d(p) | 0 to 1 |
| `revenue@k` | sum_{p<=k} h_p v(r_p) | value units per user, 0 to the sum of v |
| `value_ndcg@k` | sum_{p<=k} h_p v(r_p) d(p) / the same with T sorted by v descending; 0 when all v are 0 | 0 to 1 |
| `coverage@k` | distinct items at places <= k of any user / items that could be recommended | 0 to 1 |
| `invalid@k` | places <= k that hold an item outside `valid_items` / places <= k that hold an item | 0 to 1 |
"""

from collections.abc import Sequence

import numpy as np

from .sequences import Sequences


def ranking_metrics(
    rankings: np.ndarray,
    targets: Sequences,
    *,
    ks: Sequence[int] = (5, 10, 20),
    catalog_size: int,
    valid_items: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Metrics of each user, so that two systems can be compared user by user.

    Args:
        rankings: int (U, K), catalog rows from best to worst, -1 where nothing was ranked (it may stand anywhere).
        targets: U sequences of held-out items with values >= 0, at least one per user.
        ks: Cut-offs, each between 1 and K.
        catalog_size: N, the number of catalog rows.
        valid_items: int (V,), catalog rows that may be served; None for all. An invalid item is never a hit, while
            targets outside `valid_items` stay in the denominators.

    Returns:
        float64 (U,) under `recall@k`, `hit@k`, `ndcg@k`, `revenue@k`, `value_ndcg@k` for each k.

    Raises:
        ValueError: A shape, index, value or cut-off is out of range, or a user has no target.
    """
    ranked, valid = _checked(rankings, targets, ks, catalog_size, valid_items)
    n_users = len(targets)

    # One sorted key per distinct (user, item) turns the lookup of every place into one binary search.
    keys, inverse = np.unique(targets.users * catalog_size + targets.items, return_inverse=True)
    values = np.bincount(inverse, targets.values, len(keys))
    owners = keys // catalog_size
    n_targets = np.bincount(owners, minlength=n_users)

    places = np.arange(n_users)[:, None] * catalog_size + ranked
    found = np.minimum(np.searchsorted(keys, places), len(keys) - 1)
    hits = (ranked >= 0) & (keys[found] == places) & valid[ranked] & _first_places(ranked)
    gains = np.where(hits, values[found], 0.0)

    discounts = 1 / np.log2(np.arange(2, max(ranked.shape[1], n_targets.max()) + 2))
    cut_discounts = discounts[: ranked.shape[1]]
    hits_by, gains_by = hits.cumsum(axis=1), gains.cumsum(axis=1)
    dcg_by, value_dcg_by = (hits * cut_discounts).cumsum(axis=1), (gains * cut_discounts).cumsum(axis=1)

    ideal_by = np.concatenate([[0.0], discounts.cumsum()])
    # Owners are already grouped, so sorting by value inside each group keeps the groups where they are.
    descending = values[np.lexsort((-values, owners))]
    ideal_place = np.arange(len(keys)) - np.repeat(n_targets.cumsum() - n_targets, n_targets)

    metrics: dict[str, np.ndarray] = {}
    for k in ks:
        counted = np.where(ideal_place < k, descending * discounts[ideal_place], 0.0)
        ideal_value = np.bincount(owners, counted, n_users)
        metrics[f"recall@{k}"] = hits_by[:, k - 1] / n_targets
        metrics[f"hit@{k}"] = (hits_by[:, k - 1] > 0).astype(np.float64)
        metrics[f"ndcg@{k}"] = dcg_by[:, k - 1] / ideal_by[np.minimum(k, n_targets)]
        metrics[f"revenue@{k}"] = gains_by[:, k - 1]
        metrics[f"value_ndcg@{k}"] = np.divide(
            value_dcg_by[:, k - 1], ideal_value, out=np.zeros(n_users), where=ideal_value > 0
        )
    return metrics


def evaluate_rankings(
    rankings: np.ndarray,
    targets: Sequences,
    *,
    ks: Sequence[int] = (5, 10, 20),
    catalog_size: int,
    valid_items: np.ndarray | None = None,
) -> dict[str, float]:
    """Means over users with their standard errors, and the metrics that belong to all users together.

    Arguments and errors are those of `ranking_metrics`.

    Returns:
        `METRIC@k` and `METRIC@k_se` for each metric of `ranking_metrics`: the mean over users and the sample standard
        deviation over users divided by sqrt(U), nan for one user. Further `coverage@k` (of `valid_items`, or
        of the catalog), `users`, `spend` (mean value of all targets per user: the ceiling of every `revenue@k`), and
        `invalid@k` when `valid_items` is given.
    """
    per_user = ranking_metrics(rankings, targets, ks=ks, catalog_size=catalog_size, valid_items=valid_items)
    report: dict[str, float] = {"users": float(len(targets)), "spend": float(targets.values.sum() / len(targets))}
    for name, values in per_user.items():
        report[name] = float(values.mean())
        report[f"{name}_se"] = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")

    valid = np.full(catalog_size, True) if valid_items is None else _mask(valid_items, catalog_size)
    for k in ks:
        top = rankings[:, :k]
        served = top[top >= 0]
        legal = valid[served]
        report[f"coverage@{k}"] = len(np.unique(served[legal])) / int(valid.sum())
        if valid_items is not None:
            report[f"invalid@{k}"] = float(1 - legal.mean()) if len(served) else 0.0
    return report


def _first_places(rankings: np.ndarray) -> np.ndarray:
    """bool (U, K), False where the item stood at an earlier place of the same ranking."""
    order = np.argsort(rankings, axis=1, kind="stable")
    ordered = np.take_along_axis(rankings, order, axis=1)
    first = np.ones_like(rankings, dtype=bool)
    np.put_along_axis(first, order[:, 1:], ordered[:, 1:] != ordered[:, :-1], axis=1)
    return first


def _require_rows(name: str, rows: np.ndarray, catalog_size: int, least: int = 0) -> None:
    if rows.size and not (least <= rows.min() and rows.max() < catalog_size):
        raise ValueError(
            f"`{name}` should hold catalog rows 0 to {catalog_size - 1}{', or -1' if least else ''}. Received: "
            f"{rows.min()} to {rows.max()}."
        )


def _mask(valid_items: np.ndarray, catalog_size: int) -> np.ndarray:
    """bool (N,), True at the rows `valid_items`."""
    rows = np.asarray(valid_items)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer) or not len(rows):
        raise ValueError(
            f"`valid_items` should be a non-empty integer array (V,). Received: {rows.dtype} with shape {rows.shape}. "
            "Turn a mask into rows with `np.flatnonzero`."
        )
    _require_rows("valid_items", rows, catalog_size)
    return np.isin(np.arange(catalog_size), rows)


def _checked(
    rankings: np.ndarray, targets: Sequences, ks: Sequence[int], catalog_size: int, valid_items: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The rankings as int64, and which items are valid, bool (N,)."""
    if rankings.ndim != 2 or not np.issubdtype(rankings.dtype, np.integer):
        raise ValueError(
            f"`rankings` should be an integer array (U, K). Received: {rankings.dtype} with shape {rankings.shape}."
        )
    if len(rankings) != len(targets) or not len(targets):
        raise ValueError(
            f"`rankings` and `targets` should hold the same users, at least one. Received: {len(rankings)} rankings "
            f"and targets of {len(targets)} users."
        )
    if not ks or min(ks) < 1 or max(ks) > rankings.shape[1]:
        raise ValueError(
            f"`ks` should lie between 1 and the {rankings.shape[1]} ranked places. Received: {tuple(ks)}. Rank more "
            "items, lower `ks`, or pad the rankings with -1."
        )
    _require_rows("rankings", rankings, catalog_size, least=-1)
    if (targets.lengths == 0).any():
        raise ValueError(
            f"`targets` should hold at least one item per user. Received: none for user row "
            f"{int(np.argmin(targets.lengths))}. Leave users without held-out events out of the evaluation."
        )
    _require_rows("targets.items", targets.items, catalog_size)
    bad = targets.values[~(np.isfinite(targets.values) & (targets.values >= 0))]
    if len(bad):
        raise ValueError(
            f"`targets.values` should be finite and at least 0. Received: {bad[0]}. Clean the held-out log."
        )
    valid = np.full(catalog_size, True) if valid_items is None else _mask(valid_items, catalog_size)
    return rankings.astype(np.int64, copy=False), valid

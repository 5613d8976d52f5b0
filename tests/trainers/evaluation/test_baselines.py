import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from gr4ad.trainers.evaluation import (
    ItemKNN,
    KNNSettings,
    Sequences,
    SequenceTable,
    popularity_by_count,
    popularity_by_revenue,
    ranking_metrics,
    repeat_then_popularity,
    tune_item_knn,
)
from gr4ad.trainers.evaluation.item_similarity import item_similarity, ordered_pairs

IDS = np.array([f"ad-{i}" for i in range(9)], dtype=object)
EVENT = st.tuples(st.integers(0, 8), st.sampled_from([0.0, 1.0, 2.5]))
LOGS = st.lists(st.lists(EVENT, max_size=7), min_size=1, max_size=6)


def make(logs, ids=IDS, targets=None) -> SequenceTable:
    users = np.array([f"user-{u}" for u in range(len(logs))], dtype=object)
    wanted = None if targets is None else Sequences.from_lists(targets, [[1.0] * len(t) for t in targets])
    history = Sequences.from_lists([[i for i, _ in log] for log in logs], [[v for _, v in log] for log in logs])
    return SequenceTable(users, ids, history, wanted)


def dense_order(train: SequenceTable, score: np.ndarray) -> list[int]:
    rank = {int(item): place for place, item in enumerate(train.ties)}
    return sorted(range(len(score)), key=lambda item: (-score[item], rank[item]))


def dense_popularity(logs, by: str) -> np.ndarray:
    score = np.zeros(len(IDS))
    for log in logs:
        for item, value in log:
            score[item] += 1 if by == "count" else value
    return score


def complete(head: list[int], order: list[int], blocked: set[int], k: int) -> list[int]:
    ranking = (head + [item for item in order if item not in blocked and item not in head])[:k]
    return ranking + [-1] * (k - len(ranking))


@settings(deadline=None, max_examples=80)
@given(LOGS, LOGS, st.integers(1, 11), st.booleans())
def test_popularity_equals_brute_force(train_logs, logs, k, exclude):
    train, evaluation = make(train_logs), make(logs)
    for by, function in (("count", popularity_by_count), ("revenue", popularity_by_revenue)):
        order = dense_order(train, dense_popularity(train_logs, by))
        wanted = [complete([], order, {i for i, _ in log} if exclude else set(), k) for log in logs]
        assert function(train, evaluation, k, exclude_history=exclude).tolist() == wanted


@settings(deadline=None, max_examples=80)
@given(LOGS, LOGS, st.integers(1, 11), st.integers(1, 3), st.sampled_from(["count", "revenue"]))
def test_repeats_equal_brute_force(train_logs, logs, k, min_count, by):
    train, evaluation = make(train_logs), make(logs)
    order = dense_order(train, dense_popularity(train_logs, by))
    wanted = []
    for log in logs:
        items = [item for item, _ in log]
        last = {item: place for place, item in enumerate(items)}
        habits = [item for item in last if items.count(item) >= min_count]
        habits.sort(key=lambda item: (-items.count(item), -last[item]))
        wanted.append(complete(habits[:k], order, set(), k))
    got = repeat_then_popularity(train, evaluation, k, min_count=min_count, popularity=by)
    assert got.tolist() == wanted


def dense_knn_scores(train: SequenceTable, train_logs, logs, s: KNNSettings) -> np.ndarray:
    n = len(IDS)
    matrix = np.zeros((len(train_logs), n))
    total, events = np.zeros(n), np.zeros(n)
    for u, log in enumerate(train_logs):
        for item, value in log:
            matrix[u, item] = 1
            total[item] += value
            events[item] += 1
    together = matrix.T @ matrix
    users = np.diag(together).copy()
    if not s.distance_decay == s.backward == 1:
        together = np.diag(users)
        for log in train_logs:
            best = np.zeros((n, n))
            for p, (first, _) in enumerate(log):
                for q in range(p + 1, len(log)):
                    second, weight = log[q][0], s.distance_decay ** (q - p - 1)
                    if first != second:
                        best[first, second] = max(best[first, second], weight)
                        best[second, first] = max(best[second, first], s.backward * weight)
            together += best
    norm = np.sqrt(np.outer(users, users))
    with np.errstate(invalid="ignore"):
        similarity = np.where(together > 0, together / (norm + s.shrinkage), 0)
    if not s.include_self:
        np.fill_diagonal(similarity, 0)
    for item in range(n):
        similarity[item, dense_order(train, similarity[item])[s.neighbours :]] = 0
    similarity *= (total / np.maximum(events, 1)) ** s.value_power
    scores = np.zeros((len(logs), n))
    for u, log in enumerate(logs):
        for age, (item, _) in enumerate(reversed(log)):
            scores[u] += s.decay**age * similarity[item]
    return scores


@settings(deadline=None, max_examples=120)
@given(
    LOGS,
    LOGS,
    st.builds(
        KNNSettings,
        neighbours=st.integers(1, 9),
        shrinkage=st.sampled_from([0.0, 1.0, 7.0]),
        decay=st.sampled_from([0.5, 0.8, 1.0]),
        value_power=st.sampled_from([0.0, 0.5, 1.0]),
        include_self=st.booleans(),
        distance_decay=st.sampled_from([0.5, 1.0]),
        backward=st.sampled_from([0.0, 0.25, 1.0]),
    ),
    st.booleans(),
)
def test_item_knn_equals_the_dense_version(train_logs, logs, knn_settings, exclude):
    train, evaluation = make(train_logs), make(logs)
    got = ItemKNN(knn_settings).fit(train).rank(evaluation, len(IDS), exclude_history=exclude)
    # Rounded: the dense sums run in another order, and equal scores must stay equal.
    scores = dense_knn_scores(train, train_logs, logs, knn_settings).round(10)
    order = dense_order(train, dense_popularity(train_logs, "revenue" if knn_settings.value_power else "count"))
    for u, log in enumerate(logs):
        blocked = {item for item, _ in log} if exclude else set()
        head = [i for i in dense_order(train, scores[u]) if scores[u, i] > 0 and i not in blocked]
        wanted = complete(head, order, blocked, len(IDS))
        n_head = len(head)
        np.testing.assert_allclose(scores[u, got[u, :n_head]], scores[u, head], atol=1e-9)
        assert set(got[u, :n_head].tolist()) == set(head)
        assert got[u, n_head:].tolist() == wanted[n_head:]


def random_logs(seed: int, n_users: int, n_items: int) -> list[list[tuple[int, float]]]:
    rng = np.random.default_rng(seed)
    return [
        [(int(i), float(v)) for i, v in zip(rng.integers(0, n_items, n), rng.integers(0, 4, n), strict=True)]
        for n in rng.integers(0, 9, n_users)
    ]


@pytest.mark.parametrize("exclude", [False, True])
def test_rankings_do_not_depend_on_the_order_of_the_catalog(exclude):
    n_items = 300
    ids = np.array([f"asin-{i}" for i in range(n_items)], dtype=object)
    # Few users and whole-number values: most scores are tied.
    logs, test_logs = random_logs(0, 60, n_items), random_logs(1, 40, n_items)
    permutation = np.random.default_rng(2).permutation(n_items)
    row_of = np.argsort(permutation)
    moved = [[[(int(row_of[i]), v) for i, v in log] for log in part] for part in (logs, test_logs)]
    pairs = [(make(logs, ids), make(test_logs, ids)), tuple(make(part, ids[permutation]) for part in moved)]

    def named(rank):
        return [table.item_ids[rank(table, evaluation)].tolist() for table, evaluation in pairs]

    for rank in (
        lambda a, b: popularity_by_count(a, b, 20, exclude_history=exclude),
        lambda a, b: popularity_by_revenue(a, b, 20, exclude_history=exclude),
        lambda a, b: repeat_then_popularity(a, b, 20, exclude_history=exclude),
        lambda a, b: ItemKNN(KNNSettings(neighbours=3, decay=0.7)).fit(a).rank(b, 20, exclude_history=exclude),
        lambda a, b: ItemKNN(KNNSettings(value_power=1.0)).fit(a).rank(b, 20, exclude_history=exclude),
    ):
        first, second = named(rank)
        assert first == second
        assert all(len(set(ranking)) == 20 for ranking in first)


def test_inputs_are_left_alone():
    train, evaluation = make(random_logs(0, 60, 9)), make(random_logs(1, 40, 9))
    before = [part.copy() for t in (train, evaluation) for part in vars(t.history).values()]
    ItemKNN().fit(train).rank(evaluation, 5, exclude_history=True)
    repeat_then_popularity(train, evaluation, 5)
    after = [part for t in (train, evaluation) for part in vars(t.history).values()]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_batches_change_nothing(monkeypatch):
    ids = np.array([f"asin-{i}" for i in range(50)], dtype=object)
    train, evaluation = make(random_logs(0, 60, 50), ids), make(random_logs(1, 40, 50), ids)
    tried = KNNSettings(), KNNSettings(distance_decay=0.5, backward=0.25)
    whole = [ItemKNN(each).fit(train).rank(evaluation, 20, exclude_history=True) for each in tried]
    monkeypatch.setattr("gr4ad.trainers.evaluation.baselines._USERS_PER_BATCH", 7)
    monkeypatch.setattr("gr4ad.trainers.evaluation.item_similarity._ITEMS_PER_BATCH", 11)
    monkeypatch.setattr("gr4ad.trainers.evaluation.item_similarity.PAIRS_AT_ONCE", 30)
    for each, ranked in zip(tried, whole, strict=True):
        assert np.array_equal(ItemKNN(each).fit(train).rank(evaluation, 20, exclude_history=True), ranked)
    assert not np.array_equal(*whole)


@settings(deadline=None, max_examples=40)
@given(LOGS, st.sampled_from([0.3, 0.9, 1.0]))
def test_without_order_both_ways_of_counting_agree(logs, decay):
    history = make(logs).history
    once = sparse.csr_array((np.ones(len(history.items)), history.items, history.offsets), shape=(len(logs), 9)).sign()
    plain = item_similarity(history, 9, neighbours=9, shrinkage=2.0)
    users = np.asarray(once.sum(0)).ravel()
    counted = sum((part for part in ordered_pairs(history, 9, 1.0, 1.0)), sparse.csr_array((9, 9))).toarray()
    np.testing.assert_allclose(plain.toarray(), counted / (np.sqrt(np.outer(users, users)) + 2.0))
    # Fewer count, never more; what came before counts as much as what comes after.
    decayed = item_similarity(history, 9, neighbours=9, shrinkage=2.0, distance_decay=decay).toarray()
    assert (decayed <= plain.toarray() + 1e-12).all() and (decayed[plain.toarray() == 0] == 0).all()


def test_pairs_too_far_apart_are_not_counted():
    history = Sequences.from_lists([list(range(9))], [[1.0] * 9])
    found = item_similarity(history, 9, neighbours=9, shrinkage=0.0, distance_decay=0.1).toarray()
    distance = np.abs(np.arange(9)[:, None] - np.arange(9))
    expected = np.where((distance > 0) & (distance <= 4), 0.1 ** (distance - 1.0), 0.0)
    np.testing.assert_allclose(found, expected)


def test_tuning_returns_the_best_row_of_its_table():
    train = make(random_logs(0, 50, 9))
    validation = make(random_logs(1, 30, 9), targets=[[u % 9, (u + 3) % 9] for u in range(30)])
    grid = {"neighbours": (1, 4), "decay": (0.3, 1.0)}
    best, table = tune_item_knn(train, validation, "ndcg@3", grid)
    assert isinstance(table, pd.DataFrame) and len(table) == 4
    for row in table.to_dict("records"):
        tried = KNNSettings(neighbours=row["neighbours"], decay=row["decay"])
        ranking = ItemKNN(tried).fit(train).rank(validation, 3)
        values = ranking_metrics(ranking, validation.targets, ks=(3,), catalog_size=9)["ndcg@3"]
        assert row["ndcg@3"] == pytest.approx(values.mean())
        assert row["ndcg@3_se"] == pytest.approx(values.std(ddof=1) / np.sqrt(30))
    assert table["ndcg@3"].is_monotonic_decreasing and table["ndcg@3"].nunique() > 1
    assert (best.neighbours, best.decay) == (table["neighbours"][0], table["decay"][0])
    again, more = tune_item_knn(train, validation, "ndcg@3", {"shrinkage": (1e9,)}, start=best)
    assert len(more) == 2 and set(more["decay"]) == {best.decay}  # what is kept, and what is tried from there
    assert table["ndcg@3"][0] in set(more["ndcg@3"]) and again.neighbours == best.neighbours


def test_bad_requests_are_named():
    train, other = make([[(0, 1.0)]]), make([[(0, 1.0)]], IDS[::-1])
    with pytest.raises(ValueError, match="same catalog"):
        popularity_by_count(train, other, 3)
    with pytest.raises(ValueError, match="`k`"):
        ItemKNN().fit(train).rank(train, 0)
    with pytest.raises(ValueError, match="`min_count`"):
        repeat_then_popularity(train, train, 3, min_count=0)
    with pytest.raises(ValueError, match="target_items"):
        tune_item_knn(train, train)
    validation = make([[(0, 1.0)]], targets=[[1]])
    with pytest.raises(ValueError, match="`metric`.*'auc@10'"):
        tune_item_knn(train, validation, "auc@10")
    with pytest.raises(ValueError, match="`grid`.*'neighbors'"):
        tune_item_knn(train, validation, grid={"neighbors": (1,)})
    for bad in ({"neighbours": 0}, {"shrinkage": -1.0}, {"decay": 0.0}, {"decay": 1.5}, {"value_power": -1.0},
                {"distance_decay": 0.0}, {"backward": 1.5}):  # fmt: skip
        with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
            KNNSettings(**bad)

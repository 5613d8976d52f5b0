import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gr4ad.trainers.evaluation import PerUserScores, Sequences, SequenceTable, data_digest


def scores() -> PerUserScores:
    parts = {
        "ours": {"ndcg@10": np.array([0.1, 0.2, 1 / 3]), "cold0_recall@10": np.array([math.nan, 1.0, 0.0])},
        "popularity": {"ndcg@10": np.zeros(3), "cold0_recall@10": np.array([math.nan, 0.0, 0.0])},
    }
    facts = {"data": "abc", "final": "ours", "seed": 3}
    return PerUserScores(np.array(["u2", "u1", "ü|3"], dtype=object), {"test": parts, "other": parts}, facts)


def test_what_is_saved_is_read_to_the_last_bit(tmp_path):
    scores().save(tmp_path / "per_user.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["per_user.parquet"]
    read = PerUserScores.load(tmp_path / "per_user.parquet")
    assert read.user_ids.tolist() == ["u2", "u1", "ü|3"] and read.facts == scores().facts
    assert list(read.scores) == ["test", "other"] and list(read.scores["test"]) == ["ours", "popularity"]
    for protocol, systems in scores().scores.items():
        for system, metrics in systems.items():
            for name, values in metrics.items():
                np.testing.assert_array_equal(read.scores[protocol][system][name], values)
    rows = pq.read_table(tmp_path / "per_user.parquet").to_pylist()
    assert len(rows) == 12 and rows[4]["system"] == "popularity" and rows[4]["user_id"] == "u1"


def test_users_are_aligned_by_id():
    aligned = scores().aligned(np.array(["ü|3", "u2", "u1"], dtype=object))
    assert aligned.user_ids.tolist() == ["ü|3", "u2", "u1"]
    assert aligned.scores["test"]["ours"]["ndcg@10"].tolist() == [1 / 3, 0.1, 0.2]
    with pytest.raises(ValueError, match="same users in both runs. Received: 3 and 2 users, 1 of them in both"):
        scores().aligned(np.array(["u1", "x"], dtype=object))


def test_files_that_are_none_are_named(tmp_path):
    path = tmp_path / "per_user.parquet"
    with pytest.raises(ValueError, match=f"{path}: no such file"):
        PerUserScores.load(path)
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match=f"{path}: cannot be read"):
        PerUserScores.load(path)
    pq.write_table(pa.table({"user_id": ["a"]}), path)
    with pytest.raises(ValueError, match=f"{path}: holds no scores per user"):
        PerUserScores.load(path)


def table(users: str, catalog: str, histories: dict[str, str], targets: dict[str, str] | None, value: float = 1.0):
    rows = {item: row for row, item in enumerate(catalog)}

    def lists(of: dict[str, str]) -> Sequences:
        return Sequences.from_lists(
            [[rows[item] for item in of[user]] for user in users], [[value] * len(of[user]) for user in users]
        )

    ids = np.array(list(users), dtype=object)
    return SequenceTable(ids, np.array(list(catalog), dtype=object), lists(histories), targets and lists(targets))


def test_the_digest_sees_the_data_and_not_their_order():
    history, targets = {"u": "ab", "v": "c"}, {"u": "c", "v": "ad"}

    def digest(users="uv", catalog="abcd", train=history, test=history, held=targets, value=1.0):
        return data_digest(table(users, catalog, train, None), table(users, catalog, test, held, value))

    same = digest()
    assert len(same) == 64
    assert digest(users="vu") == digest(catalog="dbca") == same
    others = [
        digest(catalog="abcde"),
        digest(train={**history, "u": "ba"}),
        digest(test={**history, "v": "d"}),
        digest(held={**targets, "v": "da"}),
        digest(held={"u": "ca", "v": "d"}),
        digest(value=2.0),
        digest(users="u"),
    ]
    assert len({same, *others}) == 8


def test_a_metric_that_a_system_lacks_is_empty(tmp_path):
    whole = scores()
    del whole.scores["test"]["popularity"]["cold0_recall@10"]
    replace(whole).save(tmp_path / "x.parquet")
    read = PerUserScores.load(tmp_path / "x.parquet")
    assert np.isnan(read.scores["test"]["popularity"]["cold0_recall@10"]).all()

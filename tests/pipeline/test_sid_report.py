import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from gr4ad.cli import main
from gr4ad.pipeline.sid_report import choose_category_column, report_sids, usable_categories
from gr4ad.tokenization import SIDIndex

ITEMS = 24


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """24 items of three departments whose embeddings tell the department, items 0 and 3 alike, and a log of them."""
    folder = tmp_path_factory.mktemp("sid_report")
    departments = [f"department {n % 3}" for n in range(ITEMS)]
    pd.DataFrame(
        {
            "item_id": [f"item {n}" for n in range(ITEMS)],
            "title": [f"<b>Title</b> {n}" for n in range(ITEMS)],
            "department": departments,
            "only": "one",
        }
    ).to_parquet(folder / "catalog.parquet")
    pd.DataFrame(
        [(f"user {n % 30}", f"item {n * n % ITEMS}", "click", n) for n in range(300)],
        columns=["user_id", "item_id", "event", "timestamp"],
    ).to_parquet(folder / "events.parquet")
    assert main(["data", "--root", str(folder), "--out", str(folder / "data"), "--split", "leave_one_out"]) == 0
    rng = np.random.default_rng(0)
    content = np.eye(8)[np.arange(ITEMS) % 3] * 3 + rng.normal(size=(ITEMS, 8)) * 0.3
    content[3] = content[0]
    content /= np.linalg.norm(content, axis=1, keepdims=True)
    (folder / "embed").mkdir()
    save_file({"content": content.astype(np.float32)}, folder / "embed" / "embeddings.safetensors")
    return folder


def tokenize(folder, out, *more: str) -> int:
    arguments = ["tokenize", "--data", str(folder / "data"), "--embeddings", str(folder / "embed"), "--out", str(out)]
    sizes = ["--codebook_sizes", "3", "4", "--distinct_last", "false", "--num_value_buckets", "0"]
    return main([*arguments, *sizes, *more])


@pytest.fixture(scope="module")
def reported(prepared):
    assert tokenize(prepared, prepared / "tok", "--report") == 0
    return prepared / "tok"


def test_tokenize_writes_the_report(reported):
    page = (reported / "sid_report.html").read_text(encoding="utf-8")
    numbers = json.loads((reported / "sid_quality.json").read_text())
    assert "<script" not in page and "<b>Title" not in page and "&lt;b&gt;Title" in page
    assert "By department" in page and page.count('viewBox="0 0 400 400"') == 2
    codes = SIDIndex.load(reported / "items.parquet").codes
    sids, counts = np.unique(codes, axis=0, return_counts=True)
    assert (numbers["items"], numbers["sids"]) == (ITEMS, len(sids))
    assert numbers["items_per_sid"] == {str(n): int((counts == n).sum()) for n in np.unique(counts)}
    assert numbers["collisions"][0]["items"] == counts.max() > 1
    quality = json.loads((reported / "quality.json").read_text())["quality"]
    assert numbers["quality"] == quality
    assert numbers["category_column"] == "department" and numbers["categories"] == 3
    assert numbers["prefix_purity"][0]["purity"] == 1 > numbers["prefix_purity"][0]["chance"]
    assert [level["hashed"] for level in numbers["levels"]] == [False, False]


def test_the_headline_and_the_path_are_printed(prepared, capsys):
    out = prepared / "again"
    assert tokenize(prepared, out, "--report", "--category_column", "department") == 0
    printed = capsys.readouterr().out
    assert f"report: {out / 'sid_report.html'}" in printed
    assert "Cpr" in printed and "purity of level-1 codes" in printed


def test_without_the_flag_there_is_no_report(prepared):
    assert tokenize(prepared, prepared / "quiet") == 0
    assert not [path for path in (prepared / "quiet").iterdir() if path.name.startswith("sid_")]


def test_a_column_that_is_not_there_is_told_before_the_work(prepared, capsys):
    assert tokenize(prepared, prepared / "never", "--report", "--category_column", "sector") == 2
    error = capsys.readouterr().err
    assert "'sector'" in error and "item_id, title, department, only" in error
    assert not (prepared / "never").exists()
    assert tokenize(prepared, prepared / "never", "--category_column", "department") == 2
    assert "Add --report" in capsys.readouterr().err


def test_the_report_is_the_same_again_and_without_a_usable_category(prepared, reported, tmp_path):
    first = report_sids(reported, prepared / "data", tmp_path / "a.html")
    assert first == report_sids(reported, prepared / "data", tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    numbers = report_sids(reported, prepared / "data", tmp_path / "c.html", category_column="only")
    assert numbers["prefix_purity"] == [] and numbers["category_column"] is None
    assert "Left out: column only has 1 value, which groups nothing." in (tmp_path / "c.html").read_text()


def test_wrong_folders_are_told(prepared, reported, tmp_path):
    with pytest.raises(ValueError, match="no finished tokenize folder"):
        report_sids(tmp_path, prepared / "data", tmp_path / "x.html")
    other = tmp_path / "other"
    other.mkdir()
    names = pd.read_parquet(prepared / "catalog.parquet").iloc[::-1]
    names.to_parquet(other / "catalog.parquet")
    pd.read_parquet(prepared / "events.parquet").to_parquet(other / "events.parquet")
    assert main(["data", "--root", str(other), "--out", str(other / "data"), "--split", "leave_one_out"]) == 0
    with pytest.raises(ValueError, match="another catalog"):
        report_sids(reported, other / "data", tmp_path / "x.html")


def test_choice_of_the_category_column():
    assert choose_category_column(["item_id", "industry", "department"], None) == "department"
    assert choose_category_column(["item_id"], None) is None
    assert choose_category_column(["item_id", "brand"], "brand") == "brand"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (None, "none of the columns"),
        ([["a"], ["b"]], "holds lists"),
        (["a", "a", " ", None], "1 value,"),
        (["a", "b", "c"], "3 values for 3 items"),
    ],
)
def test_categories_that_group_nothing(values, problem):
    assert usable_categories(values, "x")[0] == [] and problem in usable_categories(values, "x")[1]


def test_categories_become_text():
    assert usable_categories([1, 1, float("nan"), 2, 2, ""], "x") == (["1", "1", None, "2", "2", None], "")

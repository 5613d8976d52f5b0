import math

import pytest

from gr4ad.report.beam_tree import ROW, draw_beam_tree
from gr4ad.report.tables import (
    best_baseline,
    codebook_rows,
    collision_rows,
    duration_text,
    figure_text,
    metric_table,
    metric_tables,
    split_rows,
    system_name,
)


def test_metric_table_marks_the_best_and_puts_the_run_first(report):
    table = metric_table("test", report.metrics["test"])
    assert [name for name, _, _ in table.rows] == ["GR4AD (this run)", "Popularity"]
    assert table.columns == ["Recall@10", "NDCG@10", "Revenue@10", "Illegal SIDs"]
    ours, popularity = (cells for _, _, cells in table.rows)
    assert [(cell.text, cell.error, cell.best) for cell in ours] == [
        ("0.0500", "0.0040", True),
        ("0.0300", "", False),  # a tie has no winner
        ("12.35", "", False),
        ("0", "", False),
    ]
    assert popularity[0].error == "" and popularity[3].text == "–"
    assert table.users == 120


def test_lower_is_better_for_illegal_sids():
    table = metric_table("test", {"ours": {"illegal_sids": 0}, "x": {"illegal_sids": 1234}})
    assert [cells[0].best for _, _, cells in table.rows] == [True, False]
    assert table.rows[1][2][0].text == "1\u202f234"


def test_protocols_without_figures_are_left_out(report):
    assert [table.protocol for table in metric_tables(report.metrics)] == ["test", "test_history_excluded"]
    assert metric_tables({"test": {}, "other": {"ours": {"recall@10": math.nan}}}) == []
    assert best_baseline(report.metrics["test"], "recall@10") == ("Popularity", 0.02)
    assert best_baseline(report.metrics["test_history_excluded"], "recall@10") is None


def test_codebook_rows_count_the_codes(report):
    assert codebook_rows(report.sid_quality, report.code_counts) == [
        ["1", "4", "3", "75.0%", "2.9", "3"],
        ["2", "2", "1", "50.0%", "–", "5"],
    ]
    assert [row[1] for row in collision_rows(report.sid_quality)] == ["1.250", "20.00%", "40.00%", "1.00e-02"]


def test_split_rows(report):
    columns, rows = split_rows(report.data_summary)
    assert columns == ["Split", "Users", "History, items", "Targets, items", "Users left out"]
    assert rows == [["Test", "120", "4.50", "1", "2 no history"]]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.50 s"), (59.7, "1 min 0 s"), (725, "12 min 5 s"), (11220, "3 h 7 min")]
)
def test_duration_text(seconds, text):
    assert duration_text(seconds) == text


def test_names_and_figures():
    assert (system_name("SASRec"), system_name("repeat_then_popularity")) == ("SASRec", "Repeat then popularity")
    assert (figure_text("revenue@10", 1234.5), figure_text("revenue@10", 0.05)) == ("1\u202f234", "0.0500")


def test_tree_is_drawn_best_first_without_crossings(report):
    drawing = draw_beam_tree(report.beam_tree)
    assert [node.text for node in drawing.nodes] == ["<a_1>", "<b_0>", "<a_2>", "<b_1>"]
    assert [node.share for node in drawing.nodes] == ["60%", "50%", "30%", "25%"]
    assert [node.served for node in drawing.nodes] == [None, 1, None, 2]
    assert drawing.nodes[3].title == "B2"
    assert drawing.nodes[2].y - drawing.nodes[0].y == ROW
    assert drawing.nodes[0].width / drawing.nodes[2].width == pytest.approx(math.sqrt(2))


def test_tree_keeps_ancestors_and_served_leaves_of_a_wide_search():
    first = [{"sid": f"<a_{i}>", "score": -1.0 - i / 100, "parent": None} for i in range(40)]
    second = [{"sid": f"<a_{i}><b_0>", "score": -2.0 + i / 100, "parent": i} for i in range(40)]
    drawing = draw_beam_tree(
        {"levels": [first, second], "recommendations": [{"item_id": "x", "sid": "<a_5><b_0>", "score": 0.0}]}
    )
    drawn = sorted(int(node.text[3:-1]) for node in drawing.nodes if node.text.startswith("<a"))
    assert drawn == [*range(12), *range(28, 40)]
    leaves = [node for node in drawing.nodes if node.text == "<b_0>"]
    assert len(leaves) == 13 and [node.served for node in leaves if node.served] == [1]
    ends = sorted(node.y for node in drawing.nodes if node.text == "<b_0>" or not node.alive)
    assert min(b - a for a, b in zip(ends, ends[1:], strict=False)) == ROW
    assert sum(node.on_served_path for node in drawing.nodes) == 2


def test_tree_of_nothing_and_of_lost_parents():
    assert draw_beam_tree({}) is None and draw_beam_tree({"levels": [[]]}) is None
    beams = [[{"sid": "a", "score": -1.0, "parent": None}], [{"sid": "ab", "score": -1.0, "parent": 3}]]
    with pytest.raises(ValueError, match="`parent` of beam 0 of level 2 should be a place 0 to 0"):
        draw_beam_tree({"levels": beams})

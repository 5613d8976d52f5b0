"""The small functions that pages, cards and Markdown files are made of."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from gr4ad.report import markdown, plots, tables
from gr4ad.report.evaluation_files import as_report, difference_text, mean_text, stand_alone, write_files
from gr4ad.report.evaluation_plots import comparison_plot
from gr4ad.report.load_plots import load_figure
from gr4ad.report.page import write_page
from gr4ad.report.sid_plots import purity_plot, sid_size_plot


def test_markdown_keeps_text_as_text():
    assert markdown.one_line(" a\n <b> ") == "a &lt;b>"
    table = markdown.markdown_table(["x", "y", "z"], [["a|b", "1", "<i>"]], "lrl")
    assert table == "| x | y | z |\n|:--|--:|:--|\n| a\\|b | 1 | &lt;i> |"
    assert markdown.markdown_table(["x", "y"], []).splitlines()[1] == "|:--|--:|"


def test_metric_markdown_marks_the_own_model_and_the_best(report):
    table = tables.metric_table("test", report.metrics["test"])
    assert table is not None
    lines = markdown.metric_markdown(table, lambda cell: f" [{cell.error}]").splitlines()
    assert lines[0] == "| System | Recall@10 | NDCG@10 | Revenue@10 | Illegal SIDs |"
    assert lines[2] == "| **GR4AD (this run)** | **0.0500** [0.0040] | 0.0300 [] | 12.35 [] | 0 [] |"
    assert lines[3] == "| Popularity | 0.0200 [] | 0.0300 [] | 12.35 [] | – [] |"


def test_figures_as_text():
    assert (tables.count_text(1234567.9), tables.number_text(3.0)) == ("1\u202f234\u202f567", "3")
    assert (tables.number_text(0.5), tables.number_text(0.01234)) == ("0.50", "0.0123")
    assert [tables.is_known(figure) for figure in (0.0, None, math.nan, math.inf)] == [True, False, False, False]
    figures = {"ndcg@10_low": 0.0421, "ndcg@10_high": 0.0475}
    assert tables.interval_text("ndcg@10", figures) == "0.0421 to 0.0475"
    assert tables.interval_text("recall@10", figures) == ""


def test_headline_names_the_strongest_baseline(report):
    systems = report.metrics["test"]
    assert tables.headline(systems) == [
        ("recall@10", 0.05, ("Popularity", 0.02)),
        ("ndcg@10", 0.03, ("Popularity", 0.03)),
        ("revenue@10", 12.345, ("Popularity", 12.345)),
    ]
    assert tables.headline({"x": systems["ours"]}) == []
    assert tables.headline({"ours": {"ndcg@10": 0.1}}) == [("ndcg@10", 0.1, None)]


def test_facts_of_the_data(report):
    assert tables.dropped_rows(report.data_summary) == {"unknown_item": 3}
    assert tables.dropped_rows({}) == {}
    summary = {"users": 2, "events": 9, "events_by_name": {"click": 4, "conversion": 0, "impression": 9}}
    facts = [("Users", "2"), ("Events", "9"), ("Clicks", "4")]
    assert tables.data_facts(summary) == facts
    elsewhere = {"users": 1, "entries": 1234, "unmatched_users": 5}
    told = "1\u202f234 entries of 1 users; 5 users of the file are not in the log"
    assert tables.data_facts({**summary, "cross_domain": elsewhere}) == [*facts, ("Done elsewhere", told)]
    assert tables.split_text(None) == "" and "last event" in tables.split_text({"kind": "leave_one_out"})
    temporal = {"kind": "temporal", "column": "week", "validation_start": 9, "test_start": 10, "test_end": 12}
    assert "by week: validation from 9, test from 10 to 12;" in tables.split_text(temporal)
    assert tables.split_text({"kind": "other", "end": None}) == "kind: other"


def test_means_and_differences_as_text():
    score = {"mean": 0.0475, "spread": 0.0004, "low": 0.0421, "high": 0.0529}
    assert mean_text("ndcg@10", score) == "0.0475 ± 0.0004 (0.0421 to 0.0529)"
    assert mean_text("ndcg@10", {**score, "spread": None}) == "0.0475 (0.0421 to 0.0529)"
    cell = tables.paired_cell("ndcg@10", {"difference": 0.0123, "low": 0.01, "high": 0.0145, "relative": 0.123})
    assert difference_text(cell) == "**+0.0123** (+0.0100 to +0.0145; +12.3%)"
    assert difference_text(tables.paired_cell("ndcg@10", {})) == "–"


def test_an_unpriced_log_has_no_value_metrics():
    scores = {"ndcg@10": 0.1, "revenue@10": 3.0, "value_ndcg@5": 0.2, "spend": 9.0}
    outcome = {"final": "VSL", "test": {"VSL": scores, "x": scores}, "test_history_excluded": {}}
    assert as_report(outcome)["test"] == {"ours": scores, "x": scores}
    assert as_report({**outcome, "values": {"logged": False}})["test"]["ours"] == {"ndcg@10": 0.1}


def test_a_line_plot_needs_two_points_and_names_its_lines():
    log = [{"epoch": float(n), "loss": 1.0 / n, "rate": math.nan} for n in (1, 2, 3)]
    plot = plots.panel(log, "Loss", {"loss": "total", "rate": "nothing"}, "note", mark_best=True, reference=0.5)
    assert plot is not None and (plot.title, plot.note, plot.narrow) == ("Loss", "note", False)
    assert "nothing" not in plot.svg and "epoch" in plot.svg
    two = plots.line_plot("x", [plots.Line("a <b>", [0, 1], [1, 2]), plots.Line("c", [0, 1], [2, 3], accent=True)])
    assert two is not None and "a &lt;b&gt;" in two.svg
    assert plots.panel(log[:1], "Loss", {"loss": ""}, "") is None


def test_long_logs_are_thinned_to_means():
    log = [{"epoch": n / 1000, "loss": float(n % 2)} for n in range(1000)]
    plot = plots.panel(log, "Loss", {"loss": ""}, "")
    assert plot is not None and len(plot.svg) < len(plots.panel(log[:300], "Loss", {"loss": ""}, "").svg) * 2


def test_bars_are_drawn_of_metrics_that_two_systems_have():
    figures = {"ndcg@10": 0.1, "ndcg@10_low": 0.09, "ndcg@10_high": 0.11, "revenue@10": 2.0, "revenue@10_se": 0.1}
    drawn = plots.bar_plots({"ours": figures, "x": {**figures, "recall@10": 0.1}}, "")
    assert {metric: plot.note for metric, plot in drawn.items()} == {
        "ndcg@10": "95% interval over users",
        "revenue@10": "Value per user, ± one standard error",
    }
    assert not plots.has_intervals("revenue@10", {"x": figures}) and plots.has_intervals("ndcg@10", {"x": figures})
    assert plots.two_lines("a" * 60).count("\n") == 1 and plots.two_lines("a" * 60).endswith("…")


def test_a_picture_stands_alone_and_is_written_beside_its_page(tmp_path):
    purity = plots.usage_plot(1, [5, 3, 0])
    text = stand_alone(purity)
    assert "Level 1" in text and "var(" not in text and ElementTree.fromstring(text).tag.endswith("svg")
    written = write_files(tmp_path / "out" / "page.md", "text\n", {"a@10": purity, "none": None})
    assert [path.relative_to(tmp_path).as_posix() for path in written] == ["out/page.md", "out/plots/a_at_10.svg"]
    assert written[0].read_text() == "text\n" and written[1].read_text() == text
    write_page(written[0], "again")
    assert written[0].read_text() == "again" and len(list(written[0].parent.iterdir())) == 2


def test_sid_plots_show_their_figures():
    figures = {"purity": 0.75, "chance": 0.5, "shared_purity": math.nan, "shared_chance": math.nan}
    plot = purity_plot([figures, {**figures, "shared_purity": 0.25, "shared_chance": 0.1}])
    assert "0.75" in plot.svg and "0.25" in plot.svg and "2 codes" in plot.svg
    sizes = sid_size_plot({1: 900, 2: 5, 8: 3, 9: 1, 40: 2})
    assert all(text in sizes.svg for text in ("900", "7–10", "11–100", ">4<"))


def test_systems_are_compared_where_two_have_the_metric():
    scores = {"mean": 0.5, "low": 0.4, "high": 0.6, "by_run": [0.45, 0.55]}
    systems = {"base": {"metrics": {"ndcg@10": scores}}, "wide": {"metrics": {"ndcg@10": scores}}}
    plot = comparison_plot("ndcg@10", systems)
    assert plot is not None and "base" in plot.svg and "wide" in plot.svg
    assert comparison_plot("recall@10", systems) is None


@pytest.mark.parametrize("objective", [None, 50.0])
def test_a_load_test_is_drawn_in_three_panels(objective):
    part = {"time": 0.0, "p99_ms": 10.0, "beam_rows": 64.0, "rate": 3.0}
    figure = load_figure({"fixed": [part, {**part, "time": 1.0}], "adaptive": [part, part]}, objective)
    rate, latency, width = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "requests a second",
        "99th percentile, ms",
        "beam rows a request",
    ]
    assert len(latency.lines) == 2 + (objective is not None) and len(width.lines) == 2 and len(rate.lines) == 1

import re
import xml.etree.ElementTree as ElementTree

import pytest

from gr4ad.report.evaluation_files import comparison_markdown, evaluation_markdown, write_comparison, write_evaluation
from gr4ad.report.evaluation_plots import reliability_plot
from gr4ad.report.plots import metric_plot, training_plots
from gr4ad.report.tables import calibration_rows, metric_table, paired_cell, paired_rows, reach_table


def system(ndcg: float, revenue: float = 3.0) -> dict:
    figures = {"ndcg@10": ndcg, "ndcg@10_se": 0.001, "ndcg@10_low": ndcg - 0.002, "ndcg@10_high": ndcg + 0.003}
    return figures | {"revenue@10": revenue, "users": 90.0, "illegal_sids": 0, "spend": 9.0}


@pytest.fixture
def outcome(report) -> dict:
    figures = {"ndcg@10": {"difference": 0.01, "low": 0.004, "high": 0.016, "relative": 0.25}}
    return {
        "final": "VSL",
        "values": {"logged": True, "unit": "EUR"},
        "test": {"VSL": system(0.05), "item | kNN": system(0.04)},
        "test_history_excluded": {"VSL": system(0.05)},
        "paired": {"test": {"item | kNN": figures}},
        "value_calibration": {"VSL": report.value_calibration},
    }


def test_an_evaluation_as_markdown(outcome):
    text = evaluation_markdown(outcome)
    assert "| **GR4AD (this run)** | **0.0500** (0.0480 to 0.0530) | 3.000 | 0 |" in text
    assert "| item \\| kNN | **+0.0100** (+0.0040 to +0.0160; +25.0%) |" in text
    assert "| All held-out ads | 1 200 | 4 | 5 | 1.250 | 1.100 to 1.400 | 1.02 | 25.5% |" in text
    for table in re.findall(r"^\|.*\|$(?:\n\|.*\|$)+", text, flags=re.MULTILINE):
        assert len({row.replace("\\|", "").count("|") for row in table.splitlines()}) == 1
    bare = evaluation_markdown({**outcome, "values": {"logged": False, "unit": ""}, "value_calibration": {}})
    assert "no values" in bare and "Revenue" not in bare
    # What an earlier version kept has no intervals, differences or calibration.
    old = {name: outcome[name] for name in ("final", "test", "test_history_excluded")}
    assert "Revenue@10" in evaluation_markdown(old) and "less each" not in evaluation_markdown(old)


def test_plots_stand_alone(outcome, tmp_path):
    files = write_evaluation(tmp_path, outcome)
    plots = [path for path in files if path.suffix == ".svg"]
    assert {path.stem for path in plots} == {"ndcg_at_10", "revenue_at_10", "reliability_held_out"}
    for path in plots:
        text = path.read_text(encoding="utf-8")
        assert "var(" not in text and not re.search(r"#0[1-6]0[1-6]0[1-6]\b", text)
        assert ElementTree.fromstring(text).tag.endswith("svg")


def test_reliability_needs_two_bins_and_turns_logarithmic(report):
    calibration = report.value_calibration["held_out"]
    assert "Predicted / true 1.25" in reliability_plot("held_out", calibration, "EUR").note
    assert reliability_plot("held_out", {"bins": calibration["bins"][:1]}) is None
    assert reliability_plot("held_out", {}) is None
    wide = [{"mean_predicted": 3.0**place, "mean_true": 2.5**place, "true_se": None} for place in range(8)]
    assert reliability_plot("served@10", {"bins": wide, "ratio": None}).svg.count("<path") > 8


def test_bars_take_intervals_when_all_have_them():
    systems = {"ours": system(0.05), "x": system(0.04)}
    assert "0.0500" in metric_plot("ndcg@10", systems).svg
    del systems["x"]["ndcg@10_low"]
    assert "0.0500" in metric_plot("ndcg@10", systems).svg


def test_training_panels_are_those_of_the_log(report):
    titles = [plot.title for plot in training_plots(report.training_log, "EUR")]
    assert {"Training loss", "Accuracy by level", "Gradient norm", "Value calibration"} <= set(titles)
    accuracy = next(p for p in training_plots(report.training_log, "EUR") if p.title == "Accuracy by level")
    assert all(name in accuracy.svg for name in ("level 1", "level 2", "item"))
    plain = [{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "loss": 1.0}]
    assert [plot.title for plot in training_plots(plain, "EUR")] == ["Training loss"]


def test_paired_cells_and_reach(report):
    columns, rows = paired_rows(report.paired["test"])
    assert columns == ["Recall@10", "NDCG@10"] and rows[0][0] == "Popularity"
    clear, unclear = rows[0][1]
    assert (clear.text, clear.interval, clear.relative, clear.clear) == (
        "+0.0300",
        "+0.0100 to +0.0500",
        "+150.0%",
        True,
    )
    assert unclear.text == "−0.0010" and unclear.relative == "" and not unclear.clear
    assert paired_cell("ndcg@10", {}).text == "–"
    figures = {"coverage@10": 0.5, "shared_sid@10": 0.1, "shared_sid_targets": 0.25, "cold0_targets": 0.0}
    table, told = reach_table({"ours": figures | {"cold0_users": 0.0}, "x": {"coverage@10": 0.25}})
    assert table.columns == ["Coverage@10", "Shared SIDs@10"]
    assert (
        told == "0 held-out items of 0 users have no training events; 25.0% of all held-out items "
        "share their SID with another ad."
    )
    assert reach_table({"ours": {"coverage@10": 0.5}}) == (None, "")
    assert calibration_rows({}) == [] and metric_table("", {}) is None


def test_a_comparison_as_markdown(tmp_path):
    def scores(mean: float, **more) -> dict:
        content = {"mean": mean, "spread": 0.002, "by_run": [mean - 0.001, mean + 0.001]}
        return {"ndcg@10": content | {"low": mean - 0.01, "high": mean + 0.01} | more}

    difference = {"difference": 0.02, "low": -0.001, "high": 0.03, "relative": 0.4}
    comparison = {
        "protocol": "test",
        "users": 1234,
        "metrics": ["ndcg@10", "cold0_recall@20"],
        "systems": {
            "base": {"runs": ["a", "b"], "metrics": scores(0.05)},
            "wide": {"runs": ["c", "d"], "metrics": scores(0.07, difference=difference)},
        },
    }
    text = comparison_markdown(comparison)
    assert "| base | 2 | 0.0500 ± 0.0020 (0.0400 to 0.0600) | – |" in text
    assert "| wide | +0.0200 (−0.0010 to +0.0300; +40.0%) | – |" in text and "1\u202f234 users" in text
    assert [path.name for path in write_comparison(tmp_path, comparison)] == ["comparison.md", "ndcg_at_10.svg"]

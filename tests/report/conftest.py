import math

import pytest

from gr4ad.report import RunReport

TITLE = "Essie <script>alert(1)</script> & $5 | polish"


def _log(steps: int, **figures: float) -> list[dict]:
    return [
        {"step": step, "epoch": step / 10, **{name: figure / step for name, figure in figures.items()}}
        for step in range(1, steps + 1)
    ]


@pytest.fixture
def report() -> RunReport:
    """A small run with every part filled."""
    quality = {"cpr": 1.25, "col": 0.2, "util": 0.01, "items_in_shared_sids": 0.4, "used_1": 0.75, "perplexity_1": 2.9}
    system = {"users": 120.0, "recall@10": 0.05, "recall@10_se": 0.004, "ndcg@10": 0.03, "revenue@10": 12.345}
    return RunReport(
        title="Run <b>1</b>",
        command="gr4ad run recipes/x.yaml --out 'out/x & y'",
        created="2026-03-04 05:06",
        seed=7,
        machine={"CPU": "2 cores"},
        versions={"torch": "2.9.1"},
        data_summary={
            "users": 1234567,
            "items": 5,
            "events": 42,
            "dropped": {"unknown_item": 3, "missing": 0},
            "split": {"kind": "temporal", "column": "week", "validation_start": 9, "test_start": 10, "test_end": None},
            "value_unit": "EUR",
            "test": {"users": 120, "mean_history": 4.5, "mean_targets": 1.0, "left_out": {"no_history": 2}},
        },
        training_log=[
            *_log(20, loss=9.0, loss_sid=6.0, loss_value=2.0, grad_norm=1.0),
            *_log(20, acc_level_1=0.4, acc_level_2=0.2, acc_item=0.1, value_ratio=1.3),
            {"step": 20, "epoch": 2.0, "eval_ndcg@10": math.nan},
            *_log(3, **{"eval_ndcg@10": 0.03, "eval_revenue@10": 4.0}),
        ],
        alignment_log=_log(5, **{"loss": 1.0, "rspo/accuracy": 0.6, "rspo/margin": 0.2}),
        sid_quality=quality,
        code_counts=[[3, 1, 1, 0], [0, 5]],
        metrics={
            "test": {
                "popularity": {**system, "recall@10": 0.02, "recall@10_se": math.nan},
                "ours": {**system, "illegal_sids": 0},
            },
            "test_history_excluded": {"ours": system},
        },
        beam_tree={
            "history": [{"item_id": "A1", "title": "First"}, {"item_id": "A2", "title": TITLE}],
            "levels": [
                [
                    {"sid": "<a_1>", "score": math.log(0.6), "parent": None},
                    {"sid": "<a_2>", "score": math.log(0.3), "parent": None},
                ],
                [
                    {"sid": "<a_2><b_1>", "score": math.log(0.25), "parent": 1},
                    {"sid": "<a_1><b_0>", "score": math.log(0.5), "parent": 0},
                ],
            ],
            "recommendations": [
                {"item_id": "B1", "title": TITLE, "score": -0.7, "value": 3.5, "sid": "<a_1><b_0>"},
                {"item_id": "B2", "title": "", "score": -1.4, "value": None, "sid": "<a_2><b_1>"},
            ],
        },
        paired={
            "test": {
                "popularity": {
                    "recall@10": {"difference": 0.03, "low": 0.01, "high": 0.05, "relative": 1.5},
                    "ndcg@10": {"difference": -0.001, "low": -0.01, "high": 0.008, "relative": None},
                }
            }
        },
        value_calibration={
            "held_out": {
                "pairs": 1200,
                "mean_true": 4.0,
                "mean_predicted": 5.0,
                "ratio": 1.25,
                "ratio_low": 1.1,
                "ratio_high": 1.4,
                "ece": 1.02,
                "ece_relative": 0.255,
                "bins": [
                    {"mean_predicted": 2.0 + place, "mean_true": 1.0 + place, "true_se": 0.2} for place in range(5)
                ],
            }
        },
        timings={"data": 0.5, "train": 3700.0},
        notes=["A note with <i>markup</i>."],
    )

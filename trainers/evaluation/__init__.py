"""Item-level metrics, honest baselines and the leakage check. Needs numpy, scipy, pandas and pyarrow only."""

from gr4ad.trainers.evaluation.baselines import (
    ItemKNN,
    KNNSettings,
    popularity_by_count,
    popularity_by_revenue,
    repeat_then_popularity,
    tune_item_knn,
)
from gr4ad.trainers.evaluation.leakage import check_no_leakage
from gr4ad.trainers.evaluation.metrics import bootstrap_interval, evaluate_rankings, ranking_metrics
from gr4ad.trainers.evaluation.sequences import Sequences, SequenceTable
from gr4ad.trainers.evaluation.ties import tie_order

__all__ = [
    "ItemKNN",
    "KNNSettings",
    "SequenceTable",
    "Sequences",
    "bootstrap_interval",
    "check_no_leakage",
    "evaluate_rankings",
    "popularity_by_count",
    "popularity_by_revenue",
    "ranking_metrics",
    "repeat_then_popularity",
    "tie_order",
    "tune_item_knn",
]

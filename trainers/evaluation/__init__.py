# ruff: noqa: F401  # the names are there for type checkers; `lazy_names` imports them
"""Item-level metrics, honest baselines and the leakage check. Needs numpy, scipy, pandas and pyarrow only."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .baselines import (
        ItemKNN,
        KNNSettings,
        popularity_by_count,
        popularity_by_revenue,
        repeat_then_popularity,
        tune_item_knn,
    )
    from .calibration import ValueCalibration, value_calibration
    from .intervals import PairedDifference, bootstrap_interval, paired_difference, seed_interval
    from .item_exposure import cold_recall, shared_sid_exposure, shared_sids
    from .leakage import check_no_leakage
    from .metrics import evaluate_rankings, ranking_metrics
    from .per_user import PerUserScores, data_digest
    from .sequences import Sequences, SequenceTable
    from .ties import tie_order

NAMES = {
    "baselines": "ItemKNN KNNSettings popularity_by_count popularity_by_revenue repeat_then_popularity tune_item_knn",
    "calibration": "ValueCalibration value_calibration",
    "intervals": "PairedDifference bootstrap_interval paired_difference seed_interval",
    "item_exposure": "cold_recall shared_sid_exposure shared_sids",
    "leakage": "check_no_leakage",
    "metrics": "evaluate_rankings ranking_metrics",
    "per_user": "PerUserScores data_digest",
    "sequences": "Sequences SequenceTable",
    "ties": "tie_order",
}
__getattr__, __all__ = lazy_names(__name__, NAMES)

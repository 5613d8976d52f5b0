"""Item-level metrics, honest baselines and the leakage check. Needs numpy, scipy, pandas and pyarrow only."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .baselines import ItemKNN as ItemKNN
    from .baselines import KNNSettings as KNNSettings
    from .baselines import popularity_by_count as popularity_by_count
    from .baselines import popularity_by_revenue as popularity_by_revenue
    from .baselines import repeat_then_popularity as repeat_then_popularity
    from .baselines import tune_item_knn as tune_item_knn
    from .calibration import ValueCalibration as ValueCalibration
    from .calibration import value_calibration as value_calibration
    from .intervals import PairedDifference as PairedDifference
    from .intervals import bootstrap_interval as bootstrap_interval
    from .intervals import paired_difference as paired_difference
    from .intervals import seed_interval as seed_interval
    from .item_exposure import cold_recall as cold_recall
    from .item_exposure import shared_sid_exposure as shared_sid_exposure
    from .item_exposure import shared_sids as shared_sids
    from .leakage import check_no_leakage as check_no_leakage
    from .metrics import evaluate_rankings as evaluate_rankings
    from .metrics import ranking_metrics as ranking_metrics
    from .per_user import PerUserScores as PerUserScores
    from .per_user import data_digest as data_digest
    from .sequences import Sequences as Sequences
    from .sequences import SequenceTable as SequenceTable
    from .ties import tie_order as tie_order

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "baselines": [
            "ItemKNN",
            "KNNSettings",
            "popularity_by_count",
            "popularity_by_revenue",
            "repeat_then_popularity",
            "tune_item_knn",
        ],
        "calibration": ["ValueCalibration", "value_calibration"],
        "intervals": ["PairedDifference", "bootstrap_interval", "paired_difference", "seed_interval"],
        "item_exposure": ["cold_recall", "shared_sid_exposure", "shared_sids"],
        "leakage": ["check_no_leakage"],
        "metrics": ["evaluate_rankings", "ranking_metrics"],
        "per_user": ["PerUserScores", "data_digest"],
        "sequences": ["Sequences", "SequenceTable"],
        "ties": ["tie_order"],
    },
)

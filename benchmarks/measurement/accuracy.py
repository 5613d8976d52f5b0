"""Rankings of test users as rows of a result: systems by protocol and metric, over seeds and beside each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from gr4ad.pipeline.comparing import compare_runs
from measurement.results import Row, result_row, rounded

PREFIXES = {"test": "", "test_history_excluded": "history excluded: "}
"""Protocol -> how its rows' names begin."""
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "revenue@10", "value_ndcg@10", "coverage@10")
ENDS = ("low", "high")


def unit_of(metric: str, value_unit: str) -> str:
    return f"{value_unit} per user" if metric.startswith("revenue") else "share"


def metric_rows(prefix: str, scores: Mapping[str, float], value_unit: str, seed: int) -> list[Row]:
    """One run's means of a system, as spread their standard errors over users, with the ends of the intervals."""
    return [
        result_row(
            f"{prefix}/{metric}", metric, scores[metric], unit_of(metric, value_unit), scores.get(f"{metric}_se", 0.0),
            seed=seed, **{end: scores[f"{metric}_{end}"] for end in ENDS if f"{metric}_{end}" in scores},
        )
        for metric in METRICS
    ]  # fmt: skip


def compared_rows(
    groups: Mapping[str, Sequence[str | Path]], unit: str, protocols: Sequence[str] = tuple(PREFIXES)
) -> tuple[list[Row], dict[str, dict]]:
    """Rows of every system and metric, and name -> each one's difference from the first group.

    Args:
        groups: System -> folders of its runs, one a seed.
        unit: Of values in the log.

    Returns:
        Rows with `value` (mean over seeds), `spread` (sample standard deviation over them, None for one), `low` and
        `high` (95% interval over users and seeds), `by_seed`; and differences, absolute and relative, each with the
        interval of the same users.
    """
    rows, differences = [], {}
    for protocol in protocols:
        for name, system in compare_runs(groups, protocol=protocol)["systems"].items():
            for metric, figures in system["metrics"].items():
                if metric not in METRICS:
                    continue
                label = f"{PREFIXES[protocol]}{name}/{metric}"
                ends = {end: figures[end] for end in ENDS}
                rows.append(
                    result_row(label, metric, figures["mean"], unit_of(metric, unit), figures["spread"], **ends,
                               by_seed=figures["by_run"])
                )  # fmt: skip
                if "difference" in figures:
                    differences[label] = rounded(figures["difference"])
    return rows, differences

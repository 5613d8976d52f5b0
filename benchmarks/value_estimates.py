"""How well values are predicted: by the value token alone, by what items were worth in the log, and by both.

    python benchmarks/value_estimates.py --runs NAME=RUN,RUN-seed1,... --out benchmarks/results/value_estimates.json

Finished folders of `gr4ad run` whose model counts item values. Each pair of a user of validation or test and an item
that came is predicted from the history and the item: `token`, without item values; `counted`, the mean of the item's
training events, or of all events where it has none; `both`, as served. `value` is the mean over the runs, `spread` the
sample standard deviation over them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from measurement.results import Benchmark, result_row, rounded
from measurement.runs import FinishedRun
from scipy.stats import spearmanr

from gr4ad import GR4ADForRecommendation
from gr4ad.pipeline.comparing import read_groups
from gr4ad.trainers.evaluation.calibration import value_calibration
from gr4ad.trainers.evaluation.model_ranking import predict_values

SPLITS = ("validation", "test")


def figures_of(predicted: np.ndarray, true: np.ndarray) -> dict[str, tuple[float, str]]:
    """Metric -> (value, unit)."""
    calibration = value_calibration(predicted, true)
    logs = np.log(predicted + 0.01) - np.log(true + 0.01)
    return {
        "rank correlation": (float(spearmanr(predicted, true).statistic), "Spearman's"),
        "mean absolute error": (float(np.abs(predicted - true).mean()), "value"),
        "root mean squared error of logs": (float(np.sqrt(np.square(logs).mean())), "nats"),
        "ratio": (calibration.ratio, "predicted over true"),
        "calibration error": (calibration.ece_relative, "share of the mean"),
    }


def measured(folder: Path) -> dict[str, dict[str, tuple[float, str]]]:
    """Name -> metric -> (value, unit) of one run."""
    run, found = FinishedRun(folder), {}
    model = GR4ADForRecommendation.from_pretrained(folder)
    counts = model.item_values
    if counts is None:
        raise SystemExit(f"{folder}: its model counts no item values (`model.item_values`). Run the recipe again.")
    overall = (counts.events * counts.means).sum() / counts.events.sum().clamp(min=1)
    known = counts.means.where(counts.events > 0, overall).numpy()
    for split in SPLITS:
        rows = getattr(run.data, split)
        targets = run.held_out(rows)
        predicted = {"counted": known[targets.items + 1]}
        for name, used in (("both", counts), ("token", None)):
            model.item_values = used
            predicted[name] = predict_values(model, run.tokenizer, rows, targets, batch_size=64)
        for name in ("token", "counted", "both"):
            found[f"{split}: {name}"] = figures_of(predicted[name], targets.values)
    return found


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="Changes nothing: a small run is read as a large one.")
    benchmark.take("--runs")
    arguments = benchmark.start(words)
    rows, priors = [], {}
    for label, folders in read_groups(arguments.runs).items():
        runs = [measured(Path(folder)) for folder in folders]
        first = GR4ADForRecommendation.from_pretrained(folders[0]).item_values
        priors[label] = rounded(float(first.prior)) if first is not None else None
        for name, metrics in runs[0].items():
            for metric, (_, unit) in metrics.items():
                values = [run[name][metric][0] for run in runs]
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
                rows.append(result_row(f"{label}, {name}", metric, float(np.mean(values)), unit, spread))
    benchmark.write(arguments, rows, seeds=range(len(folders)), prior_events=priors)


if __name__ == "__main__":
    main()

"""What a target costs in nats, by p(SID), by the item head and by a uniform guess, in finished runs of any build.

    python benchmarks/likelihoods.py --runs NAME=RUN,RUN-seed1 ... --out benchmarks/results/likelihoods.json

Folders of `gr4ad run`. An artifact keeps the p(SID) that it was trained with, so runs of earlier builds are measured
as they were. `value` is the mean of -log p over the targets of the test users and over the runs of a name, `spread`
the sample standard deviation over the runs. `items per SID`: items that share an SID are counted as one by p(SID).
Item neighbours count with the weight that the artifact serves.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from measurement.likelihoods import nats_of
from measurement.results import Benchmark, result_row, rounded
from measurement.runs import FinishedRun

from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.pipeline.comparing import read_groups


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__)
    benchmark.take("--runs", batch_size=64)
    arguments = benchmark.start(words)
    rows = []
    for group, folders in read_groups(arguments.runs).items():
        found = []
        for folder in map(Path, folders):
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            weight = RankingWeights.from_dict(metrics["serving"]).neighbour_weight
            found.append(nats_of(FinishedRun(folder), weight, arguments.batch_size))
        for name in found[0]:
            values = [own[name] for own in found]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            unit = "nats" if "nats" in name else "items"
            rows.append(
                result_row(f"{group}/{name}", unit, float(np.mean(values)), "", spread, by_seed=rounded(values))
            )
    benchmark.write(arguments, rows, {})


if __name__ == "__main__":
    main()

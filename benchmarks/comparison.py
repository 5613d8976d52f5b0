"""Runs side by side as rows of a result file: means over seeds with intervals, and differences on the same users.

    python benchmarks/comparison.py "ours=OUT/a,OUT/a-seed1" "SASRec=OUT/b/seed0,OUT/b/seed1" --out FILE

The first group is what the others are measured against. A run is any folder with the scores per user that
`gr4ad run`, `gr4ad evaluate`, `sasrec.py` and `decoders.py` leave behind; all must be of the same data and users.
"""

from collections.abc import Sequence

from measurement.accuracy import PREFIXES, compared_rows
from measurement.results import Benchmark

from gr4ad.pipeline.comparing import read_groups


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="Changes nothing: small runs are compared as large ones are.")
    benchmark.add_argument(
        "runs", nargs="+", metavar="NAME=RUN[,RUN...] ...", help="Folders of each system, one a seed."
    )
    benchmark.take(
        unit=("events", "Of values in the log."), protocols=(list(PREFIXES), "Tables, of those all runs have.")
    )
    arguments = benchmark.start(words)
    groups = read_groups(arguments.runs)
    rows, differences = compared_rows(groups, arguments.unit, arguments.protocols)
    seeds = {name: len(folders) for name, folders in groups.items()}
    benchmark.write(arguments, rows, differences, seeds=seeds)


if __name__ == "__main__":
    main()

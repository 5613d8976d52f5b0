"""What beams of each level cost and bring (dynamic beam width): the shape of table 4 of arXiv 2602.22732.

    python benchmarks/beam_frontier.py --runs NAME=RUN ... --out benchmarks/results/beam_frontier.json

Finished folders of `gr4ad run`. The same test users are ranked with equal widths, with one level cut to a quarter, and
with progressive ones, in turns, 16 at a time on one thread; time is that of the CPU. `loss` is the share of the metric
lost against the widest, with its 95% interval over users. Beams alone and the whole ranking with its item head are
measured apart: the item head's candidates do not depend on beams.
"""

from collections.abc import Sequence

from measurement import one_core  # noqa: F401  before numpy is loaded
from measurement.results import Benchmark, Row, result_row
from measurement.runs import named_runs

from gr4ad.pipeline.beam_frontier import FrontierPoint, beam_frontier, recommended


def point_rows(label: str, point: FrontierPoint) -> list[Row]:
    return [
        result_row(label, "CPU ms a user", point.ms, "ms", point.spread_ms, widths=point.widths),
        *(result_row(label, f"{metric}@10", value, "") for metric, value in point.metrics.items()),
        result_row(label, "loss of ndcg@10", point.loss, "share", point.loss_interval),
    ]


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__)
    benchmark.take("--runs", widest=512, users=1000, rounds=3)
    arguments = benchmark.start(words, widest=16, users=20, rounds=1)
    rows, ratios, chosen = [], {}, {}
    for name, folder in named_runs(arguments.runs).items():
        for kind, item_weight in (("beams alone", 0.0), ("as served", None)):
            points = beam_frontier(
                folder, widest=arguments.widest, users=arguments.users, rounds=arguments.rounds, split="test",
                item_weight=item_weight,
            )  # fmt: skip
            for point in points:
                label = f"{name}, {kind}, {point.name}"
                rows += point_rows(label, point)
                ratios[f"speed, {label}"] = points[0].ms / point.ms
            choice = recommended(points)
            chosen[f"{name}, {kind}"] = {"name": choice.name, "widths": choice.widths}
    benchmark.write(arguments, rows, ratios, users=arguments.users, fastest_within_half_a_percent=chosen)


if __name__ == "__main__":
    main()

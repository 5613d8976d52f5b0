"""SASRec with full cross-entropy: tuned on validation, then ranked once on test, as a run that others compare with.

    python benchmarks/sasrec.py amazon_beauty --data DIR --work OUT --out benchmarks/results/sasrec_beauty.json

The network is that of `opponents/sasrec_network.py`. Data, splits, targets, weights of ties and metrics are those of
the recipe. Settings and epoch are chosen by the recipe's metric on validation for the first seed; every seed then
trains at that choice, its epoch chosen by its own validation, and ranks the test users once. OUT/seedN (with item
neighbours, below, OUT/seedN_neighbours) holds scores per user that `gr4ad compare` reads.

With money in the log the value of an item may count: items are then ranked by log p(item) + a log(mean training value
of the item), a chosen on validation.

Where the recipe counts item neighbours, a second system adds them to SASRec's scores as our model does, by a weight
from the recipe's list that validation chooses: what of our ranking they would give to any network.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from measurement.accuracy import PREFIXES, metric_rows
from measurement.results import Benchmark, Row
from measurement.runs import FinishedRun, recipe_of, run_up_to
from opponents.sasrec_network import SASRec, Setting, neighbour_scores, rank, train

from gr4ad.pipeline.evaluating import PROTOCOLS
from gr4ad.trainers.evaluation import SequenceTable, check_no_leakage, evaluate_rankings
from gr4ad.trainers.evaluation.per_user import FILE_NAME
from gr4ad.trainers.evaluation.system_scores import SystemScores, has_values

NAME, WITH_NEIGHBOURS = "SASRec", "SASRec + item neighbours"
SETTINGS = {
    "dimensions": [64], "layers": 2, "heads": 2, "epochs": 20, "validate_every": 2, "max_items": 50, "batch_size": 128,
    "learning_rate": 1e-3, "dropouts": [0.3, 0.4, 0.5], "weight_decays": [0.01], "value_powers": [0.0, 0.5, 0.75, 1.0],
}  # fmt: skip
SMOKE = {"dimensions": [16], "layers": 1, "epochs": 2, "validate_every": 1, "max_items": 8, "batch_size": 32}


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="A small network on a small simulated market in place of the log.")
    benchmark.take("recipe", "--data", "--work", seeds=[0, 1, 2], **SETTINGS)
    args = benchmark.start(words, **SMOKE)

    recipe = recipe_of(args.recipe, args.work, smoke=args.smoke, data=args.data)
    run_up_to(recipe, args.work, "data")
    data = FinishedRun(args.work).data
    ids = list(data.catalog["item_id"])
    tables = [SequenceTable.from_dataset(part, ids) for part in (data.train, data.validation, data.test)]
    train_table, validation, test = tables
    check_no_leakage(train_table, validation)
    check_no_leakage(train_table, test)
    logs = [np.split(table.history.items, table.history.offsets[1:-1]) for table in tables]
    metric, priced = recipe.evaluate.metric, has_values(train_table)
    powers = args.value_powers if priced else [0.0]
    events = train_table.history
    value = np.bincount(events.items, events.values, len(ids)) / np.maximum(
        np.bincount(events.items, None, len(ids)), 1
    )
    log_value = np.log(np.maximum(value, value[value > 0].min())).astype(np.float32)

    counted = recipe.neighbours
    evidence = neighbour_scores(counted, train_table, tables[1:]) if counted is not None else []
    weights = recipe.evaluate.neighbour_weights

    def ranked(model: SASRec, part: int, power: float, weight: float = 0.0, *, exclude: bool = False) -> np.ndarray:
        """Rankings of validation (part 1) or test (part 2)."""
        return rank(
            model,
            logs[part],
            args,
            exclude=exclude,
            prior=power * log_value if power else None,
            evidence=weight * evidence[part - 1] if weight else None,
        )

    def scored(model: SASRec, power: float, weight: float = 0.0, *, exclude: bool = False) -> float:
        rankings = ranked(model, 1, power, weight, exclude=exclude)
        return evaluate_rankings(rankings, validation.held_out, catalog_size=len(ids))[metric]

    def validate(model: SASRec) -> float:
        return max(scored(model, power) for power in powers)

    tried, best = [], None
    for values in itertools.product(args.dimensions, args.dropouts, args.weight_decays):
        setting = Setting(*values)
        _, history = train(logs[0], len(ids), args, setting, args.seeds[0], validate)
        score = max(line["validation"] for line in history if "validation" in line)
        tried.append({**setting._asdict(), metric: score, "log": history})
        if best is None or score > best[0]:
            best = score, setting
    assert best is not None
    chosen = best[1]
    rows: list[Row] = []
    choices: dict[str, dict] = {}
    for seed in args.seeds:
        model, history = train(logs[0], len(ids), args, chosen, seed, validate)
        power = max(powers, key=lambda candidate: scored(model, candidate))
        scores = SystemScores(train_table, test, np.zeros((len(ids), 1), dtype=np.int64), seed)
        systems = {NAME: 0.0}
        if evidence:
            systems[WITH_NEIGHBOURS] = max(weights, key=lambda candidate: scored(model, power, candidate))
        for protocol, exclude in PROTOCOLS.items():
            for system, weight in systems.items():
                scores.add(protocol, system, ranked(model, 2, power, weight, exclude=exclude))
        unit = str(data.summary.get("value_unit") or "") if priced else ""
        scores.compare(NAME)
        for system in systems:
            folder = args.work / (f"seed{seed}" if system == NAME else f"seed{seed}_neighbours")
            folder.mkdir(parents=True, exist_ok=True)
            scores.for_file(final=system, metric=metric, seed=seed, value_unit=unit).save(folder / FILE_NAME)
        choices[f"seed {seed}"] = {
            **chosen._asdict(),
            "value_power": power,
            "neighbour_weight": systems.get(WITH_NEIGHBOURS),
            "validation": scored(model, power),
            "validation, history excluded": scored(model, power, exclude=True),
            "log": history,
        }
        for protocol, prefix in PREFIXES.items():
            for system in systems:
                rows += metric_rows(f"{prefix}{system}", scores.means[protocol][system], unit or "events", seed)
    folders = ("data", "work", "out")
    benchmark.write(
        args,
        rows,
        seeds=args.seeds,
        settings={name: value for name, value in vars(args).items() if name not in folders},
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tried=tried,
        choices=choices,
    )


if __name__ == "__main__":
    main()

"""Which ad embedding makes the best semantic IDs for the model: validation ranking of the same model on each.

    python benchmarks/sid_downstream.py --data DIR --work OUT --out benchmarks/results/sid_downstream.json

Trains the Amazon Beauty recipe, shortened to `--epochs`, on SIDs (and item vectors that start) from raw text, from
text of an encoder tuned on co-occurrence, from text + collaborative vectors, and from both. Everything is fitted on
the training log; all validation users are ranked over the whole catalog, by beams alone (item weight 0) and by the
item head on the beams (item weight 1). The run ranks the test users too, but nothing of that is used here. `spread` is
the standard error over users.
"""

from collections.abc import Sequence
from typing import Any

from measurement.results import Benchmark, Row, result_row
from measurement.runs import Changes, changed, recipe_of, run_variant, slug

from gr4ad.pipeline import Recipe

TUNE: dict[str, Any] = {"epochs": 3, "learning_rate": 1.0e-4, "max_length": 32, "bf16": True}
SMOKE_TUNE = {"epochs": 1, "batch_size": 16}
VARIANTS = {  # name: (tuned encoder, collaborative vectors)
    "raw text": (False, False),
    "tuned text": (True, False),
    "text + collaborative": (False, True),
    "tuned text + collaborative": (True, True),
}
VALIDATED: Changes = {
    "neighbours": None,
    "align": None,
    "evaluate": {
        "item_weights": [0.0, 1.0], "value_weights": [0.0], "neighbour_weights": [0.0], "item_candidates": 0,
        "score_history": False, "tuning_users": 0,
    },
}  # fmt: skip
RANKED = {0.0: "beams alone", 1.0: "item head"}


def variant_of(recipe: Recipe, name: str, epochs: int, tune: dict[str, Any]) -> Recipe:
    tuned, collaborative = VARIANTS[name]
    chosen = {key: value for key, value in recipe.train.items() if not key.startswith(("eval_", "metric_", "load_"))}
    recipe = changed(recipe, {**VALIDATED, "tune": tune if tuned else None})
    recipe.train = {**chosen, "num_train_epochs": epochs, "save_strategy": "no"}
    recipe.cooccurrence = recipe.cooccurrence if collaborative else {}
    return recipe


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="One epoch on a small simulated market in place of the log.")
    benchmark.take("--data", "--work", epochs=8)
    benchmark.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    arguments = benchmark.start(words, epochs=1)
    epochs, tune = arguments.epochs, SMOKE_TUNE if arguments.smoke else TUNE
    recipe = recipe_of("amazon_beauty", arguments.work, smoke=arguments.smoke, data=arguments.data)
    rows: list[Row] = []
    for name in arguments.variants:
        folder = arguments.work / slug(name)
        first = arguments.work / slug(arguments.variants[0])
        metrics = run_variant(variant_of(recipe, name, epochs, tune), first, folder, "benchmarks/sid_downstream.py")
        rows += [
            result_row(f"{name}/{RANKED[tried['item_weight']]}/{metric}", metric, tried[metric], "share",
                       tried[f"{metric}_se"], seed=recipe.seed)
            for tried in metrics["validation"]
            for metric in ("recall@10", "ndcg@10")
        ]  # fmt: skip
    benchmark.write(arguments, rows, seeds=[recipe.seed])


if __name__ == "__main__":
    main()

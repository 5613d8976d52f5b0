"""What each part of a recipe is worth: the recipe without it, same data, same seeds, same users.

    python benchmarks/ablations.py complete_journey --data DIR --work OUT --out FILE

OUT, OUT-seed1, ... hold the recipe itself, as `benchmarks/recipe.py` leaves them; a variant lies in OUT.VARIANT and
starts from the stages it has in common with the recipe. What is chosen on validation (item and value weight) is chosen
anew for each variant; each ranks the test users once a seed. `spread` is the sample standard deviation over seeds;
`low` and `high` the 95% interval over users and seeds; `ratios` hold each variant's difference from the recipe on the
same users, with its interval.
"""

from collections.abc import Sequence
from typing import Any

from measurement.accuracy import compared_rows
from measurement.results import Benchmark
from measurement.runs import Changes, changed, recipe_of, run_variant, slug

from gr4ad.pipeline import run_recipe
from gr4ad.pipeline.comparing import seed_folder

DECODER: dict[str, Changes] = {
    "vanilla AR, K = 0": {"model": {"num_parallel_layers": 0}},
    "K = 1": {"model": {"num_parallel_layers": 1}},
}
PARTS: dict[str, Changes] = {
    "no item head": {"model": {"item_head": False, "item_head_copy": False, "item_head_repeat": False}},
    "no item vectors of the log": {"train": {"item_embedding_std": 0.0}},
    "MTP loss": {"train": {"mtp_loss_weight": 0.3}},
}
GUARDED: dict[str, Any] = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "learning_rate": 1.0e-4,
    "beta": 0.5,
    "vsl_weight": 0.02,
    "logging_steps": 20,
    "save_strategy": "no",
    "eval_strategy": "steps",
    "eval_steps": 20,
    "eval_users": 0,
    "item_weight": 1.0,  # what validation chooses: beams propose, the item head ranks
    "eval_item_weight": 1.0,
    "eval_value_weight": 0.75,
    "eval_score_history": True,
    "per_device_eval_batch_size": 64,
    "metric_for_best_model": "revenue@10",
}
"""Alignment of a recipe that has none: the policy that ends the run has lost at most 1% of NDCG@10 on validation."""
PROPOSED: dict[str, Any] = {"source": "beams", "list_size": 32, "held_share": 0.25}
CHOSEN: dict[str, Any] = {"item_weights": [1.0], "value_weights": [0.25, 0.75, 1.0]}
"""Serving weights of Complete Journey, those among them that validation chose in all runs of VSL."""
VARIANTS: dict[str, dict[str, Changes]] = {
    "amazon_beauty": {
        **DECODER,
        **PARTS,
        "no item head": {**PARTS["no item head"], "neighbours": None, "evaluate": {"item_candidates": 0}},
        "no repeat bias": {"model": {"item_head_repeat": False}},
        "no context encoder": {"model": {"num_context_layers": 0}},
        "two context layers": {"model": {"num_context_layers": 2}},
        "text alone": {"embed": {"category_columns": []}},
        "no item neighbours": {"neighbours": None, "evaluate": {"item_weights": [0.0, 0.9, 0.95, 1.0]}},
        "item neighbours without order": {
            "neighbours": {"distance_decay": 1.0, "backward": 1.0},
            "evaluate": {"item_weights": [0.9, 0.95, 1.0], "neighbour_weights": [0.7, 1.0, 1.4]},
        },
    },
    "complete_journey": {
        **DECODER,
        **PARTS,
        "no re-ranking by value": {"evaluate": {"value_weights": [0.0]}},
        "re-ranking by value within 2% of NDCG": {
            "evaluate": {
                "item_weights": [0.95, 1.0],
                "value_weights": [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4],
                "max_ndcg_loss": 0.02,
            }
        },
        "unweighted users": {"train": {"user_weight_clip": 1}},
        "no value at all": {
            "train": {"user_weight_clip": 1, "value_loss_weight": 0.0, "eval_value_weight": 0.0},
            "evaluate": {"value_weights": [0.0]},
        },
        "item neighbours": {
            "neighbours": {"neighbours": 200, "shrinkage": 50.0, "decay": 0.9},
            "evaluate": {"item_weights": [1.0], "neighbour_weights": [0.0, 0.1, 0.2, 0.3]},
        },
        "no copying": {"model": {"item_head_copy": False}},
        "next event only": {"train": {"target_window": 1}},
        "aligned by RSPO": {"lists": PROPOSED, "align": GUARDED, "evaluate": CHOSEN},
        "aligned by UVR": {"lists": PROPOSED, "align": {**GUARDED, "unified": True}, "evaluate": CHOSEN},
    },
    "demo": {"vanilla AR, K = 0": DECODER["vanilla AR, K = 0"]},
}


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="The variants on a recipe that runs in seconds.")
    benchmark.add_argument("recipe", choices=list(VARIANTS))
    benchmark.take("--data", "--work", seeds=[0, 1, 2])
    benchmark.add_argument("--variants", nargs="+", help="Names; default: all of the recipe.")
    arguments = benchmark.start(words)
    known = VARIANTS[arguments.recipe]
    chosen = benchmark.one_of("variant", known, arguments.variants)

    groups = {"ours": [seed_folder(arguments.work, seed) for seed in arguments.seeds]}
    groups |= {
        name: [seed_folder(f"{arguments.work}.{slug(name)}", seed) for seed in arguments.seeds] for name in chosen
    }
    unit = ""
    for number, seed in enumerate(arguments.seeds):
        recipe = recipe_of(arguments.recipe, arguments.work, smoke=arguments.smoke, data=arguments.data, seed=seed)
        unit, base = recipe.data.value_unit, groups["ours"][number]
        run_recipe(recipe, base, command=f"gr4ad run {arguments.recipe} --data DIR --out OUT")
        for name in chosen:
            run_variant(changed(recipe, known[name]), base, groups[name][number], "benchmarks/ablations.py")
    rows, differences = compared_rows(groups, unit)
    variants = {name: known[name] for name in chosen}
    benchmark.write(arguments, rows, differences, seeds=arguments.seeds, variants=variants)


if __name__ == "__main__":
    main()

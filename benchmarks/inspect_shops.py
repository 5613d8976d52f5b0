"""What the recipes of `gr4ad inspect` reach on three shops' exports with odd columns, beside recipes made by hand.

    python benchmarks/inspect_shops.py --work OUT --out benchmarks/results/inspect_shops.json

The exports are those of `measurement/shop_exports.py`. The first recipe of each shop is written by `gr4ad inspect` and
run as it is; the second, in `shop_recipes/`, was made with the columns known and tuned in three rounds on the
validation part of one seed. What was tried by hand first ranked worse there than the written recipe, so the last round
took over its copying item head, `score_history`, batch size and learning rate: the two are not independent.
Both are run with every seed, on the same cut of the same log: the comparison refuses runs whose
training log, test users or held-out items differ in anything. `spread` is the sample standard deviation over seeds,
`low` and `high` the 95% interval over users and seeds. A ratio is the written recipe's figure over the other's, with
the interval of the same users.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measurement.accuracy import ENDS, compared_rows
from measurement.results import Benchmark, Row, rounded
from measurement.runs import Changes, changed, smoke_recipe
from measurement.shop_exports import SHOPS, ShopSize

from gr4ad.inspection.inspecting import inspect_folder, write_recipe
from gr4ad.pipeline import Recipe, load_recipe, run_recipe
from gr4ad.pipeline.comparing import seed_folder

BY_HAND = Path(__file__).parent / "shop_recipes"
METRICS = ("recall@10", "ndcg@10", "revenue@10")
SMOKE: Changes = {
    "train": {"num_train_epochs": 1, "warmup_steps": 0, "per_device_train_batch_size": 64},
    "evaluate": {"item_weights": [1.0], "value_weights": [0.0], "beam_widths": [8, 16, 16]},
}


def written_recipe(name: str, folder: Path, size: ShopSize) -> Path:
    """The file of the recipe that `gr4ad inspect` writes for a shop, once its export is written into `folder`."""
    recipe = folder.with_suffix(".yaml")
    if not recipe.is_file():
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped here
        folder.parent.mkdir(parents=True, exist_ok=True)
        SHOPS[name](folder, size)
        write_recipe(inspect_folder(folder), recipe)
    return recipe


def cut_as(recipe: Recipe, other: Recipe) -> Recipe:
    """The recipe with the other's bounds of validation and test, which are dates of a log that has one size."""
    return changed(recipe, {"data": {name: getattr(other.data, name) for name in ("validation_start", "test_start")}})


def choice_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """The weights that validation chose, and their score there."""
    metric = metrics["metric"]
    return {"serving": metrics["serving"], f"validation {metric}": max(row[metric] for row in metrics["validation"])}


def measure(
    name: str, work: Path, size: ShopSize, seeds: Sequence[int], changes: Changes
) -> tuple[list[Row], dict, dict]:
    """Rows, ratios and choices of one shop."""
    folder = work / "exports" / name
    written = written_recipe(name, folder, size)
    runs: dict[str, list[Path]] = {}
    choices: dict[str, Any] = {}
    for kind, file in (("by hand", BY_HAND / f"{name}.yaml"), ("written", written)):
        system = f"{name}, {kind}"
        runs[system] = [seed_folder(work / name / kind.replace(" ", "_"), seed) for seed in seeds]
        for seed, out in zip(seeds, runs[system], strict=True):
            given = load_recipe(written, data_root=folder, seed=seed)
            recipe = cut_as(load_recipe(file, data_root=folder, seed=seed), given)
            logging.info("%s, seed %d", system, seed)
            metrics = run_recipe(changed(recipe, changes), out, command="benchmarks/inspect_shops.py")
            choices[f"{system}, seed {seed}"] = rounded(choice_of(metrics))
    rows, differences = compared_rows(runs, recipe.data.value_unit, ["test"])
    ratios = {
        f"{label}, over by hand": {
            "ratio": 1 + found["relative"], **{end: 1 + found[f"relative_{end}"] for end in ENDS}
        }
        for label, found in differences.items()
        if label.rpartition("/")[2] in METRICS
    }  # fmt: skip
    return [row for row in rows if row["metric"] in METRICS], ratios, choices


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__)
    benchmark.take(
        "--work",
        users=(1000, "Of each shop."),
        items=(360, "Of each shop; a multiple of 6."),
        skew=(1.0, "How much more often the first items are bought than the last; 0 = alike."),
        along=(0.3, "Share of the picks that go along with the pick before, in [0, 1]."),
        seeds=[0, 1, 2],
    )
    benchmark.add_argument("--shops", nargs="+", default=list(SHOPS), choices=list(SHOPS))
    arguments = benchmark.start(words, users=240, items=96)
    changes: Changes = {}
    if arguments.smoke:
        smoke_recipe(arguments.work)
        changes = {**SMOKE, "embed": {"encoder": str(arguments.work / "smoke_encoder")}}
    size = ShopSize(arguments.users, arguments.items, skew=arguments.skew, along=arguments.along)
    rows: list[Row] = []
    ratios: dict[str, Any] = {}
    choices: dict[str, Any] = {}
    for name in arguments.shops:
        found = measure(name, arguments.work, size, arguments.seeds, changes)
        rows += found[0]
        ratios |= found[1]
        choices |= found[2]
    benchmark.write(arguments, rows, ratios, seeds=arguments.seeds, choices=choices)


if __name__ == "__main__":
    main()

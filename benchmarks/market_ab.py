"""What each step of GR4AD earns: policies in the simulated ad market, whose ground truth prices every list.

    python benchmarks/market_ab.py --work OUT --out benchmarks/results/market_ab.json --seeds 0 1 2 3 4

For every seed a new market, its log, and the demo's recipe on it. The steps: a base without value, VSL, then VSL
aligned by each loss under one budget (same lists, epochs, learning rate, reference, VSL term, guard), last with the
unified weights. Serving weights are chosen on validation for each policy alone. Then every test user gets one list
from every policy at the end of the log, and the market says what it earns in expectation: examination x true click
probability x second price. Baselines get the same histories and the same tuning. `value` is the mean over seeds,
`spread` the sample standard deviation over them; `ratios` are lifts over VSL with the 95% interval over users and
seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ablations import Changes, changed, run_variant

from gr4ad import GR4ADForRecommendation, UASIDTokenizer
from gr4ad.cli import keep_freed_memory
from gr4ad.data import PreparedData, load_prepared
from gr4ad.market import AdMarket
from gr4ad.pipeline import Recipe, load_recipe, run_recipe
from gr4ad.pipeline.comparing import seed_folder
from gr4ad.pipeline.evaluating import KNN_GRID, sample_table
from gr4ad.pipeline.run import VERSIONS, machine
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.scoring import as_json
from gr4ad.trainers.evaluation import ItemKNN, SequenceTable, popularity_by_revenue, tune_item_knn
from gr4ad.trainers.evaluation.intervals import difference_of_draws, resampled_means, resampled_seeds
from gr4ad.trainers.evaluation.model_ranking import rank_users

REFERENCE = "VSL"
STEPS: dict[str, Changes] = {
    "no value": {
        "train": {"user_weight_clip": 1, "value_loss_weight": 0.0},
        "evaluate": {"value_weights": [0.0]},
        "align": None,
    },
    REFERENCE: {"align": None},
    "VSL + DPO": {"align": {"loss_type": "dpo"}},
    "VSL + GRPO": {"align": {"loss_type": "grpo"}},
    "VSL + S-DPO": {"align": {"loss_type": "sdpo"}},
    "VSL + RSPO": {"align": {"loss_type": "rspo"}},
    "VSL + RSPO, unified": {"align": {"loss_type": "rspo", "unified": True}},
}
logger = logging.getLogger("market_ab")


def served_lists(folder: Path, metrics: dict, data: PreparedData, recipe: Recipe, places: int) -> np.ndarray:
    """Rows of the catalog (int64, (U, places)) that the last model of a run serves to the test users."""
    stage, name = ("align", "VSL + RSPO") if recipe.align is not None else ("train", "VSL")
    tried = [row for row in metrics["validation"] if row["model"] == name]
    chosen = max(tried, key=lambda row: row[metrics["metric"]])
    tokenizer = UASIDTokenizer.from_pretrained(folder / "stages" / "tokenize" / "tokenizer")
    return rank_users(
        GR4ADForRecommendation.from_pretrained(folder / "stages" / stage / "model"),
        tokenizer,
        data.test,
        beam_widths=recipe.evaluate.beam_widths,
        top_k=places,
        item_weight=chosen["item_weight"],
        value_weight=chosen["value_weight"],
        item_candidates=recipe.evaluate.item_candidates,
        score_history=recipe.evaluate.score_history,
        batch_size=recipe.evaluate.batch_size,
    ).items


def baseline_lists(data: PreparedData, recipe: Recipe, places: int) -> dict[str, np.ndarray]:
    """The same of the baselines, the item-kNN tuned on validation by the recipe's metric."""
    ids = list(data.catalog["item_id"])
    train, validation, test = (SequenceTable.from_dataset(p, ids) for p in (data.train, data.validation, data.test))
    sample = sample_table(validation, recipe.evaluate.tuning_users, recipe.seed)
    grid = {**KNN_GRID, "value_power": (0.0, 0.5, 0.75, 1.0), "include_self": (False, True)}
    settings, _ = tune_item_knn(train, sample, metric=recipe.evaluate.metric, grid=grid)
    return {
        "popularity by revenue": popularity_by_revenue(train, test, places),
        "item-kNN + value, tuned": ItemKNN(settings).fit(train).rank(test, places),
    }


def earned(market: AdMarket, data: PreparedData, rankings: np.ndarray) -> np.ndarray:
    """Expected fen per 1,000 requests (float64, (U,)) of lists (int64, (U, n); -1 = empty place)."""
    ids = np.array([*data.catalog["item_id"], ""], dtype=object)
    users = data.test["user_id"][:]
    return 1000 * market.expected_revenue(users, ids[rankings], market.config.end_time)


def run_seed(work: Path, seed: int, steps: dict[str, Changes], demo: Recipe) -> dict[str, np.ndarray]:
    """Policy -> what each test user's list earns, in one market."""
    base = seed_folder(work / "base", seed)
    assert demo.market is not None
    recipe = replace(demo, seed=seed, market=replace(demo.market, seed=seed), data=replace(demo.data))
    lists: dict[str, Callable[[PreparedData], np.ndarray]] = {}
    market = AdMarket(recipe.market)
    places = market.config.positions + 1  # the runner-up prices the last place
    for name, changes in steps.items():
        slug = "".join(letter if letter.isalnum() else "_" for letter in name)
        folder = base if name == REFERENCE else seed_folder(work / slug, seed)
        variant = changed(replace(recipe, data=replace(recipe.data)), changes)
        if name == REFERENCE:
            metrics = run_recipe(variant, folder, command="benchmarks/market_ab.py")
        else:
            run_variant(variant, base, folder)
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        lists[name] = partial(served_lists, folder, metrics, recipe=variant, places=places)
    data = load_prepared(base / "stages" / "data" / "prepared")
    money = {name: earned(market, data, build(data)) for name, build in lists.items()}
    money |= {name: earned(market, data, rows) for name, rows in baseline_lists(data, recipe, places).items()}
    users, best = data.test["user_id"][:], market.config.end_time
    money["oracle"] = 1000 * market.expected_revenue(users, market.oracle_list(users, best, places), best)
    logger.info("seed %d: %s", seed, {name: round(float(part.mean()), 3) for name, part in money.items()})
    return money


def rows_and_lifts(seeds: list[dict[str, np.ndarray]]) -> tuple[list[dict], dict[str, dict]]:
    """Means over seeds, and lifts over VSL: users are drawn within each market, and markets as a second level."""
    draws, rows, lifts = {}, [], {}
    names = list(seeds[0])
    drawn = [resampled_means(np.stack([money[name] for name in names], axis=1), number)
             for number, money in enumerate(seeds)]  # fmt: skip
    # One draw of markets for all policies: a market that pays well pays all of them well.
    for place, name in enumerate(names):
        by_seed = [float(money[name].mean()) for money in seeds]
        draws[name] = resampled_seeds(np.stack([part[:, place] for part in drawn], axis=1), np.random.default_rng(1))
        rows.append(
            {
                "name": name,
                "metric": "revenue",
                "value": round(float(np.mean(by_seed)), 3),
                "spread": round(float(np.std(by_seed, ddof=1)), 3) if len(by_seed) > 1 else None,
                "unit": "fen per 1,000 requests",
                "by_seed": [round(value, 3) for value in by_seed],
            }
        )
    means = {row["name"]: float(np.mean([money[row["name"]].mean() for money in seeds])) for row in rows}
    for name in names:
        if name != REFERENCE:
            pair = difference_of_draws((means[name], draws[name]), (means[REFERENCE], draws[REFERENCE]))
            lifts[name] = {key: None if part is None else round(part, 5) for key, part in as_json(pair).items()}
    return rows, lifts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="demo", help="A recipe with a market.")
    parser.add_argument("--work", required=True, type=Path, help="Folder for the runs.")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", nargs="+", help="Names; default: all. VSL is always among them.")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    keep_freed_memory()
    if unknown := [name for name in arguments.steps or () if name not in STEPS]:
        parser.error(f"no step {unknown[0]!r}; there are: {', '.join(STEPS)}")
    chosen = set(arguments.steps or STEPS) | {REFERENCE}
    # VSL first: the others start from its stages.
    steps = {name: STEPS[name] for name in (REFERENCE, *STEPS) if name in chosen}
    demo = load_recipe(arguments.recipe)
    rows, lifts = rows_and_lifts([run_seed(arguments.work, seed, steps, demo) for seed in arguments.seeds])
    result = {
        "command": "python benchmarks/market_ab.py --work OUT --out FILE",
        "machine": machine(),
        "versions": {package: version(package) for package in VERSIONS},
        "seeds": arguments.seeds,
        "steps": steps,
        "align": demo.align,
        "rows": rows,
        "ratios": lifts,
    }
    write_json(arguments.out, result)
    print(json.dumps({"rows": rows, "ratios": lifts}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()

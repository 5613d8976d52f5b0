"""What each step of GR4AD earns: policies in the simulated ad market, whose ground truth prices every list.

    python benchmarks/closed_loop.py --work OUT --out benchmarks/results/closed_loop.json --seeds 0 1 2 3 4

For every seed a new market, its log, and the demo's recipe on it. The steps: a base without value (as OneRec-V2), VSL,
then VSL aligned by each loss under one budget (same lists, epochs, learning rate, reference, VSL term; the recipe sets
no guard), with the unified weights, with the item head's share in what is aligned, and on lists that a reward model
values. Serving weights are chosen on validation
for each policy alone, from nine combinations, as many as the DLRM-style stack (`dlrm.py`) gets; the item-kNN has 96.

Then every test user gets one list from every policy at the end of the log, and the market says what it earns in
expectation: examination x true click probability x second price, the same users and their true state for all (common
random numbers). Without retraining, the same lists are priced again on each day of the market's horizon: interests
drift and jump, and what is left says how fast a policy decays. `cold_share` is the share of shown places that hold ads
without a click in the training log, `cold_revenue` what lists earn of which nothing but those is kept.

`value` is the mean over seeds, `spread` the sample standard deviation over them; `ratios` are lifts over the
DLRM-style stack with the 95% interval over users and seeds, `lifts_over_vsl` the same over VSL, `decay` revenue on
each day over that of the first.
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
from dlrm import DLRM, DLRMSettings

from gr4ad import GR4ADForRecommendation, UASIDTokenizer
from gr4ad.cli import keep_freed_memory
from gr4ad.data import PreparedData, load_prepared
from gr4ad.market import AdMarket
from gr4ad.pipeline import Recipe, load_recipe, run_recipe
from gr4ad.pipeline.comparing import seed_folder
from gr4ad.pipeline.evaluating import KNN_GRID, sample_table, sample_users
from gr4ad.pipeline.run import VERSIONS, machine
from gr4ad.pipeline.runner import plain, stage_key, write_json
from gr4ad.pipeline.scoring import as_json
from gr4ad.trainers.evaluation import ItemKNN, SequenceTable, popularity_by_revenue, tune_item_knn
from gr4ad.trainers.evaluation.intervals import difference_of_draws, resampled_means, resampled_seeds
from gr4ad.trainers.evaluation.model_ranking import rank_users

REFERENCE = "VSL"
BASELINE = "DLRM-style"
SERVED = 0.8  # the largest share of the item head that validation may choose
REWARD_LISTS: Changes = {
    "lists": {"source": "reward_model"},
    "explore": {"beam_widths": [32, 64, 64], "score_history": True},
    "reward": {"num_train_epochs": 1, "lr_scheduler_type": "cosine", "logging_steps": 100, "save_strategy": "no"},
}
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
    "VSL + RSPO, served score": {"align": {"loss_type": "rspo", "item_weight": SERVED}},
    "VSL + RSPO, reward model": {**REWARD_LISTS, "align": {"loss_type": "rspo"}},
    "VSL + RSPO, unified, reward model": {**REWARD_LISTS, "align": {"loss_type": "rspo", "unified": True}},
    "VSL + RSPO, served score, reward model": {**REWARD_LISTS, "align": {"loss_type": "rspo", "item_weight": SERVED}},
}
UNIT = "fen per 1,000 requests"
EARNED_FILE = "earned.npz"
logger = logging.getLogger("closed_loop")


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
    """The same of the baselines, tuned on validation by the recipe's metric."""
    ids = list(data.catalog["item_id"])
    train, validation, test = (SequenceTable.from_dataset(p, ids) for p in (data.train, data.validation, data.test))
    sample = sample_table(validation, recipe.evaluate.tuning_users, recipe.seed)
    grid = {**KNN_GRID, "value_power": (0.0, 0.5, 0.75, 1.0), "include_self": (False, True)}
    settings, _ = tune_item_knn(train, sample, metric=recipe.evaluate.metric, grid=grid)
    tuning = sample_users(data.validation, recipe.evaluate.tuning_users, recipe.seed)
    stack = DLRM(data, DLRMSettings(), recipe.evaluate.metric, tuning, recipe.seed)
    return {
        "popularity by revenue": popularity_by_revenue(train, test, places),
        "item-kNN + value, tuned": ItemKNN(settings).fit(train).rank(test, places),
        BASELINE: stack.rank(data.test, places),
    }


def earned(market: AdMarket, data: PreparedData, rankings: np.ndarray) -> np.ndarray:
    """What lists (int64, (U, n); -1 = empty place) earn, expected fen per 1,000 requests: float64 (U, days + 2), at
    the end of the log, and as they are on each further day of the horizon; then the share of shown places that
    hold ads without a training click, and what those alone would earn at the end of the log."""
    ids = np.array([*data.catalog["item_id"], ""], dtype=object)
    users = data.test["user_id"][:]
    moments = market.config.end_time + 86_400 * np.arange(market.config.horizon_days)
    days = [1000 * market.expected_revenue(users, ids[rankings], int(moment)) for moment in moments]
    clicked = {item for items in data.train["items"] for item in items}
    cold = np.array([*(item not in clicked for item in ids[:-1]), False])[rankings]
    shown = (rankings >= 0)[:, : market.config.positions]
    share = (cold[:, : shown.shape[1]] & shown).sum(1) / np.maximum(shown.sum(1), 1)
    alone = 1000 * market.expected_revenue(users, np.where(cold, ids[rankings], ""), market.config.end_time)
    return np.stack([*days, share, alone], axis=1)


def kept_seed(work: Path, seed: int, steps: dict[str, Changes], demo: Recipe) -> dict[str, np.ndarray]:
    """`run_seed`, or what it came to before under the same settings."""
    settings = [plain(part) for part in (steps, DLRMSettings(), KNN_GRID)]
    settings += [plain({**vars(demo), "text": "", "data": ""}), seed]
    key = stage_key("closed_loop", settings, [])
    path = seed_folder(work / "base", seed) / EARNED_FILE
    if path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["key"]) == key:
                return {name: kept[name] for name in kept.files if name != "key"}
    money = run_seed(work, seed, steps, demo)
    temporary = path.with_name(f"unfinished-{EARNED_FILE}")
    np.savez_compressed(temporary, key=np.array(key), **money)
    temporary.replace(path)
    return money


def run_seed(work: Path, seed: int, steps: dict[str, Changes], demo: Recipe) -> dict[str, np.ndarray]:
    """Policy -> what each test user's list earns in one market, see `earned`."""
    base = seed_folder(work / "base", seed)
    assert demo.market is not None
    recipe = replace(demo, seed=seed, market=replace(demo.market, seed=seed), data=replace(demo.data))
    lists: dict[str, Callable[[PreparedData], np.ndarray]] = {}
    rewarded: Path | None = None
    market = AdMarket(recipe.market)
    places = market.config.positions + 1  # the runner-up prices the last place
    for name, changes in steps.items():
        slug = "".join(letter if letter.isalnum() else "_" for letter in name)
        folder = base if name == REFERENCE else seed_folder(work / slug, seed)
        variant = changed(replace(recipe, data=replace(recipe.data)), changes)
        if name == REFERENCE:
            metrics = run_recipe(variant, folder, command="benchmarks/closed_loop.py")
        else:
            valued = variant.lists.source == "reward_model"
            run_variant(variant, rewarded if valued and rewarded else base, folder)
            rewarded = folder if valued else rewarded  # one reward model for all that learn from it
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        lists[name] = partial(served_lists, folder, metrics, recipe=variant, places=places)
    data = load_prepared(base / "stages" / "data" / "prepared")
    money = {name: earned(market, data, build(data)) for name, build in lists.items()}
    money |= {name: earned(market, data, rows) for name, rows in baseline_lists(data, recipe, places).items()}
    ids = {item: row for row, item in enumerate(data.catalog["item_id"])}
    best = market.oracle_list(data.test["user_id"][:], market.config.end_time, places)
    money["oracle"] = earned(market, data, np.array([[ids[item] for item in line] for line in best]))
    logger.info("seed %d: %s", seed, {name: round(float(part[:, 0].mean()), 3) for name, part in money.items()})
    return money


def rows_and_lifts(
    seeds: list[dict[str, np.ndarray]], reference: str = BASELINE, day: int = 0
) -> tuple[list[dict], dict[str, dict]]:
    """Means over seeds on a day, and lifts over a policy: users are drawn within each market, and markets as a second
    level."""
    draws, rows, lifts = {}, [], {}
    names = list(seeds[0])
    seeds = [{name: part[:, day] for name, part in money.items()} for money in seeds]
    drawn = [resampled_means(np.stack([money[name] for name in names], axis=1), number)
             for number, money in enumerate(seeds)]  # fmt: skip
    # One draw of markets for all policies: a market that pays well pays all of them well.
    for place, name in enumerate(names):
        by_seed = [float(money[name].mean()) for money in seeds]
        draws[name] = resampled_seeds(np.stack([part[:, place] for part in drawn], axis=1), np.random.default_rng(1))
        rows.append(
            {
                "name": name,
                "metric": "revenue" if not day else f"revenue, day {day}",
                "value": round(float(np.mean(by_seed)), 3),
                "spread": round(float(np.std(by_seed, ddof=1)), 3) if len(by_seed) > 1 else None,
                "unit": UNIT,
                "by_seed": [round(value, 3) for value in by_seed],
            }
        )
    means = {row["name"]: float(np.mean([money[row["name"]].mean() for money in seeds])) for row in rows}
    for name in names:
        if name != reference:
            pair = difference_of_draws((means[name], draws[name]), (means[reference], draws[reference]))
            lifts[name] = {key: None if part is None else round(part, 5) for key, part in as_json(pair).items()}
    return rows, lifts


def shares(seeds: list[dict[str, np.ndarray]]) -> tuple[dict[str, list[float]], list[dict]]:
    """Policy -> its revenue on each day over that of the first, means over seeds; and the rows of cold ads."""
    days = next(iter(seeds[0].values())).shape[1] - 2
    decay, rows = {}, []
    for name in seeds[0]:
        means = np.array([money[name].mean(axis=0) for money in seeds])  # (seeds, days + 2)
        decay[name] = [round(float(share), 4) for share in (means[:, :days] / means[:, :1]).mean(axis=0)]
        for place, metric, unit in ((days, "cold_share", "share"), (days + 1, "cold_revenue", UNIT)):
            rows.append(
                {
                    "name": name,
                    "metric": metric,
                    "value": round(float(means[:, place].mean()), 4),
                    "spread": round(float(means[:, place].std(ddof=1)), 4) if len(seeds) > 1 else None,
                    "unit": unit,
                    "by_seed": means[:, place].round(4).tolist(),
                }
            )
    return decay, rows


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
    assert demo.market is not None, "the recipe has no market"
    money = [kept_seed(arguments.work, seed, steps, demo) for seed in arguments.seeds]
    rows, lifts = rows_and_lifts(money)
    last, last_lifts = rows_and_lifts(money, day=demo.market.horizon_days - 1)
    decay, cold = shares(money)
    result = {
        "command": "python benchmarks/closed_loop.py --work OUT --out FILE",
        "machine": machine(),
        "versions": {package: version(package) for package in VERSIONS},
        "seeds": arguments.seeds,
        "steps": steps,
        "align": demo.align,
        "dlrm": vars(DLRMSettings()),
        "rows": [*rows, *last, *cold],
        "ratios": lifts,
        "lifts_over_vsl": rows_and_lifts(money, REFERENCE)[1],
        "lifts_on_the_last_day": last_lifts,
        "decay": decay,
    }
    write_json(arguments.out, result)
    print(json.dumps({"rows": rows, "ratios": lifts, "decay": decay}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()

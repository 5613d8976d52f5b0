"""What each step of GR4AD earns: policies in the simulated ad market, whose ground truth prices every list.

    python benchmarks/closed_loop.py --work OUT --out benchmarks/results/closed_loop.json --seeds 0 1 2 3 4

For every seed a new market, its log, and the demo's recipe on it. The steps: a base without value (as OneRec-V2), VSL,
then VSL aligned by each loss under one budget (same lists, epochs, learning rate, reference, VSL term; the recipe sets
no guard), with the unified weights, with the item head's share in what is aligned, and on lists that a reward model
values. Serving weights are chosen on validation for each policy alone, from nine combinations, as many as the
DLRM-style stack (`opponents/dlrm.py`) gets; the item-kNN has 96.

Then the market says what one list of every policy for every test user earns in expectation at the end of the log
(examination x true click probability x second price, common random numbers), and what the same lists earn on each day
of its horizon, without retraining. `cold_share` is the share of shown places that hold ads without a click in the
training log, `cold_revenue` what lists earn of which nothing but those is kept.

`value` is the mean over seeds, `spread` the sample standard deviation over them; `ratios` are lifts over the
DLRM-style stack with the 95% interval over users and seeds, `lifts_over_vsl` the same over VSL, `decay` revenue on
each day over that of the first.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from measurement.market_policies import BASELINE, UNIT, baseline_lists, earned, served_lists
from measurement.results import Benchmark, Row, rounded, seeds_row
from measurement.runs import Changes, changed, recipe_of, run_variant, slug
from opponents.dlrm import DLRMSettings

from gr4ad.data import PreparedData, load_prepared
from gr4ad.market import AdMarket
from gr4ad.pipeline import Recipe
from gr4ad.pipeline.comparing import seed_folder
from gr4ad.trainers.evaluation.intervals import difference_of_draws, resampled_means, resampled_seeds
from gr4ad.trainers.evaluation.system_scores import as_json

REFERENCE = "VSL"
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
logger = logging.getLogger("closed_loop")


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
        folder = base if name == REFERENCE else seed_folder(work / slug(name), seed)
        variant = changed(replace(recipe, data=replace(recipe.data)), changes)
        valued = variant.lists.source == "reward_model"
        start = rewarded if valued and rewarded else base
        metrics = run_variant(variant, start, folder, command="benchmarks/closed_loop.py")
        rewarded = folder if valued else rewarded  # one reward model for all that learn from it
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
) -> tuple[list[Row], dict[str, dict]]:
    """Means over seeds on a day, and lifts over a policy: users are drawn within each market, and markets as a second
    level."""
    names, metric = list(seeds[0]), f"revenue, day {day}" if day else "revenue"
    tables = [np.stack([money[name][:, day] for name in names], axis=1) for money in seeds]  # (users, policies)
    means = np.array([table.mean(axis=0) for table in tables])
    drawn = np.stack([resampled_means(table, number) for number, table in enumerate(tables)], axis=1)
    rows, earnings = [], {}
    for place, name in enumerate(names):
        rows.append(seeds_row(name, metric, means[:, place].tolist(), UNIT))
        # One draw of markets for all policies: a market that pays well pays all of them well.
        draws = resampled_seeds(np.ascontiguousarray(drawn[..., place]), np.random.default_rng(1))
        earnings[name] = (float(means[:, place].mean()), draws)
    return rows, {
        name: rounded(as_json(difference_of_draws(own, earnings[reference])))
        for name, own in earnings.items()
        if name != reference
    }


def shares(seeds: list[dict[str, np.ndarray]]) -> tuple[dict[str, list[float]], list[Row]]:
    """Policy -> its revenue on each day over that of the first, means over seeds; and the rows of cold ads."""
    days = next(iter(seeds[0].values())).shape[1] - 2
    decay, rows = {}, []
    for name in seeds[0]:
        means = np.array([money[name].mean(axis=0) for money in seeds])  # (seeds, days + 2)
        decay[name] = rounded((means[:, :days] / means[:, :1]).mean(axis=0))
        for place, metric, unit in ((days, "cold_share", "share"), (days + 1, "cold_revenue", UNIT)):
            rows.append(seeds_row(name, metric, means[:, place].tolist(), unit))
    return decay, rows


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="A market and a recipe that run in seconds.")
    benchmark.take("--work", recipe=("demo", "A recipe with a market."), seeds=[0, 1, 2, 3, 4])
    benchmark.add_argument("--steps", nargs="+", help="Names; default: all. VSL is always among them.")
    arguments = benchmark.start(words)
    chosen = {REFERENCE, *benchmark.one_of("step", STEPS, arguments.steps)}
    # VSL first: the others start from its stages.
    steps = {name: STEPS[name] for name in (REFERENCE, *STEPS) if name in chosen}
    demo = recipe_of(arguments.recipe, arguments.work, smoke=arguments.smoke)
    assert demo.market is not None, "the recipe has no market"
    money = [run_seed(arguments.work, seed, steps, demo) for seed in arguments.seeds]
    rows, lifts = rows_and_lifts(money)
    last, last_lifts = rows_and_lifts(money, day=demo.market.horizon_days - 1)
    decay, cold = shares(money)
    benchmark.write(
        arguments,
        [*rows, *last, *cold],
        lifts,
        seeds=arguments.seeds,
        steps=steps,
        align=demo.align,
        dlrm=vars(DLRMSettings()),
        lifts_over_vsl=rows_and_lifts(money, REFERENCE)[1],
        lifts_on_the_last_day=last_lifts,
        decay=decay,
    )


if __name__ == "__main__":
    main()

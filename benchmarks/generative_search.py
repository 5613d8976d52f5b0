"""What lifts the semantic IDs (SIDs): one search on validation, with every try kept.

    python benchmarks/generative_search.py amazon_beauty --data DIR --work OUT --out FILE

OUT holds the recipe's run up to its trained model; a try lies in OUT.TRY and starts from the stages that it has in
common with the recipe. A try changes one thing, and its budget is one training of the recipe's length unless it says
otherwise. No test user takes part. Of each model, on the same validation users:

- `beams alone`: by p(SID), no item head, no item neighbours, no candidates beside the beams;
- `item head`: item weight 1 without item neighbours;
- `served`: the best of the recipe's weights, by its metric; `item weight 1`: the best of those without p(SID).

Where the log has values, all rank by expected value at the recipe's `eval_value_weight`, but for `by likelihood`.
`ratios` hold each try's difference from the recipe on the same users, with its 95% interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measurement.accuracy import METRICS, unit_of
from measurement.results import Benchmark, Row, result_row, rounded
from measurement.runs import Changes, changed, recipe_of, run_up_to, slug, with_stages_of

from gr4ad import GR4ADForRecommendation, UASIDTokenizer
from gr4ad.data import load_prepared
from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.pipeline import Recipe
from gr4ad.trainers.evaluation import SequenceTable
from gr4ad.trainers.evaluation.choosing import sample_users
from gr4ad.trainers.evaluation.intervals import paired_difference
from gr4ad.trainers.evaluation.model_ranking import rank_users
from gr4ad.trainers.evaluation.system_scores import KS, SystemScores, as_json

RECIPE = "recipe"
UNTIL_THE_END: Changes = {
    "train": {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
}  # the last weights of a schedule that ends at 0; validation is asked once
TRIES: dict[str, Changes] = {
    "no prefix vectors": {"model": {"prefix_vectors": 0}},
    "prefix vectors of width 32": {"model": {"prefix_size": 32}},
    "prefix vectors from zero": {"train": {"item_embedding_std": 0.0}},
    "no copying in p(SID)": {"model": {"sid_copy": False}},
    "no repeat bias in p(SID)": {"model": {"sid_repeat": False}},
    "whole codebooks": {"model": {"sid_normalization": "codebook"}},
    "taught by the item head, weight .5": {"train": {"teacher_loss_weight": 0.5}},
    "taught by the item head, weight 1, every second target": {
        "train": {"teacher_loss_weight": 1.0, "teacher_share": 0.5}
    },
    "label smoothing .1": {"train": {"label_smoothing": 0.1}},
    "MTP loss .3": {"train": {"mtp_loss_weight": 0.3}},
    "prefixes injected whole": {"model": {"fuse_prefix": True}},
    "K = 0": {"model": {"num_parallel_layers": 0}},
    "four layers, K = 2": {"model": {"num_hidden_layers": 4}},
    "two context layers": {"model": {"num_context_layers": 2}},
    "codebooks 1024/256/64": {"tokenize": {"codebook_sizes": ["1024", "256", "64"]}},
    "codebooks 128/64/64": {"tokenize": {"codebook_sizes": ["128", "64", "64"]}},
    "SIDs of content": {"tokenize": {"collaborative_weight": 0.0}},
    "SIDs mostly of the log": {"tokenize": {"collaborative_weight": 3.0}},
}
EPOCHS = 1.5


def tries_of(recipe: Recipe) -> dict[str, Changes]:
    """The tries that do not depend on the recipe, and those that go on from its own settings."""
    size, layers = recipe.model.hidden_size, recipe.model.intermediate_size
    return TRIES | {
        "twice the width": {"model": {"hidden_size": 2 * size, "intermediate_size": 2 * layers}},
        f"{EPOCHS} times the epochs": {"train": {"num_train_epochs": EPOCHS * recipe.train["num_train_epochs"]}},
        "more dropout": {"model": {"dropout": recipe.model.dropout + 0.1}},
    }


def ways_of(recipe: Recipe, model: GR4ADForRecommendation) -> dict[str, list[RankingWeights]]:
    """The rankings that are asked for; of several the best is told."""
    settings, value = recipe.evaluate, float(recipe.train.get("eval_value_weight", 0.0))
    value = value if model.value_head is not None else 0.0
    alone = RankingWeights(beam_widths=tuple(settings.beam_widths), value_weight=value)
    by_item = replace(
        alone, item_weight=1.0, item_candidates=settings.item_candidates, score_history=settings.score_history
    )
    near = settings.neighbour_weights if model.item_neighbours is not None else [0.0]
    mixed = [
        replace(by_item, item_weight=share, neighbour_weight=weight)
        for share in settings.item_weights
        for weight in near
        if share
    ]
    ways = {
        "beams alone": [alone],
        "item head": [by_item],
        "item weight 1": [way for way in mixed if way.item_weight == 1],
        "served": [*([by_item.with_item_weight(0.0)] if 0 in settings.item_weights else []), *mixed],
    }
    return ways | ({"beams alone, by likelihood": [replace(alone, value_weight=0.0)]} if value else {})


def scores_of(recipe: Recipe, folder: Path, users: int) -> dict[str, dict[str, np.ndarray]]:
    """Way to rank -> metric -> float64 (users,) of the model in a folder."""
    stages = folder / "stages"
    last = "neighbours" if recipe.neighbours is not None else "train"
    model = GR4ADForRecommendation.from_pretrained(stages / last / "model")
    tokenizer = UASIDTokenizer.from_pretrained(stages / "tokenize" / "tokenizer")
    data = load_prepared(stages / "data" / "prepared", held_out=("test",))
    rows, items = sample_users(data.validation, users, 0), tokenizer.index.item_ids.tolist()
    table = SequenceTable.from_dataset(rows, items)
    scores = SystemScores(SequenceTable.from_dataset(data.train, items), table, tokenizer.index.codes, 0)
    known: dict[RankingWeights, dict[str, np.ndarray]] = {}
    found = {}
    for name, ways in ways_of(recipe, model).items():
        for weights in ways:
            if weights not in known:
                options: dict[str, Any] = {"top_k": max(KS), "batch_size": recipe.evaluate.batch_size}
                lists = rank_users(model, tokenizer, rows, weights=weights, **options)
                scores.add("validation", str(weights), lists.items)
                known[weights] = scores.per_user["validation"][str(weights)]
        metric = recipe.evaluate.metric
        found[name] = max((known[weights] for weights in ways), key=lambda own: float(np.nanmean(own[metric])))
    return found


def rows_of(
    name: str, scores: Mapping[str, Mapping[str, np.ndarray]], base: Mapping[str, Mapping[str, np.ndarray]], unit: str
) -> tuple[list[Row], dict[str, dict]]:
    """Rows of a try, and its differences from the recipe on the same users."""
    rows, differences = [], {}
    for way, figures in scores.items():
        for metric in METRICS:
            if metric not in figures:
                continue
            label = f"{name}: {way}/{metric}"
            rows.append(result_row(label, metric, float(np.nanmean(figures[metric])), unit_of(metric, unit), None))
            if name != RECIPE:
                difference = paired_difference(figures[metric][None], base[way][metric][None], 0)
                differences[label] = rounded(as_json(difference))
    return rows, differences


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="Tries on a recipe that runs in seconds.")
    benchmark.take("recipe", "--data", "--work", seed=0, users=(4000, "Validation users; 0 = all."))
    benchmark.add_argument("--tries", nargs="+", help="Names; default: all.")
    arguments = benchmark.start(words, users=40)
    recipe = recipe_of(
        arguments.recipe, arguments.work, smoke=arguments.smoke, data=arguments.data, seed=arguments.seed
    )
    recipe = changed(recipe, UNTIL_THE_END)
    known = tries_of(recipe)
    chosen = {name: known[name] for name in benchmark.one_of("try", known, arguments.tries)}
    last = "neighbours" if recipe.neighbours is not None else "train"
    rows: list[Row] = []
    differences: dict[str, dict] = {}
    base: dict[str, dict[str, np.ndarray]] = {}
    for name, changes in {RECIPE: {}, **chosen}.items():
        own, folder = changed(recipe, changes), arguments.work
        if name != RECIPE:
            folder = Path(f"{arguments.work}.{slug(name)}")
            with_stages_of(arguments.work, folder)
        run_up_to(own, folder, last)
        scores = scores_of(own, folder, arguments.users)
        base = base or scores
        more, lifts = rows_of(name, scores, base, recipe.data.value_unit)
        rows, differences = rows + more, differences | lifts
        benchmark.write(arguments, rows, differences, seeds=[arguments.seed], tries=chosen)


if __name__ == "__main__":
    main()

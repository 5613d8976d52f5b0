"""New ads by their text: recall of ads that the training log has never seen, added to a trained artifact as records.

    python benchmarks/cold_ads.py demo --work OUT --out benchmarks/results/cold_ads_demo.json
    python benchmarks/cold_ads.py amazon_beauty --data DIR --work OUT --out benchmarks/results/cold_ads_beauty.json
    python benchmarks/cold_ads.py complete_journey --data DIR --work OUT --out benchmarks/results/cold_ads_cj.json

The log is split as the recipe says; a simulated market by time, at 80% and 90% of its days. Cold are the ads that the
training part has no event of, and `--withheld` of the others, drawn by a hash of their ids, all of whose events are
taken out of it: a log in which every ad has a few events shows hardly any that are new. Everything is built without
the cold ads: catalog, embeddings, codebooks, model, ranking weights (chosen on validation targets that are not cold).
Then they are added by `recommender.add_ads(records)`, and ranked for users who meet one for the first time.

Two questions: `among all ads`, as the server answers; and `among new ads`, where lists hold nothing but cold ads, all
of which every system may rank. Baselines rank the same ads for the same users: the training events of an ad's account;
accounts of the user's history first, then these; the nearest ads by text (the encoder's own embedding) to the newest
item, to the mean of the last ten, and to any of them, the best of which on validation users is the bar. `every target`
is the recall among all ads of all targets of all test users, new or not: what a list full of new ads would cost.
An artifact that ranks by expected value is asked a second time without the values (`gr4ad, by likelihood`): recall
counts targets, not money, and the baselines know no values; ratios are of this. `spread` is the standard error over
users.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from datasets import Dataset
from measurement.results import Benchmark, Row, result_row
from measurement.runs import changed, recipe_of, run_up_to

from gr4ad import Recommender
from gr4ad.data import PreparedData, load_prepared
from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.pipeline import Recipe
from gr4ad.pipeline.artifact import save_artifact
from gr4ad.pipeline.run import final_stage, run_stage
from gr4ad.pipeline.runner import PREPARED, StageRunner, write_json
from gr4ad.pipeline.stages import STAGES
from gr4ad.tokenization import HISTORY_FEATURES, SIDIndex
from gr4ad.trainers.evaluation.model_ranking import rank_users
from gr4ad.trainers.evaluation.ties import tie_order

KS = (10, 50, 100)
BATCH = 1024  # users whose scores of all ads are in memory
LAST = 10  # items of a history that text neighbours look at
ALONG = ("items", *(feature.name for feature in HISTORY_FEATURES if feature.along == "items"))
ACCOUNT = "account_id"
ALL, NEW = "among all ads", "among new ads"
SERVED, LIKELIEST = "gr4ad", "gr4ad, by likelihood"
TEXT_RULES = ("newest", "mean", "nearest")


def split_by_time(recipe: Recipe) -> Recipe:
    """A market's recipe with a temporal split: an ad that enters late is new to the training part."""
    market = recipe.market
    if market is None:
        return recipe
    ends = [market.start_time + int(market.days * share * 86_400) for share in (0.8, 0.9)]
    times = {"split": "temporal", "split_column": "timestamp", "validation_start": ends[0], "test_start": ends[1]}
    return changed(recipe, {"data": times})


def draw(item: str) -> int:
    """A number in 0..2**64-1 that depends on an id alone."""
    return xxhash.xxh64_intdigest(item.encode())


def cold_ads(data: PreparedData, withheld: float) -> list[str]:
    """Ids of ads without a training event, and of a share of the others by a hash of their ids."""
    logged = {item for items in data.train["items"] for item in items}
    bound = withheld * 2.0**64
    return [item for item in data.catalog["item_id"] if item not in logged or draw(item) < bound]


def without(rows: Dataset, cold: set[str], *, held_out: bool) -> Dataset:
    """Rows of prepared data without cold ads in histories and targets; without rows of which nothing is left."""
    kept = []
    for row in rows:
        places = [place for place, item in enumerate(row["items"]) if item not in cold]
        row |= {name: [row[name][place] for place in places] for name in ALONG if row.get(name) is not None}
        if held_out:
            places = [place for place, item in enumerate(row["target_items"]) if item not in cold]
            row |= {name: [row[name][place] for place in places] for name in ("target_items", "target_values")}
        if row["items"] and (not held_out or row["target_items"]):
            kept.append(row)
    return Dataset.from_list(kept, features=rows.features)


def write_reduced(data: PreparedData, cold: Sequence[str], folder: Path) -> dict[str, Any]:
    """Prepared data as they would be if the cold ads did not exist yet."""
    names, folder = set(cold), folder / PREPARED
    folder.mkdir(parents=True, exist_ok=True)
    catalog = data.catalog.select([row for row, item in enumerate(data.catalog["item_id"]) if item not in names])
    parts = {
        "catalog": catalog,
        "train": without(data.train, names, held_out=False),
        "validation": without(data.validation, names, held_out=True),
        "test": without(data.test, names, held_out=True),
    }
    for name, rows in parts.items():
        rows.to_parquet(folder / f"{name}.parquet")
    summary = {name: value for name, value in data.summary.items() if name != "impressions"}
    summary |= {"items": len(catalog)}
    write_json(folder / "data.json", summary)
    return {"cold_ads": len(cold), **{name: len(rows) for name, rows in parts.items()}}


def build(recipe: Recipe, data: PreparedData, cold: Sequence[str], work: Path) -> Path:
    """The artifact of a recipe on data without the cold ads; finished stages are kept."""
    runner, sections = StageRunner(work), vars(recipe)
    settings = {"cold": sorted(cold), "data": {**vars(recipe.data), "root": ""}}
    runner.run("data", lambda folder: write_reduced(data, cold, folder), settings=settings, after=[])
    for stage in STAGES:
        if stage.name not in ("market", "data") and stage.in_recipe(sections):
            metrics = run_stage(runner, stage, sections, recipe.seed)
    artifact = work / "artifact"
    artifact.mkdir(exist_ok=True)
    save_artifact(
        runner.folder(final_stage(runner.records)) / "model",
        runner.folder("tokenize") / "tokenizer",
        RankingWeights.from_dict(metrics["serving"]),
        artifact,
        encoder_dir=runner.folder("tune") / "encoder" if "tune" in runner.records else None,
    )
    return artifact


def records_of(data: PreparedData, cold: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the catalog, in an order that says nothing."""
    rows = {row["item_id"]: row for row in data.catalog}
    return [rows[item] for item in sorted(cold, key=draw)]


def recalls(ranked: np.ndarray, targets: Sequence[Sequence[int]]) -> dict[int, np.ndarray]:
    """Recall of each user's targets among the first k places (float64, (U,)), by k."""
    found = {}
    for k in KS:
        hits = [len(set(line[:k].tolist()) & set(wanted)) for line, wanted in zip(ranked, targets, strict=True)]
        found[k] = np.array(hits) / np.array([len(wanted) for wanted in targets])
    return found


def best_first(scores: np.ndarray, allowed: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The max(KS) best columns of each line of scores (U, N) among the allowed (N,) bool; ties by `order`."""
    ordered = np.where(allowed[order], scores[:, order], -np.inf)
    places = np.argsort(-ordered, axis=1, kind="stable")[:, : max(KS)]
    return np.where(np.take_along_axis(ordered, places, 1) > -np.inf, order[places], -1)


class Baselines:
    """Scores of all ads for a user, from what is known without the cold ads' log.

    Args:
        text (float32, (N, d)): Embeddings of the ads' texts. events (N,): Training events; 0 of cold ads.
        accounts: Of each ad, None where the catalog has none.
    """

    def __init__(self, text: np.ndarray, events: np.ndarray, accounts: Sequence[Any] | None):
        self.text = text / np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1e-12)
        self.account = None
        if accounts is not None:
            self.account = np.unique(np.array([str(one) for one in accounts]), return_inverse=True)[1]
            self.popularity = np.bincount(self.account, events)[self.account]

    def names(self) -> list[str]:
        own = [] if self.account is None else ["popularity of the account", "accounts of the history"]
        return [*own, *(f"text neighbours, {rule}" for rule in TEXT_RULES)]

    def rank(self, name: str, histories: Sequence[np.ndarray], allowed: np.ndarray, order: np.ndarray) -> np.ndarray:
        """The best rows of the allowed for each user, int64 (U, max(KS)), in batches of users."""
        parts = [histories[start : start + BATCH] for start in range(0, len(histories), BATCH)]
        return np.concatenate([best_first(self.score(name, part), allowed, order) for part in parts])

    def score(self, name: str, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Scores (float32, (U, N))."""
        lines = []
        for rows in histories:
            if self.account is not None and name == "popularity of the account":
                lines.append(self.popularity)
            elif self.account is not None and name == "accounts of the history":
                own = np.bincount(self.account[rows], minlength=self.account.max() + 1)[self.account]
                lines.append(own * (self.popularity.max() + 1) + self.popularity)
            else:
                near = self.text @ self.text[rows[-LAST:]].T
                rule = name.rpartition(" ")[2]
                lines.append({"newest": near[:, -1], "mean": near.mean(1), "nearest": near.max(1)}[rule])
        return np.stack(lines).astype(np.float32)


def only(index: SIDIndex, items: Sequence[str]) -> SIDIndex:
    """The index with nothing but these ads being served."""
    restricted, kept = index.snapshot(), set(items)
    restricted.remove([item for item in index.item_ids[index.active].tolist() if item not in kept])
    return restricted


def measure(recipe: Recipe, work: Path, withheld: float, users: int) -> tuple[list[Row], dict[str, Any], dict]:
    """Rows, ratios and counts of one log."""
    base = run_up_to(recipe, work / "base", "data")
    data = load_prepared(base.folder("data") / PREPARED)
    cold = cold_ads(data, withheld)
    recipe = changed(recipe, {"align": None})
    artifact = build(recipe, data, cold, work / "reduced")
    recommender = Recommender.from_pretrained(artifact)
    begun = time.perf_counter()
    records = records_of(data, cold)
    for start in range(0, len(records), 10_000):
        recommender.add_ads(records[start : start + 10_000])
    seconds = time.perf_counter() - begun
    index, names = recommender.tokenizer.index, set(cold)
    assert index.num_active == len(data.catalog)

    ids = index.item_ids.tolist()
    by_id = {row["item_id"]: row for row in data.catalog}
    catalog = Dataset.from_list([by_id[item] for item in ids], features=data.catalog.features)
    events = np.zeros(len(ids))
    reduced = load_prepared(work / "reduced" / "stages" / "data" / PREPARED)
    for items in reduced.train["items"]:
        np.add.at(events, [index.rows[item] for item in items], 1)
    encoder = recommender.ad_encoder
    text = encoder.contents.embedder.embed(catalog, progress=False)[0]
    accounts = catalog[ACCOUNT] if ACCOUNT in catalog.column_names else None
    ours = {SERVED: recommender.weights}
    if recommender.weights.value_weight:
        ours[LIKELIEST] = RankingWeights.from_dict({**vars(recommender.weights), "value_weight": 0.0})
    baselines, order = Baselines(text, events, accounts), tie_order(ids)
    candidates = {
        ALL: np.ones(len(ids), dtype=bool),
        NEW: np.array([item in names for item in ids]),
    }

    rows: list[Row] = []
    told: dict[str, Any] = {"cold_ads": len(cold), "ads": len(ids), "add_ads_seconds": round(seconds, 2)}
    found: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for part, split in (("validation", data.validation), ("test", data.test)):
        chosen, targets = cold_targets(split, names, users)
        if not len(chosen):
            raise ValueError(f"No {part} user has a cold target: raise `--withheld`.")
        wanted, histories = rows_of(index, targets), rows_of(index, chosen["items"])
        told[f"{part}_users"] = len(chosen)
        told[f"{part}_targets"] = sum(map(len, targets))
        for question, allowed in candidates.items():
            asked = {question: (chosen, histories, wanted)}
            if part == "test" and question == ALL:
                everyone = sampled(split, range(len(split)), users)
                asked["every target"] = (
                    everyone,
                    rows_of(index, everyone["items"]),
                    rows_of(index, everyone["target_items"]),
                )
            for place, (who, seen, right) in asked.items():
                for name in [*(ours if part == "test" else ()), *baselines.names()]:
                    if name in ours:
                        restricted = only(index, cold) if question == NEW else index
                        ranked = model_lists(recommender, ours[name], who, restricted)
                    else:
                        ranked = baselines.rank(name, seen, allowed, order)
                    found[f"{part}/{place}", name] = recalls(ranked, right)
    for (place, name), scores in found.items():
        part, question = place.split("/")
        for k, values in scores.items() if part == "test" else ():
            unit = f"share, mean of {len(values)} users"
            error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
            rows.append(result_row(f"{question}/{name}/recall@{k}", f"recall@{k}", values.mean(), unit, error))
    return rows, ratios(found, baselines.names()), told


def rows_of(index: SIDIndex, lists: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """Item rows of lists of ids."""
    return [np.array([index.rows[item] for item in items]) for items in lists]


def sampled(split: Dataset, places: Sequence[int], limit: int) -> Dataset:
    """Rows of a split, at most `limit` by a hash of the users' ids; 0 = all."""
    ids = split["user_id"]
    if limit and len(places) > limit:
        places = sorted(sorted(places, key=lambda place: draw(ids[place]))[:limit])
    return split.select(places)


def model_lists(recommender: Recommender, weights: RankingWeights, users: Dataset, restricted: SIDIndex) -> np.ndarray:
    """The artifact's lists of max(KS) from the ads that an index serves, with beams wide enough for them."""
    tokenizer, longest = recommender.tokenizer, max(KS)
    index = tokenizer.index
    widths = tuple(max(width, longest) for width in weights.widths(tokenizer.num_levels))
    tokenizer.index = restricted
    try:
        given = RankingWeights.from_dict({**vars(weights), "beam_widths": widths})
        return rank_users(recommender.model, tokenizer, users, weights=given, top_k=longest).items
    finally:
        tokenizer.index = index


def cold_targets(split: Dataset, cold: set[str], limit: int) -> tuple[Dataset, list[list[str]]]:
    """The users with a cold target that they meet for the first time (at most `limit`, by a hash of their ids; 0 =
    all), and these targets."""
    rows = zip(split["items"], split["target_items"], strict=True)
    first = [[item for item in targets if item in cold and item not in items] for items, targets in rows]
    places = [place for place, items in enumerate(first) if items]
    targets = dict(zip((split["user_id"][place] for place in places), (first[place] for place in places), strict=True))
    chosen = sampled(split, places, limit)
    return chosen, [targets[user] for user in chosen["user_id"]]


def ratios(found: Mapping[tuple[str, str], Mapping[int, np.ndarray]], names: Sequence[str]) -> dict[str, Any]:
    """Recall of the artifact over that of each kind of baseline, the text rule being the best on validation."""
    over: dict[str, Any] = {}
    our_name = LIKELIEST if any(name == LIKELIEST for _, name in found) else SERVED
    for question in (ALL, NEW):
        for k in KS:
            mean: Callable[[str, str], float] = lambda part, name, q=question, k=k: float(  # noqa: E731
                found[f"{part}/{q}", name][k].mean()
            )
            text = max((name for name in names if name.startswith("text")), key=lambda name: mean("validation", name))
            for name in [*(name for name in names if not name.startswith("text")), text]:
                ours, theirs = mean("test", our_name), mean("test", name)
                over[f"{question}: recall@{k} over {name}"] = ours / theirs if theirs else None
    return over


def main(words: Sequence[str] | None = None) -> None:
    parser = Benchmark(__file__, __doc__)
    parser.take(
        "recipe", "--data", "--work",
        withheld=(0.05, "Share of the ads with training events that are withheld from training, in [0, 1)."),
        users=(0, "Users with a cold target that are ranked, at most; 0 = all."),
        seed=(0, "Of every stage."),
    )  # fmt: skip
    arguments = parser.start(words, withheld=0.2, users=40)
    recipe = recipe_of(
        arguments.recipe, arguments.work, smoke=arguments.smoke, data=arguments.data, seed=arguments.seed
    )
    rows, over, told = measure(split_by_time(recipe), arguments.work, arguments.withheld, arguments.users)
    logging.info("%s", json.dumps(told))
    parser.write(arguments, rows, over, seeds=[arguments.seed], counts=told)


if __name__ == "__main__":
    main()

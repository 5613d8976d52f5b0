"""Which ad embedding makes the best semantic IDs for the model: validation ranking of the same model on each.

    python benchmarks/sid_downstream.py --data DIR --work OUT --out benchmarks/results/sid_downstream.json

Trains the Amazon Beauty recipe, shortened to `--epochs`, on SIDs (and item vectors that start) from raw text, from
text of an encoder tuned on co-occurrence, from text + collaborative vectors, and from both. Everything is fitted on
the training log; all validation users are ranked over the whole catalog, by beams alone (item weight 0) and by the
item head on the beams (item weight 1). The test items are not read. `spread` is the standard error over users.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measurement.results import Benchmark, Row, result_row
from measurement.runs import recipe_of, run_data

from gr4ad import GR4ADForRecommendation, UASIDTokenizer, VSLConfig
from gr4ad.data import load_prepared
from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.pipeline import Recipe
from gr4ad.pipeline.embedding import ENCODER_FOLDER, embed_ads, tune_ad_encoder
from gr4ad.pipeline.runner import StageRunner
from gr4ad.pipeline.tokenizing import build_tokenizer
from gr4ad.pipeline.training import train_model, trainer_arguments
from gr4ad.trainers.evaluation import SequenceTable, evaluate_rankings
from gr4ad.trainers.evaluation.model_ranking import rank_users

SMOKE_TUNE = {"epochs": 1, "batch_size": 16}
TUNE: dict[str, Any] = {"epochs": 3, "learning_rate": 1.0e-4, "max_length": 32, "bf16": True}
VARIANTS = {  # name: (tuned encoder, collaborative vectors)
    "raw text": (False, False),
    "tuned text": (True, False),
    "text + collaborative": (False, True),
    "tuned text + collaborative": (True, True),
}


def run_variant(name: str, recipe: Recipe, runner: StageRunner, epochs: int, tune: dict[str, Any]) -> list[Row]:
    """Result rows of one variant; finished stages are kept."""
    tuned, collaborative = VARIANTS[name]
    label, seed = name.replace(" + ", "_").replace(" ", "_"), recipe.seed
    data_dir = run_data(recipe, runner)
    if tuned:
        runner.run(
            "tune",
            lambda folder: tune_ad_encoder(recipe.embed, tune, data_dir=data_dir, out_dir=folder, seed=seed),
            settings=[recipe.embed, tune, seed],
            after=("data",),
        )
    cooccurrence = recipe.cooccurrence if collaborative else {}
    embed, tokenize, train = (runner.folder(f"{stage}_{label}") for stage in ("embed", "tokenize", "train"))
    encoder = runner.folder("tune") / ENCODER_FOLDER if tuned else None
    runner.run(
        embed.name,
        lambda folder: embed_ads(
            recipe.embed, cooccurrence, data_dir=data_dir, out_dir=folder, seed=seed, encoder=encoder
        ),
        settings=[recipe.embed, cooccurrence, seed],
        after=("data", "tune") if tuned else ("data",),
    )
    runner.run(
        tokenize.name,
        lambda folder: build_tokenizer(recipe.tokenize, data_dir=data_dir, embed_dir=embed, out_dir=folder, seed=seed),
        settings=[recipe.tokenize, seed],
        after=("data", embed.name),
    )
    settings = {
        **{key: value for key, value in recipe.train.items() if not key.startswith(("eval_", "metric_", "load_"))},
        "num_train_epochs": epochs,
        "save_strategy": "no",
    }
    runner.run(
        train.name,
        lambda folder: train_model(
            recipe.model,
            trainer_arguments(VSLConfig, "train", settings, folder / "checkpoints", seed),
            data_dir=data_dir,
            tokenizer_dir=tokenize,
            out_dir=folder,
        ),
        settings=[recipe.model, settings, seed],
        after=("data", tokenize.name),
    )
    summary = runner.run(
        f"validate_{label}",
        lambda folder: validate(data_dir, tokenize, train, recipe.evaluate.beam_widths),
        settings=[recipe.evaluate.beam_widths],
        after=("data", tokenize.name, train.name),
    )
    return [
        result_row(f"{name}/{ranked}/{metric}", metric, scores[metric], "share", scores[f"{metric}_se"], seed=seed)
        for ranked, scores in summary.items()
        for metric in ("recall@10", "ndcg@10")
    ]


def validate(data_dir: Path, tokenizer_dir: Path, train_dir: Path, beam_widths: list[int]) -> dict:
    """Scores on all validation users, by beams alone and by the item head."""
    data = load_prepared(data_dir)
    tokenizer = UASIDTokenizer.from_pretrained(tokenizer_dir / "tokenizer")
    model = GR4ADForRecommendation.from_pretrained(train_dir / "model")
    ids = tokenizer.index.item_ids.tolist()
    targets = SequenceTable.from_dataset(data.validation, ids).held_out
    scores = {}
    for ranked, weight in (("beams alone", 0.0), ("item head", 1.0)):
        weights = RankingWeights(tuple(beam_widths), item_weight=weight)
        rankings = rank_users(
            model, tokenizer, data.validation, weights=weights, top_k=10, batch_size=128, progress=True
        )
        scores[ranked] = evaluate_rankings(rankings.items, targets, ks=(10,), catalog_size=len(ids))
    return scores


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="One epoch on a small simulated market in place of the log.")
    benchmark.add_argument("--data", type=Path, metavar="DIR", help="Folder of the Amazon Beauty tables.")
    benchmark.add_argument("--work", type=Path, required=True, metavar="OUT", help="Folder of the runs.")
    benchmark.add_argument("--epochs", type=int, default=8)
    benchmark.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    arguments = benchmark.start(words)
    epochs, tune = (1, SMOKE_TUNE) if arguments.smoke else (arguments.epochs, TUNE)
    recipe = recipe_of("amazon_beauty", arguments.work, smoke=arguments.smoke, data=arguments.data)
    runner = StageRunner(arguments.work)
    rows = [row for name in arguments.variants for row in run_variant(name, recipe, runner, epochs, tune)]
    seconds = {name: round(spent, 1) for name, spent in runner.seconds.items()}
    benchmark.write(arguments, rows, seeds=[recipe.seed], seconds=seconds)


if __name__ == "__main__":
    main()

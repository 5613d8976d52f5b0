"""Which ad embedding makes the best semantic IDs for the model: validation ranking of the same model on each.

    python benchmarks/sid_downstream.py --data DIR --work OUT --out benchmarks/results/sid_downstream.json

Trains the Amazon Beauty recipe, shortened to `--epochs`, on SIDs (and item vectors that start) from raw text, from
text of an encoder tuned on co-occurrence, from text + collaborative vectors, and from both. Everything is fitted on
the training log; all validation users are ranked over the whole catalog, by beams alone (item weight 0) and by the
item head on the beams (item weight 1). The test items are not read. `spread` is the standard error over users.
"""

from __future__ import annotations

import argparse
import json
import logging
from importlib.metadata import version
from pathlib import Path

from gr4ad import GR4ADForRecommendation, UASIDTokenizer, VSLConfig
from gr4ad.data import load_prepared, prepare
from gr4ad.pipeline import load_recipe
from gr4ad.pipeline.embedding import ENCODER_FOLDER, embed_ads, tune_ad_encoder
from gr4ad.pipeline.run import VERSIONS, machine
from gr4ad.pipeline.runner import StageRunner, write_json
from gr4ad.pipeline.tokenizing import build_tokenizer
from gr4ad.pipeline.training import train_model, trainer_arguments
from gr4ad.trainers.evaluation import SequenceTable, evaluate_rankings
from gr4ad.trainers.evaluation.model_ranking import rank_users

TUNE = {"epochs": 3, "learning_rate": 1.0e-4, "max_length": 32, "bf16": True}
VARIANTS = {  # name: (tuned encoder, collaborative vectors)
    "raw text": (False, False),
    "tuned text": (True, False),
    "text + collaborative": (False, True),
    "tuned text + collaborative": (True, True),
}


def run_variant(name: str, recipe, runner: StageRunner, epochs: int) -> list[dict]:
    """Result rows of one variant; finished stages are kept."""
    tuned, collaborative = VARIANTS[name]
    slug, seed = name.replace(" + ", "_").replace(" ", "_"), recipe.seed
    runner.run("data", lambda folder: prepare(recipe.data, folder / "prepared").summary, settings=[vars(recipe.data)])
    data_dir = runner.folder("data") / "prepared"
    if tuned:
        runner.run(
            "tune",
            lambda folder: tune_ad_encoder(recipe.embed, TUNE, data_dir=data_dir, out_dir=folder, seed=seed),
            settings=[recipe.embed, TUNE, seed],
            after=("data",),
        )
    cooccurrence = recipe.cooccurrence if collaborative else {}
    embed, tokenize, train = (runner.folder(f"{stage}_{slug}") for stage in ("embed", "tokenize", "train"))
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
        f"validate_{slug}",
        lambda folder: validate(data_dir, tokenize, train, recipe.evaluate.beam_widths),
        settings=[recipe.evaluate.beam_widths],
        after=("data", tokenize.name, train.name),
    )
    return [
        {
            "name": f"{name}/{ranked}/{metric}",
            "metric": metric,
            "value": round(scores[metric], 5),
            "spread": round(scores[f"{metric}_se"], 5),
            "unit": "share",
            "seed": seed,
        }
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
        rankings = rank_users(
            model,
            tokenizer,
            data.validation,
            beam_widths=beam_widths,
            top_k=10,
            item_weight=weight,
            batch_size=128,
            progress=True,
        )
        scores[ranked] = evaluate_rankings(rankings.items, targets, ks=(10,), catalog_size=len(ids))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="Folder of the Amazon Beauty tables.")
    parser.add_argument("--work", required=True, help="Folder of the runs.")
    parser.add_argument("--out", type=Path, help="JSON file to write.")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = load_recipe("amazon_beauty", data_root=arguments.data)
    runner = StageRunner(arguments.work)
    rows = [row for name in arguments.variants for row in run_variant(name, recipe, runner, arguments.epochs)]
    result = {
        "command": f"python benchmarks/sid_downstream.py --data DIR --work OUT --epochs {arguments.epochs}",
        "machine": machine(),
        "versions": {name: version(name) for name in VERSIONS},
        "seeds": [recipe.seed],
        "seconds": {name: round(seconds, 1) for name, seconds in runner.seconds.items()},
        "rows": rows,
        "ratios": {},
    }
    print(json.dumps(rows, indent=1))  # noqa: T201
    if arguments.out:
        write_json(arguments.out, result)


if __name__ == "__main__":
    main()

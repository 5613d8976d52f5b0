"""Accuracy of the decoder alone: LazyAR with K = 0 (vanilla) .. L - 1 parallel layers, and MTP heads, of equal size.

Vanilla decoding and LazyAR inject the last token, as the paper has it; "prefix fused" is ours (`fuse_prefix`).

    python benchmarks/decoders.py amazon_beauty --data DIR --work OUT --runs RECIPE_OUT --out FILE

Data, SIDs, shape and training are the recipe's, without what would hide the decoder: no item head, no value token, and
beams rank by log p(SID) alone. Every decoder has the same number of parameters (feed-forward layers make up for what
the heads of DeepSeek-MTP fuse), the same epochs and schedule, and is taken as it is at the end: nothing is chosen, so
validation is not asked, and the test users are ranked once. RECIPE_OUT, RECIPE_OUT-seed1, ... hold the recipe's runs,
as `recipe.py` leaves them; their catalog, SIDs and item vectors are used.

`ratios` hold each decoder's difference from vanilla decoding on the same users; `seconds` how long each trained.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from comparison import compared_rows
from decode_baselines import with_parameters
from mtp_heads import MTPForRecommendation
from safetensors.numpy import load_file

from gr4ad import GR4ADConfig, GR4ADForRecommendation, UASIDTokenizer, VSLConfig, VSLTrainer
from gr4ad.cli import keep_freed_memory
from gr4ad.data import PreparedData, load_prepared
from gr4ad.pipeline import Recipe, load_recipe
from gr4ad.pipeline.comparing import seed_folder
from gr4ad.pipeline.run import VERSIONS, machine
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.scoring import KS, SystemScores, has_values
from gr4ad.pipeline.training import model_config, start_item_embeddings, trainer_arguments
from gr4ad.trainers.evaluation import SequenceTable
from gr4ad.trainers.evaluation.model_ranking import rank_users
from gr4ad.trainers.evaluation.per_user import FILE_NAME

REFERENCE = "vanilla AR, K = 0"
UNPLACED = ("item_head_copy", "item_head_repeat")
DECODER_ALONE = {
    "value_loss_weight": 0.0,
    "mtp_loss_weight": 0.0,
    "item_loss_weight": 0.0,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "metric_for_best_model": None,
}
logger = logging.getLogger("decoders")


def decoder_config(
    recipe: Recipe, tokenizer: UASIDTokenizer, parallel_layers: int, fuse_prefix: bool = False
) -> GR4ADConfig:
    """The recipe's network without item head and value token."""
    shape = {"num_parallel_layers": parallel_layers, "fuse_prefix": fuse_prefix}
    settings = replace(recipe.model, **shape, item_head=False, **dict.fromkeys(UNPLACED, False))
    config = model_config(replace(settings, context_values=False), tokenizer).to_dict()
    return GR4ADConfig(**{**config, "num_value_buckets": 0, "value_bucket_means": None})


def decoders(recipe: Recipe, tokenizer: UASIDTokenizer) -> Mapping[str, partial]:
    """Name -> what builds the decoder."""
    layers = recipe.model.num_hidden_layers
    vanilla = decoder_config(recipe, tokenizer, 0)
    with torch.device("meta"):
        count = GR4ADForRecommendation(vanilla).num_parameters()
    lazy = {
        f"LazyAR, K = {k}{', prefix fused' if fused else ''}": partial(
            GR4ADForRecommendation, decoder_config(recipe, tokenizer, k, fused)
        )
        for fused in (False, True)
        for k in range(1, layers)
    }
    return {
        REFERENCE: partial(GR4ADForRecommendation, vanilla),
        **lazy,
        "MTP heads": partial(with_parameters, MTPForRecommendation, vanilla, count),
    }


@dataclass
class Stages:
    """What a finished run of a recipe holds: data, tokenizer and item vectors (name -> float32 (N, d))."""

    recipe: Recipe
    seed: int
    data: PreparedData
    tokenizer: UASIDTokenizer
    vectors: dict[str, np.ndarray]

    @classmethod
    def of_run(cls, name: str, data_root: str | None, run: str | Path, seed: int) -> Stages:
        """`run` is the folder of seed 0."""
        folder = seed_folder(run, seed) / "stages"
        return cls(
            load_recipe(name, data_root=data_root, seed=seed),
            seed,
            load_prepared(folder / "data" / "prepared"),
            UASIDTokenizer.from_pretrained(folder / "tokenize" / "tokenizer"),
            load_file(folder / "tokenize" / "item_embeddings.safetensors"),
        )


def train_decoder(
    stages: Stages, build: Callable[[], GR4ADForRecommendation], folder: Path
) -> tuple[VSLTrainer, float]:
    """Trains by the recipe's schedule on SIDs alone; returns the trainer, at its end, and its seconds."""
    torch.manual_seed(stages.seed)
    model = build()
    if std := stages.recipe.model.item_embedding_std:
        start_item_embeddings(model, stages.vectors.get("collaborative", stages.vectors["item_embeddings"]), std)
    settings = {**stages.recipe.train, **DECODER_ALONE}
    args = trainer_arguments(VSLConfig, "train", settings, folder / "training", stages.seed)
    started = time.monotonic()
    trainer = VSLTrainer(model=model, args=args, train_dataset=stages.data.train, processing_class=stages.tokenizer)
    trainer.train()
    return trainer, time.monotonic() - started


def scored(model: GR4ADForRecommendation, stages: Stages) -> SystemScores:
    """The test users ranked by beam search alone."""
    data, config, ids = stages.data, stages.recipe.evaluate, stages.tokenizer.index.item_ids.tolist()
    train_log, test = (SequenceTable.from_dataset(part, ids) for part in (data.train, data.test))
    scores = SystemScores(train_log, test, stages.tokenizer.index.codes, stages.seed)
    ranked = rank_users(
        model,
        stages.tokenizer,
        data.test,
        beam_widths=config.beam_widths,
        top_k=max(KS),
        score_history=config.score_history,
        batch_size=config.batch_size,
    )
    scores.add("test", "beams", ranked.items)
    scores.compare("beams")
    return scores


def run_decoder(stages: Stages, build: Callable[[], GR4ADForRecommendation], folder: Path) -> dict:
    """Trains and ranks, unless `folder` says that it was done: `parameters`, `seconds`, `unit` of values, `log`."""
    facts_file = folder / "facts.json"
    if not facts_file.is_file():
        trainer, seconds = train_decoder(stages, build, folder)
        scores = scored(trainer.model, stages)
        unit = str(stages.data.summary.get("value_unit") or "") if has_values(scores.train) else ""
        facts = {"final": "beams", "metric": stages.recipe.evaluate.metric, "seed": stages.seed, "value_unit": unit}
        scores.for_file(**facts).save(folder / FILE_NAME)
        logger.info("%s: N@10 %.4f, %.0f s", folder.name, scores.means["test"]["beams"]["ndcg@10"], seconds)
        parameters = trainer.model.num_parameters()
        log = trainer.state.log_history
        write_json(facts_file, {"parameters": parameters, "seconds": seconds, "unit": unit, "log": log})
    return json.loads(facts_file.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="YAML file or name of a packaged recipe.")
    parser.add_argument("--data", help="Folder of the recipe's data files.")
    parser.add_argument("--runs", required=True, help="Folder of the recipe's run, of seed 0.")
    parser.add_argument("--work", required=True, type=Path, help="Folder for what is trained here.")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--decoders", nargs="+", help="Names; default: all. Vanilla decoding is always among them.")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    keep_freed_memory()

    groups: dict[str, list[Path]] = {}
    parameters: dict[str, int] = {}
    seconds: dict[str, list[float]] = {}
    unit = ""
    for seed in arguments.seeds:
        stages = Stages.of_run(arguments.recipe, arguments.data, arguments.runs, seed)
        known = decoders(stages.recipe, stages.tokenizer)
        if unknown := [name for name in arguments.decoders or () if name not in known]:
            parser.error(f"no decoder {unknown[0]!r}; there are: {', '.join(known)}")
        chosen = known if arguments.decoders is None else {REFERENCE, *arguments.decoders}
        for name in (name for name in known if name in chosen):
            slug = "".join(letter if letter.isalnum() else "_" for letter in name)
            folder = seed_folder(arguments.work / slug, seed)
            facts = run_decoder(stages, known[name], folder)
            groups.setdefault(name, []).append(folder)
            seconds.setdefault(name, []).append(round(facts["seconds"], 1))
            unit, parameters[name] = facts["unit"], facts["parameters"]

    rows, differences = compared_rows(groups, unit or "events", protocols=("test",))
    result = {
        "command": f"python benchmarks/decoders.py {arguments.recipe} --data DIR --runs RUN --work OUT --out FILE",
        "machine": machine(),
        "versions": {package: version(package) for package in VERSIONS},
        "seeds": arguments.seeds,
        "parameters": parameters,
        "seconds": seconds,
        "rows": rows,
        "ratios": differences,
    }
    write_json(arguments.out, result)
    print(json.dumps(rows, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()

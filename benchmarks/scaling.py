"""How loss and NDCG grow with parameters and with beams, as the paper's figure 5 shows it at its scale.

    python benchmarks/scaling.py complete_journey --data DIR --run RECIPE_OUT --work OUT --out FILE

The decoder alone, as in `decoders.py`: LazyAR at the recipe's depth and K, trained by its schedule at several widths
of the network. All users of the validation split are ranked, none of the test split. `loss` is the mean of
-log p(SID | history) over their held-out items, in nats an SID; `ndcg@10` is that of full rankings by beams of one
width at every level.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measurement.decoder_training import Stages, decoder_config, train_decoder
from measurement.results import Benchmark, Row, seeds_row
from measurement.runs import kept

from gr4ad import GR4ADForRecommendation
from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.pipeline.comparing import seed_folder
from gr4ad.trainers.evaluation import evaluate_rankings
from gr4ad.trainers.evaluation.model_ranking import history_batches, history_rows, rank_users

TOP_K = 10
HEAD = 32
"""Width of an attention head; feed-forward layers are three times as wide as the network."""


def resized(stages: Stages, width: int) -> Stages:
    shape = {"hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": max(1, width // HEAD)}
    return replace(stages, recipe=replace(stages.recipe, model=replace(stages.recipe.model, **shape)))


@torch.no_grad()
def held_out_loss(model: GR4ADForRecommendation, stages: Stages, batch_size: int = 64) -> float:
    """Mean of -log p(SID | history), in nats, over the (user, item) pairs that validation holds out."""
    tokenizer, split = stages.run.tokenizer, stages.run.data.validation
    targets = stages.run.held_out(split)
    model.eval()
    trie = model.build_trie(tokenizer, removed=True)
    total = 0.0
    for chosen, batch in history_batches(model, tokenizer, history_rows(tokenizer, split), batch_size, False):
        rows = [targets.items[targets.offsets[user] : targets.offsets[user + 1]] for user in chosen]
        width = max(map(len, rows))
        mask = np.arange(width) < np.array([[len(items)] for items in rows])
        padded = np.stack([np.pad(items, (0, width - len(items))) for items in rows])
        sids = torch.from_numpy(tokenizer.index.codes[padded] + tokenizer.level_offsets)
        logps = model(**batch, candidate_ids=sids, trie=trie).candidate_logps
        total -= logps[torch.from_numpy(mask)].double().sum().item()
    return total / len(targets.items)


def ndcg(model: GR4ADForRecommendation, stages: Stages, width: int) -> float:
    """NDCG@10 of validation, by beams of `width` at every level and nothing else."""
    tokenizer, split = stages.run.tokenizer, stages.run.data.validation
    ranked = rank_users(model, tokenizer, split, weights=RankingWeights((width,) * tokenizer.num_levels), top_k=TOP_K)
    size = len(stages.run.item_ids)
    return evaluate_rankings(ranked.items, stages.run.held_out(split), ks=(TOP_K,), catalog_size=size)["ndcg@10"]


def measure(stages: Stages, width: int, beams: list[int], folder: Path) -> dict:
    """Trains one size."""
    config = decoder_config(stages.recipe, stages.run.tokenizer, stages.recipe.model.num_parallel_layers)
    trainer, seconds = train_decoder(stages, partial(GR4ADForRecommendation, config), folder)
    model = trainer.model
    facts = {
        "width": width,
        "seed": stages.recipe.seed,
        "parameters": model.num_parameters(),
        "layer_parameters": sum(p.numel() for p in model.model.layers.parameters()),
        "seconds": round(seconds, 1),
        "loss": held_out_loss(model, stages),
        "ndcg@10": {str(count): ndcg(model, stages, count) for count in beams},
    }
    logging.info("%s", facts)
    return facts


def rows_of(measured: list[Row]) -> list[dict]:
    rows = []
    for width in sorted({facts["width"] for facts in measured}):
        same = [facts for facts in measured if facts["width"] == width]
        series = {"loss": [facts["loss"] for facts in same]}
        series |= {f"ndcg@10, {count} beams": [f["ndcg@10"][count] for f in same] for count in same[0]["ndcg@10"]}
        sizes = {name: same[0][name] for name in ("parameters", "layer_parameters")}
        rows += [
            seeds_row(f"d = {width}", metric, values, "nats an SID" if metric == "loss" else "share", **sizes)
            for metric, values in series.items()
        ]
    return rows


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="A run of the recipe that `recipe.py --smoke` runs.")
    benchmark.take("recipe", "--data", "--run", "--work", widths=[32, 64, 128], beams=[8, 32, 128, 512],
                   seeds=[0, 1, 2])  # fmt: skip
    arguments = benchmark.start(words)
    measured = []
    for seed in arguments.seeds:
        stages = Stages.of_run(arguments.recipe, arguments.data, arguments.run, seed, smoke=arguments.smoke)
        for width in arguments.widths:
            folder = seed_folder(arguments.work / f"d{width}", seed)
            train = partial(measure, resized(stages, width), width, arguments.beams, folder)
            measured.append(kept(folder / "scaling.json", train))
    rows = rows_of(measured)
    benchmark.write(arguments, rows, seeds=arguments.seeds, measured=measured)


if __name__ == "__main__":
    main()

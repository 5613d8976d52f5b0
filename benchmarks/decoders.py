"""Accuracy of the decoder alone: LazyAR with K = 0 (vanilla) .. L - 1 parallel layers, and MTP heads, of equal size.

Vanilla decoding and LazyAR inject the last token, as the paper has it; "prefix fused" is ours (`fuse_prefix`).

    python benchmarks/decoders.py amazon_beauty --data DIR --work OUT --run RECIPE_OUT --out FILE

Data, SIDs, shape and training are the recipe's, without what would hide the decoder: no item head, no value token, and
beams rank by log p(SID) alone. Every decoder has the same number of parameters (feed-forward layers make up for what
the heads of DeepSeek-MTP fuse), the same epochs and schedule, and is taken as it is at the end: nothing is chosen, so
validation is not asked, and the test users are ranked once. RECIPE_OUT, RECIPE_OUT-seed1, ... hold the recipe's runs,
as `recipe.py` leaves them; their catalog, SIDs and item vectors are used.

`ratios` hold each decoder's difference from vanilla decoding on the same users; `seconds` how long each trained.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from measurement.accuracy import compared_rows
from measurement.decoder_training import Stages, decoder_config, train_decoder
from measurement.results import Benchmark
from measurement.runs import kept, slug
from opponents.mtp_heads import MTPForRecommendation
from opponents.transformers_beams import with_parameters

from gr4ad import GR4ADForRecommendation, UASIDTokenizer
from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.pipeline import Recipe
from gr4ad.pipeline.comparing import seed_folder
from gr4ad.trainers.evaluation import SequenceTable
from gr4ad.trainers.evaluation.model_ranking import rank_users
from gr4ad.trainers.evaluation.per_user import FILE_NAME
from gr4ad.trainers.evaluation.system_scores import KS, SystemScores, has_values

REFERENCE = "vanilla AR, K = 0"
logger = logging.getLogger("decoders")


def decoders(recipe: Recipe, tokenizer: UASIDTokenizer) -> Mapping[str, partial]:
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


def scored(model: GR4ADForRecommendation, stages: Stages) -> SystemScores:
    data, tokenizer, config = stages.run.data, stages.run.tokenizer, stages.recipe.evaluate
    ids = tokenizer.index.item_ids.tolist()
    train_log, test = (SequenceTable.from_dataset(part, ids) for part in (data.train, data.test))
    scores = SystemScores(train_log, test, tokenizer.index.codes, stages.recipe.seed)
    ranked = rank_users(
        model,
        tokenizer,
        data.test,
        weights=RankingWeights(tuple(config.beam_widths), score_history=config.score_history),
        top_k=max(KS),
        batch_size=config.batch_size,
    )
    scores.add("test", "beams", ranked.items)
    scores.compare("beams")
    return scores


def run_decoder(stages: Stages, build: Callable[[], GR4ADForRecommendation], folder: Path) -> dict:
    """Trains and ranks: `parameters`, `seconds`, `unit` of values, `log`; the scores per user lie in `folder`."""
    trainer, seconds = train_decoder(stages, build, folder)
    scores, recipe = scored(trainer.model, stages), stages.recipe
    unit = str(stages.run.data.summary.get("value_unit") or "") if has_values(scores.train) else ""
    facts = {"final": "beams", "metric": recipe.evaluate.metric, "seed": recipe.seed, "value_unit": unit}
    scores.for_file(**facts).save(folder / FILE_NAME)
    logger.info("%s: N@10 %.4f, %.0f s", folder.name, scores.means["test"]["beams"]["ndcg@10"], seconds)
    parameters, log = trainer.model.num_parameters(), trainer.state.log_history
    return {"parameters": parameters, "seconds": seconds, "unit": unit, "log": log}


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="A run of the recipe that `recipe.py --smoke` runs.")
    benchmark.take("recipe", "--data", "--run", "--work", seeds=[0, 1, 2])
    benchmark.add_argument("--decoders", nargs="+", help="Names; default: all. Vanilla decoding is always among them.")
    arguments = benchmark.start(words)
    groups: dict[str, list[Path]] = {}
    parameters: dict[str, int] = {}
    seconds: dict[str, list[float]] = {}
    unit = ""
    for seed in arguments.seeds:
        stages = Stages.of_run(arguments.recipe, arguments.data, arguments.run, seed, smoke=arguments.smoke)
        known = decoders(stages.recipe, stages.run.tokenizer)
        chosen = {REFERENCE, *benchmark.one_of("decoder", known, arguments.decoders)}
        for name in (name for name in known if name in chosen):
            folder = seed_folder(arguments.work / slug(name), seed)
            facts = kept(folder / "facts.json", partial(run_decoder, stages, known[name], folder))
            groups.setdefault(name, []).append(folder)
            seconds.setdefault(name, []).append(round(facts["seconds"], 1))
            unit, parameters[name] = facts["unit"], facts["parameters"]
    rows, differences = compared_rows(groups, unit or "events", protocols=("test",))
    benchmark.write(arguments, rows, differences, seeds=arguments.seeds, parameters=parameters, seconds=seconds)


if __name__ == "__main__":
    main()

"""The whole chain: data -> embed -> tokenize -> train -> neighbours -> reward -> align -> evaluate -> artifact."""

from __future__ import annotations

import datetime
import json
import logging
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

from gr4ad.data import load_prepared, prepare
from gr4ad.pipeline.recipe import Recipe
from gr4ad.pipeline.runner import StageRunner, file_digest, write_json

logger = logging.getLogger(__name__)

VERSIONS = ("gr4ad", "torch", "transformers", "trl", "datasets", "faiss-cpu")


def run_recipe(recipe: Recipe, out_dir: str | Path, *, command: str = "gr4ad run") -> dict:
    """Runs a recipe; finished stages are kept, an interrupted one resumes.

    Args:
        recipe: See [`load_recipe`].
        out_dir: Becomes the artifact: `Recommender.from_pretrained(out_dir)`. Stages lie in its folder `stages/`.
        command: What the report and the card name as the way to reproduce the run.

    Returns:
        The metrics, as in `out_dir/metrics.json`.

    Raises:
        ValueError: On bad data, settings or a stage's own checks; nothing of the stage is kept as finished.
    """
    from gr4ad import RewardConfig, RSPOConfig, VSLConfig
    from gr4ad.pipeline.embedding import ENCODER_FOLDER, embed_ads, tune_ad_encoder
    from gr4ad.pipeline.evaluating import evaluate_models
    from gr4ad.pipeline.neighbours import add_item_neighbours
    from gr4ad.pipeline.rewarding import train_reward_model
    from gr4ad.pipeline.tokenizing import build_tokenizer
    from gr4ad.pipeline.training import align_model, train_model, trainer_arguments

    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    runner, seed = StageRunner(out), recipe.seed
    data_dir, embed_dir, tokenizer_dir = (runner.folder(name) for name in ("data", "embed", "tokenize"))
    train_dir, align_dir = runner.folder("train"), runner.folder("align")

    if recipe.market is not None:
        market_config = recipe.market
        runner.run("market", lambda folder: simulate(market_config, folder), settings=market_config)
        recipe.data.root = str(runner.folder("market"))
    inputs = {role: file_digest(Path(recipe.data.root) / source) for role, source in recipe.data.sources().items()}
    # The folder's name may change between runs, its files may not: the key holds their digests instead.
    data_settings = {**vars(recipe.data), "root": "", "inputs": inputs}
    runner.run("data", lambda folder: prepare(recipe.data, folder / "prepared").summary, settings=data_settings)
    data_dir = data_dir / "prepared"
    encoder: Path | None = None
    before_embedding: tuple[str, ...] = ("data",)
    if recipe.tune is not None:
        tune = recipe.tune
        runner.run(
            "tune",
            lambda folder: tune_ad_encoder(recipe.embed, tune, data_dir=data_dir, out_dir=folder, seed=seed),
            settings=[recipe.embed, tune, seed],
            after=("data",),
        )
        encoder, before_embedding = runner.folder("tune") / ENCODER_FOLDER, ("data", "tune")
    runner.run(
        "embed",
        lambda folder: embed_ads(
            recipe.embed, recipe.cooccurrence, data_dir=data_dir, out_dir=folder, seed=seed, encoder=encoder
        ),
        settings=[recipe.embed, recipe.cooccurrence, seed],
        after=before_embedding,
    )
    runner.run(
        "tokenize",
        lambda folder: build_tokenizer(
            recipe.tokenize, data_dir=data_dir, embed_dir=embed_dir, out_dir=folder, seed=seed
        ),
        settings=[recipe.tokenize, seed],
        after=("data", "embed"),
    )
    runner.run(
        "train",
        lambda folder: train_model(
            recipe.model,
            trainer_arguments(VSLConfig, "train", recipe.train, folder / "checkpoints", seed),
            data_dir=data_dir,
            tokenizer_dir=tokenizer_dir,
            out_dir=folder,
        ),
        settings=[recipe.model, recipe.train, seed],
        after=("data", "tokenize"),
        together=True,
    )
    last: tuple[str, ...] = ("data", "tokenize", "train")
    if recipe.neighbours is not None:
        neighbours, trained = recipe.neighbours, train_dir
        runner.run(
            "neighbours",
            lambda folder: add_item_neighbours(
                neighbours, data_dir=data_dir, tokenizer_dir=tokenizer_dir, model_dir=trained, out_dir=folder
            ),
            settings=[neighbours],
            after=last,
        )
        train_dir, last = runner.folder("neighbours"), (*last, "neighbours")
    candidates = {"VSL": train_dir}
    if recipe.align is not None:
        align = recipe.align
        reward_dir: Path | None = None
        if recipe.lists.source == "reward_model":
            reward_dir = runner.folder("reward")
            runner.run(
                "reward",
                lambda folder: train_reward_model(
                    recipe.lists,
                    recipe.explore,
                    trainer_arguments(RewardConfig, "reward", recipe.reward, folder / "checkpoints", seed),
                    data_dir=data_dir,
                    tokenizer_dir=tokenizer_dir,
                    train_dir=train_dir,
                    out_dir=folder,
                ),
                settings=[recipe.lists, recipe.explore, recipe.reward, seed],
                after=last,
                together=True,
            )
            last = (*last, "reward")
        runner.run(
            "align",
            lambda folder: align_model(
                recipe.lists,
                trainer_arguments(RSPOConfig, "align", align, folder / "checkpoints", seed),
                data_dir=data_dir,
                tokenizer_dir=tokenizer_dir,
                train_dir=train_dir,
                reward_dir=reward_dir,
                out_dir=folder,
            ),
            settings=[recipe.lists, align, seed],
            after=last,
            together=True,
        )
        candidates["VSL + RSPO"] = align_dir
        last = (*last, "align")
    metrics = runner.run(
        "evaluate",
        lambda folder: evaluate_models(
            recipe.evaluate,
            data_dir=data_dir,
            tokenizer_dir=tokenizer_dir,
            candidates=candidates,
            out_dir=folder,
            seed=seed,
        ),
        settings=[recipe.evaluate, seed],
        after=last,
    )
    if runner.rank == 0:
        write_artifact(recipe, runner, candidates[metrics["final"]], metrics, out, command)
    return metrics


def simulate(config, folder: Path) -> dict:
    """Writes a simulated market's tables into `folder`; returns its statistics."""
    from gr4ad.market import AdMarket

    market = AdMarket(config)
    market.write(folder)
    return market.statistics()


def write_artifact(
    recipe: Recipe, runner: StageRunner, model_dir: Path, metrics: dict, out: Path, command: str
) -> None:
    """Model, tokenizer, card, report and metrics into `out`."""
    from gr4ad.pipeline.artifact import beam_tree, save_artifact
    from gr4ad.pipeline.embedding import ENCODER_FOLDER
    from gr4ad.pipeline.training import read_log
    from gr4ad.report import RunReport, write_model_card, write_report
    from gr4ad.report.evaluation_files import as_report
    from gr4ad.trainers.evaluation.per_user import FILE_NAME as PER_USER_FILE

    tokenizer_dir = runner.folder("tokenize")
    save_artifact(
        model_dir / "model",
        tokenizer_dir / "tokenizer",
        metrics["serving"],
        out,
        encoder_dir=runner.folder("tune") / ENCODER_FOLDER if recipe.tune is not None else None,
    )
    quality = json.loads((tokenizer_dir / "quality.json").read_text(encoding="utf-8"))
    data = load_prepared(runner.folder("data") / "prepared")
    # The picture shows a user with a history of middling length: neither a guess nor a saturated one.
    lengths = [len(items) for items in data.test["items"]]
    middle = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))[len(lengths) * 2 // 3]
    report = RunReport(
        title=recipe.name,
        command=command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seed=recipe.seed,
        machine=machine(),
        versions={name: version(name) for name in VERSIONS},
        data_summary=data.summary,
        training_log=read_log(runner.folder("train")),
        alignment_log=read_log(runner.folder("align")) if recipe.align is not None else [],
        sid_quality=quality["quality"],
        code_counts=quality["code_counts"],
        metrics=as_report(metrics),
        # An evaluation kept from an earlier version has neither.
        paired=metrics.get("paired", {}),
        value_calibration=metrics.get("value_calibration", {}).get(metrics["final"], {}),
        beam_tree=beam_tree(out, data.test[middle]["items"]),
        timings=runner.seconds,
        notes=notes(metrics),
    )
    per_user = runner.folder("evaluate") / PER_USER_FILE
    if per_user.is_file():
        shutil.copyfile(per_user, out / f"{PER_USER_FILE}.tmp")
        os.replace(out / f"{PER_USER_FILE}.tmp", out / PER_USER_FILE)
    write_report(out / "report.html", report)
    model_config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    write_model_card(out, report, model_config=model_config, recipe_name=recipe.name, recipe_text=recipe.text)
    write_json(
        out / "metrics.json",
        {
            **metrics,
            "sid_quality": quality["quality"],
            "seconds": runner.seconds,
            "sample_history": data.test[middle]["items"][-8:],
        },
    )


def notes(metrics: dict) -> list[str]:
    """What a reader of the tables has to know."""
    serving = metrics["serving"]
    unpriced = not metrics.get("values", {}).get("logged", True)
    return [
        *(["The log has no values, every event counts alike: value metrics are left out."] if unpriced else []),
        f"The final model is {metrics['final']}: the best {metrics['metric']} on "
        f"{metrics['users']['validation_sample']} validation users, with item weight {serving['item_weight']:g}, "
        f"value weight {serving['value_weight']:g} and neighbour weight {serving.get('neighbour_weight', 0.0):g}. "
        "Each system saw the test users once.",
        "A hit is an item, not a semantic ID: items that share an SID are ranked by the item head or, without "
        "it, by their training events and then by item id.",
        f"item-kNN is tuned on validation by the same metric over {metrics['item_knn']['tried']} settings; "
        "baselines and models are fitted on the training log alone.",
    ]


def machine() -> dict:
    """Processor, cores and system of this machine."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {"cpu": model, "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}


def remove_stages(out_dir: str | Path) -> None:
    """Deletes the stage folders, which only a later run of the same recipe needs."""
    shutil.rmtree(Path(out_dir) / "stages", ignore_errors=True)


__all__ = ["remove_stages", "run_recipe"]

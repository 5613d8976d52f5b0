"""The whole chain: data -> embed -> tokenize -> train -> neighbours -> reward -> align -> evaluate -> artifact."""

from __future__ import annotations

import datetime
import json
import logging
import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gr4ad.data.config import DataConfig
from gr4ad.data.reading import source_files
from gr4ad.pipeline.recipe import Recipe, RecipeError
from gr4ad.pipeline.recipe_checks import check_columns, check_has_impressions
from gr4ad.pipeline.runner import (
    DONE_FILE,
    PREPARED,
    StageRecord,
    StageRunner,
    file_digest,
    plain,
    read_json,
    stage_key,
    write_json,
)
from gr4ad.pipeline.stages import INPUTS, STAGES, Stage

logger = logging.getLogger(__name__)

VERSIONS = ("gr4ad", "torch", "transformers", "trl", "datasets", "faiss-cpu")
RUN_FILE = "run.json"


def run_recipe(recipe: Recipe, out_dir: str | Path, *, command: str = "gr4ad run") -> dict[str, Any]:
    """Runs a recipe; finished stages are kept, an interrupted one resumes.

    Args:
        recipe: See [`load_recipe`].
        out_dir: Becomes the artifact: `Recommender.from_pretrained(out_dir)`. Stages lie in its folder `stages/`.
        command: What the report and the card name as the way to reproduce the run.

    Returns:
        The metrics, as in `out_dir/metrics.json`.

    Raises:
        ValueError: On bad data, settings or a stage's own checks; nothing of the stage is kept as finished. Before
            anything runs: columns that the data lack, or an `out_dir` of another recipe or of other data.
    """
    # Files of vectors stand where the tables stand, unless they are found as they are named.
    recipe.embed.vectors = [
        path if Path(path).is_file() else str(Path(recipe.data.root) / path) for path in recipe.embed.vectors
    ]
    out, sections = Path(out_dir), vars(recipe)
    check_columns(sections)
    runner = StageRunner(out)
    if runner.rank == 0:
        claim_folder(out, recipe)
    for stage in STAGES:
        if stage.in_recipe(sections):
            summary = run_stage(runner, stage, sections, recipe.seed)
        if stage.name == "market" and recipe.market is not None:
            recipe.data.root = str(runner.folder("market"))
        elif stage.name == "data":
            for warning in summary.get("accounting", {}).get("warnings", ()):
                logger.warning("data: %s", warning)
            check_has_impressions(sections, summary)
    if runner.rank == 0:
        folders = {name: runner.folder(name) for name in runner.records}
        write_artifact(folders, out, name=recipe.name, text=recipe.text, seed=recipe.seed, command=command)
    return summary


def run_stage(runner: StageRunner, stage: Stage, sections: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Runs a stage of a recipe on what the stages before it wrote; returns its summary."""
    writers = {
        flag: next(name for name in source.stages if name in runner.records)
        for flag, source in INPUTS.items()
        if any(name in runner.records for name in source.stages)
    }
    reads = [read for flag in stage.reads for read in (("model", "models") if flag == "models" else (flag,))]
    after = [writers[flag] for flag in reads if flag in writers]
    folders = {flag: stage_folder(runner.folder(writers[flag])) for flag in stage.reads if flag in writers}
    models: dict[str, Path] = {}
    if "models" in stage.reads:
        models["VSL"] = runner.folder(writers["model"])
        if "models" in folders:
            models["VSL + RSPO"] = folders.pop("models")
    chosen = {name: sections[name] for name in stage.sections}

    def work(folder: Path) -> dict[str, Any]:
        out = folder / PREPARED if stage.name == "data" else folder
        return stage.run(chosen, folders, models, out, seed)

    settings = stage_settings(stage, chosen, seed)
    return runner.run(stage.name, work, settings=settings, after=after, together=stage.together)


def stage_settings(stage: Stage, sections: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Everything that a stage's result depends on beside earlier stages, as JSON values."""
    settings = {name: plain(sections[name]) for name in stage.sections}
    if stage.name == "data":
        # The folder's name may change between runs, its files may not.
        settings |= {"data": {**settings["data"], "root": ""}, "inputs": input_digests(sections["data"])}
    if "embed" in settings and sections["embed"].vectors:  # likewise
        files = {Path(path).name: file_digest(Path(path)) for path in sections["embed"].vectors}
        settings["embed"] = {**settings["embed"], "vectors": files}
    return settings | ({"seed": seed} if stage.seeded else {})


def input_digests(data: DataConfig) -> dict[str, str]:
    """Digest of each table; of several files the digests in order."""
    digests: dict[str, str] = {}
    for role, source in data.sources().items():
        files = source_files(source, data.root) or [Path(data.root) / source]
        digests[role] = " ".join(file_digest(file) for file in files)
    return digests


def stage_folder(folder: Path) -> Path:
    """The folder of a stage as later stages read it: of a run's data stage the prepared data in it."""
    return folder / PREPARED if (folder / PREPARED).is_dir() else folder


def claim_folder(out: Path, recipe: Recipe) -> None:
    """Makes the folder that of this recipe and data. Raises RecipeError if it is that of others."""
    source = input_digests(recipe.data) if recipe.market is None else recipe.market
    own = {"recipe": recipe.name, "data": stage_key("run", source, [])}
    finished = any((out / "stages").glob(f"*/{DONE_FILE}"))  # a run that came to nothing may be of anything
    found = (finished and read_json(out / RUN_FILE)) or own
    for what, remedy in (("recipe", f"recipe {found['recipe']!r}"), ("data", "other data")):
        if found[what] != own[what]:
            raise RecipeError(
                f"{out}: holds a run of {remedy}, which recipe {recipe.name!r} would overwrite. Give another `--out`, "
                "or remove that folder first."
            )
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RUN_FILE, own)


def write_artifact(
    folders: Mapping[str, Path], out: Path, *, name: str, text: str, seed: int, command: str
) -> dict[str, Any]:
    """Model, tokenizer, card, report and metrics into `out`; returns what `metrics.json` holds.

    Args:
        folders: Stage -> its folder; at least those of data, tokenize, train and evaluate, and of the final model.
        name, text, seed, command: Of the recipe, and the way to run it, for the report and the card.

    Raises:
        ValueError: A folder is missing, or the stages do not belong together.
    """
    from gr4ad.data import load_prepared
    from gr4ad.modeling_gr4ad import RankingWeights
    from gr4ad.pipeline.artifact import beam_tree, save_artifact
    from gr4ad.pipeline.embedding import ENCODER_FOLDER
    from gr4ad.pipeline.training import read_log
    from gr4ad.report import RunReport, write_model_card, write_report
    from gr4ad.report.evaluation_files import as_report
    from gr4ad.trainers.evaluation.per_user import FILE_NAME as PER_USER_FILE

    records = stage_records(folders)
    metrics, model_dir = records["evaluate"].summary, folders[final_stage(records)] / "model"
    out.mkdir(parents=True, exist_ok=True)
    save_artifact(
        model_dir,
        folders["tokenize"] / "tokenizer",
        RankingWeights.from_dict(metrics["serving"]),
        out,
        encoder_dir=folders["tune"] / ENCODER_FOLDER if "tune" in folders else None,
    )
    quality = json.loads((folders["tokenize"] / "quality.json").read_text(encoding="utf-8"))
    data = load_prepared(stage_folder(folders["data"]))
    # The picture shows a user with a history of middling length: neither a guess nor a saturated one.
    lengths = [len(items) for items in data.test["items"]]
    middle = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))[len(lengths) * 2 // 3]
    seconds = {stage: record.seconds for stage, record in records.items()}
    report = RunReport(
        title=name,
        command=command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seed=seed,
        machine=machine(),
        versions={package: version(package) for package in VERSIONS},
        data_summary=data.summary,
        training_log=read_log(folders["train"]),
        alignment_log=read_log(folders["align"]) if "align" in folders else [],
        sid_quality=quality["quality"],
        code_counts=quality["code_counts"],
        metrics=as_report(metrics),
        paired=metrics["paired"],
        value_calibration=metrics["value_calibration"].get(metrics["final"], {}),
        beam_tree=beam_tree(out, data.test[middle]["items"]),
        timings=seconds,
        notes=notes(metrics),
    )
    shutil.copyfile(folders["evaluate"] / PER_USER_FILE, out / f"{PER_USER_FILE}.tmp")
    os.replace(out / f"{PER_USER_FILE}.tmp", out / PER_USER_FILE)
    write_report(out / "report.html", report)
    model_config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    write_model_card(out, report, model_config=model_config, recipe_name=name, recipe_text=text)
    content = {
        **metrics,
        "sid_quality": quality["quality"],
        "seconds": seconds,
        "sample_history": data.test[middle]["items"][-8:],
    }
    write_json(out / "metrics.json", content)
    return content


def stage_records(folders: Mapping[str, Path]) -> dict[str, StageRecord]:
    """The record of each stage, in the order of a run. Raises ValueError if one is missing, or the evaluation was not
    of these data and tokenizer."""
    found = {name: StageRecord.read(folder) for name, folder in folders.items()}
    records = {stage.name: record for stage in STAGES if (record := found.get(stage.name)) is not None}
    for name in ("data", "tokenize", "train", "evaluate"):
        if name not in records:
            raise ValueError(f"An artifact needs the stage `{name}`: give its finished folder.")
        if name in ("data", "tokenize") and records[name].key not in records["evaluate"].reads:
            raise ValueError(f"{folders['evaluate']}: was not evaluated with {folders[name]}. Give what it was.")
    return records


def final_stage(records: Mapping[str, StageRecord]) -> str:
    """The stage that trained the model which the evaluation chose. Raises ValueError if it is not among them."""
    metrics = records["evaluate"].summary
    key = metrics["models"][metrics["final"]]
    for name, record in records.items():
        if record.key == key:
            return name
    raise ValueError(f"The final model {metrics['final']!r} is not among the stages: give the folder that has it too.")


def notes(metrics: dict) -> list[str]:
    """What a reader of the tables has to know."""
    serving = metrics["serving"]
    unpriced = not metrics["values"]["logged"]
    return [
        *(["The log has no values, every event counts alike: value metrics are left out."] if unpriced else []),
        f"The final model is {metrics['final']}: the best {metrics['metric']} on "
        f"{metrics['users']['validation_sample']} validation users, with item weight {serving['item_weight']:g}, "
        f"value weight {serving['value_weight']:g} and neighbour weight {serving['neighbour_weight']:g}. "
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
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {"cpu": model, "cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()}

"""The stages of `gr4ad.pipeline.stages` as commands of their own, and `gr4ad artifact`, which ends a chain of them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gr4ad.commands import terminal
from gr4ad.commands.arguments import CommandParser, parse_flags, spellings
from gr4ad.pipeline.sections import SECTIONS
from gr4ad.pipeline.stages import INPUTS, STAGES, Stage

if TYPE_CHECKING:
    from gr4ad.pipeline.runner import StageRecord


def run_command(stage: Stage, arguments: Sequence[str]) -> None:
    """Runs a stage on the folders that flags name and leaves its record in `--out`, as a run does."""
    command = stage.command or stage.name
    parser = CommandParser(prog=f"gr4ad {command}", description=f"{stage.help[0].upper()}{stage.help[1:]}.")
    parser.add_argument("--out", required=True, help="folder to write")
    for flag in stage.reads:
        source = INPUTS[flag]
        more: dict[str, Any] = {"nargs": "+"} if source.many else {}
        parser.add_argument(f"--{flag}", required=source.required, help=source.help, **more)
    if stage.seed_flag:
        text = "seed of what is random in this stage (default: 0)"
        parser.add_argument(*spellings(stage.seed_flag), type=int, default=0, help=text)
    if stage.name == "tokenize":
        add_report_flags(parser)
    options, given = parse_flags(parser, {name: SECTIONS[name] for name in stage.sections}, arguments)
    # A trainer's own seed is that of its stage, as in a recipe.
    own = given[stage.sections[-1]].pop("seed", 0) if stage.together else 0
    seed = getattr(options, stage.seed_flag) if stage.seed_flag else own

    from gr4ad.pipeline.recipe import built_section
    from gr4ad.pipeline.run import stage_folder, stage_settings
    from gr4ad.pipeline.runner import StageRecord, plain, stage_key

    sections = {name: built_section("", name, given[name]) for name in stage.sections}
    paths = {flag: getattr(options, flag) for flag in stage.reads if flag != "models"}
    folders = {flag: stage_folder(checked_folder(flag, path)) for flag, path in paths.items() if path is not None}
    models = named_models(options.models) if "models" in stage.reads else {}
    if stage.name == "tokenize":
        check_report_flags(options, folders["data"])
    earlier: list[StageRecord | None] = [StageRecord.read(folder) for folder in (*folders.values(), *models.values())]
    keys = [record.key if record else "" for record in earlier]
    settings, out = stage_settings(stage, sections, seed), Path(options.out)
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        summary = stage.run(sections, folders, models, out, seed)
    except Exception:
        if new:
            with suppress(OSError):  # a folder with something in it stays
                out.rmdir()
        raise
    key = stage_key(stage.name, settings, keys)
    StageRecord(stage.name, key, keys, plain(settings), time.monotonic() - start, summary).write(out)
    if stage.name == "tokenize" and options.report:
        print_sid_report(out, folders["data"], options.category_column)
    elif stage.name == "evaluate":
        print_metrics(summary, out)
    elif stage.name == "data":
        from gr4ad.commands.accounting import print_accounting

        print_accounting(summary)


def checked_folder(flag: str, path: str) -> Path:
    """The folder that a flag names. Raises ValueError if there is none."""
    if not Path(path).is_dir():
        raise ValueError(f"`--{flag}` should be the {INPUTS[flag].help}. Received: {path}, which is no folder.")
    return Path(path)


def named_models(words: Sequence[str]) -> dict[str, Path]:
    """Name -> folder of each word FOLDER or NAME=FOLDER; without a name its last part, or all of it where two end
    alike. Raises ValueError if a name or folder is given twice, or a folder holds no model."""
    ends = [Path(word).name for word in words]
    models: dict[str, Path] = {}
    for word, end in zip(words, ends, strict=True):
        name, equals, folder = word.partition("=")
        if not equals:
            name, folder = (word if ends.count(end) > 1 else end), word
        if name in models or Path(folder) in models.values():
            raise ValueError(f"`models` should name each folder once. Received: {', '.join(words)}.")
        models[name] = Path(folder)
    for path in models.values():
        if not (path / "model" / "config.json").is_file():
            raise ValueError(
                f"{path}: holds no trained model (no model/config.json). Give an `--out` folder of `gr4ad train` or "
                "`gr4ad align`."
            )
    return models


def artifact(arguments: list[str]) -> None:
    parser = CommandParser(
        prog="gr4ad artifact",
        description="Writes the artifact, its card and its report from finished stages, as `gr4ad run` does.",
    )
    parser.add_argument("--stages", nargs="+", required=True, help="folders of all stages, in any order")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--name", help="what the artifact is called (default: the name of that folder)")
    options = parser.parse_args(arguments)

    import yaml

    from gr4ad.pipeline.run import write_artifact
    from gr4ad.pipeline.runner import StageRecord

    records: dict[str, StageRecord] = {}
    folders: dict[str, Path] = {}
    for folder in map(Path, options.stages):
        record = StageRecord.read(folder)
        if record is None:
            raise ValueError(f"{folder}: holds no finished stage (no stage.json). Give `--out` folders of stages.")
        if record.stage in folders:
            raise ValueError(
                f"`--stages` should hold one {record.stage}. Received: {folders[record.stage]}, {folder}."
            )
        records[record.stage], folders[record.stage] = record, folder
    name = options.name or Path(options.out).resolve().name
    settings = {
        section: records[stage.name].settings[section]
        for stage in STAGES
        if stage.name in records
        for section in stage.sections
    }
    text = yaml.safe_dump({"name": name, **settings}, sort_keys=False)
    seed = records["train"].settings["seed"] if "train" in records else 0
    command = "gr4ad artifact --stages ... --out OUT"
    write_artifact(folders, Path(options.out), name=name, text=text, seed=seed, command=command)
    print(f"artifact: {options.out}")  # noqa: T201


def add_report_flags(parser: CommandParser) -> None:
    parser.add_argument(
        "--report",
        action="store_true",
        help="also write OUT/sid_report.html and sid_quality.json: how good the SIDs are",
    )
    parser.add_argument(
        "--category_column", "--category-column",
        help="catalog column that the report compares SID prefixes with (default: the first of category, "
        "product_category, department, industry that is there)",
    )  # fmt: skip


def check_report_flags(options: argparse.Namespace, data_dir: Path) -> None:
    """Raises ValueError for a column that the report could not use: before the quantizer is fitted, not after."""
    if options.category_column and not options.report:
        raise ValueError(
            f"`category_column` is {options.category_column!r}, but only the report uses it. Add --report, or "
            "leave it out."
        )
    if options.report:
        from gr4ad.data import load_prepared
        from gr4ad.pipeline.sid_report import choose_category_column

        choose_category_column(load_prepared(data_dir).catalog.column_names, options.category_column)


def print_sid_report(folder: Path, data_dir: Path, category_column: str | None) -> None:
    """Writes `sid_report.html` into a tokenize folder and prints its headline."""
    from rich.markup import escape
    from rich.table import Table

    from gr4ad.pipeline.sid_report import report_sids

    page = folder / "sid_report.html"
    numbers = report_sids(folder, data_dir, page, category_column=category_column)
    quality = numbers["quality"]
    rows = [
        ("items / SIDs", f"{numbers['items']:,} / {numbers['sids']:,}", ""),
        ("items per SID (Cpr)", f"{quality['cpr']:.4f}", "1 = no two share one"),
        ("SIDs that are shared (Col)", f"{quality['col']:.2%}", "0 = none"),
        ("code space in use (Util)", f"{1000 * quality['util']:.3g}‰", "SIDs in use / possible SIDs"),
        (
            "interactions in shared SIDs",
            f"{quality['interactions_in_shared_sids']:.2%}",
            "of the training log; 0 = none",
        ),
    ]
    for number, level in enumerate(numbers["levels"], start=1):
        rows.append((f"level {number}: codes in use", f"{level['used']:.1%}", f"of {level['size']:,}; 100% = all"))
    if numbers["prefix_purity"]:
        first = numbers["prefix_purity"][0]
        note = f"by {escape(numbers['category_column'])}; {first['chance']:.3f} by chance, 1 = pure"
        rows.append(("purity of level-1 codes", f"{first['purity']:.3f}", note))
    table = Table("semantic IDs", "", "", show_edge=False)
    for row in rows:
        table.add_row(*row)
    console = terminal.console()
    console.print(table)
    # Not wrapped: a path is there to be copied.
    console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)


def print_metrics(metrics: dict[str, Any], out: Path) -> None:

    from gr4ad.commands.evaluation import show_metrics

    console = terminal.console()
    show_metrics(metrics, console)
    files = ("metrics.json", "metrics.md", "per_user.parquet", "plots/")
    console.print(f"{out}: {', '.join(files)}", markup=False, highlight=False, soft_wrap=True)

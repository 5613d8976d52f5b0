"""One stage each: `gr4ad simulate | data | tune | embed | tokenize | train | neighbours | reward | align`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import TrlParser

from gr4ad.data import DataConfig, load_prepared
from gr4ad.data import prepare as prepare_data
from gr4ad.market import AdMarket, MarketConfig
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.settings import (
    EmbedConfig,
    ExploreConfig,
    ListConfig,
    ModelSettings,
    NeighbourConfig,
    TokenizeConfig,
)


@dataclass
class OutFolder:
    """Where a stage writes."""

    out: str = field(metadata={"help": "Folder to write."})


@dataclass
class EmbedFolders(OutFolder):
    data: str = field(metadata={"help": "Folder of `gr4ad data`."})
    train_seed: int = field(default=0, metadata={"help": "Seed of what is trained in this stage."})


@dataclass
class TokenizeFolders(OutFolder):
    data: str = field(metadata={"help": "Folder of `gr4ad data`."})
    embeddings: str = field(metadata={"help": "Folder of `gr4ad embed`."})
    codebook_seed: int = field(default=0, metadata={"help": "Seed of the k-means initialisation."})
    report: bool = field(
        default=False, metadata={"help": "Also write OUT/sid_report.html and sid_quality.json: how good the SIDs are."}
    )
    category_column: str | None = field(
        default=None,
        metadata={
            "help": "Catalog column that the report compares SID prefixes with. Default: the first of category, "
            "product_category, department, industry that is there."
        },
    )


@dataclass
class TrainFolders(OutFolder):
    data: str = field(metadata={"help": "Folder of `gr4ad data`."})
    tokenizer: str = field(metadata={"help": "Folder of `gr4ad tokenize`."})


@dataclass
class ModelFolders(TrainFolders):
    model: str = field(metadata={"help": "Folder of `gr4ad train` or `neighbours`."})


@dataclass
class AlignFolders(ModelFolders):
    reward: str | None = field(
        default=None, metadata={"help": "Folder of `gr4ad reward`, for lists of source reward_model."}
    )


@dataclass
class EvaluateFolders(TrainFolders):
    models: list[str] = field(
        metadata={"help": "Folders of `gr4ad train`, `neighbours` or `align`; the best on validation is final."}
    )
    sample_seed: int = field(default=0, metadata={"help": "Seed of the validation sample."})


def parse(kinds: tuple[Any, ...], command: str, arguments: list[str]) -> tuple[Any, ...]:
    """Dataclass objects from flags and `--config FILE.yaml`; flags win."""
    return tuple(TrlParser(kinds, prog=f"gr4ad {command}").parse_args_and_config(arguments))


def created(folder: str) -> Path:
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    return path


def simulate(arguments: list[str]) -> None:
    folders, config = parse((OutFolder, MarketConfig), "simulate", arguments)
    AdMarket(config).write(created(folders.out))


def data(arguments: list[str]) -> None:
    folders, config = parse((OutFolder, DataConfig), "data", arguments)
    prepare_data(config, folders.out)


def tune(arguments: list[str]) -> None:
    from gr4ad.pipeline.embedding import tune_ad_encoder
    from gr4ad.trainers.cooccurrence import EncoderTuningConfig

    folders, config, tuning = parse((EmbedFolders, EmbedConfig, EncoderTuningConfig), "tune", arguments)
    out = created(folders.out)
    summary = tune_ad_encoder(config, vars(tuning), data_dir=Path(folders.data), out_dir=out, seed=folders.train_seed)
    write_json(out / "tune.json", summary)


def embed(arguments: list[str]) -> None:
    from gr4ad.pipeline.embedding import embed_ads
    from gr4ad.trainers.cooccurrence import ItemSequenceConfig

    folders, config, sequences = parse((EmbedFolders, EmbedConfig, ItemSequenceConfig), "embed", arguments)
    out = created(folders.out)
    summary = embed_ads(config, vars(sequences), data_dir=Path(folders.data), out_dir=out, seed=folders.train_seed)
    write_json(out / "embed.json", summary)


def tokenize(arguments: list[str]) -> None:
    from gr4ad.pipeline.tokenizing import build_tokenizer

    folders, config = parse((TokenizeFolders, TokenizeConfig), "tokenize", arguments)
    if folders.category_column and not folders.report:
        raise ValueError(
            f"`category_column` is {folders.category_column!r}, but only the report uses it. Add --report, or leave "
            "it out."
        )
    if folders.report:
        from gr4ad.pipeline.sid_report import choose_category_column

        # A wrong name is told before the quantizer is fitted, not after.
        choose_category_column(load_prepared(folders.data).catalog.column_names, folders.category_column)
    out = created(folders.out)
    build_tokenizer(
        config,
        data_dir=Path(folders.data),
        embed_dir=Path(folders.embeddings),
        out_dir=out,
        seed=folders.codebook_seed,
    )
    if folders.report:
        print_sid_report(out, Path(folders.data), folders.category_column)


def print_sid_report(folder: Path, data_dir: Path, category_column: str | None) -> None:
    """Writes `sid_report.html` into a tokenize folder and prints its headline."""
    from rich.console import Console
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
    console = Console()
    console.print(table)
    # Not wrapped: a path is there to be copied.
    console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)


def train(arguments: list[str]) -> None:
    from gr4ad import VSLConfig
    from gr4ad.pipeline.training import train_model

    folders, settings, config = parse((TrainFolders, ModelSettings, VSLConfig), "train", arguments)
    out = created(folders.out)
    config.output_dir = str(out / "checkpoints")
    train_model(settings, config, data_dir=Path(folders.data), tokenizer_dir=Path(folders.tokenizer), out_dir=out)


def neighbours(arguments: list[str]) -> None:
    from gr4ad.pipeline.neighbours import add_item_neighbours

    folders, config = parse((ModelFolders, NeighbourConfig), "neighbours", arguments)
    out = created(folders.out)
    summary = add_item_neighbours(
        config,
        data_dir=Path(folders.data),
        tokenizer_dir=Path(folders.tokenizer),
        model_dir=Path(folders.model),
        out_dir=out,
    )
    write_json(out / "neighbours.json", summary)


def reward(arguments: list[str]) -> None:
    from gr4ad import RewardConfig
    from gr4ad.pipeline.rewarding import train_reward_model

    folders, lists, explore, config = parse(
        (ModelFolders, ListConfig, ExploreConfig, RewardConfig), "reward", arguments
    )
    out = created(folders.out)
    config.output_dir = str(out / "checkpoints")
    train_reward_model(
        lists,
        explore,
        config,
        data_dir=Path(folders.data),
        tokenizer_dir=Path(folders.tokenizer),
        train_dir=Path(folders.model),
        out_dir=out,
    )


def align(arguments: list[str]) -> None:
    from gr4ad import RSPOConfig
    from gr4ad.pipeline.training import align_model

    folders, lists, config = parse((AlignFolders, ListConfig, RSPOConfig), "align", arguments)
    out = created(folders.out)
    config.output_dir = str(out / "checkpoints")
    align_model(
        lists,
        config,
        data_dir=Path(folders.data),
        tokenizer_dir=Path(folders.tokenizer),
        train_dir=Path(folders.model),
        reward_dir=Path(folders.reward) if folders.reward else None,
        out_dir=out,
    )

"""One stage each: `gr4ad simulate | data | embed | tokenize | train | align | evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import TrlParser

from gr4ad.data import DataConfig
from gr4ad.data import prepare as prepare_data
from gr4ad.market import AdMarket, MarketConfig
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.settings import EmbedConfig, EvaluateConfig, ListConfig, ModelSettings, TokenizeConfig


@dataclass
class OutFolder:
    """Where a stage writes."""

    out: str = field(metadata={"help": "Folder to write."})


@dataclass
class EmbedFolders(OutFolder):
    data: str = field(metadata={"help": "Folder of `gr4ad data`."})


@dataclass
class TokenizeFolders(OutFolder):
    data: str = field(metadata={"help": "Folder of `gr4ad data`."})
    embeddings: str = field(metadata={"help": "Folder of `gr4ad embed`."})
    codebook_seed: int = field(default=0, metadata={"help": "Seed of the k-means initialisation."})


@dataclass
class TrainFolders(OutFolder):
    data: str = field(metadata={"help": "Folder of `gr4ad data`."})
    tokenizer: str = field(metadata={"help": "Folder of `gr4ad tokenize`."})


@dataclass
class AlignFolders(TrainFolders):
    model: str = field(metadata={"help": "Folder of `gr4ad train`."})


@dataclass
class EvaluateFolders(TrainFolders):
    models: list[str] = field(
        metadata={"help": "Folders of `gr4ad train` or `align`; the best on validation is final."}
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


def embed(arguments: list[str]) -> None:
    from gr4ad.pipeline.tokenizing import embed_ads
    from gr4ad.trainers.cooccurrence import ItemSequenceConfig

    folders, config, sequences = parse((EmbedFolders, EmbedConfig, ItemSequenceConfig), "embed", arguments)
    out = created(folders.out)
    write_json(
        out / "embed.json", embed_ads(config, vars(sequences), data_dir=Path(folders.data), out_dir=out, seed=0)
    )


def tokenize(arguments: list[str]) -> None:
    from gr4ad.pipeline.tokenizing import build_tokenizer

    folders, config = parse((TokenizeFolders, TokenizeConfig), "tokenize", arguments)
    build_tokenizer(
        config,
        data_dir=Path(folders.data),
        embed_dir=Path(folders.embeddings),
        out_dir=created(folders.out),
        seed=folders.codebook_seed,
    )


def train(arguments: list[str]) -> None:
    from gr4ad import VSLConfig
    from gr4ad.pipeline.training import train_model

    folders, settings, config = parse((TrainFolders, ModelSettings, VSLConfig), "train", arguments)
    out = created(folders.out)
    config.output_dir = str(out / "checkpoints")
    train_model(settings, config, data_dir=Path(folders.data), tokenizer_dir=Path(folders.tokenizer), out_dir=out)


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
        out_dir=out,
    )


def evaluate(arguments: list[str]) -> None:
    from gr4ad.pipeline.evaluating import evaluate_models

    folders, config = parse((EvaluateFolders, EvaluateConfig), "evaluate", arguments)
    evaluate_models(
        config,
        data_dir=Path(folders.data),
        tokenizer_dir=Path(folders.tokenizer),
        candidates={Path(folder).name: Path(folder) for folder in folders.models},
        out_dir=created(folders.out),
        seed=folders.sample_seed,
    )

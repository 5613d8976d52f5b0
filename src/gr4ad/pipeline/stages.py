"""The one table of stages: what `gr4ad run` runs in order, and what `gr4ad STAGE` runs alone.

The runner, the commands with their flags and help, and the check of a recipe all follow from it. Importing it is
light; a stage's work imports what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr4ad.pipeline.config_fields import config_class
from gr4ad.pipeline.sections import SECTIONS


@dataclass(frozen=True)
class Input:
    """A folder that a stage reads: the stages that may have written it, the last of a recipe's first; and its help."""

    stages: tuple[str, ...]
    help: str
    required: bool = True
    many: bool = False


INPUTS = {
    "data": Input(("data",), "folder of `gr4ad data`"),
    "tuned": Input(("tune",), "folder of `gr4ad tune`, whose encoder is taken", required=False),
    "embeddings": Input(("embed",), "folder of `gr4ad embed`"),
    "tokenizer": Input(("tokenize",), "folder of `gr4ad tokenize`"),
    "model": Input(("neighbours", "train"), "folder of `gr4ad train` or `neighbours`"),
    "reward": Input(("reward",), "folder of `gr4ad reward`, for lists of source reward_model", required=False),
    "models": Input(
        ("align",),
        "folders of `gr4ad train`, `neighbours` or `align`, or NAME=FOLDER; the best on validation is final",
        many=True,
    ),
}
"""Flag -> the folder that it names. In a recipe `models` are the aligned one and that of `model`."""


@dataclass(frozen=True)
class Job:
    """What a stage works on: its sections (an object each, or plain values where that needs torch), the folders it
    reads by the flag that names them, models by name (of `evaluate` alone), the folder it writes, and the seed."""

    sections: Mapping[str, Any]
    folders: Mapping[str, Path]
    models: Mapping[str, Path]
    out: Path
    seed: int

    @property
    def directories(self) -> dict[str, Path]:
        """The folders that almost every stage works in, as arguments."""
        named = {f"{flag}_dir": self.folders[flag] for flag in ("data", "tokenizer") if flag in self.folders}
        return {**named, "out_dir": self.out}

    def trainer_arguments(self, section: str) -> Any:
        """An object of the section's class; its checkpoints go into the folder that is written."""
        from gr4ad.pipeline.training import trainer_arguments

        kind, values = config_class(SECTIONS[section]), self.sections[section]
        return trainer_arguments(kind, section, values, self.out / "checkpoints", self.seed)


@dataclass(frozen=True)
class Stage:
    """A stage.

    name: Of its folder in a run. help: What it does, in a line. sections: Of a recipe, whose fields are its flags.
    reads: Keys of `INPUTS`. work: Does it; returns a summary of JSON values. command: Its word on the command line,
    where that is not the name. seed_flag: What its seed is called there; "" if it has none, or if a section has it.
    together: Whether every process of a launch runs it. in_recipe: Whether a recipe (section -> configuration) has it.
    """

    name: str
    help: str
    sections: tuple[str, ...]
    reads: tuple[str, ...]
    work: Callable[[Job], dict[str, Any]]
    command: str = ""
    seed_flag: str = ""
    together: bool = False
    in_recipe: Callable[[Mapping[str, Any]], bool] = lambda recipe: True

    @property
    def seeded(self) -> bool:
        """Whether its result depends on a seed."""
        return bool(self.seed_flag) or self.together


def simulate(job: Job) -> dict[str, Any]:
    from gr4ad.market import AdMarket

    market = AdMarket(job.sections["market"])
    market.write(job.out)
    return market.statistics()


def prepare_data(job: Job) -> dict[str, Any]:
    from gr4ad.data import prepare

    return prepare(job.sections["data"], job.out).summary


def tune(job: Job) -> dict[str, Any]:
    from gr4ad.pipeline.embedding import tune_ad_encoder

    return tune_ad_encoder(job.sections["embed"], job.sections["tune"], **job.directories, seed=job.seed)


def embed(job: Job) -> dict[str, Any]:
    from gr4ad.pipeline.embedding import ENCODER_FOLDER, embed_ads

    encoder = job.folders["tuned"] / ENCODER_FOLDER if "tuned" in job.folders else None
    settings, vectors = job.sections["embed"], job.sections["cooccurrence"]
    return embed_ads(settings, vectors, **job.directories, seed=job.seed, encoder=encoder)


def tokenize(job: Job) -> dict[str, Any]:
    from gr4ad.pipeline.tokenizing import build_tokenizer

    return build_tokenizer(
        job.sections["tokenize"], **job.directories, embed_dir=job.folders["embeddings"], seed=job.seed
    )


def train(job: Job) -> dict[str, Any]:
    from gr4ad.pipeline.training import train_model

    return train_model(job.sections["model"], job.trainer_arguments("train"), **job.directories)


def count_neighbours(job: Job) -> dict[str, Any]:
    from gr4ad.pipeline.neighbours import add_item_neighbours

    return add_item_neighbours(job.sections["neighbours"], **job.directories, model_dir=job.folders["model"])


def reward(job: Job) -> dict[str, Any]:
    from gr4ad.pipeline.rewarding import train_reward_model

    lists, explore, model = job.sections["lists"], job.sections["explore"], job.folders["model"]
    return train_reward_model(lists, explore, job.trainer_arguments("reward"), **job.directories, train_dir=model)


def align(job: Job) -> dict[str, Any]:
    from gr4ad.pipeline.training import align_model

    return align_model(
        job.sections["lists"],
        job.trainer_arguments("align"),
        **job.directories,
        train_dir=job.folders["model"],
        reward_dir=job.folders.get("reward"),
    )


def evaluate(job: Job) -> dict[str, Any]:
    from gr4ad.pipeline.evaluating import evaluate_models
    from gr4ad.pipeline.runner import StageRecord

    metrics = evaluate_models(job.sections["evaluate"], **job.directories, candidates=job.models, seed=job.seed)
    records = {name: StageRecord.read(folder) for name, folder in job.models.items()}
    return {**metrics, "models": {name: record.key if record else "" for name, record in records.items()}}


def aligned(recipe: Mapping[str, Any]) -> bool:
    return recipe["align"] is not None


STAGES = (
    Stage("market", "write the tables of a simulated ad market", ("market",), (), simulate, command="simulate",
          in_recipe=lambda recipe: recipe["market"] is not None),
    Stage("data", "read, check and split catalog, events and users", ("data",), (), prepare_data),
    Stage("tune", "tune the ad encoder on which ads are engaged with together", ("embed", "tune"), ("data",), tune,
          seed_flag="train_seed", in_recipe=lambda recipe: recipe["tune"] is not None),
    Stage("embed", "embed the ads of a catalog", ("embed", "cooccurrence"), ("data", "tuned"), embed,
          seed_flag="train_seed"),
    Stage("tokenize", "fit semantic IDs and write the tokenizer", ("tokenize",), ("data", "embeddings"), tokenize,
          seed_flag="codebook_seed"),
    Stage("train", "train a model by VSL", ("model", "train"), ("data", "tokenizer"), train, together=True),
    Stage("neighbours", "count which items stand together in the log, for the item head", ("neighbours",),
          ("data", "tokenizer", "model"), count_neighbours,
          in_recipe=lambda recipe: recipe["neighbours"] is not None),
    Stage("reward", "learn what impressions are worth, and value the policy's own lists",
          ("lists", "explore", "reward"), ("data", "tokenizer", "model"), reward, together=True,
          in_recipe=lambda recipe: aligned(recipe) and recipe["lists"].source == "reward_model"),
    Stage("align", "align a model with list value by RSPO", ("lists", "align"),
          ("data", "tokenizer", "model", "reward"), align, together=True, in_recipe=aligned),
    Stage("evaluate", "choose on validation and measure on test, beside baselines", ("evaluate",),
          ("data", "tokenizer", "models"), evaluate, seed_flag="sample_seed"),
)  # fmt: skip
"""In the order in which a recipe runs them."""

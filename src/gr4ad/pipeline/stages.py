"""The one table of stages: what `gr4ad run` runs in order, and what `gr4ad STAGE` runs alone.

The runner, the commands with their flags and help, and the check of a recipe all follow from it. Importing it is
light; the function that does a stage's work is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from gr4ad.pipeline.config_fields import config_class
from gr4ad.pipeline.sections import SECTIONS

if TYPE_CHECKING:
    from gr4ad.data.config import DataConfig
    from gr4ad.market.config import MarketConfig


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


Folders = Mapping[str, Path]


@dataclass(frozen=True)
class Stage:
    """A stage.

    name: Of its folder in a run. help: What it does, in a line. sections: Of a recipe, whose fields are its flags.
    reads: Keys of `INPUTS`. work: Module and name of the function that does it. command: Its word on the command line,
    where that is not the name. seed_flag: What its seed is called there; "" if it has none, or if a section has it.
    together: Whether every process of a launch runs it. in_recipe: Whether a recipe (section -> configuration) has it.
    """

    name: str
    help: str
    sections: tuple[str, ...]
    reads: tuple[str, ...]
    work: str
    command: str = ""
    seed_flag: str = ""
    together: bool = False
    in_recipe: Callable[[Mapping[str, Any]], bool] = lambda recipe: True

    @property
    def seeded(self) -> bool:
        """Whether its result depends on a seed."""
        return bool(self.seed_flag) or self.together

    def run(
        self,
        sections: Mapping[str, Any],
        folders: Mapping[str, Path],
        models: Mapping[str, Path],
        out: Path,
        seed: int,
    ) -> dict[str, Any]:
        """Does the work and returns its summary, JSON values.

        The function gets the stage's sections in order (of one that trains, the last as the arguments of its trainer),
        and by keyword FLAG_dir of each folder that it reads, `out_dir`, and where it has them `models` and `seed`.

        Args:
            sections: By name, an object each, or plain values where that needs torch.
            folders: By flag. models: By name, of `evaluate` alone. out: The folder to write.
        """
        settings = [sections[name] for name in self.sections]
        if self.together:
            from gr4ad.pipeline.training import trainer_arguments

            last = self.sections[-1]
            kind = config_class(SECTIONS[last])
            settings[-1] = trainer_arguments(kind, last, settings[-1], out / "checkpoints", seed)
        given: dict[str, Any] = {f"{flag}_dir": folder for flag, folder in folders.items()}
        if "models" in self.reads:
            given["models"] = models
        if self.seed_flag:
            given["seed"] = seed
        return resolve_name(f"gr4ad.pipeline.{self.work}")(*settings, out_dir=out, **given)


def simulate(config: MarketConfig, *, out_dir: Path) -> dict[str, Any]:
    """Writes the tables of a simulated market; returns its statistics."""
    from gr4ad.market import AdMarket

    market = AdMarket(config)
    market.write(out_dir)
    return market.statistics()


def prepare_data(config: DataConfig, *, out_dir: Path) -> dict[str, Any]:
    """Reads, checks and splits the tables; returns the summary."""
    from gr4ad.data import write_prepared

    return write_prepared(config, out_dir)


def aligned(recipe: Mapping[str, Any]) -> bool:
    return recipe["align"] is not None


STAGES = (
    Stage("market", "write the tables of a simulated ad market", ("market",), (), "stages:simulate",
          command="simulate", in_recipe=lambda recipe: recipe["market"] is not None),
    Stage("data", "read, check and split catalog, events and users", ("data",), (), "stages:prepare_data"),
    Stage("tune", "tune the ad encoder on which ads are engaged with together", ("embed", "tune"), ("data",),
          "embedding:tune_ad_encoder", seed_flag="train_seed", in_recipe=lambda recipe: recipe["tune"] is not None),
    Stage("embed", "embed the ads of a catalog", ("embed", "cooccurrence"), ("data", "tuned"),
          "embedding:embed_ads", seed_flag="train_seed"),
    Stage("tokenize", "fit semantic IDs and write the tokenizer", ("tokenize",), ("data", "embeddings"),
          "tokenizing:build_tokenizer", seed_flag="codebook_seed"),
    Stage("train", "train a model by VSL", ("model", "train"), ("data", "tokenizer"), "training:train_model",
          together=True),
    Stage("neighbours", "count which items stand together in the log, for the item head", ("neighbours",),
          ("data", "tokenizer", "model"), "neighbours:add_item_neighbours",
          in_recipe=lambda recipe: recipe["neighbours"] is not None),
    Stage("reward", "learn what impressions are worth, and value the policy's own lists",
          ("lists", "explore", "reward"), ("data", "tokenizer", "model"), "rewarding:train_reward_model",
          together=True, in_recipe=lambda recipe: aligned(recipe) and recipe["lists"].source == "reward_model"),
    Stage("align", "align a model with list value by RSPO", ("lists", "align"),
          ("data", "tokenizer", "model", "reward"), "training:align_model", together=True, in_recipe=aligned),
    Stage("evaluate", "choose on validation and measure on test, beside baselines", ("evaluate",),
          ("data", "tokenizer", "models"), "evaluating:evaluate_models", seed_flag="sample_seed"),
)  # fmt: skip
"""In the order in which a recipe runs them."""

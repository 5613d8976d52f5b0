"""Recipes: one YAML file that says how a log becomes a served model."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from gr4ad.data import DataConfig
from gr4ad.market import MarketConfig
from gr4ad.pipeline.settings import (
    EmbedConfig,
    EvaluateConfig,
    ExploreConfig,
    ListConfig,
    ModelSettings,
    NeighbourConfig,
    TokenizeConfig,
)


class RecipeError(ValueError):
    """A recipe that cannot be used: says which field and why."""


@dataclass
class Recipe:
    """Sections of a recipe. `tune`, `train`, `reward`, `align` and `cooccurrence` keep plain values, since building
    trainer arguments imports torch; their names are checked when the stage builds them, before it works.

    Attributes:
        name: What the artifact is called. seed: Of every stage.
        market: A simulated market instead of files; then `data` needs no file names.
        tune: `EncoderTuningConfig` values; None leaves the encoder as it is.
        neighbours: None leaves the item neighbours out.
        explore, reward: Used where `lists.source` is reward_model; `reward` are `RewardConfig` values.
        align: `RSPOConfig` values; None leaves the alignment out.
    """

    name: str
    text: str
    seed: int = 0
    market: MarketConfig | None = None
    data: DataConfig = field(default_factory=DataConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    tune: dict[str, Any] | None = None
    cooccurrence: dict[str, Any] = field(default_factory=dict)
    tokenize: TokenizeConfig = field(default_factory=TokenizeConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    train: dict[str, Any] = field(default_factory=dict)
    neighbours: NeighbourConfig | None = None
    lists: ListConfig = field(default_factory=ListConfig)
    explore: ExploreConfig = field(default_factory=ExploreConfig)
    reward: dict[str, Any] = field(default_factory=dict)
    align: dict[str, Any] | None = None
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


SECTIONS = {
    "market": MarketConfig,
    "data": DataConfig,
    "embed": EmbedConfig,
    "tokenize": TokenizeConfig,
    "model": ModelSettings,
    "neighbours": NeighbourConfig,
    "lists": ListConfig,
    "explore": ExploreConfig,
    "evaluate": EvaluateConfig,
}


def load_recipe(source: str | Path, *, data_root: str | Path | None = None, seed: int | None = None) -> Recipe:
    """Reads a recipe.

    Args:
        source: A YAML file, or the name of a packaged recipe, e.g. `demo`.
        data_root: Folder that the recipe's data files resolve against. seed: Overrides the recipe's.

    Raises:
        RecipeError: If the file is missing or not YAML, or has an unknown section or field, or a value of the wrong
            kind.
    """
    path = Path(source)
    packaged = resources.files("gr4ad.recipes") / f"{source}.yaml"
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    elif not path.suffix and packaged.is_file():
        text = packaged.read_text(encoding="utf-8")
    else:
        raise RecipeError(f"{source}: no such recipe. Give a YAML file, or one of: {', '.join(packaged_recipes())}.")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{source}: a recipe is a map of sections. Received: {type(values).__name__}.")
    known = {f.name for f in fields(Recipe)} - {"text"}
    unknown = sorted(set(values) - known)
    if unknown:
        raise RecipeError(f"{source}: unknown section `{unknown[0]}`. Sections are: {', '.join(sorted(known))}.")
    values.setdefault("name", path.stem)
    for section, kind in SECTIONS.items():
        if values.get(section) is not None:
            values[section] = build_section(source, section, kind, values[section])
    recipe = Recipe(text=text, **values)
    if data_root is not None:
        recipe.data.root = str(data_root)
    if seed is not None:
        recipe.seed = seed
    return recipe


def build_section(source: str | Path, section: str, kind: type, values: Any) -> Any:
    """An object of dataclass `kind` from the values of a section. Raises RecipeError as `load_recipe`."""
    if not isinstance(values, dict):
        raise RecipeError(f"{source}: section `{section}` must be a map of fields. Received: {values!r}.")
    known = {f.name: f for f in fields(kind) if f.init}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise RecipeError(f"{source}: unknown field `{section}.{unknown[0]}`. Fields are: {', '.join(known)}.")
    for name, value in values.items():
        default = known[name].default if known[name].default is not MISSING else None
        if isinstance(default, bool) != isinstance(value, bool) and default is not None and value is not None:
            raise RecipeError(
                f"{source}: `{section}.{name}` must be like its default, {default!r}. Received: {value!r}."
            )
        if isinstance(default, (int, float)) and not isinstance(value, (int, float)):
            raise RecipeError(f"{source}: `{section}.{name}` must be a number. Received: {value!r}.")
    try:
        return kind(**values)
    except ValueError as error:
        raise RecipeError(f"{source}: section `{section}`: {error}") from error


def packaged_recipes() -> list[str]:
    """Names of the recipes inside the package."""
    return sorted(
        f.name.removesuffix(".yaml") for f in resources.files("gr4ad.recipes").iterdir() if f.name.endswith(".yaml")
    )


__all__ = ["Recipe", "RecipeError", "load_recipe", "packaged_recipes"]

"""Recipes: one YAML file that says how a log becomes a served model, checked as a whole before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gr4ad.data.config import DataConfig
from gr4ad.pipeline.config_fields import config_class, fields_of, suggestion
from gr4ad.pipeline.recipe_checks import RecipeError, check_sections_fit
from gr4ad.pipeline.sections import NEED_TORCH, SECTIONS
from gr4ad.pipeline.settings import (
    EmbedConfig,
    EvaluateConfig,
    ExploreConfig,
    ListConfig,
    ModelSettings,
    NeighbourConfig,
    TokenizeConfig,
)

if TYPE_CHECKING:
    from gr4ad.market.config import MarketConfig

MOVED = {("model", "item_embedding_std"): "train.item_embedding_std"}


@dataclass
class Recipe:
    """Sections of a recipe. `tune`, `train`, `reward`, `align` and `cooccurrence` keep plain values, since building
    trainer arguments imports torch.

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


def load_recipe(source: str | Path, *, data_root: str | Path | None = None, seed: int | None = None) -> Recipe:
    """Reads a recipe and checks all of it that needs no data, in a second and without importing torch.

    Args:
        source: A YAML file, or the name of a packaged recipe, e.g. `demo`.
        data_root: Folder that the recipe's data files resolve against. seed: Overrides the recipe's.

    Raises:
        RecipeError: If the file is missing or not YAML, or has an unknown section or field, a value of the wrong kind
            or out of its range, or sections that do not fit each other.
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
    known = [f.name for f in fields(Recipe) if f.name != "text"]
    for section in values:
        if section not in known:
            raise RecipeError(
                f"{source}: unknown section `{section}`.{suggestion(str(section), known)} Sections are: "
                f"{', '.join(known)}."
            )
    values = {section: value for section, value in values.items() if value is not None}
    for name, kind in (("name", str), ("seed", int)):
        if not isinstance(values.get(name, kind()), kind) or isinstance(values.get(name), bool):
            raise RecipeError(f"{source}: `{name}` must be of type {kind.__name__}. Received: {values[name]!r}.")
    built = {section: built_section(source, section, values[section]) for section in SECTIONS if section in values}
    recipe = Recipe(**{"name": path.stem, **values, **built, "text": text})
    if data_root is not None:
        recipe.data.root = str(data_root)
    if seed is not None:
        recipe.seed = seed
    try:
        check_sections_fit(vars(recipe))
    except RecipeError as error:
        raise RecipeError(f"{source}: {error}") from error
    return recipe


def built_section(source: str | Path, section: str, values: Any) -> Any:
    """A section's configuration, checked; of one whose class needs torch the checked values.

    Args:
        source: What an error names as the place of the values; "" for flags. values: By field.

    Raises:
        RecipeError: An unknown field, or a value of the wrong kind or out of its range.
    """
    checked = checked_values(source, section, SECTIONS[section], values)
    if section not in NEED_TORCH:
        try:
            return config_class(SECTIONS[section])(**checked)
        except ValueError as error:
            raise RecipeError(placed(source, section, error)) from error
    if "output_dir" in checked:
        message = "`output_dir` follows from the folder that is written: leave it out."
        raise RecipeError(placed(source, section, message))
    for config, check in NEED_TORCH[section]:
        kind, known = config_class(config), fields_of(config)
        part: Any = object.__new__(kind)  # made without `__post_init__`, which is that of the whole class
        vars(part).update({name: checked.get(name, known[name].default) for name in known})
        try:
            getattr(part, check)()
        except ValueError as error:
            raise RecipeError(placed(source, section, error)) from error
    return checked


def checked_values(source: str | Path, section: str, config: str, values: Any) -> dict[str, Any]:
    """The values of a section, each of a kind that its field takes. Raises RecipeError as `built_section`."""
    if not isinstance(values, Mapping):
        raise RecipeError(f"{source}: section `{section}` must be a map of fields. Received: {values!r}.")
    known = fields_of(config)
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if (section, name) in MOVED:
            raise RecipeError(f"{source}: `{section}.{name}` is now `{MOVED[section, name]}`: write it there.")
        if name not in known:
            hint = suggestion(str(name), known)
            raise RecipeError(
                f"{source}: unknown field `{section}.{name}`.{hint}" + ("" if hint else f" {shown_fields(known)}")
            )
        try:
            checked[name] = known[name].check(value, f"{section}.{name}")
        except ValueError as error:
            raise RecipeError(f"{source}: {error}") from error
    return checked


def shown_fields(known: Mapping[str, Any]) -> str:
    """The names of a section's own fields, not of the hundred that every trainer has."""
    general = fields_of("transformers.training_args.TrainingArguments") if len(known) > 50 else {}
    return f"Fields are: {', '.join(name for name in known if name not in general)}" + (
        " and those of transformers' TrainingArguments." if general else "."
    )


def placed(source: str | Path, section: str, error: Exception | str) -> str:
    """The text of an error with the place of the values; of flags (`source` "") the field alone says it."""
    return f"{source}: section `{section}`: {error}" if source else str(error)


def packaged_recipes() -> list[str]:
    """Names of the recipes inside the package."""
    return sorted(
        f.name.removesuffix(".yaml") for f in resources.files("gr4ad.recipes").iterdir() if f.name.endswith(".yaml")
    )

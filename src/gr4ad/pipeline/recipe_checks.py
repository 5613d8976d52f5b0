"""Checks of a recipe's sections against each other and against the columns of the data, before a stage runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gr4ad.data.config import DataConfig
from gr4ad.data.reading import column_names
from gr4ad.data.roles import FileRole

MARKET_COLUMNS: dict[FileRole, Sequence[str]] = {
    "catalog": ("item_id", "title", "description", "category", "brand", "account_id", "conversion_type", "price"),
    "events": ("user_id", "item_id", "timestamp", "event", "value", "request_id"),
    "users": ("user_id", "age_band", "region", "device"),
}
"""Columns of a simulated market's tables, in order."""


class RecipeError(ValueError):
    """A recipe that cannot be used: says which field and why."""


def check_sections_fit(recipe: Mapping[str, Any]) -> None:
    """Raises RecipeError where sections contradict each other.

    Args:
        recipe: Section -> its configuration, or its values where that needs torch; None where it is left out.
    """
    levels = recipe["tokenize"].codebook_sizes
    model, lists, evaluate, align = (recipe[name] for name in ("model", "lists", "evaluate", "align"))
    rewarded = align is not None and lists.source == "reward_model"
    widths = {"evaluate.beam_widths": evaluate.beam_widths}
    if rewarded:
        widths["explore.beam_widths"] = recipe["explore"].beam_widths
        if lists.list_size > recipe["explore"].beam_widths[-1]:
            raise RecipeError(
                "`lists.list_size` must be at most the last of `explore.beam_widths`. Received: "
                f"{lists.list_size} and {recipe['explore'].beam_widths}."
            )
    for section in ("train", "align"):
        arguments = recipe[section] or {}
        if arguments.get("eval_strategy", "no") != "no":
            widths[f"{section}.eval_beam_widths"] = arguments.get("eval_beam_widths", [50, 50, 50])
    for name, given in widths.items():
        if len(given) != len(levels) or min(given) < 1:
            raise RecipeError(
                f"`{name}` needs one width of 1 or more for each of the {len(levels)} levels of "
                f"`tokenize.codebook_sizes`. Received: {given}."
            )
    for section in ("train", "reward", "align"):
        check_best_model(section, recipe[section] or {})
    if recipe["neighbours"] is None and any(evaluate.neighbour_weights):
        raise RecipeError(
            "`evaluate.neighbour_weights` need the section `neighbours`, which the recipe does not have. Received: "
            f"{evaluate.neighbour_weights}. Add the section, or leave them out."
        )
    needs_head = {"neighbours": recipe["neighbours"], "align.item_weight": (align or {}).get("item_weight")}
    for name, wanted in needs_head.items():
        if wanted and not model.item_head:
            raise RecipeError(f"`{name}` adds to the item head's score, but `model.item_head` is false. Turn it on.")
    vectors, tune = {"num_heads": 2, "dimension": 64, **recipe["cooccurrence"]}, recipe["tune"] or {}
    if vectors["num_heads"] < 1 or vectors["dimension"] % vectors["num_heads"]:
        raise RecipeError(
            "`cooccurrence.num_heads` must divide `cooccurrence.dimension`. Received: "
            f"{vectors['num_heads']} and {vectors['dimension']}."
        )
    for name, value, allowed in (("temperature", 0.05, 0.0), ("batch_size", 128, 1)):
        if not tune.get(name, value) > allowed:
            raise RecipeError(f"`tune.{name}` must be above {allowed:g}. Received: {tune[name]}.")


def check_best_model(section: str, arguments: Mapping[str, Any]) -> None:
    """Raises RecipeError where a trainer could not keep its best model: it has to save whenever it validates."""
    validates, saves = arguments.get("eval_strategy", "no"), arguments.get("save_strategy", "steps")
    if arguments.get("load_best_model_at_end") and (validates == "no" or saves not in (validates, "best")):
        raise RecipeError(
            f"`{section}.load_best_model_at_end` needs `eval_strategy` = `save_strategy`, epoch or steps. Received: "
            f"{validates} and {saves}."
        )
    patience, metric = arguments.get("early_stopping_patience", 0), arguments.get("metric_for_best_model")
    if patience and (validates == "no" or metric in (None, "loss", "eval_loss")):
        raise RecipeError(
            f"`{section}.early_stopping_patience` counts validations by a ranking metric. Received: eval_strategy = "
            f"{validates}, metric_for_best_model = {metric}. Set them to, for example, epoch and ndcg@10."
        )


def check_columns(recipe: Mapping[str, Any]) -> None:
    """Raises RecipeError where a section names a column, or needs one, that the tables do not have. Reads the heads of
    local files only; a hub data set is left to the data stage. DataError: As [`column_names`]."""
    data: DataConfig = recipe["data"]
    if recipe["market"] is not None:
        tables: dict[FileRole, Sequence[str] | None] = dict(MARKET_COLUMNS)
    else:
        tables = {role: column_names(data, role) for role in data.sources()}
    catalog, events = tables["catalog"], tables["events"]
    check_user_features(data, tables.get("users"))
    embed, tokenize, tune = recipe["embed"], recipe["tokenize"], recipe["tune"] or {}
    if tokenize.num_cross_domain_items and data.cross_domain is None:
        raise RecipeError(
            f"`tokenize.num_cross_domain_items` = {tokenize.num_cross_domain_items} needs a table of what users did "
            "elsewhere. Name it in `data.cross_domain`, or set this to 0."
        )
    if catalog is not None:
        for name, wanted in (
            # Without an encoder nobody reads texts.
            ("embed.text_columns", embed.text_columns if embed.encoder_name else []),
            ("embed.id_column", [embed.id_column] if embed.vectors else []),
            ("embed.category_columns", embed.category_columns),
            ("embed.form_column", [embed.form_column]),
            ("embed.image_column", [embed.image_column]),
            ("tokenize.business_fields", tokenize.business_fields),
            ("tune.unit_columns", tune.get("unit_columns", [])),
        ):
            missing = [column for column in wanted if column is not None and column not in catalog]
            if missing:
                raise RecipeError(
                    f"`{name}` names {missing[0]!r}, which the catalog does not have. It has: {', '.join(catalog)}."
                )
    if events is None:
        return
    if tokenize.num_time_buckets and "timestamp" not in events:
        raise RecipeError(
            f"`tokenize.num_time_buckets` = {tokenize.num_time_buckets} needs the time of each event, but the events "
            f"have no column `timestamp`. They have: {', '.join(events)}. Map one in `data.event_columns`, or set it "
            "to 0."
        )
    if recipe["align"] is not None and recipe["lists"].source != "beams" and "event" not in events:
        raise RecipeError(
            f"`lists.source` is {recipe['lists'].source}, but the events have no column `event` that could tell "
            f"impressions. They have: {', '.join(events)}. Map one in `data.event_columns`, use `beams`, or leave "
            "`align` out."
        )


def check_user_features(data: DataConfig, users: Sequence[str] | None) -> None:
    """Raises RecipeError where a users table is given and its features are not chosen, or are no columns of it."""
    if data.users is None or users is None:
        return
    columns = ", ".join(name for name in users if name != "user_id")
    if data.user_features is None:
        raise RecipeError(
            f"`data.users` needs `data.user_features`: which of its columns the model may learn. It has: {columns}."
        )
    missing = [name for name in data.bins_of_features() if name not in users]
    if missing:
        raise RecipeError(
            f"`data.user_features` names {missing[0]!r}, which the users table does not have. It has: {columns}."
        )


def check_has_impressions(recipe: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Raises RecipeError if alignment is to learn from impressions and the prepared data (its summary) has none."""
    if recipe["align"] is not None and recipe["lists"].source != "beams" and not summary.get("impressions"):
        raise RecipeError(
            f"`lists.source` is {recipe['lists'].source}, but the log has no impressions before its held-out events: "
            "use `beams`, or leave `align` out."
        )

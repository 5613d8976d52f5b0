"""From a folder to what it holds and the recipe that follows from it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gr4ad.data.checking import DataError
from gr4ad.inspection.choices import Choice, value_of
from gr4ad.inspection.data_choices import data_choices
from gr4ad.inspection.findings import Findings
from gr4ad.inspection.layout import Layout, layout_of, layout_of_preset
from gr4ad.inspection.measuring import findings_of
from gr4ad.inspection.model_choices import minutes, model_choices
from gr4ad.inspection.preset_samples import preset_of, preset_samples
from gr4ad.inspection.profiles import Column
from gr4ad.inspection.recipe_text import recipe_text
from gr4ad.inspection.samples import (
    FileSample,
    data_files,
    groups_of_files,
    read_parts,
    read_sample,
    sample_of_users,
    whole_column,
)

ROWS = 500_000


@dataclass
class Inspection:
    """What a folder holds.

    Attributes:
        folder: It. files: Its tables by name. unread: File -> why it could not be read.
        layout, found: What they are and what they hold. choices: The settings that follow.
        recipe: The text of the recipe, checked as `gr4ad run` checks one.
    """

    folder: Path
    files: dict[str, FileSample]
    unread: dict[str, str]
    layout: Layout
    found: Findings
    choices: list[Choice]
    recipe: str

    @property
    def roles(self) -> dict[str, str]:
        """File -> what it is."""
        layout = self.layout
        roles = {layout.events: "event log"}
        if layout.own_catalog:
            roles[layout.events] = "event log, and catalog"
        else:
            roles[layout.catalog] = "catalog"
        if layout.users is not None:
            roles[layout.users] = "users"
        return roles | layout.others | {name: f"not read: {why}" for name, why in self.unread.items()}

    @property
    def duration(self) -> str:
        """About how long a run takes on two CPU cores, in words."""
        return in_words(minutes(self.found, value_of(self.choices, "train", "num_train_epochs", 1)))


def inspect_folder(
    folder: str | Path, *, rows: int = ROWS, event_names: Mapping[str, str | None] | None = None
) -> Inspection:
    """Reads a sample of each file, guesses what it is, and chooses the settings of a recipe. Imports no torch.

    Args:
        folder: Holds the tables; folders within it are not looked into.
        rows: About how many rows of a file are read; larger files are sampled from all over.
        event_names: The log's name of an event -> impression, click or conversion, None to leave it out; what is not
            named is guessed.

    Raises:
        DataError: No folder, no table, or none that could be a log with a catalog; `event_names` that the log does not
            hold.
    """
    place = Path(folder)
    unread: dict[str, str] = {}
    layout = _layout(place, rows, unread, event_names)
    first = dict(layout.files)
    log = sample_of_users(layout.files[layout.events], layout.user, rows)
    layout.replace_log(log)
    catalog = first[layout.catalog]
    if not catalog.whole:
        layout.keys = Column(layout.key, whole_column(catalog, layout.key))
    found = findings_of(layout)
    choices = [*data_choices(layout, found), *model_choices(layout, found)]
    name = re.sub(r"[^a-z0-9]+", "-", place.resolve().name.lower()).strip("-") or "ads"
    epochs = value_of(choices, "train", "num_train_epochs", 1)
    header = [
        f"Written by `gr4ad inspect` for {found.users:,} users, {found.items:,} items and {found.events:,} events; a "
        f"run takes about {in_words(minutes(found, epochs))} on two CPU cores.",
        *[f"WARNING: {text}." for text in (*layout.remarks, *found.warnings)],
        *[f"TO BE MENDED FIRST: {text}." for text in found.stops],
    ]
    recipe = recipe_text(f"gr4ad-{name}", choices, header)
    return Inspection(place, layout.files, unread, layout, found, choices, recipe)


def in_words(minutes: int) -> str:
    """A time that need not be exact: a minute, 50 minutes, 4 hours."""
    if minutes < 100:
        return "a minute" if minutes == 1 else f"{minutes} minutes"
    return f"{round(minutes / 60)} hours"


def _layout(place: Path, rows: int, unread: dict[str, str], event_names: Mapping[str, str | None] | None) -> Layout:
    """What the files of a folder are; puts those that cannot be read into `unread`."""
    preset = preset_of(place) if place.is_dir() else None
    if preset is not None:
        if event_names:
            raise DataError(f"{place}: is {preset}, whose events are known. Leave `event_names` out.")
        return layout_of_preset(preset_samples(place, preset, rows), preset)
    files: dict[str, FileSample] = {}
    for name, paths in groups_of_files(data_files(place)).items():
        try:
            together = read_parts(name, paths, rows) if len(paths) > 1 else None
        except DataError:
            together = None  # which of them cannot be read is told below
        for path in paths if together is None else []:
            try:
                files[path.name] = read_sample(path, rows)
            except DataError as error:
                unread[path.name] = str(error).removeprefix(f"{path}: ")
        if together is not None:
            files[name] = together
    if not files:
        raise DataError(f"{place}: no file of it can be read. {_first(unread)}")
    try:
        return layout_of(files, event_names)
    except DataError as error:
        more = f" Not read: {_first(unread)}" if unread else ""
        raise DataError(f"{place}: {error}{more}") from error


def _first(unread: Mapping[str, str]) -> str:
    name, why = next(iter(unread.items()))
    return f"{name}: {why}"


def write_recipe(inspection: Inspection, path: Path) -> None:
    """Checks the recipe as `gr4ad run` does, columns of the data too, and writes it.

    Raises:
        DataError: The file is there already, or its folder is not.
        RecipeError: The recipe does not pass: the guesses do not fit each other.
    """
    if path.exists():
        raise DataError(
            f"{path}: is there already and may hold changes of yours. Give `--recipe` another name, or remove it."
        )
    if not path.parent.is_dir():
        raise DataError(f"{path}: no such folder: {path.parent}. Make it first.")
    from gr4ad.pipeline.recipe import load_recipe
    from gr4ad.pipeline.recipe_checks import check_columns

    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(inspection.recipe, encoding="utf-8")
    try:
        check_columns(vars(load_recipe(partial, data_root=inspection.folder)))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

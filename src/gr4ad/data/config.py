"""Settings of the data: where the tables are, what their columns are called, how the log is split."""

from __future__ import annotations

import datetime
import json
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, get_args

from .checking import DROP_REASONS, DataError, shown
from .event_columns import EVENT_COLUMNS, EVENT_NAMES
from .presets import PRESET_NAMES, PRESETS
from .roles import FileRole

COLUMN_MAPS = {
    "catalog": "catalog_columns",
    "events": "event_columns",
    "users": "user_columns",
    "cross_domain": "cross_domain_columns",
}
"""The field of `DataConfig` that maps the columns of each table."""


TIME_UNITS = ("auto", "s", "ms", "us", "ns", "date")
MOST_PARTITIONS = 512
REFUND_POLICIES = ("refuse", "zero", "net")


def _option(default: Any, text: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class DataConfig:
    """Settings of `prepare`. Usable with `HfArgumentParser` and `TrlParser`; column maps are JSON text as flags.

    Example of a recipe (Amazon Beauty: events name items by a number, the catalog's ASIN is the id we want):

    ```yaml
    catalog: catalog.parquet
    events: events.parquet
    catalog_columns: {item_id: asin, event_key: item_id}
    split: leave_one_out
    ```

    Raises:
        DataError: a setting has a value that is not allowed.
    """

    root: str = _option(".", "Folder that relative file names resolve against.")
    catalog: str = _option(
        "catalog.parquet",
        "Catalog: .parquet, .csv, .tsv or .jsonl, plain or packed (.gz, .zst, .bz2), a pattern of files such as "
        "ads/*.parquet, or a hub data set (owner/name, hf://owner/name[:split], hf://owner/name/file.csv).",
    )
    events: str = _option("events.parquet", "Event log, in the same formats.")
    users: str | None = _option(None, "User features, in the same formats. Default: none.")
    cross_domain: str | None = _option(
        None,
        "What users did elsewhere (videos watched, pages read): user_id, item_id (any ids) and timestamp, "
        "in the same formats. Default: none.",
    )
    preset: str | None = _option(
        None,
        "A public data set whose files lie in `root` as they were published: "
        f"{', '.join(PRESET_NAMES)}. It names tables, columns, events, times and labels, and may choose further "
        "settings that the recipe leaves out; docs/data_formats.md says which.",
    )
    number_columns: list[str] = _option(
        [], "Columns of .csv and .tsv files that are numbers. All others are text, as written: 007 stays 007."
    )
    # The union with str is what makes transformers' argument parser hand the flag's text over unparsed.
    catalog_columns: dict[str, str] | str | None = _option(
        None,
        "Our name to the file's column name, e.g. {item_id: asin, event_key: item_id}. `event_key` is the "
        "catalog column that the events refer to, when it is not item_id. As a flag: JSON.",
    )
    event_columns: dict[str, str] | str | None = _option(
        None, "The same for the events, e.g. {value: sales_value}. As a flag: JSON."
    )
    user_columns: dict[str, str] | str | None = _option(None, "The same for the users. As a flag: JSON.")
    cross_domain_columns: dict[str, str] | str | None = _option(
        None, "The same for `cross_domain`, e.g. {item_id: video}. As a flag: JSON."
    )
    split: Literal["leave_one_out", "temporal"] = _option(
        "leave_one_out",
        "leave_one_out: each user's last event is test, the one before validation. temporal: by "
        "validation_start, test_start and test_end.",
    )
    split_column: str = _option("timestamp", "Column of the events that a temporal split cuts, e.g. a week number.")
    validation_start: int | str | None = _option(
        None, "Temporal: first moment of validation. A whole number (seconds for times) or an ISO date."
    )
    test_start: int | str | None = _option(None, "Temporal: first moment of test.")
    test_end: int | str | None = _option(
        None, "Temporal: first moment after test (exclusive). Default: the end of the log."
    )
    time_unit: Literal["auto", "s", "ms", "us", "ns", "date"] = _option(
        "auto",
        "Unit of `timestamp` where it holds numbers, and of bounds: seconds, milliseconds, microseconds or "
        "nanoseconds since 1970 UTC, or date: numbers such as 20231115 or 20231115093000. auto: by magnitude, and "
        "`gr4ad data` says which; a mixture is an error.",
    )
    event_names: dict[str, str] | str | None = _option(
        None,
        "The log's names of events to ours, e.g. {view: impression, add_to_cart: click, purchase: conversion}. As a "
        "flag: JSON. Default: the log has our names.",
    )
    refunds: Literal["refuse", "zero", "net"] = _option(
        "refuse",
        "Negative values. refuse: an error; zero: the event stays, worth nothing; net: a negative conversion is taken "
        "off the same user's earlier conversions of the item and is no event.",
    )
    merge_seconds: int = _option(
        1800,
        "A click of a user on an item within so many seconds of a conversion is one event with it, the conversion. Of "
        "the kinds in `history_events`; impressions stay. 0: off, as in a log of positions.",
    )
    history_events: list[str] = _option(
        ["click", "conversion"], f"Kinds of events that make up histories and targets: {', '.join(EVENT_NAMES)}."
    )
    min_user_events: int = _option(
        0,
        "Users with fewer history events than this are left out and counted. A temporal split counts "
        "only events before validation_start.",
    )
    user_features: dict[str, Any] | str | list[str] | None = _option(
        None,
        "Columns of `users` that the model may learn: a list, or a map, e.g. {region: {}, age: {bins: 5}}, where "
        "numbers are put into so many bins. Needed where `users` is given. As a flag: JSON.",
    )
    value_unit: str = _option("count", "Unit of `value`, e.g. USD or CNY per 1000 shown.")
    user_partitions: int | str | None = _option(
        "auto",
        "Into how many parts of users the log is put on disk while it is prepared, for one that does not fit into "
        "memory; what is written is the same. 0: all of it is held in memory. auto: 0 where it takes less than half "
        "of the memory that is free, else as many as keep each part below a quarter of it.",
    )
    drop: list[str] = _option(
        [],
        "Kinds of bad rows to drop and count. A bad row of any other kind is an error. The kinds: "
        f"{', '.join(DROP_REASONS)}.",
    )

    def __post_init__(self) -> None:
        self._fill_from_preset()
        for role in get_args(FileRole):
            setattr(self, COLUMN_MAPS[role], _column_map(role, getattr(self, COLUMN_MAPS[role])))
        if self.cross_domain_columns and self.cross_domain is None:
            raise DataError("`cross_domain_columns` names columns of no file. Name the file in `cross_domain`.")
        self.event_names = event_name_map(self.event_names)
        self.user_features = feature_bins(self.user_features)
        if self.users is None and self.user_features:
            raise DataError(
                f"`user_features` names columns of no file. Received: {shown(list(self.user_features))}. Name the "
                "file in `users`, or leave `user_features` out."
            )
        for name, choices in (("time_unit", TIME_UNITS), ("refunds", REFUND_POLICIES)):
            if getattr(self, name) not in choices:
                raise DataError(
                    f"`{name}` should be one of {', '.join(choices)}. Received: {shown(getattr(self, name))}."
                )
        if isinstance(self.merge_seconds, bool) or not isinstance(self.merge_seconds, int) or self.merge_seconds < 0:
            raise DataError(
                f"`merge_seconds` should be a whole number of seconds >= 0 (0: off). Received: "
                f"{shown(self.merge_seconds)}."
            )
        if isinstance(self.user_partitions, str) and self.user_partitions.isdecimal():
            self.user_partitions = int(self.user_partitions)
        if self.user_partitions is None:
            self.user_partitions = "auto"
        whole = isinstance(self.user_partitions, int) and not isinstance(self.user_partitions, bool)
        if self.user_partitions != "auto" and not (whole and 0 <= int(self.user_partitions) <= MOST_PARTITIONS):
            raise DataError(
                f"`user_partitions` should be auto, or a whole number from 0 (in memory) to {MOST_PARTITIONS}. "
                f"Received: {shown(self.user_partitions)}."
            )
        if self.split not in ("leave_one_out", "temporal"):
            raise DataError(f"`split` should be leave_one_out or temporal. Received: {shown(self.split)}.")
        if self.min_user_events < 0:
            raise DataError(f"`min_user_events` should be >= 0. Received: {self.min_user_events}.")
        _require_names("drop", self.drop, tuple(DROP_REASONS))
        _require_names("history_events", self.history_events, EVENT_NAMES)
        if not self.history_events:
            raise DataError(f"`history_events` should name at least one of {', '.join(EVENT_NAMES)}. Received: [].")
        for name in ("validation_start", "test_start", "test_end"):
            bound = getattr(self, name)
            if isinstance(bound, datetime.date):  # as which YAML reads an unquoted ISO date
                setattr(self, name, bound.isoformat())
        if self.split == "temporal" and (self.validation_start is None or self.test_start is None):
            raise DataError(
                f"`split: temporal` needs `validation_start` and `test_start`. Received: {self.validation_start}, "
                f"{self.test_start}. Give both in the unit of `split_column` ({self.split_column})."
            )

    def _fill_from_preset(self) -> None:
        if self.preset is None:
            return
        if self.preset not in PRESETS:
            raise DataError(f"`preset` should be one of {', '.join(PRESETS)}. Received: {shown(self.preset)}.")
        chosen = PRESETS[self.preset]
        given: dict[str, Any] = {**{str(role): file for role, file in chosen.sources.items()}, **chosen.settings}
        for option in fields(self):
            default = option.default if option.default_factory is MISSING else option.default_factory()
            if option.name in given and getattr(self, option.name) == default:
                value = given[option.name]
                setattr(self, option.name, list(value) if isinstance(value, list) else value)

    def names_of_events(self) -> dict[str, str]:
        """The log's names of events -> ours."""
        assert isinstance(self.event_names, dict)
        return self.event_names

    def bins_of_features(self) -> dict[str, int]:
        """The user features, in order, and into how many bins the numbers of each are put; 0: each value by itself."""
        assert self.user_features is None or isinstance(self.user_features, dict)
        return {name: options.get("bins", 0) for name, options in (self.user_features or {}).items()}

    def columns_of(self, role: FileRole) -> dict[str, str]:
        """The column map of a table: our name to the file's name."""
        columns = getattr(self, COLUMN_MAPS[role])
        assert isinstance(columns, dict)
        return columns

    def sources(self) -> dict[FileRole, str]:
        """The files and hub data sets that are read, by role; those that are not given are left out."""
        given = {role: getattr(self, role) for role in get_args(FileRole)}
        return {role: source for role, source in given.items() if source}


def _column_map(role: FileRole, columns: dict[str, str] | str | None) -> dict[str, str]:
    if isinstance(columns, str):
        try:
            columns = json.loads(columns)
        except json.JSONDecodeError as error:
            raise DataError(
                f'the column map of the {role} should be JSON such as {{"item_id": "asin"}}. Received: '
                f"{shown(columns)}."
            ) from error
    if columns is None:
        return {}
    if not isinstance(columns, dict) or not all(isinstance(name, str) for pair in columns.items() for name in pair):
        raise DataError(f"the column map of the {role} should map names to names. Received: {shown(columns)}.")
    allowed = {"events": EVENT_COLUMNS, "cross_domain": ("user_id", "item_id", "timestamp")}
    if role in allowed:
        _require_names(COLUMN_MAPS[role], list(columns), allowed[role])
    return columns


def event_name_map(names: dict[str, str] | str | None) -> dict[str, str]:
    """The log's names of events -> ours, from `event_names` as a recipe or a flag gives it. Raises DataError."""
    names = _from_json("event_names", names, '{"purchase": "conversion"}')
    if names is None:
        return {}
    if not isinstance(names, dict) or not all(isinstance(name, str) for pair in names.items() for name in pair):
        raise DataError(
            f"`event_names` should map the log's names to {', '.join(EVENT_NAMES)}. Received: {shown(names)}. Write "
            "e.g. {purchase: conversion}."
        )
    _require_names("event_names", list(names.values()), EVENT_NAMES)
    return names


def feature_bins(features: dict[str, Any] | str | list[str] | None) -> dict[str, dict[str, int]] | None:
    """The options of each user feature, {} or {"bins": 2 or more}, from `user_features` as a recipe or a flag gives
    it; None where it is not given. Raises DataError."""
    features = _from_json("user_features", features, '["region"] or {"age": {"bins": 5}}')
    if features is None:
        return None
    allowed = "a list of columns, or a map of columns to {} or {bins: 2 or more}"
    if isinstance(features, list) and all(isinstance(name, str) for name in features):
        features = {name: {} for name in features}
    if not isinstance(features, dict):
        raise DataError(f"`user_features` should be {allowed}. Received: {shown(features)}.")
    read = {}
    for name, options in features.items():
        options = options or {}
        known = isinstance(name, str) and isinstance(options, dict) and set(options) <= {"bins"}
        bins = options.get("bins", 2) if known else None
        if not known or isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
            raise DataError(
                f"`user_features` should be {allowed}. Received for {shown(name)}: {shown(options)}. Write e.g. "
                "{age: {bins: 5}}."
            )
        read[name] = dict(options)
    return read


def _from_json(setting: str, given: Any, example: str) -> Any:
    """What a flag's text means; anything else as it is."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except json.JSONDecodeError as error:
        raise DataError(f"`{setting}` should be JSON such as {example}. Received: {shown(given)}.") from error


def _require_names(setting: str, names: list[str], allowed: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise DataError(f"`{setting}` has an unknown name {shown(unknown[0])}. Allowed: {', '.join(allowed)}.")

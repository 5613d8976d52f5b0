"""New ads into an artifact's folder, or into a published model: `gr4ad add`."""

from __future__ import annotations

import codecs
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gr4ad.data.checking import DataError
from gr4ad.data.file_formats import table_file
from gr4ad.data.reading import our_names, read_table, source_files
from gr4ad.modeling_gr4ad import GR4ADForRecommendation
from gr4ad.pipeline.artifact import complete_auto_map
from gr4ad.serving import IndexChange, PublishedModel
from gr4ad.serving.new_ads import embed_leniently
from gr4ad.tokenization import SIDIndex, UASIDTokenizer
from gr4ad.tokenization.ad_encoder import AdEncoder
from gr4ad.tokenization.ad_records import OWN_FIELDS
from gr4ad.tokenization.peer_vectors import extend_tables
from gr4ad.tokenization.vector_files import id_text

from .catalog_changes import BAD_RECORD, CatalogChanges
from .record_stream import Record, Unreadable, json_record


@dataclass
class AddedAds:
    """What became of records.

    Attributes:
        sids: Id -> semantic ID as tokens, of the ads that are served from now on; those that stood so already too.
        unchanged: How many of them stood so already.
        refused: Place of each record that was left out, its id and why.
        changes: Number of the last index change of a published model; 0 where the artifact itself was changed.
    """

    sids: dict[str, str] = field(default_factory=dict)
    unchanged: int = 0
    refused: list[tuple[int, Any, str]] = field(default_factory=list)
    changes: int = 0


def read_ads(
    source: str | Path, columns: Mapping[str, str] | None, encoder: AdEncoder
) -> tuple[list[Record], list[str]]:
    """Records of a file in any format that a catalog may have, and the columns left out because the catalog that the
    artifact was built on has none of them. JSON lines need not be a table: a line that is no record, or a value of
    another type than in other lines, is that record's fault alone.

    Args:
        columns: Our name -> the file's, as a recipe's `catalog_columns`.

    Raises:
        DataError: As `read_table`; of JSON lines that are no table, if none of them is a record.
    """
    records: list[Record]
    try:
        table = read_table(source, file_role="catalog", columns=columns).data.table
        names, records = table.column_names, table.to_pylist()
    except DataError as error:
        names, records = _json_records(source, columns or {}, error)
    encoding = encoder.encoding
    known = {*OWN_FIELDS, *(encoder.tokenizer.index.columns if encoding is None else encoding.columns)}
    left_out = [name for name in names if name not in known]
    for record in records:
        if isinstance(record, Unreadable):
            continue
        for name in left_out:
            record.pop(name, None)
        try:
            record["item_id"] = id_text(record["item_id"], source)
        except ValueError:
            pass  # it is set aside with what is wrong with it, and the others are added
    return records, left_out


def _json_records(source: str | Path, columns: Mapping[str, str], error: DataError) -> tuple[list[str], list[Record]]:
    """Names and records, one a line, of JSON lines that are no table, whose `error` is raised if these are no JSON
    lines either."""
    records: list[Record] = []
    for path in source_files(source):
        file = table_file(path, "catalog")
        if file.format != "jsonl":
            raise error
        with file.open() as stream:
            lines = stream.read().removeprefix(codecs.BOM_UTF8).split(b"\n")
        records += [json_record(line) for line in lines if line.strip()]
    there = list(dict.fromkeys(name for record in records if isinstance(record, dict) for name in record))
    if not there:
        raise error
    names = our_names(there, str(source), "catalog", columns)
    theirs = {name: columns.get(name, name) for name in names}
    return names, [
        record if isinstance(record, Unreadable) else {name: record.get(theirs[name]) for name in names}
        for record in records
    ]


def add_ads(model: str | Path, records: Sequence[Mapping[str, Any] | Unreadable]) -> AddedAds:
    """Adds ads, from their records, to a folder of `gr4ad run` or to a published model, whose servers then serve them
    within a second; an ad that is served becomes what its record says. Records that are no ads are left out.

    A folder is changed file by file, each whole: the model's item tables first, which an index with fewer rows may
    have, then the item table. One process at a time may change a folder; to a published model any number may add.

    Raises:
        ValueError: If there is no artifact, or it cannot embed ads. OSError: If a file cannot be written.
    """
    if PublishedModel.exists_at(model):
        return add_to_published(PublishedModel(model), records)
    folder = Path(model)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: not an artifact. Give the `--out` folder of a finished `gr4ad run`, or a root of "
                         "`gr4ad online`.")  # fmt: skip
    tokenizer = UASIDTokenizer.from_pretrained(folder)
    index = tokenizer.index.snapshot()
    encoder = AdEncoder(folder, tokenizer)
    changes, added = changes_of(encoder, records, index)
    if changes:
        model_of_ads = GR4ADForRecommendation.from_pretrained(folder)
        contents = None if encoder.neighbours is None else encoder.neighbours.vectors
        grown = extend_tables(model_of_ads, index, contents)
        with tempfile.TemporaryDirectory(prefix=".add.", dir=folder) as staging:
            if grown:
                model_of_ads.save_pretrained(staging)
                complete_auto_map(Path(staging) / "config.json")
                put_in_place(Path(staging), folder)
        index.save(folder / "items.parquet")
    return added


def put_in_place(staging: Path, folder: Path) -> None:
    """Moves the weights, in however many files, and then the configuration."""
    weights = sorted(path.name for path in staging.iterdir() if path.suffix == ".safetensors" or "index" in path.name)
    for name in (*weights, "config.json"):
        if (folder / name).is_file():
            shutil.copymode(folder / name, staging / name)
        os.replace(staging / name, folder / name)


def add_to_published(published: PublishedModel, records: Sequence[Mapping[str, Any] | Unreadable]) -> AddedAds:
    number, folder = published.current()
    tokenizer = UASIDTokenizer.from_pretrained(folder)
    catalog = CatalogChanges(tokenizer, folder)
    index = catalog.followed(published, tokenizer.index, published.changes_of(number)).snapshot()
    changes, added = changes_of(catalog.encoder, records, index)
    for change in changes:
        added.changes = published.append_change(change)
    added.changes = added.changes or published.last_change
    return added


def changes_of(
    encoder: AdEncoder, records: Sequence[Mapping[str, Any] | Unreadable], index: SIDIndex
) -> tuple[list[IndexChange], AddedAds]:
    """The changes that bring records into an index, which has them afterwards; and what became of each record."""
    added, changes = AddedAds(), []
    readable = [place for place, record in enumerate(records) if not isinstance(record, Unreadable)]
    added.refused += [(place, None, one.reason) for place, one in enumerate(records) if isinstance(one, Unreadable)]
    ads_given = [record for record in records if not isinstance(record, Unreadable)]
    if encoder.missing() is not None and not any(record.get("embedding") is not None for record in ads_given):
        raise ValueError(encoder.missing())
    embedded, refused = embed_leniently(encoder, ads_given)
    for error in refused:
        added.refused.append((readable[error.place], error.item, str(error)))
    for ads in embedded:
        # One by one: an ad that does not fit the item table must not take the others with it.
        for number, item in enumerate(ads.ads.item_ids):
            version = index.version
            try:
                change = ads.only(number).resolved(index)
                change.apply_to(index)
            except BAD_RECORD as error:
                added.refused.append((readable[ads.ads.places[number]], item, str(error)))
                continue
            tokens = encoder.tokenizer.token_names
            places = index.codes[index.rows[item]] + encoder.tokenizer.level_offsets
            added.sids[item] = "".join(tokens[token] for token in places)
            if index.version == version:
                added.unchanged += 1
            else:
                changes.append(change)
    added.refused.sort(key=lambda one: one[0])
    return joined(changes), added


def joined(changes: Sequence[IndexChange], at_once: int = 1000) -> list[IndexChange]:
    """Changes that each add one ad as few that add many; columns and priorities are those of all."""
    together = []
    for start in range(0, len(changes), at_once):
        part = changes[start : start + at_once]
        names = dict.fromkeys(name for change in part for name in (change.attributes or {}))
        attributes = {name: [(change.attributes or {}).get(name, [None])[0] for change in part] for name in names}
        ranks = [0.0 if change.priority is None else change.priority[0] for change in part]
        codes = [(change.codes or [[]])[0] for change in part]
        ids = [change.item_ids[0] for change in part]
        peers = [(change.peers or [[]])[0] for change in part] if any(change.peers for change in part) else None
        together.append(IndexChange("add", ids, codes, ranks if any(ranks) else None, attributes or None, peers))
    return together

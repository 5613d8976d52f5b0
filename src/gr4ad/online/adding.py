"""New ads into an artifact's folder, or into a published model: `gr4ad add`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gr4ad.data.reading import read_table
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
) -> tuple[list[dict[str, Any]], list[str]]:
    """Records of a file in any format that a catalog may have, and the columns left out because the catalog that the
    artifact was built on has none of them.

    Args:
        columns: Our name -> the file's, as a recipe's `catalog_columns`.

    Raises:
        DataError: As `read_table`.
    """
    table = read_table(source, file_role="catalog", columns=columns).data.table
    encoding = encoder.encoding
    known = {*OWN_FIELDS, *(encoder.tokenizer.index.columns if encoding is None else encoding.columns)}
    left_out = [name for name in table.column_names if name not in known]
    records = table.drop_columns(left_out).to_pylist()
    for record in records:
        try:
            record["item_id"] = id_text(record["item_id"], source)
        except ValueError:
            pass  # it is set aside with what is wrong with it, and the others are added
    return records, left_out


def add_ads(model: str | Path, records: Sequence[Mapping[str, Any]]) -> AddedAds:
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
    changes, added = changes_of(AdEncoder(folder, tokenizer), records, index)
    if changes:
        model_of_ads = GR4ADForRecommendation.from_pretrained(folder)
        grown = extend_tables(model_of_ads, index)
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


def add_to_published(published: PublishedModel, records: Sequence[Mapping[str, Any]]) -> AddedAds:
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
    encoder: AdEncoder, records: Sequence[Mapping[str, Any]], index: SIDIndex
) -> tuple[list[IndexChange], AddedAds]:
    """The changes that bring records into an index, which has them afterwards; and what became of each record."""
    added, changes = AddedAds(), []
    if encoder.missing() is not None and not any(record.get("embedding") is not None for record in records):
        raise ValueError(encoder.missing())
    embedded, refused = embed_leniently(encoder, records)
    for error in refused:
        added.refused.append((error.place, error.item, str(error)))
    for ads in embedded:
        # One by one: an ad that does not fit the item table must not take the others with it.
        for number, item in enumerate(ads.ads.item_ids):
            version = index.version
            try:
                change = ads.only(number).resolved(index)
                change.apply_to(index)
            except BAD_RECORD as error:
                added.refused.append((ads.ads.places[number], item, str(error)))
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

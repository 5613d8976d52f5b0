# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Precomputed embeddings: files of vectors with the ids that they belong to, matched with a catalog by id."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from .embedding_fusion import measurable, unit_rows

SUFFIXES = (".npy", ".parquet", ".safetensors")
IDS_SUFFIXES = (".ids.npy", ".ids.txt")
EXACT = 1 << 53  # above it a float no longer tells whole numbers apart
ROW_NUMBERS = "row numbers"
INDEX_COLUMN = r"__index_level_\d+__"


@dataclass(eq=False)
class VectorFile:
    """The vectors of one file.

    Attributes:
        path: The file. ids: n distinct texts. vectors (float32, (n, d)): Finite; a row of zeros is no vector.
        by_row: The ids are the numbers of the rows, since the file has none of its own.
    """

    path: Path
    ids: list[str]
    vectors: np.ndarray
    by_row: bool = False

    def matched(self, keys: Sequence[str | None]) -> tuple[np.ndarray, dict[str, int]]:
        """The vector of each key, brought to length 1, zeros where there is none (float32, (N, d)); and counts:
        `matched` and `without_vector` keys, `vectors_unused` of the file.

        Raises:
            ValueError: If no key is matched; shows ids of both sides.
        """
        rows = {item: row for row, item in enumerate(self.ids)}
        places = np.array([-1 if key is None else rows.get(key, -1) for key in keys], dtype=np.int64)
        if not (places >= 0).any():
            shown = [", ".join(repr(one) for one in list(some)[:3]) for some in (self.ids, keys)]
            raise ValueError(
                f"{self.path}: none of its {len(self.ids)} ids is one of the catalog's {len(keys)}. Its ids begin "
                f"{shown[0]}, the catalog's {shown[1]}. Name the column that they stand for in `id_column`, or write "
                "the ids as the catalog has them."
            )
        found = np.zeros((len(keys), self.vectors.shape[1]), dtype=np.float32)
        found[places >= 0] = unit_rows(self.vectors[places[places >= 0]])
        matched = int(found.any(1).sum())
        if not matched:
            raise ValueError(f"{self.path}: the vectors of all ads of the catalog are zeros. Embed them again.")
        used = len(np.unique(places[places >= 0]))
        return found, {
            "matched": matched,
            "without_vector": len(keys) - matched,
            "vectors_unused": len(self.ids) - used,
        }


def read_vectors(path: str | Path, id_column: str = "item_id") -> VectorFile:
    """Reads a file of vectors.

    | file | vectors | ids |
    |---|---|---|
    | `.npy` | the array (n, d) | `NAME.ids.npy` or `NAME.ids.txt` (one a line) beside it; else the row numbers |
    | `.safetensors` | the tensor `embeddings`, or the only one of two dimensions | the tensors `item_ids` and
      `item_id_ends` of embedding shards, a tensor `ids` of whole numbers, or JSON text `ids` in the metadata; else the
      row numbers |
    | `.parquet` | the only column of lists, or else all columns of numbers but the id | the column `id_column` |

    Raises:
        ValueError: If the file is missing, damaged or of another kind, its ids repeat, are missing or are not as many
            as its vectors, or a vector or its length is not finite; names the file and the first bad id.
    """
    path = Path(path)
    readers = {".npy": _of_numpy, ".parquet": _of_parquet, ".safetensors": _of_safetensors}
    if path.suffix not in readers:
        raise ValueError(
            f"{path}: `vectors` are files of {', '.join(SUFFIXES)}. Received: {path.suffix or 'no'} suffix."
        )
    if not path.is_file():
        raise ValueError(f"{path}: no such file. Correct `vectors`.")
    try:
        vectors, ids = readers[path.suffix](path, id_column)
    except (OSError, EOFError, SafetensorError, pa.ArrowException) as error:
        raise ValueError(f"{path}: not readable vectors ({str(error)[:200]}). Write the file again.") from error
    if vectors.ndim != 2 or 0 in vectors.shape or vectors.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: vectors must be numbers of shape (ads, dimensions). Received: {vectors.dtype}, {vectors.shape}."
        )
    if not (ids is None or isinstance(ids, list)):
        raise ValueError(f"{path}: the ids should be a list, one a vector. Received: {type(ids).__name__}.")
    by_row = ids is None
    names = [str(row) for row in range(len(vectors))] if ids is None else [id_text(value, path) for value in ids]
    if len(names) != len(vectors):
        raise ValueError(f"{path}: has {len(vectors)} vectors, but {len(names)} ids. Write one id a vector.")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{path}: the id {name!r} stands twice. Write each ad's vector once.")
        seen.add(name)
    with np.errstate(over="ignore"):  # what float32 cannot hold is not finite below
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    bad = ~np.isfinite(vectors).all(1)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{path}: the vector of {names[row]!r} (row {row}) is not finite ({int(bad.sum())} such vectors). "
            "Leave these ads out of the file, or embed them again."
        )
    too_long = ~measurable(vectors)
    if too_long.any():
        row = int(too_long.argmax())
        raise ValueError(
            f"{path}: the vector of {names[row]!r} (row {row}) has numbers up to {np.abs(vectors[row]).max():.3g}, "
            f"and its length is beyond what float32 holds ({int(too_long.sum())} such vectors). Allowed: numbers "
            "below about 1e18. Scale the vectors, e.g. to length 1: only their directions count."
        )
    return VectorFile(path, names, vectors, by_row)


def id_text(value: Any, source: str | Path) -> str:
    """An id as text: whole numbers in digits. Raises ValueError for what is no id."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT:
        value = int(value)
    if isinstance(value, str) and value or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise ValueError(f"{source}: {value!r:.100} is no id. Ids are texts or whole numbers; write them as such.")


def _of_numpy(path: Path, id_column: str) -> tuple[np.ndarray, Sequence[Any] | None]:
    vectors = _numpy_array(path)
    for suffix in IDS_SUFFIXES:
        beside = path.with_name(path.stem + suffix)
        if beside.is_file():
            if suffix.endswith(".npy"):
                return vectors, _numpy_array(beside).tolist()
            try:
                return vectors, beside.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise ValueError(f"{beside}: not text in UTF-8 ({error}). Save it again as UTF-8.") from error
    return vectors, None


def _numpy_array(path: Path) -> np.ndarray:
    try:
        found = np.load(path, allow_pickle=False)
    except ValueError as error:  # objects, or no such file at all
        raise ValueError(f"{path}: not a plain numpy array ({error}). Save numbers, or texts of one type.") from error
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{path}: holds several arrays. Save one array of shape (ads, dimensions) with numpy.save.")
    return found


def _of_safetensors(path: Path, id_column: str) -> tuple[np.ndarray, Sequence[Any] | None]:
    with safe_open(path, framework="numpy") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        tables = [name for name, shape in shapes.items() if len(shape) == 2]
        name = "embeddings" if "embeddings" in tables else tables[0] if len(tables) == 1 else None
        if name is None:
            raise ValueError(
                f"{path}: needs a tensor `embeddings`, or one tensor of two dimensions. It has: "
                f"{', '.join(f'{one} {shape}' for one, shape in shapes.items()) or 'nothing'}. Rename the one meant."
            )
        vectors, metadata = file.get_tensor(name), file.metadata() or {}
        if {"item_ids", "item_id_ends"} <= shapes.keys():
            text, ends = file.get_tensor("item_ids").tobytes(), file.get_tensor("item_id_ends").tolist()
            return vectors, [text[a:b].decode() for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        if "ids" in shapes:
            return vectors, file.get_tensor("ids").tolist()
    if "ids" in metadata:
        try:
            ids = json.loads(metadata["ids"])
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: `ids` of its metadata are no JSON ({error}). Write a JSON list.") from error
        return vectors, ids
    return vectors, None


def _of_parquet(path: Path, id_column: str) -> tuple[np.ndarray, Sequence[Any]]:
    table = pq.read_table(path)
    names = table.column_names
    if id_column not in names:
        raise ValueError(
            f"{path}: has no column `{id_column}` with the ids. It has: {', '.join(names)}. Name the column in "
            "`id_column`; the catalog must have it too."
        )
    # The index of a pandas table that was filtered or sorted: no vector.
    table = table.select([name for name in names if name == id_column or not re.fullmatch(INDEX_COLUMN, name)])
    ids = table[id_column].to_pylist()
    if None in ids:
        raise ValueError(f"{path}: column `{id_column}`, row {ids.index(None)}: no id. Leave the row out.")
    kinds = {field.name: field.type for field in table.schema if field.name != id_column}
    lists = [name for name, kind in kinds.items() if _is_list(kind)]
    if len(lists) > 1:
        raise ValueError(f"{path}: has several columns of lists: {', '.join(lists)}. Write one file for each.")
    if not lists:
        numbers = [name for name, kind in kinds.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
        if not numbers:
            raise ValueError(f"{path}: has no column of vectors. It has: {', '.join(names)}. Write lists of numbers.")
        return np.stack([table[name].to_numpy().astype(np.float32) for name in numbers], 1), ids
    if not ids:
        return np.zeros((0, 0), np.float32), ids
    column = table[lists[0]].combine_chunks()
    lengths = column.value_lengths().to_pylist() if hasattr(column, "value_lengths") else [kinds[lists[0]].list_size]
    wrong = next((row for row, length in enumerate(lengths) if length != lengths[0] or not length), None)
    if wrong is not None:
        raise ValueError(
            f"{path}: column `{lists[0]}` holds {lengths[wrong] or 0} numbers for id {ids[wrong]!r} (row {wrong}), "
            f"and {lengths[0]} for the first. Leave ads without a vector out of the file."
        )
    flat = column.flatten()
    if len(flat) != lengths[0] * len(ids) or flat.null_count:
        raise ValueError(
            f"{path}: column `{lists[0]}` has missing numbers. Leave ads without a vector out of the file."
        )
    return flat.to_numpy(zero_copy_only=False).reshape(len(ids), lengths[0]), ids


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


__all__ = ["VectorFile", "id_text", "read_vectors"]

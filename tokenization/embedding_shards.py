# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Embeddings of a catalog too large for memory: a folder of safetensors shards, written so that a killed run goes on.

The folder holds `manifest.json` (settings, number of ads, shard size; when finished also the shards and the counts),
`embeddings-NNNNN.safetensors` and `mean.safetensors`. A shard has the tensors

- `embeddings` (float32, (n, d)): rows of length 1; a row of zeros stands for an ad without content,
- `item_ids` (uint8): the ids in UTF-8, one after the other, and `item_id_ends` (int64, (n,)): where each one ends,
- `sum` (float64, (d,)): the sum of the rows, from which the mean of all ads is made at the end.

One file a shard, because a rename is then all it takes to finish it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

MANIFEST = "manifest.json"
MEAN = "mean.safetensors"
FORMAT = 1


@dataclass
class ShardContents:
    """What one shard is made of: the ids of its ads, a digest of all that they are embedded from, counts of ads, and
    what makes the embeddings (float32, (n, d), zero rows for ads without content) when they are needed."""

    item_ids: list[str]
    digest: str
    counts: dict[str, int]
    embed: Callable[[], np.ndarray]


def write_embedding_shards(
    folder: str | Path,
    read: Callable[[int, int], ShardContents],
    *,
    num_ads: int,
    shard_size: int,
    settings: dict[str, Any],
    overwrite: bool = False,
) -> dict[str, int]:
    """Writes the embeddings of ads 0 to `num_ads` in shards; those that an earlier run finished are kept. One process
    at a time may write into a folder.

    Args:
        read: Gives the contents of ads `start` to `stop`; one shard's contents are held at a time.
        shard_size: Ads of a shard, >= 1.
        settings: What the embeddings depend on besides the ads, JSON values.
        overwrite: Start anew where the folder holds embeddings of other settings or ads.

    Returns:
        The sum of the shards' counts.

    Raises:
        ValueError: If the folder holds embeddings of other settings or of another catalog, or no ad has content.
    """
    if shard_size < 1:
        raise ValueError(f"`shard_size` must be >= 1. Received: {shard_size}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**settings, "ads": num_ads, "shard_size": shard_size}
    # What is not JSON's own (a tuple) comes back otherwise: the comparison is of what is read.
    settings = json.loads(json.dumps(settings))
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    manifest: dict[str, Any] = {"format": FORMAT, "settings": settings, "digest": digest, "finished": False}
    stale = list(folder.glob("*.safetensors.tmp"))  # of a run that was killed while it wrote
    if overwrite:
        stale += [folder / MANIFEST, folder / MEAN, *folder.glob("embeddings-*.safetensors")]
    for file in stale:
        file.unlink(missing_ok=True)
    if (folder / MANIFEST).exists():
        earlier = read_manifest(folder)["settings"]
        changed = [name for name in {**settings, **earlier} if settings.get(name) != earlier.get(name)]
        if changed:
            changes = "; ".join(f"{name} was {earlier.get(name)!r}, is {settings.get(name)!r}" for name in changed)
            raise refusal(folder, changes)
    else:
        write_manifest(folder, manifest)

    shards, counts, sums = [], Counter[str](), []
    for number, start in enumerate(range(0, num_ads, shard_size)):
        stop = min(start + shard_size, num_ads)
        contents = read(start, stop)
        path = folder / f"embeddings-{number:05d}.safetensors"
        written = finished_shard(path, digest)
        if written is not None and written != contents.digest:
            raise refusal(folder, f"rows {start} to {stop - 1} of the catalog changed")
        if written is None:
            rows = contents.embed()
            assert rows.dtype == np.float32 and len(rows) == len(contents.item_ids) == stop - start
            names = [name.encode() for name in contents.item_ids]
            tensors = {
                "embeddings": rows,
                "item_ids": np.frombuffer(b"".join(names), dtype=np.uint8),
                "item_id_ends": np.cumsum([len(name) for name in names], dtype=np.int64),
                "sum": rows.sum(0, dtype=np.float64),
            }
            save_durably(tensors, path, f"{digest} {contents.digest}")
        with open_shard(path) as shard:
            sums.append(shard.get_tensor("sum"))
        shards.append({"file": path.name, "ads": stop - start, "digest": contents.digest})
        counts.update(contents.counts)

    with_content = counts["ads"] - counts["without_content"]
    if not with_content:
        raise ValueError("No ad has content to be embedded: name other `text_columns` or an `image_column`.")
    mean = (np.sum(sums, axis=0) / with_content).astype(np.float32)
    save_durably({"mean": mean}, folder / MEAN, digest)
    manifest |= {"finished": True, "dimension": len(mean), "counts": dict(counts), "shards": shards}
    write_manifest(folder, manifest)
    return dict(counts)


class EmbeddingShards:
    """Reads a finished folder of `AdEmbedder.embed_to` like an array (float32, (N, d)), from disk as needed.

    `shards[a:b]` reads those rows alone, `shards[rows]` (an integer array) the given rows in the given order,
    `shards[i]` one row (d,), `numpy.asarray(shards)` everything. Ads without content get the mean of the others.

    Args:
        folder: The folder.

    Raises:
        ValueError: If the folder holds no embeddings or they are unfinished; on reading, if a shard is damaged (names
            the file).
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        if not self.manifest["finished"]:
            raise ValueError(
                f"The embeddings in {str(self.folder)!r} are unfinished: call `AdEmbedder.embed_to` again with the "
                "same settings, it goes on where it stopped."
            )
        self._files = [self.folder / shard["file"] for shard in self.manifest["shards"]]
        self._starts = np.cumsum([0] + [shard["ads"] for shard in self.manifest["shards"]])
        try:
            self.mean = load_file(self.folder / MEAN)["mean"]
        except (SafetensorError, OSError, KeyError) as error:
            raise damaged(self.folder / MEAN, error) from error

    @property
    def shape(self) -> tuple[int, int]:
        return int(self._starts[-1]), int(self.manifest["dimension"])

    @property
    def item_ids(self) -> list[str]:
        """The ids of all ads, in the order of the rows; read from disk on each call."""
        names: list[str] = []
        for file in self._files:
            with open_shard(file) as shard:
                text, ends = shard.get_tensor("item_ids").tobytes(), shard.get_tensor("item_id_ends").tolist()
            names += [text[a:b].decode() for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        return names

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | int | np.integer | np.ndarray | list[int]) -> np.ndarray:
        if isinstance(rows, slice):
            return self[np.arange(*rows.indices(len(self)))]
        if isinstance(rows, (int, np.integer)):
            return self[np.array([rows])][0]
        wanted = np.asarray(rows)
        if wanted.ndim != 1 or (wanted.size and not np.issubdtype(wanted.dtype, np.integer)):
            raise IndexError(f"Rows must be a slice, an int or a 1-D integer array. Received: {wanted.dtype}.")
        wanted = np.where(wanted < 0, wanted + len(self), wanted).astype(np.int64)
        if wanted.size and not (0 <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"Rows must be in [-{len(self)}, {len(self)}). Received: {np.asarray(rows)}.")
        result = np.empty((len(wanted), self.shape[1]), np.float32)
        numbers = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(numbers):
            inside = np.flatnonzero(numbers == number)
            places = wanted[inside] - self._starts[number]
            first = int(places.min())
            result[inside] = self._read(int(number), first, int(places.max()) + 1)[places - first]
        return result

    def blocks(self, size: int = 10_000) -> Iterator[tuple[int, np.ndarray]]:
        """(row of the first ad, float32 (at most `size`, d)) for all ads in order."""
        for start in range(0, len(self), size):
            yield start, self[start : start + size]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("The embeddings lie on disk: an array of them is always a copy.")
        return self[:].astype(dtype or np.float32, copy=False)

    def _read(self, number: int, start: int, stop: int) -> np.ndarray:
        file, ads = self._files[number], self.manifest["shards"][number]["ads"]
        with open_shard(file) as shard:
            tensor = shard.get_slice("embeddings")
            if tensor.get_shape() != [ads, self.shape[1]]:
                raise damaged(file, f"has shape {tensor.get_shape()}, the manifest says {[ads, self.shape[1]]}")
            rows = tensor[start:stop]
        empty = ~rows.any(1)
        if empty.any():
            rows[empty] = self.mean
        return rows


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises ValueError if the folder holds no embeddings, or those of another release."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{str(folder)!r} has no {MANIFEST}: it is no folder of `AdEmbedder.embed_to`.") from None
    except json.JSONDecodeError as error:
        raise damaged(folder / MANIFEST, error) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{folder / MANIFEST} is not of format {FORMAT}: embed the catalog anew.")
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    temporary = folder / f"{MANIFEST}.tmp"
    temporary.write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    os.replace(temporary, folder / MANIFEST)


def finished_shard(path: Path, settings: str) -> str | None:
    """The digest of a finished shard's contents; None if it is absent, damaged or of other settings."""
    try:
        with safe_open(path, framework="numpy") as shard:
            digests = (shard.metadata() or {}).get("digest", "").split()
    except (OSError, SafetensorError):
        return None
    return digests[1] if len(digests) == 2 and digests[0] == settings else None


def save_durably(tensors: dict[str, np.ndarray], path: Path, digest: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    # One entry: of several, safetensors writes the order as it falls, and equal runs would leave unequal files.
    save_file(tensors, temporary, metadata={"digest": digest})
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())  # otherwise a power cut may leave the new name on an empty file
    os.replace(temporary, path)


def open_shard(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, why: object) -> ValueError:
    return ValueError(
        f"{path} is damaged or missing ({why}): delete it and call `AdEmbedder.embed_to` again with the same "
        "settings, which makes it anew."
    )


def refusal(folder: Path, changes: str) -> ValueError:
    return ValueError(
        f"{str(folder)!r} holds embeddings that were made otherwise: {changes}. Embed into another folder, or pass "
        "`overwrite=True` to start anew."
    )

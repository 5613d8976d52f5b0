"""The files of a hub data set, so that the same reader reads them as local ones."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from .checking import DataError
from .file_formats import known_suffix

FORMS = "hf://owner/name, hf://owner/name:split, hf://owner/name/file.csv"


def hub_tables(source: str) -> list[Path] | pa.Table:
    """The files of a hub data set in the local cache, or where they are of formats that are not read here, its rows.

    Args:
        source: one of `FORMS`, or owner/name; the split is train by default.

    Raises:
        DataError: no such data set, file or split, or no way to it.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    parts = source.removeprefix("hf://").split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise DataError(f"{source}: not a hub data set. Allowed: {FORMS}.")
    name = parts[2] if len(parts) == 3 else None
    repository, _, split = "/".join(parts[:2]).partition(":")
    split = split or "train"
    try:
        if name is not None and not re.search(r"[*?\[{]", name) and known_suffix(name):
            return [downloaded(repository, name, None)]
        files = datasets.load_dataset_builder(repository, data_files=name).config.data_files or {}
        if files and split not in files:
            raise DataError(
                f"{source}: no split {split!r}. Splits there are: {', '.join(map(str, files))}. Name one of them "
                "after a colon, as in hf://owner/name:test."
            )
        urls = [str(url) for url in files.get(split, [])]
        if urls and all(known_suffix(url) for url in urls):
            return [_local(url) for url in urls]
        dataset = datasets.load_dataset(repository, data_files=name, split=split)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{source}: no such file here, and as a hub data set it cannot be loaded ({type(error).__name__}: "
            f"{str(error)[:200]}). Check the name, the split and the network, or give a local file."
        ) from error
    # A hub data set may carry an index mapping; the arrow table underneath then has other rows.
    return dataset.flatten_indices().data.table if dataset._indices is not None else dataset.data.table


def downloaded(repository: str, name: str, revision: str | None) -> Path:
    """A file of a hub data set in the local cache."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, name, repo_type="dataset", revision=revision))


def _local(url: str) -> Path:
    match = re.fullmatch(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", url)
    if match is None:
        return Path(url)  # a data set in a folder of this machine
    repository, revision, name = match.groups()
    return downloaded(repository, name, revision and unquote(revision))

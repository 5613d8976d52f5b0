"""Folders that hold a public data set as it was published: read by its preset."""

from __future__ import annotations

from pathlib import Path

from gr4ad.data.checking import DataError
from gr4ad.data.config import DataConfig
from gr4ad.data.file_formats import TableFile, TextLayout
from gr4ad.data.presets import PRESETS
from gr4ad.data.reading import read_source, source_files
from gr4ad.inspection.samples import FileSample

HEAD_ROWS = 200


def preset_of(folder: Path) -> str | None:
    """The preset by which the files of a folder can be read, from their names and heads; None if there is none."""
    for name, preset in PRESETS.items():
        if not all(source_files(source, folder) for source in preset.sources.values()):
            continue
        if any(not path.is_file() for source in preset.sources.values() for path in source_files(source, folder)):
            continue
        config = DataConfig(root=str(folder), preset=name)
        try:
            if all(read_source(config, role, HEAD_ROWS).table.num_rows for role in preset.sources):
                return name
        except DataError:
            continue
    return None


def preset_samples(folder: Path, preset: str, limit: int) -> dict[str, FileSample]:
    """Role -> its table under our names, of about the first `limit` rows of each file. Raises DataError."""
    config = DataConfig(root=str(folder), preset=preset)
    samples = {}
    for role, source in config.sources().items():
        raw = read_source(config, role, limit)
        whole = all(entry["rows"] < limit for entry in raw.files)
        file = TableFile(folder / source, f"{source}, as {preset} publishes it", None, TextLayout())
        samples[str(role)] = FileSample(file, str(role), raw.table, raw.table.num_rows, whole, passes=False)
    return samples

# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The folder through which a trainer hands weights and ads to running servers."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .index_change import MAX_CHANGE_BYTES, IndexChange

logger = logging.getLogger(__name__)

CURRENT = "CURRENT"
VERSIONS, CHANGES = "versions", "changes"
MANIFEST = "published.json"
MAX_MANIFEST_BYTES = 1 << 20
NEEDED_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "items.parquet")
VERSION_NAME = re.compile(r"\d{6,}")
CHANGE_NAME = re.compile(r"(\d{6,})\.json")
ABANDONED_SECONDS = 3600  # after which a temporary file is nobody's any more


class PublishedModelError(ValueError):
    """The folder does not hold what it should; the message names the file and what to do."""


class PublishedModel:
    """A root folder of versions of an artifact, and of the index changes made since.

    ```
    root/CURRENT                 the current version's number, as text
    root/versions/000007/        an artifact and published.json: {"version": 7, "changes": 123, ...}
    root/changes/000124.json     one index change each, numbered without gaps
    ```

    A server serves the current version and then every change after those that the version includes. Whatever is
    killed, and whenever: a version, a change and `CURRENT` are there whole or not at all, and readers need no lock.
    One process may publish and prune; any number of processes may append changes and read. All must see one file
    system with atomic renames and hard links, and write-through (`fsync`).

    ```python
    >>> published = PublishedModel("out/live")
    >>> published.publish(save_artifact, changes=published.last_change)
    1
    >>> published.append_change(IndexChange("remove", ["ad_3"]))
    124
    ```

    Args:
        root: The folder; what is missing of it is made when something is written.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.versions, self.changes = self.root / VERSIONS, self.root / CHANGES

    @staticmethod
    def exists_at(path: str | Path) -> bool:
        """Whether a folder is the root of a published model."""
        return (Path(path) / CURRENT).is_file()

    # --- versions

    def publish(self, save: Callable[[Path], None], *, changes: int, about: Mapping[str, Any] | None = None) -> int:
        """Writes a version and makes it the current one.

        Args:
            save: Writes the artifact into the folder it is given: model, tokenizer and generation config.
            changes: Number of the last index change that the artifact's item table includes, 0 = none.
            about: What else `published.json` is to say under `about`, e.g. the training step; JSON.

        Returns:
            The version's number, above all earlier ones.

        Raises:
            ValueError: If `changes` is not in 0..`last_change`, or the artifact lacks a file; the earlier version
                stays current. What `save` raises comes through, with the same effect.
        """
        last = self.last_change
        if not 0 <= changes <= last:
            raise ValueError(
                f"`changes` must be in 0..{last}, the last change in {self.changes}. Received: {changes}. Append the "
                "changes before the version that includes them."
            )
        make_folder(self.versions)
        for dead in self.versions.glob(".*"):  # of a publisher that was killed: there is only one
            shutil.rmtree(dead)
        number = max([0, *self._version_numbers(), self._current_number() if self.exists_at(self.root) else 0]) + 1
        unfinished = self.versions / f".{number:06d}.{uuid.uuid4().hex}"
        unfinished.mkdir()
        try:
            save(unfinished)
            check_artifact(unfinished)
            paths = sorted(path for path in unfinished.rglob("*") if path.is_file())
            files = {path.relative_to(unfinished).as_posix(): digest(path) for path in paths}
            manifest = {"version": number, "changes": changes, "about": dict(about or {}), "files": files}
            (unfinished / MANIFEST).write_text(json.dumps(manifest, allow_nan=False), encoding="utf-8")
            write_through(unfinished)
            unfinished.rename(self.versions / f"{number:06d}")
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        synced(self.versions)
        temporary = self.root / f".{CURRENT}.{uuid.uuid4().hex}"
        try:
            write_file(temporary, f"{number}\n")
            os.replace(temporary, self.root / CURRENT)
        finally:
            temporary.unlink(missing_ok=True)
        synced(self.root)
        return number

    def current(self) -> tuple[int, Path]:
        """Number and folder of the current version. Cheap enough to be asked every second.

        Raises:
            PublishedModelError: If nothing was published, or the version that `CURRENT` names is missing, or lacks a
                file, or a file has another size than it was published with. Go on serving what you serve.
        """
        number = self._current_number()
        return number, self._whole(number)

    def verify(self, number: int) -> None:
        """Reads a version's files through and compares them with what was published: some seconds a gigabyte.

        Raises:
            PublishedModelError: As `current`, or if the contents of a file have changed.
        """
        folder = self._whole(number)
        for name, expected in self._manifest(number)["files"].items():
            if digest(folder / name) != expected:
                raise PublishedModelError(
                    f"{folder / name} is damaged: its contents are not what was published. Publish again, or write "
                    f"the number of an earlier version into {self.root / CURRENT}."
                )

    def changes_of(self, number: int) -> int:
        """Number of the last index change that a version includes. Raises PublishedModelError if it is not whole."""
        return int(self._manifest(number)["changes"])

    def about(self, number: int) -> dict[str, Any]:
        """What its publisher said of a version. Raises PublishedModelError if it is not whole."""
        return dict(self._manifest(number)["about"])

    def _version_numbers(self) -> list[int]:
        names = [path.name for path in self.versions.iterdir()] if self.versions.is_dir() else []
        return sorted(int(name) for name in names if VERSION_NAME.fullmatch(name))

    def _current_number(self) -> int:
        path = self.root / CURRENT
        try:
            text = path.read_text(encoding="utf-8")[:100].strip()
        except FileNotFoundError:
            raise PublishedModelError(
                f"{self.root} has no file {CURRENT}: nothing was published there. Publish a version first."
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise PublishedModelError(f"{path} cannot be read ({error}).") from error
        if not re.fullmatch(r"\d{1,12}", text):
            raise PublishedModelError(
                f"{path} must hold a version's number. Received: {text!r}. Write the number of a folder of "
                f"{self.versions} into it."
            )
        return int(text)

    def _manifest(self, number: int) -> dict[str, Any]:
        path = self.versions / f"{number:06d}" / MANIFEST
        try:
            if path.stat().st_size > MAX_MANIFEST_BYTES:
                raise ValueError(f"more than {MAX_MANIFEST_BYTES} bytes")
            manifest = json.loads(path.read_text(encoding="utf-8"))
            files = manifest["files"]
            fits = manifest["version"] == number and type(manifest["changes"]) is int and manifest["changes"] >= 0
            fits = fits and isinstance(manifest["about"], dict) and isinstance(files, dict)
            fits = fits and all(is_inner(name) and set(of) == {"bytes", "sha256"} for name, of in files.items())
            if not fits:
                raise ValueError("it is not about this version")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise PublishedModelError(
                f"Version {number} of {self.root} is not whole: {path} cannot be used ({error!r:.200}). Publish "
                f"again, or write the number of an earlier version into {self.root / CURRENT}."
            ) from error
        return manifest

    def _whole(self, number: int) -> Path:
        folder = self.versions / f"{number:06d}"
        for name, expected in self._manifest(number)["files"].items():
            size = (folder / name).stat().st_size if (folder / name).is_file() else None
            if size != expected["bytes"]:
                received = "no such file" if size is None else f"{size} bytes"
                raise PublishedModelError(
                    f"Version {number} of {self.root} is not whole: {folder / name} should have {expected['bytes']} "
                    f"bytes. Received: {received}. Publish again, or write the number of an earlier version into "
                    f"{self.root / CURRENT}."
                )
        return folder

    # --- index changes

    @property
    def last_change(self) -> int:
        """Number of the newest index change, 0 if there never was one."""
        names = [path.name for path in self.changes.iterdir()] if self.changes.is_dir() else []
        return max([int(match[1]) for match in map(CHANGE_NAME.fullmatch, names) if match], default=0)

    def append_change(self, change: IndexChange) -> int:
        """Writes a change after all others, from any process, and returns its number. Servers apply it when they next
        look.

        Raises:
            ValueError: If it takes more than 32 MiB. OSError: If it cannot be written; then it is not there.
        """
        make_folder(self.changes)
        temporary = self.changes / f".{uuid.uuid4().hex}"
        try:
            write_file(temporary, change.to_json())
            number = self.last_change + 1
            while True:
                try:
                    # A link, unlike a rename, never takes a number that another process has just used.
                    os.link(temporary, self.changes / f"{number:06d}.json")
                    break
                except FileExistsError:
                    number += 1
        finally:
            temporary.unlink(missing_ok=True)
        synced(self.changes)
        return number

    def changes_after(self, number: int) -> list[tuple[int, IndexChange]]:
        """The changes with higher numbers, in their order. Without any it costs one look for a file.

        Raises:
            PublishedModelError: If the next change was pruned, so that the current version must be loaded first; or
                if one is damaged; then none is returned.
        """
        found = []
        while (path := self.changes / f"{number + 1:06d}.json").is_file():
            number += 1
            try:
                if path.stat().st_size > MAX_CHANGE_BYTES:
                    raise ValueError(f"more than {MAX_CHANGE_BYTES} bytes")
                found.append((number, IndexChange.from_json(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError) as error:
                raise PublishedModelError(
                    f"{path} is damaged ({error}). Put it right, or publish a version that includes change {number}."
                ) from error
        if self.last_change > number and not path.is_file():  # nobody appended it meanwhile
            raise PublishedModelError(
                f"Change {number + 1} of {self.root} was pruned; the current version includes it. Load that version, "
                "then the changes after it."
            )
        return found

    # --- old things

    def prune(self, keep: int = 3) -> None:
        """Removes all but the newest `keep` versions up to the current one, and the changes that all of these include,
        but for the newest one, from which the next takes its number.

        Raises:
            ValueError: If `keep` is below 1. PublishedModelError: If a version that stays is not whole.
        """
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1: the current version is served. Received: {keep}.")
        number, _ = self.current()
        known = [version for version in self._version_numbers() if version <= number]
        included = min(self.changes_of(version) for version in known[-keep:])
        last = self.last_change
        for version in known[:-keep]:
            dead = self.versions / f".{version:06d}.{uuid.uuid4().hex}"
            (self.versions / f"{version:06d}").rename(dead)  # first, so that no half version has its name
            shutil.rmtree(dead)
        if not self.changes.is_dir():
            return
        paths = sorted(self.changes.iterdir(), key=lambda path: (len(path.name), path.name))
        for path in paths:  # the oldest first: what is left has no gaps, whenever this is killed
            match = CHANGE_NAME.fullmatch(path.name)
            abandoned = path.name.startswith(".") and time.time() - modified(path) > ABANDONED_SECONDS
            if abandoned or (match and int(match[1]) <= min(included, last - 1)):
                path.unlink(missing_ok=True)


def check_artifact(folder: Path) -> None:
    """Raises ValueError unless a folder has the files of an artifact."""
    lacking = [name for name in NEEDED_FILES if not (folder / name).is_file()]
    if not any(folder.glob("model*.safetensors")):
        lacking.append("model.safetensors")
    if lacking:
        raise ValueError(
            f"`save` must write a whole artifact. It lacks: {', '.join(lacking)}. Save model, tokenizer and "
            "generation config into the folder."
        )


def is_inner(name: str) -> bool:
    """Whether a name of a manifest stays within its folder."""
    return bool(name) and not name.startswith("/") and ".." not in name.split("/")


def digest(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # whoever wrote it has just finished
        return time.time()


def make_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    synced(folder.parent)


def write_file(path: Path, text: str) -> None:
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_through(folder: Path) -> None:
    """`synced` of a folder and all that is in it."""
    for path in [*folder.rglob("*"), folder]:
        synced(path)


def synced(path: Path) -> None:
    """Makes a file, or the names in a folder, outlast a crash of the machine, not only of the process."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

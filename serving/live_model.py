# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The recommender that a server serves now, and how another takes its place while requests run."""

from __future__ import annotations

import ctypes
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from gr4ad.tokenization import SIDIndex

from .index_change import IndexChange
from .kept_changes import KeptChanges
from .new_ads import AdRecords, NewAds
from .published_model import PublishedModel
from .recommender import Recommender
from .request_types import ReloadError, ServedModel

logger = logging.getLogger(__name__)

MAX_KEPT_ADS = 1_000_000  # that were changed over HTTP, to be changed again in the next weights


@dataclass(frozen=True)
class Served:
    """What a batch is answered with, from its first to its last step.

    recommender; version: of the weights, 1 for the first; changes: number of the last index change that was applied.
    """

    recommender: Recommender
    version: int
    changes: int

    @cached_property
    def described(self) -> ServedModel:
        """The same in words and numbers."""
        tokenizer = self.recommender.tokenizer
        return ServedModel(
            model=self.recommender.name,
            model_version=self.version,
            index_changes=self.changes,
            ads=int(tokenizer.index.num_active),
            features=self.recommender.features,
            user_features=tuple(tokenizer.user_features),
        )


@dataclass(eq=False)
class Ticket:
    """A change that waits to be applied, and what became of it; ads without codes get theirs when it is."""

    change: IndexChange | NewAds
    done: bool = False
    error: Exception | None = None


class LiveModel:
    """One recommender that can be exchanged under load.

    With the root of a [`PublishedModel`] as `source` it serves the current version and the changes after it, and
    `follow` takes what was published since. With an artifact's folder or a hub id, `reload` reads it again, or
    another, and `change` changes its ads; changes made here are made again in the weights that come after.

    A change of the ads is applied to the recommender that is served; new weights are another recommender. A batch
    takes `served` once and so never mixes two versions. One lock orders changes and reloads, which may come from any
    threads.

    Args:
        source: Folder or hub id. load: Reads a recommender from a folder or hub id.

    Raises:
        ValueError: If there is nothing to serve at `source`.
    """

    def __init__(self, source: str | Path, load: Callable[[str | Path], Recommender] = Recommender.from_pretrained):
        self.source, self._load = source, load
        self.published = PublishedModel(source) if PublishedModel.exists_at(source) else None
        self._lock = threading.Lock()
        self._made_here = KeptChanges()
        self._waiting: deque[Ticket] = deque()
        if self.published is None:
            self.served = Served(load(source), 1, 0)
        else:
            self.served = self._read_published(self.published)

    @classmethod
    def of(cls, recommender: Recommender) -> LiveModel:
        """A recommender that is in memory already."""
        return cls(recommender.name, lambda _: recommender)

    @property
    def recommender(self) -> Recommender:
        """The recommender of `served`."""
        return self.served.recommender

    def change(self, change: IndexChange | AdRecords) -> Served:
        """Adds, replaces or removes ads; requests that begin after it returns see it. With a published model the
        change goes into its folder, where other servers and the trainer find it. Changes that come while another is
        applied are applied together, with one rebuilding of trie and tables. Records are embedded before that, in the
        calling thread; what is published of them has their codes.

        Raises:
            ValueError: As `IndexChange.apply`, and for records as `Recommender.add_ads`; nothing has changed then.
            OSError: If it cannot be written.
        """
        ticket = Ticket(change.embedded(self.recommender.ad_encoder) if isinstance(change, AdRecords) else change)
        self._waiting.append(ticket)
        with self._lock:
            if not ticket.done:
                tickets = [self._waiting.popleft() for _ in range(len(self._waiting))]
                self._apply(tickets)
        if ticket.error is not None:
            raise ticket.error
        return self.served

    def _apply(self, tickets: list[Ticket]) -> None:
        try:
            if self.published is None:
                self._apply_here(tickets)
            else:
                self._apply_published(self.published, tickets)
        except (ValueError, OSError) as error:
            for ticket in tickets:
                ticket.error = ticket.error or error
        finally:
            for ticket in tickets:
                ticket.done = True

    def _apply_here(self, tickets: list[Ticket]) -> None:
        if (
            len(self._made_here) + self._made_here.new_ads([ids_of(ticket.change) for ticket in tickets])
            > MAX_KEPT_ADS
        ):
            raise ValueError(
                f"{MAX_KEPT_ADS} ads were changed since the server started. Start it anew from an artifact that "
                "includes them, or serve a published model."
            )
        changes = [ticket.change for ticket in tickets]
        for place, error in apply_together(self.recommender, changes):
            tickets[place].error = error
        accepted = [change for change, ticket in zip(changes, tickets, strict=True) if ticket.error is None]
        for change in accepted:
            assert isinstance(change, IndexChange)  # resolved when it was applied
            self._made_here.keep(change)
        self.served = Served(self.recommender, self.served.version, self.served.changes + len(accepted))

    def _apply_published(self, published: PublishedModel, tickets: list[Ticket]) -> None:
        self._catch_up(published)
        trial = self.recommender.tokenizer.index.snapshot()  # what cannot be applied must not reach the folder
        changes = [ticket.change for ticket in tickets]
        for place, error in tried(self.recommender, changes, trial):
            tickets[place].error = error
        if not trial.num_active:
            raise ValueError("No ad would be left to serve. Keep at least one, or add others first.")
        for change, ticket in zip(changes, tickets, strict=True):
            if ticket.error is None:
                assert isinstance(change, IndexChange)
                published.append_change(change)
        self._catch_up(published)

    def follow(self) -> bool:
        """Takes what was published since the last look: changes, or another version with the changes after it.

        Returns:
            Whether anything was new. False for a source that is not a published model.

        Raises:
            ValueError: If what was published cannot be used; what is served stays.
        """
        published = self.published
        if published is None:
            return False
        with self._lock:
            before = self.served
            number, _ = published.current()
            if number != before.version:
                served = self._read_published(published)
                self._check_replaces(served.recommender)
                self.served = served
            else:
                self._catch_up(published)
            return self.served != before

    def reload(self, source: str | Path | None = None) -> Served:
        """Reads the weights again, or those of another artifact, and serves them with the changes made here.

        Raises:
            ReloadError: If they cannot be read, or do not fit what the server has told its clients; what is served
                stays.
        """
        with self._lock:
            if self.published is not None and source is None:
                served = self._read_published(self.published)
                self._check_replaces(served.recommender)
            elif self.published is not None:
                raise ReloadError(
                    f"This server follows {self.source}: publish the version there, and leave `model` out."
                )
            else:
                place = self.source if source is None else source
                give_back_freed_memory()
                try:
                    recommender = self._load(place)
                    self._check_replaces(recommender)
                    apply_together(recommender, list(self._made_here.changes()))
                except Exception as error:  # damaged files raise whatever their readers do
                    raise ReloadError(f"{place} cannot be served: {error or repr(error)}") from error
                self.source = place
                served = Served(recommender, self.served.version + 1, self.served.changes)
            self.served = served
            return served

    def _read_published(self, published: PublishedModel) -> Served:
        number, folder = published.current()
        published.verify(number)
        give_back_freed_memory()
        try:
            recommender = self._load(folder)
            recommender.name = Path(self.source).name
            last = self._apply_after(published, recommender, published.changes_of(number))
        except Exception as error:  # damaged files raise whatever their readers do
            raise ReloadError(f"Version {number} of {self.source} cannot be served: {error or repr(error)}") from error
        return Served(recommender, number, last)

    def _catch_up(self, published: PublishedModel) -> None:
        last = self._apply_after(published, self.recommender, self.served.changes)
        if last != self.served.changes:
            self.served = Served(self.recommender, self.served.version, last)

    def _apply_after(self, published: PublishedModel, recommender: Recommender, number: int) -> int:
        changes = published.changes_after(number)
        known: list[IndexChange | NewAds] = [change for _, change in changes]
        for place, error in apply_together(recommender, known):
            logger.error("Change %d of %s is left out: %s", changes[place][0], self.source, error)
        return changes[-1][0] if changes else number

    def _check_replaces(self, recommender: Recommender) -> None:
        """Raises ReloadError unless a recommender takes the requests that this server has said it takes."""
        tokenizer, before = recommender.tokenizer, self.recommender.tokenizer
        if tokenizer.num_levels != before.num_levels:
            raise ReloadError(
                f"its semantic IDs have {tokenizer.num_levels} levels, those that are served {before.num_levels}. "
                "Start another server for it."
            )
        for name, now, then in (
            ("events", tokenizer.event_places, before.event_places),
            ("user_features", tokenizer.user_features, before.user_features),
        ):
            lost = sorted(set(then) - set(now))
            if lost:
                raise ReloadError(f"it lacks {name} {lost[0]!r}, which clients may send. Start another server for it.")
        check_answers(recommender)


def give_back_freed_memory() -> None:
    """Gives the kernel what was freed before weights are read: those that were exchanged or refused the last time,
    and what batches have used. Under load each new model lands between blocks that are in use, and glibc by itself
    would let a server grow by some of it each time. Elsewhere than glibc, does nothing."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        pass


def check_answers(recommender: Recommender) -> None:
    """Asks for one list with the default beams, as a request would.

    Raises:
        ReloadError: If there is none, or its scores are not numbers: damaged weights may well load.
    """
    index = recommender.tokenizer.index
    first = str(index.item_ids[index.rows_by_sid()[0]])
    try:
        [ranked] = recommender.recommend([[first]], top_k=1, exclude_history=False)
    except Exception as error:  # what a model of damaged files does is not known
        raise ReloadError(f"it fails on a history of {first!r}: {error or repr(error)}") from error
    if not ranked or not math.isfinite(ranked[0].score):
        raise ReloadError(
            f"its answer to a history of {first!r} is {ranked[:1]}; its weights may be damaged. Save them again."
        )


def ids_of(change: IndexChange | NewAds) -> Sequence[str]:
    return change.item_ids if isinstance(change, IndexChange) else change.ads.item_ids


def apply_together(
    recommender: Recommender, changes: MutableSequence[IndexChange | NewAds]
) -> list[tuple[int, ValueError]]:
    """Applies changes in their order with one rebuilding of trie and tables, and returns those that were refused, with
    their places: they leave what the others do as it is. Ads without codes get theirs, in `changes` too.

    Raises:
        ValueError: If no ad would be left; then nothing has changed.
    """
    refused: list[tuple[int, ValueError]] = []
    if changes:
        recommender.change_index(lambda index: refused.extend(tried(recommender, changes, index)))
    return refused


def tried(
    recommender: Recommender, changes: MutableSequence[IndexChange | NewAds], index: SIDIndex
) -> list[tuple[int, ValueError]]:
    """Applies changes to an index in their order; places and reasons of those that were refused."""
    refused = []
    for place, change in enumerate(changes):
        try:
            changes[place] = known = change.resolved(index)
            if known.codes is not None:
                recommender.check_codes(np.asarray(known.codes))
            known.apply_to(index)
        except ValueError as error:
            refused.append((place, error))
    return refused

"""The loop of online learning: streams in, published weights and index changes out, each record used once."""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

from gr4ad.serving import PublishedModel, PublishedModelError
from gr4ad.tokenization.ad_encoding import FOLDERS, linked
from gr4ad.trainers.continual import ContinualConfig, ContinualTrainer, LogRecords, ProgressiveValidation, RecordError

from .catalog_changes import CatalogChanges, readable
from .live_artifact import LiveArtifact
from .log_streams import LogStreams
from .online_config import OnlineConfig
from .record_stream import Record, Unreadable
from .step_journal import StepJournal, StepPlan
from .trainer_state import STATE_FILE, TENSOR_FILE, Checkpoints, OnlineState

logger = logging.getLogger(__name__)
Row = TypeVar("Row")

METRICS_FILE = "metrics.jsonl"
REFUSED_FILE = "refused.jsonl"
MAX_REFUSED_BYTES = 64 << 20  # of that file; more records are counted alone
SHOWN_REASONS = 20  # of refused records, in the log of a run


class OnlineLoop:
    """Learns from what its streams hold, and publishes.

    One pass: new ads of the catalog stream become index changes, which servers apply at once; a batch of engagements
    is ranked, by the weights in training and by the published ones, and then learned together with a batch of lists.
    Every `publish_steps` steps the weights are published, unless the guard says no.

    What a pass takes is journalled before, and a checkpoint holds weights, optimizer, index, counts and the place in
    every stream together. So a loop that is killed at any moment and started again has used each record once and comes
    to the same weights, to the bit on one CPU thread.

    Args:
        config, learning: See there.

    Raises:
        ValueError: If there is no artifact to start from, or another loop uses `out`; or as what is read says.
    """

    def __init__(self, config: OnlineConfig, learning: ContinualConfig):
        self.config = config
        self.folder = Path(config.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.folder / ".lock")
        self.published = PublishedModel(config.root)
        self.checkpoints = Checkpoints(self.folder)
        self.journal = StepJournal(self.folder / "journal.jsonl")
        self.streams = LogStreams(config.sources(), config.poll_seconds, lambda: self.stopping)
        self.stopping = False
        place = self.checkpoints.newest()
        if place is None:
            self.state = OnlineState()
            source = self._start()
        else:
            self.state, tensors = self.checkpoints.load(place)
            source = place
        self._saved = self.state.number
        self.artifact = LiveArtifact.load(source, self.folder / "fixed")
        self.trainer = ContinualTrainer(self.artifact.model, self.artifact.tokenizer, learning)
        self.records = LogRecords(
            self.artifact.tokenizer, learning, self.trainer.max_items, self.trainer.max_cross_domain
        )
        self.catalog = CatalogChanges(self.artifact.tokenizer, self.folder / "fixed")
        self.validation = ProgressiveValidation(config.guard_window, config.guard_users, config.max_ndcg_loss)
        if place is None:
            self._save()
        else:
            self.trainer.load_state_tensors(tensors)
            self.validation.scores.extend(self.state.validated)
            logger.info("Resumed %s: %s.", place, self.counts())
        self._publish_what_is_due()
        self.replayed = self.journal.after(self.state.number)
        self._waiting_since: float | None = None
        self._told = 0
        self._refused_full = False

    def _start(self) -> Path:
        """Folder of the artifact that a new run starts from."""
        if PublishedModel.exists_at(self.config.root):
            number, folder = self.published.current()
            self.state.changes = self.published.changes_of(number)
            if self.config.model is not None:
                logger.info("Starting from version %d of %s, not from `model`.", number, self.config.root)
            return folder
        if self.config.model is None:
            raise ValueError(f"`model` is needed: {self.config.root} has no version to start from. Received: none.")
        return Path(self.config.model)

    def run(self, on_pass: Callable[[dict[str, Any]], None] = lambda metrics: None) -> None:
        """Passes until `stop` is called, `max_steps` are done, or nothing came for `idle_seconds` and nothing waits
        for its batch; then a checkpoint.

        Args:
            on_pass: Gets the metrics of each pass, see docs/online.md.
        """
        config, last = self.config, time.monotonic()
        while not self.stopping and not 0 < config.max_steps <= self.state.steps:
            metrics = self.advance()
            if metrics is not None:
                last = time.monotonic()
                on_pass(metrics)
            elif self._waiting_since is None and 0 < config.idle_seconds <= time.monotonic() - last:
                break
            else:
                time.sleep(config.poll_seconds)
        self._save()

    def close(self) -> None:
        """Lets another loop use `out`."""
        self._lock.close()

    def __enter__(self) -> OnlineLoop:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def stop(self) -> None:
        """Ends `run` after the pass that it is in."""
        self.stopping = True

    def counts(self) -> str:
        used = ", ".join(f"{name} {count}" for name, count in sorted(self.state.used.items())) or "none"
        return f"{self.state.steps} steps; records used: {used}"

    def advance(self) -> dict[str, Any] | None:
        """One pass, or None if there is nothing to do."""
        plan = self.replayed.pop(0) if self.replayed else self.plan()
        return None if plan is None else self.carry_out(plan)

    def plan(self) -> StepPlan | None:
        """Decides what the next pass takes, and writes it down."""
        config, state = self.config, self.state
        offsets, taken, refused = dict(state.offsets), {}, {}
        if "catalog" in self.streams:
            refused["catalog"] = 0
            records, offset = self.streams.read("catalog", offsets.get("catalog"), config.catalog_batch_size)
            if records:
                index = self.catalog.followed(self.published, self.artifact.tokenizer.index, state.changes)
                refused["catalog"] = self.catalog.append(
                    self.published, records, index, partial(self._set_aside, "catalog")
                )
                offsets["catalog"], taken["catalog"] = offset, len(records)
        sizes = {"vsl": config.vsl_batch_size, "rl": config.rl_batch_size}
        found = {
            name: self.streams.read(name, offsets.get(name), size)
            for name, size in sizes.items()
            if name in self.streams
        }
        if self._ready({name: len(records) for name, (records, _) in found.items()}, sizes):
            for name, (records, offset) in found.items():
                if records:
                    offsets[name], taken[name] = offset, len(records)
        changes = max(state.changes, self.published.last_change)
        if not taken and changes == state.changes:
            return None
        plan = StepPlan(state.number + 1, taken, offsets, changes, refused)
        self.journal.append(plan)
        return plan

    def _ready(self, found: dict[str, int], sizes: dict[str, int]) -> bool:
        """Whether a batch is full, or has waited long enough."""
        if not any(found.values()):
            self._waiting_since = None
            return False
        now = time.monotonic()
        since = now if self._waiting_since is None else self._waiting_since
        full = any(count >= sizes[name] for name, count in found.items())
        ready = full or now - since >= self.config.max_wait_seconds
        self._waiting_since = None if ready else since
        return ready

    def carry_out(self, plan: StepPlan) -> dict[str, Any]:
        """Does what a plan says; the same plan after the same state has the same effect."""
        begun, state = time.monotonic(), self.state
        if plan.changes > state.changes:
            index = self.artifact.tokenizer.index
            index = self.catalog.followed(self.published, index, state.changes, plan.changes)
            if index is not self.artifact.tokenizer.index:
                self.trainer.adopt(index)
            state.changes = plan.changes
        if "catalog" in plan.taken:
            self._count("catalog", plan.taken["catalog"] - plan.refused["catalog"], plan.refused["catalog"])
        metrics: dict[str, Any] = self._learn(plan)
        state.offsets, state.number = dict(plan.offsets), plan.number
        publishing = bool(metrics) and self._may_publish()
        if publishing or state.number - self._saved >= self.config.save_steps:
            self._save()
            self._publish_what_is_due()
        metrics |= {
            "number": state.number,
            "step": state.steps,
            "used": dict(state.used),
            "refused": dict(state.refused),
            "offsets": dict(state.offsets),
            "index_change": state.changes,
            "published_step": state.steps_published,
            "alarms": state.alarms,
            "seconds": round(time.monotonic() - begun, 4),
            "time": round(time.time(), 3),
        }
        with open(self.folder / METRICS_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        return metrics

    def _learn(self, plan: StepPlan) -> dict[str, float]:
        """The step of a plan: its engagements are ranked, then learned together with its lists. Returns the metrics,
        none where nothing can be learned from any record."""
        engagements = self._rows(plan, "vsl", self.records.engagement)
        lists = self._rows(plan, "rl", self.records.preference_list)
        if not engagements and not lists:
            return {}
        metrics: dict[str, float] = {}
        if engagements and self.state.steps % self.config.guard_steps == 0:
            metrics["ndcg@10"], metrics["published_ndcg@10"] = self.validation.measure(
                self.trainer.model,
                self.trainer.reference,
                self.artifact.tokenizer,
                [ranked for _, ranked in engagements],
                self.artifact.serving,
            )
        metrics |= self.trainer.step([row for row, _ in engagements], lists)
        self.state.steps += 1
        return metrics

    def _rows(self, plan: StepPlan, name: str, row_of: Callable[[Mapping[str, Any]], Row]) -> list[Row]:
        """What the records that a plan takes from a stream are learned as; counts them."""
        if name not in self.streams and name not in plan.taken:
            return []
        rows, taken = [], plan.taken.get(name, 0)
        after = self.state.offsets.get(name)
        for record in self.streams.read_again(name, after, taken, plan.offsets[name]) if taken else ():
            try:
                rows.append(row_of(readable(record)))
            except RecordError as error:
                self._set_aside(name, error, record)
        self._count(name, len(rows), taken - len(rows))
        return rows

    def _count(self, name: str, used: int, refused: int) -> None:
        self.state.used[name] = self.state.used.get(name, 0) + used
        if refused:
            self.state.refused[name] = self.state.refused.get(name, 0) + refused

    def _set_aside(self, name: str, error: Exception, record: Record) -> None:
        """Keeps a record that is left out in `refused.jsonl`, with the reason; the log tells of the first of them. A
        pass that is repeated after a kill sets its records aside again."""
        self._told += 1
        if self._told <= SHOWN_REASONS:
            logger.warning("A record of `%s` is left out: %s", name, error)
        content = None if isinstance(record, Unreadable) else record
        line = json.dumps({"stream": name, "reason": str(error), "record": content}, default=str)
        path = self.folder / REFUSED_FILE
        if path.is_file() and path.stat().st_size + len(line) > MAX_REFUSED_BYTES:
            if not self._refused_full:
                logger.warning("%s is full: move it away, and further refused records are kept again.", path)
            self._refused_full = True
            return
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _may_publish(self) -> bool:
        """Whether the present weights are to be published; then they are the reference from now on."""
        state = self.state
        if state.steps - max(state.steps_published, state.attempted) < self.config.publish_steps:
            return False
        verdict = self.validation.verdict()
        if verdict.good is None and "vsl" in self.streams:
            return False  # asked again after the next step
        state.attempted = state.steps
        if verdict.good is False:
            state.alarms += 1
            logger.warning(
                "Step %d: not published. NDCG@10 of the new weights is %.4f, more than %g%% below the %.4f of the "
                "published ones, on the same %d users before they were learned.",
                state.steps, verdict.candidate, 100 * self.config.max_ndcg_loss, verdict.published, verdict.users,
            )  # fmt: skip
            return False
        state.published, state.steps_published = state.number, state.steps
        self.trainer.refresh_reference()
        self.validation.begin_anew()
        return True

    def _save(self) -> None:
        self.state.validated = list(self.validation.scores)
        self.checkpoints.save(self.state, self.trainer.state_tensors(), self.artifact.save)
        self.journal.clear()
        self._saved = self.state.number

    def _publish_what_is_due(self) -> None:
        """Publishes the checkpoint if its weights are to be, and are not yet. They are published after they were
        saved, so that a run killed in between knows it and does it then."""
        state = self.state
        if state.published != state.number:
            return
        if PublishedModel.exists_at(self.config.root):
            try:
                about = self.published.about(self.published.current()[0])
            except PublishedModelError as error:
                logger.error("%s Publishing again.", error)
                about = {}
            if state.number == 0 or (about.get("run") == state.run and about.get("number", -1) >= state.number):
                return
        place = self.checkpoints.path(state.number)
        number = self.published.publish(
            lambda folder: copied(place, folder),
            changes=state.changes,
            about={"run": state.run, "number": state.number, "step": state.steps, "used": state.used},
        )
        self.published.prune(self.config.keep_versions)
        logger.info("Published version %d in %s: %s.", number, self.config.root, self.counts())


def copied(checkpoint: Path, folder: Path) -> None:
    """Copies the artifact of a checkpoint into a folder."""
    folders = [name for name in FOLDERS if (checkpoint / name).is_dir()]
    ignored = shutil.ignore_patterns(STATE_FILE, TENSOR_FILE, *folders)
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True, ignore=ignored)
    for name in folders:  # an encoder may be large, and is never written into
        shutil.copytree(checkpoint / name, folder / name, dirs_exist_ok=True, copy_function=linked)


def locked(path: Path) -> IO[bytes]:
    """A file that this process alone holds, for as long as it is open. Raises ValueError if another one does."""
    file = open(path, "ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"{path.parent} is used by another `gr4ad online`. Stop it, or give another `out`.") from None
    return file

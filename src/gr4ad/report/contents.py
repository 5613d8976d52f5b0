"""What a run has to say about itself, as plain data that any stage can fill."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunReport:
    """The content of a report page and of a model card. Every part may stay empty; its section is then left out.

    Attributes:
        title: what was trained, e.g. "GR4AD on Amazon Beauty".
        command: the command line that reproduces the run.
        created: time of writing, ISO 8601.
        seed: seed of the run.
        machine: name -> text or number, e.g. `{"cpu": "2 cores", "memory": "16 GiB"}`.
        versions: package -> version.
        data_summary: the content of `data.json` (`gr4ad.data.PreparedData.summary`).
        training_log, alignment_log: `log_history` of the two trainers: entries with `step`, `epoch` and either `loss`
            and its parts (`loss_sid`, `rspo/accuracy`, ...) or evaluation figures (`eval_ndcg@10`, ...).
        sid_quality: as `gr4ad.tokenization.sid_quality` returns it.
        code_counts: for each level, the items of each of its codes (T lists of V_t counts >= 0, zeros included).
        metrics: protocol -> system -> metric -> figure, with `METRIC_se` for standard errors. Protocols: `test`,
            `test_history_excluded`, or any other name; systems: `ours` and the names of the baselines; metrics as in
            `gr4ad.trainers.evaluation.evaluate_rankings`, with `METRIC_low` and `METRIC_high` for 95% intervals, and
            `illegal_sids`, decoded SIDs that no item has (a count).
        paired: protocol -> other system -> metric -> `difference` (ours less theirs), `low`, `high`, `relative`.
        value_calibration: `held_out`, `served@10` -> figures of `gr4ad.trainers.evaluation.value_calibration`.
        beam_tree: one request: `history` (`item_id`, `title`; oldest first), `levels` (for each level its beams:
            `sid`, the prefix as text; `score`, its natural log-probability, <= 0; `parent`, place in the level before,
            None at the first) and `recommendations` (`item_id`, `title`, `score`, `value` in value units or None,
            `sid`; best first).
        timings: stage -> wall-clock seconds, in running order.
        notes: sentences that a reader of the figures should know.
    """

    title: str
    command: str = ""
    created: str = ""
    seed: int | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    data_summary: dict[str, Any] = field(default_factory=dict)
    training_log: list[dict[str, Any]] = field(default_factory=list)
    alignment_log: list[dict[str, Any]] = field(default_factory=list)
    sid_quality: dict[str, float] = field(default_factory=dict)
    code_counts: list[list[int]] = field(default_factory=list)
    metrics: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    paired: dict[str, dict[str, dict[str, dict[str, float | None]]]] = field(default_factory=dict)
    value_calibration: dict[str, dict[str, Any]] = field(default_factory=dict)
    beam_tree: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def value_unit(self) -> str:
        """Unit of money figures, "" when unknown."""
        return str(self.data_summary.get("value_unit") or "")

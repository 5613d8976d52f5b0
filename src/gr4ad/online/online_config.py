"""Settings of the online-learning loop: where it reads, what it writes, and when."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gr4ad.pipeline.config_fields import setting
from gr4ad.pipeline.settings import check_least, check_share


@dataclass
class OnlineConfig:
    """Settings of [`OnlineLoop`]; what a step does with its records is in `ContinualConfig`.

    Raises:
        ValueError: If a number is out of its range, or there is no stream.
    """

    out: str = field(
        metadata={"help": "Folder of the run: its checkpoint, journal and metrics. Resumed if it is there."}
    )
    root: str = field(
        metadata={"help": "Folder that is published to; servers follow it (`gr4ad serve --model ROOT`)."}
    )
    model: str | None = setting(
        None, "Artifact to start from. Not needed where ROOT has one, and not read where OUT has a run."
    )
    vsl: str | None = setting(None, "Log of engagements: a folder, or redis://HOST:PORT/DB/KEY.")
    rl: str | None = setting(None, "Log of lists with rewards: as `vsl`.")
    catalog: str | None = setting(None, "New ads: as `vsl`.")

    vsl_batch_size: int = setting(64, "Engagements of one step, at most.")
    rl_batch_size: int = setting(16, "Lists of one step, at most.")
    catalog_batch_size: int = setting(256, "Catalog records of one pass, at most.")
    max_wait_seconds: float = setting(5.0, "Seconds that a batch which is not full waits for more records.")
    poll_seconds: float = setting(0.5, "Seconds between two looks at empty streams.")

    publish_steps: int = setting(50, "Steps between two publications, at least.")
    save_steps: int = setting(50, "Steps between two checkpoints; a publication is one.")
    keep_versions: int = setting(3, "Published versions that are kept, the newest.")

    guard_steps: int = setting(1, "Every so many steps the engagements are ranked before they are learned.")
    guard_users: int = setting(200, "Users ranked since the last publication before weights may be published.")
    guard_window: int = setting(2000, "The newest of these users that count.")
    max_ndcg_loss: float = setting(
        0.05, "Share of the published weights' NDCG@10 on these users that new weights may lose; 1 = any."
    )

    max_steps: int = setting(0, "End after so many steps in all; 0 = never.")
    idle_seconds: float = setting(
        0.0, "End when nothing has come for so long and nothing waits for its batch; 0 = wait for ever."
    )

    def __post_init__(self) -> None:
        if self.vsl is None and self.rl is None and self.catalog is None:
            raise ValueError("`vsl`, `rl` or `catalog` must name a stream. Received: none of them.")
        check_least(self, 1, "vsl_batch_size", "rl_batch_size", "catalog_batch_size", "publish_steps", "save_steps")
        check_least(self, 1, "keep_versions", "guard_steps", "guard_users", "guard_window")
        if self.guard_window < self.guard_users:
            raise ValueError(
                f"`guard_window` must be at least `guard_users`, {self.guard_users}: it would never hold as many. "
                f"Received: {self.guard_window}."
            )
        for name in ("max_wait_seconds", "poll_seconds", "max_steps", "idle_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be >= 0 and finite. Received: {getattr(self, name)}.")
        check_share(self, "max_ndcg_loss")

    def sources(self) -> dict[str, str]:
        """Stream -> where it is, of those that are given."""
        given = {"vsl": self.vsl, "rl": self.rl, "catalog": self.catalog}
        return {name: source for name, source in given.items() if source is not None}

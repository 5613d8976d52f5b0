# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Settings of a preference loss and their ranges, without torch: a command line checks them before it imports it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import FunctionType
from typing import TYPE_CHECKING, ClassVar, Protocol

from ..setting_ranges import check_range

if TYPE_CHECKING:
    from torch import Tensor


class PreferenceLossFunction(Protocol):
    """A loss of your own, as `loss_type` takes it.

    It gets float (B, n) `policy_logps` <= 0, which carry the gradient, and `grades` in [0, `max_grade`]; `ref_logps`,
    the same under the reference, or None; the bool `mask`, True on real candidates; and a scalar `count` to divide its
    sum by: the lists of the whole step with two different grades (None: those of this batch). It returns the scalar
    loss and detached metrics.
    """

    __name__: str

    def __call__(
        self,
        policy_logps: Tensor,
        grades: Tensor,
        ref_logps: Tensor | None,
        mask: Tensor | None,
        *,
        beta: float,
        count: Tensor | float | None,
    ) -> tuple[Tensor, dict[str, Tensor]]: ...


if TYPE_CHECKING:
    LossType = str | PreferenceLossFunction
else:
    LossType = str  # what a command line can give

LOSS_TYPES = ("rspo", "dpo", "sdpo", "grpo")
"""Names of the losses in `preference_losses.LOSSES`."""
NEED_REFERENCE = ("grpo",)


@dataclass
class PreferenceFields:
    """How lists teach a model: shared by [`RSPOConfig`] and [`ContinualConfig`].

    Parameters:
        loss_type (`str`, defaults to `"rspo"`): `rspo`; `dpo`, `sdpo` or `grpo` to hold it against. In Python also a
            function of your own, see [`PreferenceLossFunction`].
        delta (`float`, defaults to 2.0): Above this mean drift |log(p / p_ref)| an anchor of `rspo` ignores the
            reference.
        vsl_weight (`float`, defaults to 0.1): Where the candidate's value is above 0: keeps probability on what is
            good and not only away from what is worse, and the value and item heads in step with the layers below.
        unified (`bool`): By how far likelihood and reward disagree; `rspo` only.
        item_weight (`float`, defaults to 0): What is aligned is (1 - w) log p(SID) + w log p(item): set w to the
            `item_weight` that will be served, so that the ranking that users get is the one that learns from the
            lists. 0 is the paper's policy. `ref_logps` of the data must then be such scores.
        disable_dropout (`bool`, defaults to `True`): Its noise would be in the difference between policy and
            reference, which gate and margins read.

    The others are told by their help.
    """

    REFERENCES: ClassVar[tuple[str, ...]] = ("frozen", "logged", "none")

    loss_type: LossType = field(default="rspo", metadata={"help": f"One of {', '.join(LOSS_TYPES)}."})
    beta: float = field(default=0.1, metadata={"help": "Sharpness of the preferences, > 0; GRPO's weight of the KL."})
    delta: float = field(default=2.0, metadata={"help": "Gate: largest mean drift from the reference, in nats."})
    clip: float = field(default=0.2, metadata={"help": "GRPO's bound of the probability ratio, in (0, 1)."})
    max_grade: float = field(
        default=3.0, metadata={"help": "Values become grades in [0, max_grade] within each list."}
    )
    vsl_weight: float = field(default=0.1, metadata={"help": "Weight of VSL on each list's most valuable candidate."})
    item_weight: float = field(
        default=0.0, metadata={"help": "Share in [0, 1] of the item head in the score that is aligned; as served."}
    )
    unified: bool = field(default=False, metadata={"help": "Weigh VSL and RSPO sample by sample (UVR, eqs. 19-22)."})
    reference: str = field(default="frozen", metadata={"help": f"One of {', '.join(REFERENCES)}."})
    max_items: int | None = field(default=None, metadata={"help": "Items of a history; default: the model's limit."})
    disable_dropout: bool = field(default=True, metadata={"help": "Train without dropout, as the reference runs."})

    @property
    def loss_name(self) -> str:
        """The loss as logs and files name it: a function by its own name."""
        return self.loss_type if isinstance(self.loss_type, str) else self.loss_type.__name__

    def check_preference_fields(self) -> None:
        """Raises ValueError for a value outside its range, or settings that do not fit each other."""
        if self.loss_type not in LOSS_TYPES and not isinstance(self.loss_type, FunctionType):
            raise ValueError(
                f"`loss_type` must be one of {', '.join(LOSS_TYPES)}. Received: {self.loss_type!r}. In Python it may "
                "also be a function."
            )
        if self.reference not in self.REFERENCES:
            raise ValueError(f"`reference` must be one of {', '.join(self.REFERENCES)}. Received: {self.reference!r}.")
        check_range(self, "must be > 0 and finite", "beta", "delta", "max_grade")
        check_range(self, "must be >= 0 and finite", "vsl_weight")
        check_range(self, "is a share in [0, 1]", "item_weight")
        check_range(self, "must be in (0, 1)", "clip")
        check_range(self, "must be >= 1", "max_items")
        if self.loss_type in NEED_REFERENCE and self.reference == "none":
            raise ValueError(
                f"`reference` must be {' or '.join(self.REFERENCES[:-1])} with the {self.loss_name.upper()} loss, "
                "whose ratio is to the policy that made the lists. Received: none."
            )
        if self.unified and (self.loss_type != "rspo" or not self.vsl_weight):
            raise ValueError(
                "`unified` mixes VSL with RSPO: it needs `loss_type` = rspo and `vsl_weight` > 0. Received: "
                f"{self.loss_name} and {self.vsl_weight}. Set it to False for another loss."
            )


@dataclass
class RSPOFields(PreferenceFields):
    """What [`RSPOConfig`] has beside the arguments of its trainer: [`PreferenceFields`], and

    Parameters:
        reference (`str`, defaults to `"frozen"`): `frozen`: a copy of the policy at its start. `logged`: the column
            `ref_logps` of the data, which costs no pass. `none`.
        sync_ref_model (`bool`, defaults to `False`), ref_model_mixup_alpha, ref_model_sync_steps: As TRL's.
        max_ndcg_loss (`float`, defaults to 0.01): Of the policies that lose no more of the NDCG@10 before training,
            the best by `metric_for_best_model` (default `revenue@10`) is what a run with an `eval_strategy` ends with.
    """

    sync_ref_model: bool = field(default=False, metadata={"help": "Move the frozen reference towards the policy."})
    ref_model_mixup_alpha: float = field(default=0.6, metadata={"help": "How far, in (0, 1]: 1 copies the policy."})
    ref_model_sync_steps: int = field(default=512, metadata={"help": "Steps between two such moves."})
    max_ndcg_loss: float = field(default=0.01, metadata={"help": "Share of NDCG@10 that a kept policy may lose."})
    guard_patience: int = field(
        default=2, metadata={"help": "Validations in a row beyond that loss that stop the run; 0 = never."}
    )

    def check_rspo_fields(self) -> None:
        """Raises ValueError as `check_preference_fields`."""
        self.check_preference_fields()
        check_range(self, "is a share in [0, 1)", "max_ndcg_loss")
        if self.sync_ref_model and self.reference != "frozen":
            raise ValueError(
                f"`sync_ref_model` moves a frozen reference. Received: `reference` = {self.reference}. Set it to "
                "frozen, or `sync_ref_model` to False."
            )


__all__ = ["LOSS_TYPES", "LossType", "PreferenceFields", "PreferenceLossFunction", "RSPOFields"]

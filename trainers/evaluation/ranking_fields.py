# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""How a trainer is validated, as fields of its arguments; needs neither torch nor transformers to be imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..setting_ranges import check_range

if TYPE_CHECKING:
    from gr4ad.modeling_gr4ad import RankingWeights


@dataclass
class RankingEvaluationConfig:
    """Fields of a trainer's arguments that say how it is validated: with the weights that will be served, so that
    early stopping and guards judge the ranking that users get."""

    eval_beam_widths: list[int] = field(
        default_factory=lambda: [50, 50, 50], metadata={"help": "Beams of each level in validation."}
    )
    eval_item_weight: float = field(
        default=0.0, metadata={"help": "Share of the item head, in [0, 1], in validation's ranking."}
    )
    eval_value_weight: float = field(default=0.0, metadata={"help": "Exponent of expected value in that ranking."})
    eval_neighbour_weight: float = field(
        default=0.0, metadata={"help": "Weight of the item neighbours in that ranking; the model must have them."}
    )
    eval_item_candidates: int = field(
        default=0, metadata={"help": "Likeliest items of the item head that join the beams in that ranking."}
    )
    eval_score_history: bool = field(default=False, metadata={"help": "Also rank the history's own items."})
    eval_exclude_history: bool = field(
        default=False, metadata={"help": "Leave the history's items out of the ranking."}
    )
    eval_users: int = field(default=2000, metadata={"help": "Users sampled for validation; 0 = all."})

    def check_ranking(self) -> None:
        """Raises ValueError for a value outside its range."""
        if not self.eval_beam_widths or min(self.eval_beam_widths) < 1:
            raise ValueError(f"`eval_beam_widths` must be numbers >= 1. Received: {self.eval_beam_widths}.")
        check_range(self, "is a share in [0, 1]", "eval_item_weight")
        others = ("eval_value_weight", "eval_neighbour_weight", "eval_item_candidates", "eval_users")
        check_range(self, "must be >= 0 and finite", *others)
        for name in ("eval_neighbour_weight", "eval_item_candidates"):
            if getattr(self, name) and not self.eval_item_weight:
                raise ValueError(
                    f"`{name}` = {getattr(self, name)} needs `eval_item_weight` > 0: it is part of the item head's "
                    "score. Received: 0."
                )

    @property
    def eval_weights(self) -> RankingWeights:
        """The fields as [`RankingWeights`]."""
        from gr4ad.modeling_gr4ad import RankingWeights

        return RankingWeights(
            tuple(self.eval_beam_widths),
            self.eval_item_weight,
            self.eval_value_weight,
            self.eval_neighbour_weight,
            self.eval_item_candidates,
            self.eval_score_history,
            self.eval_exclude_history,
        )


__all__ = ["RankingEvaluationConfig"]

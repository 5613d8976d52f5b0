# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""How an artifact ranks: one set of numbers that validation, evaluation and serving share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from transformers import GenerationConfig

from .configuration_gr4ad import GR4ADConfig

DEFAULT_BEAM_WIDTH = 100


@dataclass(frozen=True)
class RankingWeights:
    """What a ranking is made of; stored in `generation_config.json`.

    An ad scores (1 - item_weight) * log p(SID) + item_weight * log p(item) + value_weight * log E[value], where
    `neighbour_weight` times the score of the item neighbours is added to log p(item).

    Args:
        beam_widths: W_1..W_T, beams kept after each level, >= 1; None = `DEFAULT_BEAM_WIDTH` at every level.
        item_weight: Share of the item head, in [0, 1]. At 1 the beams only propose candidates.
        value_weight: Exponent of the expected value, finite and >= 0; 1 ranks by expected value per place.
        neighbour_weight: Weight of the item neighbours, finite and >= 0; above 0 it needs `item_weight` > 0.
        item_candidates: Items, >= 0, that the item head finds likeliest, times what they are worth where values count,
            and that join the beams as candidates; above 0 it needs `item_weight` > 0.
        score_history: Also rank the history's own SIDs, for logs in which users come back.
        exclude_history: Leave items of the history out of the list.

    Raises:
        ValueError: For a value outside its range; names it.
    """

    beam_widths: tuple[int, ...] | None = None
    item_weight: float = 0.0
    value_weight: float = 0.0
    neighbour_weight: float = 0.0
    item_candidates: int = 0
    score_history: bool = False
    exclude_history: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.beam_widths, int | float | str):
            raise ValueError(
                f"`beam_widths` must be a list of widths, one a level. Received: {self.beam_widths!r:.90}. Write e.g. "
                f"{(self.beam_widths if type(self.beam_widths) is int else 64,) * 3} for a model of three levels."
            )
        if self.beam_widths is not None:
            object.__setattr__(self, "beam_widths", tuple(self.beam_widths))
            if not self.beam_widths or min(self.beam_widths) < 1:
                raise ValueError(f"`beam_widths` must be numbers >= 1, one a level. Received: {self.beam_widths}.")
        if not 0 <= self.item_weight <= 1:
            raise ValueError(f"`item_weight` must be in [0, 1]: it is a share. Received: {self.item_weight}.")
        for name in ("value_weight", "neighbour_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be finite and >= 0. Received: {getattr(self, name)}.")
        if self.item_candidates < 0:
            raise ValueError(f"`item_candidates` must be 0 or more. Received: {self.item_candidates}.")
        for name in ("item_candidates", "neighbour_weight"):
            if getattr(self, name) and not self.item_weight:
                raise ValueError(
                    f"`{name}` = {getattr(self, name)} is part of the item head's score. Received: `item_weight` = 0. "
                    f"Set `item_weight` above 0, or `{name}` to 0."
                )

    def check(self, config: GR4ADConfig) -> None:
        """Raises ValueError, naming the field and the remedy, where a model of this configuration cannot rank so."""
        if self.beam_widths is not None and len(self.beam_widths) != config.num_levels:
            raise ValueError(
                f"`beam_widths` must hold {config.num_levels} numbers, one a level. Received: {self.beam_widths}."
            )
        for name, needs, there in (
            ("item_weight", "an item head: train with `item_head` = True", config.item_head),
            ("value_weight", "a value head: train with `num_value_buckets` > 0", config.num_value_buckets),
            ("neighbour_weight", "a model with item neighbours: count them first", config.num_item_neighbours),
        ):
            if getattr(self, name) and not there:
                raise ValueError(f"`{name}` = {getattr(self, name)} needs {needs}. Or set it to 0.")

    def widths(self, levels: int) -> tuple[int, ...]:
        """W_1..W_T of a model with so many levels."""
        return (DEFAULT_BEAM_WIDTH,) * levels if self.beam_widths is None else self.beam_widths

    def with_item_weight(self, item_weight: float) -> "RankingWeights":
        """A copy with another share of the item head; at 0 without what only the item head can give."""
        if item_weight:
            return replace(self, item_weight=item_weight)
        return replace(self, item_weight=0.0, item_candidates=0, neighbour_weight=0.0)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {**asdict(self), "beam_widths": None if self.beam_widths is None else list(self.beam_widths)}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "RankingWeights":
        """The weights among `given`; what is missing or None has its default, other names are not read.

        Raises:
            ValueError: If a value is of the wrong kind or outside its range.
        """
        known = {field.name: given[field.name] for field in fields(cls) if given.get(field.name) is not None}
        for name, value in known.items():
            default = cls.__dataclass_fields__[name].default
            if name == "beam_widths":
                right, kind = isinstance(value, list | tuple) and all(type(w) is int for w in value), "whole numbers"
            else:
                allowed = int | float if isinstance(default, float) else type(default)
                right = isinstance(value, allowed) and isinstance(value, bool) == isinstance(default, bool)
                kind = f"like its default, {default!r}"
            if not right:
                raise ValueError(f"`{name}` must be {kind}. Received: {value!r:.100}. Correct generation_config.json.")
        return cls(**known)

    @classmethod
    def from_generation_config(cls, config: GenerationConfig) -> "RankingWeights":
        """The weights that a `GenerationConfig` carries; what it lacks has its default."""
        return cls.from_dict(config.to_dict())

    def to_generation_config(self) -> GenerationConfig:
        return GenerationConfig(**self.to_dict())

    def save_pretrained(self, folder: str) -> None:
        """Writes `generation_config.json` into a folder."""
        self.to_generation_config().save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, name_or_path: str, **hub_kwargs: Any) -> "RankingWeights":
        """Reads `generation_config.json` of a folder or hub id.

        Raises:
            OSError: If there is none. ValueError: If a value is wrong.
        """
        return cls.from_generation_config(GenerationConfig.from_pretrained(name_or_path, **hub_kwargs))


__all__ = ["DEFAULT_BEAM_WIDTH", "RankingWeights"]

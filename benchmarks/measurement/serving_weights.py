"""How an artifact ranks, as arguments of `rank_users`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GenerationConfig


def weights_of(folder: Path) -> dict[str, Any]:
    """The ranking that an artifact's `generation_config.json` asks for."""
    kept = GenerationConfig.from_pretrained(folder).to_dict()
    return {
        name: kept.get(name, default)
        for name, default in (("beam_widths", None), ("item_weight", 0.0), ("value_weight", 0.0),
                              ("item_candidates", 0), ("neighbour_weight", 0.0), ("score_history", False))
    }  # fmt: skip

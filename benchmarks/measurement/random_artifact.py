"""Artifacts of random weights for random ads: where only time is measured, nothing has to be learned.

Every name used here is also in earlier builds of gr4ad: `speed.py` builds its artifact with each of two.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import GenerationConfig, set_seed

from gr4ad import GR4ADConfig, GR4ADForRecommendation, SIDIndex, UASIDTokenizer

SERVING = {
    "item_weight": 0.0, "value_weight": 0.0, "item_candidates": 0, "score_history": False, "exclude_history": False,
}  # fmt: skip
"""Beams alone."""


def ad_ids(count: int) -> list[str]:
    return [f"ad_{number}" for number in range(count)]


def random_codes(
    sizes: Sequence[int],
    count: int,
    rng: np.random.Generator,
    *,
    distinct: bool = False,
    per_prefix: int | None = None,
) -> np.ndarray:
    """int64 (count, T): codes below `sizes` (T,), uniform.

    Args:
        distinct: No SID twice.
        per_prefix: No SID twice, and so many to a prefix of T - 1 codes on average. Spread over all prefixes of large
            codebooks there would be one, and no more beams at the last level than at the one before.
    """
    if per_prefix is not None:
        *upper, last = sizes
        prefixes = rng.choice(int(np.prod(upper)), count // per_prefix, replace=False)
        drawn = rng.choice(len(prefixes) * last, count, replace=False)
        keys = prefixes[drawn // last] * last + drawn % last
    elif distinct:
        keys = rng.choice(int(np.prod(sizes)), count, replace=False)
    else:
        return np.stack([rng.integers(0, size, count) for size in sizes], axis=1)
    return np.stack(np.unravel_index(keys, tuple(sizes)), axis=1)


def random_tokenizer(
    sizes: Sequence[int], ads: int, *, seed: int = 0, distinct: bool = True, per_prefix: int | None = None,
    columns: Mapping[str, list] | None = None, **options: Any,
) -> UASIDTokenizer:  # fmt: skip
    """Tokenizer of ads `ad_0`, ... with random SIDs and priorities; `options` are its further arguments."""
    rng = np.random.default_rng(seed)
    codes = random_codes(sizes, ads, rng, distinct=distinct, per_prefix=per_prefix)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "items.parquet"
        SIDIndex(ad_ids(ads), codes, rng.random(ads), columns=columns).save(table)
        return UASIDTokenizer(str(table), codebook_sizes=[str(size) for size in sizes], **options)


def random_artifact(
    folder: Path,
    tokenizer: UASIDTokenizer,
    *,
    beam_widths: Sequence[int],
    seed: int = 0,
    serving: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Writes a model of the shape `config` with the tokenizer into `folder`, to be served with `beam_widths` by beams
    alone, unless `serving` (fields of `generation_config.json`) says otherwise."""
    set_seed(seed)
    GR4ADForRecommendation(GR4ADConfig.from_tokenizer(tokenizer, **config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    GenerationConfig(beam_widths=list(beam_widths), **{**SERVING, **(serving or {})}).save_pretrained(folder)
    return folder

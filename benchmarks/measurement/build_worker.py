"""One build of gr4ad as a process of `speed.py`: decodes a request whenever a line asks for it.

    python -m measurement.build_worker FOLDER SIZE WRITE

with the build's `src` on PYTHONPATH. SIZE is JSON: `codebooks`, `ads`, `per_prefix`, `history` (items), `widths` of
the decoded request, `served` (beams of the artifact), `model` (fields of the configuration). With WRITE = write the
artifact is first written into FOLDER by this build; with WRITE = write_own also with the parts of p(SID) that this
build's recipes have, as far as it knows them. Prints a line of JSON with `file` (where this gr4ad lies) and
`scores` (of the request), then for each line of its input the milliseconds of one search.

Uses names alone that are in both builds.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

import gr4ad
from gr4ad import GR4ADForRecommendation, UASIDTokenizer
from gr4ad.pipeline.settings import ModelSettings
from measurement.random_artifact import random_artifact, random_tokenizer


def path_parts(tokenizer: UASIDTokenizer, hidden_size: int) -> dict:
    """What a recipe of this build makes of p(SID): fields of the configuration; none of a build that has no choice."""
    settings = ModelSettings()
    if not hasattr(settings, "sid_copy"):
        return {}
    codes = np.unique(tokenizer.index.codes, axis=0)
    prefixes = sum(len(np.unique(codes[:, : level + 1], axis=0)) for level in range(codes.shape[1]))
    return {
        "num_prefix_vectors": min(settings.prefix_vectors, prefixes), "sid_copy": True, "sid_repeat": True,
        "prefix_size": min(settings.prefix_size, hidden_size),
    }  # fmt: skip


def fill_prefix_vectors(folder: Path, tokenizer: UASIDTokenizer) -> None:
    """Random vectors for the prefixes of the catalog."""
    model = GR4ADForRecommendation.from_pretrained(folder)
    ads, size = len(tokenizer.index), model.prefix_vectors.vectors.shape[1]
    generator = torch.Generator().manual_seed(0)
    vectors = 0.02 * torch.randn(ads, size, generator=generator)
    model.prefix_vectors.set_prefixes(model.build_trie(tokenizer), torch.ones(ads), vectors)
    model.save_pretrained(folder)


@torch.no_grad()
def main(folder: Path, size: dict, write: str) -> None:
    torch.set_num_threads(1)
    if write in ("write", "write_own"):
        tokenizer = random_tokenizer(size["codebooks"], size["ads"], per_prefix=size["per_prefix"])
        own = path_parts(tokenizer, size["model"]["hidden_size"]) if write == "write_own" else {}
        levels = len(size["codebooks"])
        random_artifact(folder, tokenizer, beam_widths=[size["served"]] * levels, **size["model"], **own)
        if own:
            fill_prefix_vectors(folder, tokenizer)
    tokenizer = UASIDTokenizer.from_pretrained(folder)
    model = GR4ADForRecommendation.from_pretrained(folder).eval()
    trie = model.build_trie(tokenizer)
    rows = np.random.default_rng(0).integers(0, size["ads"], size["history"])
    sids = torch.from_numpy(tokenizer.index.codes[rows]) + torch.tensor(model.config.level_offsets)
    history = sids.reshape(1, -1)
    # What an engine makes once for all searches, in a build that has it.
    shared = {"token_table": model.token_table()} if hasattr(model, "token_table") else {}

    def search() -> torch.Tensor:
        return model.beam_search(
            history,
            torch.ones_like(history),
            beam_widths=list(size["widths"]),
            trie=trie,
            return_values=False,
            **shared,
        ).scores[0]

    print(json.dumps({"file": gr4ad.__file__, "scores": search().tolist()}), flush=True)  # noqa: T201
    for _ in sys.stdin:
        begun = time.perf_counter()
        search()
        print(1000 * (time.perf_counter() - begun), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])

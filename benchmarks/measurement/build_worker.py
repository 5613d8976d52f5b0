"""One build of gr4ad as a process of `speed.py`: decodes a request whenever a line asks for it.

    python -m measurement.build_worker FOLDER SIZE WRITE

with the build's `src` on PYTHONPATH. SIZE is JSON: `codebooks`, `ads`, `per_prefix`, `history` (items), `widths` of
the decoded request, `served` (beams of the artifact), `model` (fields of the configuration). With WRITE = write the
artifact is first written into FOLDER by this build. Prints a line of JSON with `file` (where this gr4ad lies) and
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
from measurement.random_artifact import random_artifact, random_tokenizer


@torch.no_grad()
def main(folder: Path, size: dict, write: bool) -> None:
    torch.set_num_threads(1)
    if write:
        tokenizer = random_tokenizer(size["codebooks"], size["ads"], per_prefix=size["per_prefix"])
        levels = len(size["codebooks"])
        random_artifact(folder, tokenizer, beam_widths=[size["served"]] * levels, **size["model"])
    tokenizer = UASIDTokenizer.from_pretrained(folder)
    model = GR4ADForRecommendation.from_pretrained(folder).eval()
    trie = model.build_trie(tokenizer)
    rows = np.random.default_rng(0).integers(0, size["ads"], size["history"])
    sids = torch.from_numpy(tokenizer.index.codes[rows]) + torch.tensor(model.config.level_offsets)
    history = sids.reshape(1, -1)

    def search() -> torch.Tensor:
        return model.beam_search(
            history, torch.ones_like(history), beam_widths=list(size["widths"]), trie=trie, return_values=False
        ).scores[0]

    print(json.dumps({"file": gr4ad.__file__, "scores": search().tolist()}), flush=True)  # noqa: T201
    for _ in sys.stdin:
        begun = time.perf_counter()
        search()
        print(1000 * (time.perf_counter() - begun), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3] == "write")

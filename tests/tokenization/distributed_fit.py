"""Started in several processes by test_distributed_fit.py: each fits its part of a catalog and writes what it got."""

import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState

from gr4ad.tokenization import MGMRQuantizer
from gr4ad.tokenization.collective import ManyProcesses

folder = Path(sys.argv[1])
torch.set_num_threads(1)
group = ManyProcesses()
data = np.load(folder / "embeddings.npy")
cut = [0, len(data) // 3, len(data)]  # parts of different sizes
part = slice(cut[group.rank], cut[group.rank + 1])
keys = [f"key_{n % 17}" for n in range(len(data))]
for number, sizes in enumerate([["16", "8", "8"], ["16", "8", "8*"]]):
    quantizer = MGMRQuantizer(
        sizes, distinct_last=True, iterations=5, balanced_iterations=3, max_points_per_centroid=20
    )
    codes = quantizer.fit(data[part], keys[part], distributed=True)
    np.save(folder / f"codes_{number}_{group.rank}.npy", codes)
    quantizer.save(folder / f"codebooks_{number}_{group.rank}.safetensors")
PartialState().wait_for_everyone()  # gloo aborts a process whose partner has left
PartialState().destroy_process_group()

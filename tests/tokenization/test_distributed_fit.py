import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from gr4ad.tokenization import MGMRQuantizer

SCRIPT = Path(__file__).parent / "distributed_fit.py"


def test_two_processes_fit_what_one_does(tmp_path):
    data = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    np.save(tmp_path / "embeddings.npy", data)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launch, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    keys = [f"key_{n % 17}" for n in range(600)]
    for number, sizes in enumerate([["16", "8", "8"], ["16", "8", "8*"]]):
        alone = MGMRQuantizer(
            sizes, distinct_last=True, iterations=5, balanced_iterations=3, max_points_per_centroid=20
        )
        codes = alone.fit(data, keys)
        together = np.concatenate([np.load(tmp_path / f"codes_{number}_{rank}.npy") for rank in range(2)])
        # Sums run in another order: a point between two centroids may go the other way; hardly any does.
        assert (together == codes).all(1).mean() > 0.98
        first, second = (load_file(tmp_path / f"codebooks_{number}_{rank}.safetensors") for rank in range(2))
        for level, book in enumerate(alone.codebooks, start=1):
            np.testing.assert_array_equal(first[f"level_{level}"], second[f"level_{level}"])
            np.testing.assert_allclose(first[f"level_{level}"], book, atol=0.05)
        assert len(np.unique(together, axis=0)) == len(np.unique(codes, axis=0))

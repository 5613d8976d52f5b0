"""Started in two processes by test_encoder_tuning.py: each takes the gradient of half a batch, averaged as in DDP."""

import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from scipy import sparse

from gr4ad.trainers.cooccurrence import CooccurrenceLoss


class Table(torch.nn.Module):
    """An encoder whose embeddings are its weights."""

    def __init__(self, weights: torch.Tensor):
        super().__init__()
        self.weights = torch.nn.Parameter(weights)

    def forward(self, features: dict) -> dict:
        return {"sentence_embedding": self.weights[features["rows"]]}


state = PartialState(cpu=True)
parts = np.load(Path(sys.argv[1]) / "batch.npz")
model = Table(torch.from_numpy(parts["weights"]))
loss = CooccurrenceLoss(model, sparse.csr_array(parts["cooccur"]), np.arange(8), np.arange(8), 0.3)
rows = torch.arange(8).chunk(state.num_processes)[state.process_index]
loss([{"rows": rows}], rows).backward()
gradient = reduce(model.weights.grad, "mean")
if state.is_main_process:
    np.save(Path(sys.argv[1]) / f"gradient_{state.num_processes}.npy", gradient.numpy())
state.wait_for_everyone()  # gloo aborts a process whose partner has left
state.destroy_process_group()

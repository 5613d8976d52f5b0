"""Gradients of one batch, in one process whole or in several sharded by FSDP2: vsl_sharded.py PARTS OUT."""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset, disable_progress_bars
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from gr4ad.modeling_gr4ad import GR4ADForRecommendation
from gr4ad.tokenization import UASIDTokenizer
from gr4ad.trainers.vsl import VSLCollator, tokenize_histories
from gr4ad.trainers.vsl.training_metrics import all_finite

disable_progress_bars()
torch.set_num_threads(1)
parts, out = Path(sys.argv[1]), Path(sys.argv[2])
state = PartialState(cpu=True)
tokenizer = UASIDTokenizer.from_pretrained(parts / "tokenizer")
log = Dataset.from_parquet(str(parts / "log.parquet"), keep_in_memory=True).select(range(16))
rows = list(tokenize_histories(log, tokenizer, max_items=6))
collator = VSLCollator(tokenizer)
total = collator(rows)["labels"].ge(0).sum()
model = GR4ADForRecommendation.from_pretrained(parts / "model").train()
if state.num_processes > 1:
    mesh = init_device_mesh("cpu", (state.num_processes,))
    for layer in [*model.model.layers, *model.model.context_processor.layers]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
mine = rows[state.process_index :: state.num_processes]
loss = model(**collator(mine), num_items_in_batch=total).loss * state.num_processes  # gradients are averaged
loss.backward()
assert all_finite(model)
gradients = {}
for name, parameter in model.named_parameters():
    gradient = parameter.grad.full_tensor() if state.num_processes > 1 else parameter.grad
    gradients[name] = gradient.contiguous()
if state.is_main_process:
    save_file(gradients, out)
state.wait_for_everyone()  # gloo aborts a process whose partner has left
if state.num_processes > 1:
    state.destroy_process_group()

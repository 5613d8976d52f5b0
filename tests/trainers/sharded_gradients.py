"""Gradients of one batch, in one process whole or in several sharded by FSDP2: sharded_gradients.py LOSS PARTS OUT.

LOSS is vsl or rspo. PARTS holds `model/`, `tokenizer/` and `log.parquet` or `lists.parquet`.
"""

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
from gr4ad.trainers import RSPOConfig
from gr4ad.trainers.finite_training import all_finite
from gr4ad.trainers.rspo.list_grades import value_grades
from gr4ad.trainers.rspo.preference_lists import RSPOCollator
from gr4ad.trainers.rspo.preference_losses import loss_of
from gr4ad.trainers.rspo.rspo_objective import preference_objective
from gr4ad.trainers.vsl import VSLCollator, tokenize_histories

disable_progress_bars()
torch.set_num_threads(1)
kind, parts, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
state = PartialState(cpu=True)
tokenizer = UASIDTokenizer.from_pretrained(parts / "tokenizer")
file = {"vsl": "log.parquet", "rspo": "lists.parquet"}[kind]
data = Dataset.from_parquet(str(parts / file), keep_in_memory=True).select(range(16))
model = GR4ADForRecommendation.from_pretrained(parts / "model").train()
trie = model.build_trie(tokenizer, removed=True)


def vsl(rows: list[dict]) -> torch.Tensor:
    collator = VSLCollator(tokenizer)
    count = collator(everything)["labels"].ge(0).sum()
    return model(**collator(rows), num_items_in_batch=count, trie=trie).loss


def rspo(rows: list[dict]) -> torch.Tensor:
    collator = RSPOCollator(tokenizer, 6, with_items=True)
    args = RSPOConfig(str(out.parent), use_cpu=True, bf16=False, item_weight=0.6, unified=True, reference="none")
    whole = collator(everything)
    grades = value_grades(whole["rewards"], whole["candidate_mask"], max_grade=args.max_grade)
    count = loss_of("rspo").counted(grades, whole["candidate_mask"])
    return preference_objective(model, collator(rows), args, count=count, num_lists=len(everything), trie=trie)[0]


everything = list(tokenize_histories(data, tokenizer, max_items=6)) if kind == "vsl" else list(data)
if state.num_processes > 1:
    mesh = init_device_mesh("cpu", (state.num_processes,))
    for layer in [*model.model.layers, *model.model.context_processor.layers]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
mine = everything[state.process_index :: state.num_processes]
loss = {"vsl": vsl, "rspo": rspo}[kind](mine) * state.num_processes  # gradients are averaged
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

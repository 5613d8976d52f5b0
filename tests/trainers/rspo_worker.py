"""Aligns by RSPO in a process of its own, or one of many: rspo_worker.py PARTS OUT '{"max_steps": 8, ...}'.

PARTS holds `model/`, `tokenizer/` and `lists.parquet`. Settings are RSPOConfig's. Writes OUT/result.safetensors
(parameters) and OUT/result.json (logs) from rank 0.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset, disable_progress_bars
from safetensors.torch import save_file

from gr4ad.modeling_gr4ad import GR4ADForRecommendation
from gr4ad.tokenization import UASIDTokenizer
from gr4ad.trainers import RSPOConfig, RSPOTrainer

disable_progress_bars()
torch.set_num_threads(1)
parts, out, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
given = {"learning_rate": 5e-3, "save_strategy": "no", "logging_steps": 1, "beta": 0.5, "bf16": False}
trainer = RSPOTrainer(
    model=GR4ADForRecommendation.from_pretrained(parts / "model"),
    args=RSPOConfig(output_dir=str(out), use_cpu=True, disable_tqdm=True, **{**given, **settings}),
    train_dataset=Dataset.from_parquet(str(parts / "lists.parquet"), keep_in_memory=True),
    processing_class=UASIDTokenizer.from_pretrained(parts / "tokenizer"),
)
trainer.train()
if trainer.is_world_process_zero():
    model = trainer.accelerator.unwrap_model(trainer.model)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, out / "result.safetensors")
    (out / "result.json").write_text(json.dumps(trainer.state.log_history))
PartialState().wait_for_everyone()  # gloo aborts a process whose partner has left
if PartialState().num_processes > 1:
    PartialState().destroy_process_group()

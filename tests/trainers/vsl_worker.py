"""Trains by VSL in a process of its own, or one of many: vsl_worker.py PARTS OUT '{"max_steps": 8, ...}'.

PARTS holds `model/`, `tokenizer/` and `log.parquet`. Settings are VSLConfig's, and: `resume`, `streaming`;
`limit_file_size_after`, the step after which no file may grow beyond half an optimizer's; `kill_rank_at`, the step at
which rank 1 kills itself. Writes OUT/result.safetensors (parameters) and OUT/result.json (logs) from rank 0.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset, disable_progress_bars, load_dataset
from safetensors.torch import save_file
from transformers import TrainerCallback

from gr4ad.modeling_gr4ad import GR4ADForRecommendation
from gr4ad.tokenization import UASIDTokenizer
from gr4ad.trainers import VSLConfig, VSLTrainer


class Faults(TrainerCallback):
    def __init__(self, limit_after: int | None, kill_at: int | None, parameters: int):
        self.limit_after, self.kill_at, self.parameters = limit_after, kill_at, parameters

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.limit_after:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (6 * self.parameters, resource.RLIM_INFINITY))

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.kill_at and args.process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)


disable_progress_bars()
torch.set_num_threads(1)
parts, out, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
resume, streaming = settings.pop("resume", False), settings.pop("streaming", False)
limit_after, kill_at = settings.pop("limit_file_size_after", None), settings.pop("kill_rank_at", None)
given = {"per_device_train_batch_size": 16, "learning_rate": 5e-3, "save_strategy": "steps", "logging_steps": 1}
arguments = VSLConfig(output_dir=str(out), use_cpu=True, disable_tqdm=True, **{**given, **settings})
model = GR4ADForRecommendation.from_pretrained(parts / "model")
log = str(parts / "log.parquet")
trainer = VSLTrainer(
    model=model,
    args=arguments,
    train_dataset=(
        load_dataset("parquet", data_files=log, split="train", streaming=True)
        if streaming
        else Dataset.from_parquet(log, keep_in_memory=True)
    ),
    processing_class=UASIDTokenizer.from_pretrained(parts / "tokenizer"),
    callbacks=[Faults(limit_after, kill_at, sum(p.numel() for p in model.parameters()))],
)
trainer.train(resume_from_checkpoint=resume or None)
if trainer.is_world_process_zero():
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, out / "result.safetensors")
    (out / "result.json").write_text(json.dumps(trainer.state.log_history))
PartialState().wait_for_everyone()  # gloo aborts a process whose partner has left
if PartialState().num_processes > 1:
    PartialState().destroy_process_group()

#!/usr/bin/env bash
# transformers: a module that is named to stay in float32 loses its whole numbers when the model is loaded in half precision.
#
# Guess before the run: `_keep_in_fp32_modules_strict` says which weights `from_pretrained(dtype=torch.bfloat16)` may not round. Counters (int64) and masks
# (bool) below such a module are no floating-point weights, which loading leaves as they are everywhere else: they stay what they are.
#
# Seen (transformers 5.19.0, torch 2.13.0, CPU): they become float32. 16,777,217, saved as int64, is read as 16,777,216.0, the nearest float32, without a
# word; a bool mask is read as 1.0, so that `~mask` raises TypeError. The same folder keeps both when it is loaded in float32, where the list is not
# consulted, and in bfloat16 when the list names the float buffers one by one.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.19.0 torch==2.13.0 numpy==2.4.0

cat >"$folder/load.py" <<'PYTHON'
import sys

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


class Config(PreTrainedConfig):
    model_type = "clicks"


class Clicks(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.tensor([2**24 + 1]))
        self.register_buffer("open", torch.tensor([True]))
        self.register_buffer("rate", torch.tensor([0.123456789]))


class Model(PreTrainedModel):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.clicks, self.head = Clicks(), nn.Linear(2, 2)
        self.post_init()


folder = sys.argv[1]
Model(Config()).save_pretrained(folder)
print("transformers", transformers.__version__, "torch", torch.__version__)
found = []
for named in (None, ["clicks"], ["clicks.rate"]):
    Model._keep_in_fp32_modules_strict = named
    for dtype in (torch.float32, torch.bfloat16):
        clicks = Model.from_pretrained(folder, dtype=dtype).clicks
        line = [str(buffer.dtype).removeprefix("torch.") for buffer in (clicks.seen, clicks.open, clicks.rate)]
        found.append([named and named[0], str(dtype).removeprefix("torch."), clicks.seen.item(), *line])
        print("kept in float32:", named, "loaded in:", dtype, "counter:", clicks.seen.item(), "dtypes:", *line)
whole = ["int64", "bool"]
assert found == [
    [None, "float32", 16777217, *whole, "float32"],
    [None, "bfloat16", 16777217, *whole, "bfloat16"],
    ["clicks", "float32", 16777217, *whole, "float32"],
    ["clicks", "bfloat16", 16777216.0, "float32", "float32", "float32"],
    ["clicks.rate", "float32", 16777217, *whole, "float32"],
    ["clicks.rate", "bfloat16", 16777217, *whole, "float32"],
], "changed: whole numbers below a module that stays in float32 are read differently"
PYTHON
"$folder/venv/bin/python" "$folder/load.py" "$folder/model" 2>/dev/null

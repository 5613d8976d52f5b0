#!/usr/bin/env bash
# torch on a CPU, in a worker thread: telling glibc to keep freed memory does not keep it.
#
# Guess before the run: with MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ set far above every tensor (the usual advice against page faults in
# inference on a CPU), a step that frees and takes a 64 MiB tensor faults no memory in anew, wherever it runs.
#
# Seen (torch 2.13.0, numpy 2.4.0, glibc 2.36, Linux, one torch thread): true of the main thread, false of any other. In a thread, as a server's pool
# runs its model, each step faults tensor and result in again, 32,773 faults of 4 KiB against 0 to 1,638. A thread's own malloc arena consists of heaps of at
# most 64 MiB, which go back to the system as soon as they are empty, and what does not fit into one is mapped and unmapped each time; the thresholds
# govern the main arena alone. MALLOC_ARENA_MAX=1 makes threads share the main arena: 0 to 3,276 faults.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.0

cat >"$folder/faults.py" <<'PYTHON'
import resource
import sys
import threading

import torch

torch.set_num_threads(1)
rows, weights = torch.randn(2048, 64), torch.randn(64, 8192)  # the product has 64 MiB


def faults_per_step():
    def step():
        torch.log_softmax(rows @ weights, -1).topk(8)

    for _ in range(3):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)


if sys.argv[1] == "main":
    faults_per_step()
else:
    thread = threading.Thread(target=faults_per_step)
    thread.start()
    thread.join()
PYTHON

export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=2000000000
python="$folder/venv/bin/python"
getconf GNU_LIBC_VERSION
"$python" -c 'import torch, numpy; print("torch", torch.__version__, "numpy", numpy.__version__)'
main=$("$python" "$folder/faults.py" main)
thread=$("$python" "$folder/faults.py" thread)
shared=$(MALLOC_ARENA_MAX=1 "$python" "$folder/faults.py" thread)
echo "page faults a step: main thread $main, another thread $thread, another thread in the main arena $shared"
if ((thread < 20000)) || ((main > 6000)) || ((shared > 6000)); then
    echo "changed: a thread keeps its memory, or sharing the main arena does not help any more" >&2
    exit 1
fi

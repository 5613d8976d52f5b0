"""Where the time of one request goes, and how near it is to what the machine can do: the stages of `decode.py`.

`trie` looks up the children of the beams; `selection` is the rest of the search: what of p(SID) is not the heads'
products, top-k, bookkeeping.
FLOPs are what `FlopCounterMode` counts; bytes are what the same operations, matrix products and attention, read and
write: weights, context keys and values, activations; not element-wise work and look-ups.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, SIDTrie
from measurement.timing import milliseconds, timed

STAGES = ("encode", "trunk", "level 1", "level 2", "level 3", "heads", "trie", "selection")
# `FlopCounterMode` knows the attention of GPUs alone; the CPU's kernel takes the same formula.
CPU_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
CPU_ATTENTION = {CPU_KERNEL: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
COUNTED = {*flop_registry, *CPU_ATTENTION}


@contextmanager
def stages(model: GR4ADForRecommendation, trie: SIDTrie, watch: Callable[[str, Callable], object]) -> Iterator[None]:
    """Has `watch(stage, call)` run every stage of one request."""
    level = itertools.count(1)

    def watched(stage: str, method: Callable, *args: Any, **kwargs: Any) -> object:
        return watch(f"level {next(level)}" if stage == "level" else stage, partial(method, *args, **kwargs))

    parts = [
        (model.model, "encode", "encode"),
        (model.model, "trunk", "trunk"),
        (model.model, "autoregress", "level"),
        *((head, "forward", "heads") for head in model.sid_heads),
        (trie, "children", "trie"),
    ]
    for owner, method, stage in parts:
        setattr(owner, method, partial(watched, stage, getattr(owner, method)))
    try:
        yield
    finally:
        for owner, method, _ in parts:
            delattr(owner, method)


def stage_times(request: Callable, model: GR4ADForRecommendation, trie: SIDTrie) -> dict[str, float]:
    """Milliseconds of each stage; `selection` is what the others leave."""
    times: Counter = Counter()

    def watch(stage: str, call: Callable) -> object:
        elapsed, result = timed(call)
        times[stage] += elapsed
        return result

    with stages(model, trie, watch):
        whole, _ = timed(request)
    return {**times, "selection": whole - times.total()}


class Traffic(TorchDispatchMode):
    """Counts the bytes of all operands and results of the operations whose FLOPs count. A view that repeats a tensor
    is read once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket in COUNTED:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(min(tensor.nbytes, tensor.untyped_storage().nbytes()) for tensor in tensors)
        return result


def stage_work(request: Callable, model: GR4ADForRecommendation, trie: SIDTrie) -> tuple[Counter, Counter]:
    flops: Counter = Counter()
    traffic: Counter = Counter()

    def watch(stage: str, call: Callable) -> object:
        with Traffic() as moved, FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            result = call()
        flops[stage] += counter.get_total_flops()
        traffic[stage] += moved.bytes
        return result

    with stages(model, trie, watch):
        request()
    return flops, traffic


def machine_peaks(rows: int, size: int, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """FLOP/s of a product of square matrices of `rows` rows, and bytes/s, read and written, of a copy of `size` bytes:
    the best of five."""
    left, right = (torch.randn(rows, rows, device=device).to(dtype) for _ in range(2))
    source, target = (torch.ones(size // 4, device=device) for _ in range(2))
    product = min(milliseconds(lambda: left @ right) for _ in range(5))
    copy = min(milliseconds(lambda: target.copy_(source)) for _ in range(5))
    return 2e3 * rows**3 / product, 2e3 * source.nbytes / copy

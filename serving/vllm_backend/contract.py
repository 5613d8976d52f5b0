# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What this package relies on in vLLM beyond its public interface, checked against the vLLM that is installed.

```
python -m gr4ad.serving.vllm_backend.contract
```

prints what has changed, one line each, and where to look; nothing and exit code 0 where all is as it was in 0.32.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields

from vllm.config import ModelConfig, ParallelConfig, VllmConfig
from vllm.entrypoints.launchers.api_server import entry
from vllm.entrypoints.serve.middleware.authenticate import GUARDED_PREFIX
from vllm.model_executor.layers.pooler import Pooler
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.plugins.endpoint_plugins.interface import EndpointPlugin
from vllm.pooling_params import PoolingParams
from vllm.transformers_utils.model_arch_config_convertor import ModelArchConfigConvertorBase
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.request_queue import FCFSRequestQueue, PriorityRequestQueue
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core import EngineCore
from vllm.v1.pool.metadata import PoolingCursor, PoolingMetadata
from vllm.v1.request import Request
from vllm.v1.worker.gpu.model_states import resolve_model_state_cls

from .endpoint import RecommendEndpoint
from .scheduler import ADDED, EXTENDED, TOUCHED, LevelAdaptiveScheduler

REMEDY = "Read the new code, adapt this file and the module named, and run tests/serving/vllm_backend."


def parameters(function: Callable) -> list[str]:
    return list(inspect.signature(function).parameters)


def source(function: object) -> str:
    return inspect.getsource(function)  # type: ignore[arg-type]


def assumptions() -> Iterator[tuple[str, bool, str]]:
    """(module of this package, whether it holds, what it relies on)."""
    in_init = source(Scheduler.__init__)
    for name in EXTENDED:
        own = name in vars(Scheduler) and callable(vars(Scheduler)[name])
        yield "scheduler", own, f"`Scheduler.{name}` is a method of vLLM's scheduler"
    extended = [name for name, value in vars(LevelAdaptiveScheduler).items() if callable(value)]
    replaced = [name for name in extended if name not in EXTENDED and hasattr(Scheduler, name)]
    yield "scheduler", not replaced, f"vLLM's schedulers have no methods of our names; they have {replaced}"
    for name in TOUCHED:
        yield "scheduler", f"self.{name} =" in in_init or f"self.{name}:" in in_init, f"`Scheduler.{name}` is set"
    taken = [
        name for name in ADDED if f"self.{name} " in source(Scheduler) or f"self.{name} " in source(AsyncScheduler)
    ]
    yield "scheduler", not taken, f"vLLM's schedulers have no attributes of our names; they have {taken}"
    schedule, engine_init = source(Scheduler.schedule), source(EngineCore.__init__)
    counts = "len(self.running)" in schedule and "self.max_num_active_reqs" in schedule
    yield "scheduler", counts, "`Scheduler.schedule` starts requests until `max_num_active_reqs` are running"
    reads = "self.scheduler_config.enable_chunked_prefill" in schedule
    yield "scheduler", reads, "`Scheduler.schedule` reads `scheduler_config.enable_chunked_prefill` at each step"
    turns = "scheduler_config.enable_chunked_prefill = False" in engine_init
    yield "scheduler", turns, "the engine turns chunked prefill off without a KV cache, before it makes the scheduler"
    yield "scheduler", issubclass(AsyncScheduler, Scheduler), "`AsyncScheduler` is a `Scheduler`"
    takes = parameters(Scheduler.update_from_output)[:3] == ["self", "scheduler_output", "model_runner_output"]
    yield "scheduler", takes, "`Scheduler.update_from_output` takes the scheduler output and the runner's"
    for queue in (FCFSRequestQueue, PriorityRequestQueue):
        has = all(hasattr(queue, name) for name in ("remove_request", "prepend_request", "__iter__", "__len__"))
        yield "scheduler", has, f"`{queue.__name__}` can be iterated, and requests removed and put in front"
    in_request = source(Request.__init__)
    for name in ("pooling_params", "arrival_time", "prompt_token_ids"):
        yield "scheduler", f"self.{name} =" in in_request, f"`Request.{name}` is set"
    travels = "extra_kwargs" in PoolingParams.__struct_fields__
    yield "query", travels, "`PoolingParams.extra_kwargs` travels to the engine"
    abstract = Pooler.__abstractmethods__ == {"get_supported_tasks", "forward"}
    yield "model", abstract, "a `Pooler` is `get_supported_tasks` and `forward`"
    tells = {"pooling_params", "pooling_cursor"} <= {part.name for part in fields(PoolingMetadata)}
    tells = tells and hasattr(PoolingCursor, "get_finished_mask")
    yield "model", tells, "`PoolingMetadata` tells parameters and which prompts are complete"
    reads = "allow_patterns_overrides" in source(DefaultModelLoader)
    yield "model", reads, "the loader reads the files that `allow_patterns_overrides` of a model names"
    yield "model", "get_model_state_cls" in source(resolve_model_state_cls), "runner V2 asks `get_model_state_cls`"
    hooks = {"verify_and_update_config", "verify_and_update_model_config"}
    has = hooks <= set(vars(VerifyAndUpdateConfig))
    yield "registration", has, f"`MODELS_CONFIG_MAP` holds classes with {' and '.join(sorted(hooks))}"
    called = "verify_and_update_config(self)" in source(VllmConfig.try_verify_and_update_config)
    called = called and "update_model_config(self)" in source(ModelConfig._try_verify_and_update_model_config)
    yield "registration", called, "both are called for the architecture of a model"
    derives = hasattr(ModelArchConfigConvertorBase, "derive_max_model_len_and_key")
    yield "registration", derives, "convertors of `MODEL_ARCH_CONFIG_CONVERTORS` have `derive_max_model_len_and_key`"
    plugin = isinstance(RecommendEndpoint(), EndpointPlugin)
    yield "endpoint", plugin, "`EndpointPlugin` is `name`, `required_tasks`, `attach_router` and `init_state`"
    takes = parameters(AsyncLLM.encode)[:4] == ["self", "prompt", "pooling_params", "request_id"]
    yield "engine", takes, "`AsyncLLM.encode` takes a prompt, pooling parameters and a request id"
    yield "endpoint", "/v2" in GUARDED_PREFIX, "`--api-key` guards Open Inference, which stands under /v2"
    ranked = "data_parallel_index" in {part.name for part in fields(ParallelConfig)}
    yield "worker_extension", ranked, "`ParallelConfig.data_parallel_index` tells replicas apart"
    yield "launch", callable(entry.main), "`vllm.entrypoints.launchers.api_server.entry.main` starts a server"


def broken_assumptions() -> list[str]:
    """One line for each assumption that does not hold; empty for vLLM 0.32."""
    from vllm import __version__

    return [
        f"vLLM {__version__}: no longer true that {what}. serving/vllm_backend/{module}.py relies on it. {REMEDY}"
        for module, holds, what in assumptions()
        if not holds
    ]


if __name__ == "__main__":
    broken = broken_assumptions()
    sys.stdout.writelines(f"{line}\n" for line in broken)
    sys.exit(1 if broken else 0)

# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""GR4AD on a stock vLLM, by entry points: model, load-adaptive scheduler, the routes of the server, offline use.

Needs the extra `gr4ad[vllm]`. Nothing here is imported unless vLLM, or `backend="vllm"`, asks for it. The folder is
not called `vllm`: whoever has `serving` on their path would import it instead of vLLM.

| module | is |
|---|---|
| `registration` | entry point `vllm.general_plugins`: makes vLLM know the architecture, refuses what does not work |
| `options` | what can be set, under `gr4ad` of vLLM's `additional_config` |
| `query` | a query and its answer on their way between vLLM's processes |
| `model` | the pooling model that vLLM loads and calls |
| `scheduler` | `LevelAdaptiveScheduler` and its asynchronous twin |
| `worker_extension` | changes ads and weights of running engines, by `collective_rpc` |
| `engine` | vLLM's engines as the `Engine` of the HTTP front |
| `endpoint` | entry point `vllm.endpoint_plugins`: the front's routes in vLLM's API server |
| `offline` | `load_recommender(..., backend="vllm")` |
| `launch` | `gr4ad serve --backend vllm` |
| `contract` | what of vLLM all this relies on beyond its public interface, and whether it still holds |
"""

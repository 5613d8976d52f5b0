# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The HTTP server as replicas of a Ray Serve deployment, a user's requests always at the same one.

    serve run gr4ad.serving.ray_app:build model=out/beauty num_replicas=2

Needs the extra `gr4ad[ray]`. Each replica is the whole server of `http_server.py`, with a queue, a beam policy and a
result cache of its own. Ray's router hashes the header `x-session-id`, which holds a user's id: the result cache of
the replica it names holds what this user got before, so that one request in four (27.8%, arXiv 2602.22732) costs
nothing, without a cache that all share. Requests without the header go to any replica.
"""

from typing import Any  # no annotations of the future: Ray reads that of `build`

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .http_server import create_app
from .live_model import LiveModel
from .published_model import PublishedModel
from .server_config import ServerConfig

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
SESSION_HEADER = "x-session-id"  # Ray's default; its variable RAY_SERVE_SESSION_ID_HEADER_KEY names another
REPLICA_HEADER = "x-gr4ad-replica"


class RayOptions(BaseModel):
    """What `build` takes: `NAME=VALUE` of `serve run`, or `args` of a Serve config file."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="Folder that every node can read, hub id, or root of a published model.")
    num_replicas: int = Field(default=2, ge=1)
    num_cpus: float = Field(default=1.0, ge=0, description="Cores a replica reserves, and threads it computes with.")
    num_gpus: float = Field(default=0.0, ge=0, description="GPUs a replica reserves.")
    health_check_period_s: float = Field(default=10.0, gt=0, description="Seconds between looks at a replica.")
    server: dict[str, Any] = Field(default_factory=dict, description="Fields of `ServerConfig`; not host and port.")


class NameReplica:
    """Tells in a header of each response which replica gave it."""

    def __init__(self, app: ASGIApp, replica: str):
        self.app, self.replica = app, replica

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def named_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REPLICA_HEADER] = self.replica
            await send(message)

        await self.app(scope, receive, named_send)


class RecommenderReplica:
    """One replica; Ray asks it for its ASGI app once it is in place."""

    def __init__(self, model: str, config: ServerConfig):
        self.model, self.config = model, config

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_app(LiveModel(self.model), self.config)
        app.add_middleware(NameReplica, replica=serve.get_replica_context().replica_id.unique_id)
        return app


def build(options: RayOptions) -> serve.Application:
    """The Ray Serve application of a model.

    Raises:
        ValueError: If an option of the server is out of its range, or changes could reach one replica only.
    """
    config = ServerConfig(**options.server)
    if options.num_replicas > 1 and config.admin_token() is not None and not PublishedModel.exists_at(options.model):
        raise ValueError(
            f"`model` must be a published model where {options.num_replicas} replicas take changes: what one is told "
            f"over /v1/index or /v1/reload the others would not know. Received: {options.model!r}. Publish it, or "
            "start without an administration token."
        )
    deployment = serve.deployment(
        name="Recommender",
        num_replicas=options.num_replicas,
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus},
        # The server's own queue batches and refuses, with a reason; Ray's default of 5 would starve its batches.
        max_ongoing_requests=config.max_queue,
        graceful_shutdown_timeout_s=config.drain_seconds,
        health_check_period_s=options.health_check_period_s,
        request_router_config={"request_router_class": ROUTER},
    )(serve.ingress()(RecommenderReplica))
    return deployment.bind(options.model, config)

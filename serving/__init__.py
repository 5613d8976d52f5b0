"""Serving: a recommender object, the beam policy, an HTTP server, and the folder through which trainers reach it.

The server needs the extra `gr4ad[serve]` and is imported when first named, so that a recommender alone does not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .beam_policy import BeamPolicy, Load, level_widths
from .index_change import IndexChange
from .published_model import PublishedModel, PublishedModelError
from .recommender import Recommendation, Recommender, UnknownItemError
from .server_config import ServerConfig

if TYPE_CHECKING:
    from .http_server import create_app, serve

SERVER_NAMES = ("create_app", "serve")


def __getattr__(name: str) -> Any:
    if name not in SERVER_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        server = import_module(".http_server", __name__)
    except ModuleNotFoundError as error:
        raise ImportError(f"`{name}` needs {error.name!r}: pip install 'gr4ad[serve]'.", name=error.name) from error
    return vars(server)[name]


__all__ = [
    "BeamPolicy",
    "Load",
    "IndexChange",
    "PublishedModel",
    "PublishedModelError",
    "Recommendation",
    "Recommender",
    "ServerConfig",
    "UnknownItemError",
    "create_app",
    "level_widths",
    "serve",
]

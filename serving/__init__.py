"""Serving: a recommender object, the beam policy, an HTTP server, and the folder through which trainers reach it.

A name is imported when it is first used: options and policy need no torch, a recommender no HTTP library. The server
needs the extra `gr4ad[serve]`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ad_recommender import AdRecommender as AdRecommender
    from .beam_policy import BeamPolicy as BeamPolicy
    from .beam_policy import Load as Load
    from .beam_policy import level_widths as level_widths
    from .http_server import create_app as create_app
    from .http_server import serve as serve
    from .index_change import IndexChange as IndexChange
    from .loading import load_recommender as load_recommender
    from .published_model import PublishedModel as PublishedModel
    from .published_model import PublishedModelError as PublishedModelError
    from .recommender import Recommender as Recommender
    from .request_types import Recommendation as Recommendation
    from .request_types import UnknownItemError as UnknownItemError
    from .server_config import ServerConfig as ServerConfig

MODULES = {
    "AdRecommender": "ad_recommender",
    "BeamPolicy": "beam_policy",
    "IndexChange": "index_change",
    "Load": "beam_policy",
    "PublishedModel": "published_model",
    "PublishedModelError": "published_model",
    "Recommendation": "request_types",
    "Recommender": "recommender",
    "ServerConfig": "server_config",
    "UnknownItemError": "request_types",
    "create_app": "http_server",
    "level_widths": "beam_policy",
    "load_recommender": "loading",
    "serve": "http_server",
}


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f".{MODULES[name]}", __name__)
    except ModuleNotFoundError as error:
        if MODULES[name] != "http_server":
            raise
        raise ImportError(f"`{name}` needs {error.name!r}: pip install 'gr4ad[serve]'.", name=error.name) from error
    return vars(module)[name]


__all__ = list(MODULES)

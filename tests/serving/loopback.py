"""A real server on a free loopback port, for the tests of this folder."""

import threading
import time
from contextlib import contextmanager

import httpx

from gr4ad.serving import ServerConfig, create_app
from gr4ad.serving.http_server import RecommendServer

URL = "/v1/recommend"


@contextmanager
def served(model, **options):
    """Yields the server and a client of it."""
    config = ServerConfig(port=0, **{"deadline_ms": 20000.0, **options})
    server = RecommendServer(create_app(model, config), config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.port is not None or not thread.is_alive(), 60)
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20, trust_env=False) as client:
            yield server, client
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def wait_until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.005)

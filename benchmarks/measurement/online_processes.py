"""`gr4ad online` and `gr4ad serve` as processes that can be killed, and the files through which they are fed."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gr4ad.serving import PublishedModel
from measurement.online_models import History, Size, lists_of
from measurement.server_process import ServerProcess

WIDEST = 1024  # beams that hold every ad
STREAMS = ("vsl", "rl", "catalog")
SERVER = {
    "watch_seconds": 0.5, "deadline_ms": 60_000, "max_beam_width": WIDEST, "max_beam_scale": 1, "min_beam_scale": 1,
}  # fmt: skip


class Processes:
    """`gr4ad online` on folders of its own, and `gr4ad serve` on what it publishes."""

    def __init__(self, folder: Path, artifact: Path, size: Size) -> None:
        self.folder, self.root = folder, PublishedModel(folder / "live")
        self.seen = folder / "state" / "metrics.jsonl"
        words: list[Any] = ["online", "--model", artifact, "--out", folder / "state", "--root", self.root.root]
        for stream in STREAMS:
            (folder / stream).mkdir()
            words += [f"--{stream}", folder / stream]
        words += [
            "--vsl_batch_size", 32, "--rl_batch_size", 8, "--max_wait_seconds", 1, "--poll_seconds", 0.2,
            "--publish_steps", size.publish_steps, "--save_steps", size.publish_steps, "--guard_steps", 2,
            "--guard_users", 32, "--guard_window", 256, "--max_ndcg_loss", 0.1, "--learning_rate", 1e-3,
            "--rl_weight", 0.3,
        ]  # fmt: skip
        self.command = [sys.executable, "-m", "gr4ad.cli", *map(str, words)]
        self.start_trainer()
        self.server = ServerProcess(self.root.root, folder / "server.log", SERVER)

    def start_trainer(self) -> None:
        with open(self.folder / "trainer.log", "ab") as log:
            self.trainer = subprocess.Popen(self.command, stdout=log, stderr=log)
        self.wait(lambda: PublishedModel.exists_at(self.root.root))

    def restart(self) -> None:
        self.kill()
        self.start_trainer()
        self.server.start()

    def wait(self, done: Callable[[], bool], seconds: float = 600) -> None:
        end = time.monotonic() + seconds
        while not done():
            if self.trainer.poll() is not None:
                tail = (self.folder / "trainer.log").read_text()[-2000:]
                raise RuntimeError(f"The trainer ended with {self.trainer.returncode}: {tail}")
            if time.monotonic() > end:
                raise RuntimeError("The processes do not come on.")
            time.sleep(0.1)

    def stop_trainer(self) -> None:
        self.trainer.send_signal(signal.SIGTERM)
        self.trainer.wait(120)

    def kill(self) -> None:
        self.trainer.kill()
        self.trainer.wait()
        self.server.kill()

    def used(self) -> dict[str, int]:
        last = self.last()
        return last["used"] if last else {}

    def last(self) -> dict:
        lines = self.seen.read_bytes().split(b"\n")[:-1] if self.seen.is_file() else []
        return json.loads(lines[-1]) if lines else {}

    def lists(self, histories: list[History], places: int) -> list[list[str]]:
        def answer(part: list[History]) -> list[list[str]]:
            bodies = [{"history": items, "values": values, "top_k": places} for items, values in part]
            found = self.server.ask({"requests": bodies})["responses"]
            return [[ad["item_id"] for ad in one["recommendations"]] for one in found]

        return lists_of(answer, histories, places)

    def seconds_to_be_served(self, item: str, near: str, begun: float, widths: list[int], top_k: int) -> float:
        body = {"history": [near], "top_k": top_k, "beam_widths": widths}
        while True:
            if any(ad["item_id"] == item for ad in self.server.ask(body)["recommendations"]):
                return time.time() - begun
            if time.time() - begun > 120:
                raise RuntimeError(f"{item} was not served within two minutes.")
            time.sleep(0.1)


def write_file(folder: Path, name: str, records: list[dict]) -> float:
    """A complete file of a stream; returns when it had its name."""
    temporary = folder / f"{name}.jsonl.tmp"
    temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
    temporary.rename(folder / f"{name}.jsonl")
    return time.time()

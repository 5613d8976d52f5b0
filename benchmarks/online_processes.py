"""`gr4ad online` and `gr4ad serve` as processes that can be killed, and the files through which they are fed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

from online_models import Size, filled

from gr4ad.serving import PublishedModel

WIDEST = 1024  # beams that hold every ad


class Processes:
    """`gr4ad online` and `gr4ad serve`, on folders of their own."""

    def __init__(self, folder: Path, artifact: Path, size: Size):
        self.folder, self.root = folder, PublishedModel(folder / "live")
        self.port_file, self.seen = folder / "port", folder / "state" / "metrics.jsonl"
        self.trainer_words = ["online", "--model", artifact, "--out", folder / "state", "--root", self.root.root]
        for stream in ("vsl", "rl", "catalog"):
            self.trainer_words += [f"--{stream}", folder / stream]
        self.trainer_words += [
            "--vsl_batch_size", 32, "--rl_batch_size", 8, "--max_wait_seconds", 1, "--poll_seconds", 0.2,
            "--publish_steps", size.publish_steps, "--save_steps", size.publish_steps, "--guard_steps", 2,
            "--guard_users", 32, "--guard_window", 256, "--max_ndcg_loss", 0.1, "--learning_rate", 1e-3,
            "--rl_weight", 0.3,
        ]  # fmt: skip
        self.server_words = ["serve", "--model", self.root.root, "--port", 0, "--port_file", self.port_file,
                             "--watch_seconds", 0.5, "--deadline_ms", 60_000, "--max_beam_width", WIDEST,
                             "--max_beam_scale", 1, "--min_beam_scale", 1]  # fmt: skip
        self.trainer: subprocess.Popen | None = None
        self.server: subprocess.Popen | None = None

    def _started(self, words: list, name: str) -> subprocess.Popen:
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen([sys.executable, "-m", "gr4ad.cli", *map(str, words)], stdout=log, stderr=log)

    def start_trainer(self) -> None:
        self.trainer = self._started(self.trainer_words, "trainer")
        self.wait(lambda: PublishedModel.exists_at(self.root.root))

    def start_server(self) -> None:
        self.port_file.unlink(missing_ok=True)
        self.server = self._started(self.server_words, "server")
        self.wait(self.port_file.is_file)

    def wait(self, done, seconds: float = 600) -> None:
        end = time.monotonic() + seconds
        while not done():
            for name, process in (("trainer", self.trainer), ("server", self.server)):
                if process is not None and process.poll() is not None:
                    tail = (self.folder / f"{name}.log").read_text()[-2000:]
                    raise RuntimeError(f"The {name} ended with {process.returncode}: {tail}")
            if time.monotonic() > end:
                raise RuntimeError("The processes do not come on.")
            time.sleep(0.1)

    def kill(self, *processes: subprocess.Popen | None, number: int = signal.SIGKILL) -> None:
        for process in processes:
            if process is not None:
                process.send_signal(number)
                process.wait(120)

    def used(self) -> dict[str, int]:
        last = self.last()
        return last["used"] if last else {}

    def last(self) -> dict:
        lines = self.seen.read_bytes().split(b"\n")[:-1] if self.seen.is_file() else []
        return json.loads(lines[-1]) if lines else {}

    def ask(self, body: dict) -> dict:
        url = f"http://127.0.0.1:{self.port_file.read_text().strip()}/v1/recommend"
        request = Request(url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
        with urlopen(request, timeout=120) as response:
            return json.load(response)

    def lists(self, histories: list[tuple[list[str], list[float]]], places: int) -> list[list[str]]:
        lists = []
        for start in range(0, len(histories), 50):
            part = histories[start : start + 50]
            bodies = [{"history": items, "values": values, "top_k": places} for items, values in part if items]
            answers = iter(self.ask({"requests": bodies})["responses"] if bodies else [])
            for items, _ in part:
                found = next(answers)["recommendations"] if items else []
                lists.append(filled([ad["item_id"] for ad in found], places))
        return lists

    def seconds_to_be_served(self, item: str, near: str, begun: float, widths: list[int], top_k: int) -> float:
        body = {"history": [near], "top_k": top_k, "beam_widths": widths}
        while True:
            if any(ad["item_id"] == item for ad in self.ask(body)["recommendations"]):
                return time.time() - begun
            if time.time() - begun > 120:
                raise RuntimeError(f"{item} was not served within two minutes.")
            time.sleep(0.1)


def write_file(folder: Path, name: str, records: list[dict]) -> float:
    """A complete file of a stream; returns when it had its name."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{name}.jsonl.tmp"
    temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
    temporary.rename(folder / f"{name}.jsonl")
    return time.time()

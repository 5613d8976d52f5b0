"""Is this checkout as fast as an earlier build: decoding, latency and throughput of both, in turns, in one run.

    git worktree add BEFORE COMMIT
    python benchmarks/speed.py --before BEFORE --out benchmarks/results/speed.json

BEFORE is a worktree of the earlier build. Both are run from their `src` folders (PYTHONPATH), each in processes of its
own, in the environment of this Python. Where `BEFORE/src/gr4ad` lacks the folders at its root (modeling_gr4ad,
tokenization, trainers, serving, model_cards, recipes), link them there first: `ln -s ../../serving BEFORE/src/gr4ad/`.

One artifact of random weights, of the shape of `decode.py`, is written by the earlier build and read by both, which
must find the same scores and the same ads before a clock starts. With --shape recipe it has that of the recipe of
Complete Journey: a small model and catalog, where what is done once a level counts more than what is done for each
beam. A round takes both builds in turns: `decode` is one
request's beam search of widths 128/256/512, without a server; `latency` the median of a few requests, one at a time,
through `gr4ad serve`, server and client on cores of their own; `throughput` requests that are all there at once. With
--systems also servers with compiled searches or on vLLM; with --commands whole commands of `gr4ad`, `{out}` being a
new folder each time: `--commands evaluate="evaluate --run OUT/run --out {out}"`.

With --own-artifacts each build writes and reads an artifact of its own, with the parts of p(SID) that its recipes have
(prefix vectors for as many prefixes, copies, repeats): what a request costs now that a decoder does more, on the same
shape, history and catalog. Scores and ads then differ.

Values are medians over rounds, `spread` is the interquartile range. Every ratio is the median of the rounds' ratios;
above 1 this checkout is faster.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measurement.results import Benchmark, Row, rounds_row
from measurement.server_process import CLIENT_CORES, ServerProcess, random_bodies, requests_per_second, server_on_core
from measurement.timing import interleaved, ratio

HERE = Path(__file__).resolve().parent
BEFORE, NOW = "before", "now"
FULL: dict[str, Any] = {
    "codebooks": [16384, 4096, 1024], "ads": 1_000_000, "per_prefix": 4, "history": 200, "widths": [128, 256, 512],
    "served": 512, "beams": [128, 512], "requests": 48, "singles": 8,
    "model": {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4, "num_key_value_heads": 4,
              "num_hidden_layers": 4, "num_parallel_layers": 3, "max_context_items": 200},
}  # fmt: skip
RECIPE: dict[str, Any] = {
    "codebooks": [256, 256, 256], "ads": 20_000, "per_prefix": 6, "history": 60, "widths": [50, 100, 100],
    "served": 100, "beams": [100], "requests": 192, "singles": 16,
    "model": {"hidden_size": 96, "intermediate_size": 288, "num_attention_heads": 4, "num_hidden_layers": 3,
              "num_parallel_layers": 2, "max_context_items": 100},
}  # fmt: skip
SHAPES = {"wide": FULL, "recipe": RECIPE}
SMOKE: dict[str, Any] = {
    "codebooks": [64, 32, 16], "ads": 3_000, "per_prefix": 4, "history": 10, "widths": [8, 16, 32],
    "served": 16, "beams": [8, 16], "requests": 6, "singles": 2,
    "model": {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2,
              "num_hidden_layers": 3, "num_parallel_layers": 2, "max_context_items": 10},
}  # fmt: skip
SERVER = {"max_queue": 4096, "deadline_ms": 600_000.0, "max_beam_width": 1024}
SYSTEMS: dict[str, dict[str, Any]] = {
    "native": {},
    "compiled": {"compile": "true"},
    "int8_compiled": {"compile": "true", "dtype": "int8"},
    "vllm": {"backend": "vllm"},
}
EARLIER = {"int8_compiled": "compiled"}
"""What the earlier build is served with in place of a system that it refuses."""


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(folder / "src"), str(HERE)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


class Decoder:
    def __init__(self, folder: Path, artifact: Path, size: Mapping[str, Any], write: str) -> None:
        command = [sys.executable, "-m", "measurement.build_worker", str(artifact), json.dumps(size)]
        self.process = subprocess.Popen(
            [*command, write], env=environment(folder), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, cwd=HERE,
        )  # fmt: skip
        answer = json.loads(self.line())
        if folder.resolve() / "src" not in Path(answer["file"]).parents:
            raise SystemExit(f"{folder} should be what runs, but {answer['file']} does. Is FOLDER/src/gr4ad complete?")
        self.scores = np.array(answer["scores"])

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"The decoding process ended with {self.process.wait()}.")
        return line

    def search(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.line())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def servers(
    sides: Mapping[str, Path], artifacts: Mapping[str, Path], work: Path, system: str
) -> Iterator[dict[str, ServerProcess]]:
    with ExitStack() as stack:
        found = {}
        for side, folder in sides.items():
            flags = SYSTEMS[EARLIER.get(system, system) if side == BEFORE else system]
            found[side] = stack.enter_context(
                server_on_core(
                    artifacts[side], work / f"{side}_{system}.log", {**SERVER, **flags}, environment(folder)
                )
            )
        yield found


def latency(server: ServerProcess, bodies: Sequence[dict]) -> float:
    return float(np.median([1000 / requests_per_second(server.url, [body]) for body in bodies]))


def check_same(servers_of: Mapping[str, ServerProcess], body: Mapping[str, Any]) -> None:
    """Raises SystemExit unless the builds answer alike, but for scores that differ in their last digits."""
    before, now = ({ad["item_id"] for ad in server.ask(body)["recommendations"]} for server in servers_of.values())
    if len(before & now) < len(before) - 1:
        raise SystemExit(f"The builds return different ads: {sorted(before ^ now)[:4]}, ...")


def timed_command(folder: Path, words: str) -> float:
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "gr4ad.cli", *shlex.split(words.replace("{out}", f"{out}/out"))]
        begun = time.perf_counter()
        subprocess.run(command, check=True, env=environment(folder), stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun


class Comparison:
    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.ratios: dict[str, float] = {}

    def add(
        self, name: str, metric: str, unit: str, systems: Mapping[str, Callable[[], float]], rounds: int,
        *, higher_is_better: bool = False, warm_up: bool = True,
    ) -> None:  # fmt: skip
        found = interleaved(systems, rounds, warm_up=warm_up)
        self.rows += [rounds_row(f"{side}, {name}", metric, values, unit) for side, values in found.items()]
        above, below = (NOW, BEFORE) if higher_is_better else (BEFORE, NOW)
        self.ratios[name] = ratio(found[above], found[below])


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__)
    benchmark.add_argument("--before", type=Path, required=True, metavar="BEFORE", help="Worktree of the other build.")
    benchmark.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=["native"])
    benchmark.add_argument("--commands", nargs="+", default=[], metavar="NAME=WORDS", help="Of `gr4ad`, to be timed.")
    benchmark.take(rounds=9, command_rounds=1)
    benchmark.add_argument("--shape", choices=list(SHAPES), default="wide", help="Of model, catalog and beams.")
    benchmark.add_argument("--own-artifacts", action="store_true", help="Each build is asked with its own artifact.")
    arguments = benchmark.start(words, rounds=2)
    own = arguments.own_artifacts
    size, rounds = SMOKE if arguments.smoke else SHAPES[arguments.shape], arguments.rounds
    sides = {BEFORE: arguments.before, NOW: HERE.parent}
    os.sched_setaffinity(0, CLIENT_CORES)
    found = Comparison()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        artifacts = {side: work / (side if own else "artifact") for side in sides}
        with ExitStack() as stack:
            decoders = {}
            for side, folder in sides.items():
                write = "write_own" if own else "write" if side == BEFORE else "read"
                decoders[side] = Decoder(folder, artifacts[side], size, write)
                stack.callback(decoders[side].close)
            apart = np.abs(decoders[BEFORE].scores - decoders[NOW].scores).max()
            if apart > 1e-3 and not own:
                raise SystemExit(f"The builds find different scores for the same request, {apart:.2g} apart.")
            label = "decode_" + "_".join(map(str, size["widths"]))
            found.add(label, "time", "ms", {side: decoder.search for side, decoder in decoders.items()}, rounds)
        ask = partial(random_bodies, size["ads"], size["history"], levels=len(size["codebooks"]), top_k=10)
        for system in arguments.systems:
            with servers(sides, artifacts, work, system) as running:
                if not own:
                    check_same(running, ask(1, size["served"], seed=0)[0])
                for beams in size["beams"] if system == "native" else [size["served"]]:
                    many, few = ask(size["requests"], beams, seed=1), ask(size["singles"], beams, seed=2)
                    single = {side: partial(latency, server, few) for side, server in running.items()}
                    found.add(f"latency_{beams}" if system == "native" else f"{system}_latency_{beams}", "latency",
                              "ms", single, rounds)  # fmt: skip
                    burst = {side: partial(requests_per_second, server.url, many) for side, server in running.items()}
                    found.add(f"{system}_{beams}", "throughput", "requests/s", burst, rounds, higher_is_better=True)
        for command, _, text in (entry.partition("=") for entry in arguments.commands):
            runs = {side: partial(timed_command, folder, text) for side, folder in sides.items()}
            found.add(command, "time", "s", runs, arguments.command_rounds, warm_up=False)
    benchmark.write(arguments, found.rows, found.ratios, threads=1)


if __name__ == "__main__":
    main()

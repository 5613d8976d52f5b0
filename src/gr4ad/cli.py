"""The `gr4ad` command: one word a stage; `gr4ad STAGE --help` shows every field with its unit and default."""

from __future__ import annotations

import importlib
import logging
import os
import sys

from gr4ad.commands.stages import run_command
from gr4ad.pipeline.config_fields import suggestion
from gr4ad.pipeline.stages import STAGES

CHAIN = {
    "inspect": ("inspect", "look into a folder of tables, and write a recipe for them"),
    "demo": ("chain", "simulated market -> SIDs -> VSL -> RSPO -> evaluation -> report -> a served request"),
    "run": ("chain", "the same chain on your data, from a recipe; finished stages are kept"),
}
OTHERS = {
    "artifact": ("stages", "write the artifact from stages that were run one by one"),
    "compare": ("evaluation", "compare finished runs user by user: seeds, or different models"),
    "recommend": ("artifacts", "rank ads for a history"),
    "add": ("adding", "add new ads by their attributes to an artifact or to running servers"),
    "serve": ("artifacts", "serve an artifact over HTTP"),
    "online": ("online", "keep learning from streams of logs, and publish to running servers"),
    "bench": ("bench", "put load on a server, or find the beam widths to serve with"),
    "card": ("artifacts", "show an artifact's model card"),
    "push": ("artifacts", "upload an artifact to the hub"),
}
STAGE_COMMANDS = {stage.command or stage.name: stage for stage in STAGES}
COMMANDS = {
    **{name: text for name, (_, text) in CHAIN.items()},
    **{name: stage.help for name, stage in STAGE_COMMANDS.items()},
    **{name: text for name, (_, text) in OTHERS.items()},
}
"""Command -> what it does."""


def usage() -> str:
    lines = [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    return (
        "usage: gr4ad COMMAND [--help] [...]\n\n"
        + "\n".join(lines)
        + "\n\nAdd --debug to see the traceback of an error."
    )


def keep_freed_memory() -> None:
    """Asks glibc to keep freed blocks: a training step or a batch of requests on a CPU frees and takes hundreds of
    megabytes, and giving them back to the kernel each time costs it page faults. Elsewhere than glibc, does nothing.

    Must run before the process has a second thread. The model of a server runs in one, and a thread with an arena of
    its own gives its blocks back whatever the thresholds say.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # M_TRIM_THRESHOLD, ... of malloc.h
    largest = 2**31 - 1
    mallopt(mmap_threshold, largest)
    mallopt(trim_threshold, largest)
    mallopt(arena_max, 1)


def quiet_bars() -> None:
    """Keeps bars that say nothing off the terminal: transformers draws one whenever it loads or writes weights, and a
    file or pipe gets a line of each of their steps. Downloads are still shown; in a file, what takes over a minute
    writes a line a minute. Must run before tqdm and transformers are imported, which read this once.
    """
    if not sys.stderr.isatty():
        for name in ("DELAY", "MININTERVAL", "MAXINTERVAL"):
            os.environ.setdefault(f"TQDM_{name}", "60")

    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    if "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ:
        disable_progress_bars()  # transformers asks for the whole
        enable_progress_bars("huggingface_hub")


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, or 2 with one line on stderr for anything the user can mend."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())  # noqa: T201
        return 0
    if arguments[0] in ("-V", "--version"):
        from gr4ad import __version__

        print(__version__)  # noqa: T201
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        hint = suggestion(name, COMMANDS)
        print(f"gr4ad: no command {name!r}.{hint} Commands: {', '.join(COMMANDS)}.", file=sys.stderr)  # noqa: T201
        return 2
    debug = "--debug" in rest
    rest = [argument for argument in rest if argument != "--debug"]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)  # warns of times of checkpoints
    for chatty in ("httpx", "sentence_transformers", "faiss", "urllib3", "datasets"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the tokenizer of the text encoder, after a fork
    keep_freed_memory()
    quiet_bars()
    try:
        if name in STAGE_COMMANDS:
            run_command(STAGE_COMMANDS[name], rest)
        else:
            module, _ = {**CHAIN, **OTHERS}[name]
            getattr(importlib.import_module(f"gr4ad.commands.{module}"), name)(rest)
    except KeyboardInterrupt:
        print(f"gr4ad {name}: interrupted; the same command resumes.", file=sys.stderr)  # noqa: T201
        return 130
    except (ValueError, KeyError, OSError, ImportError) as error:
        if debug:
            raise
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"gr4ad {name}: {' '.join(str(message).split())}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What can be done with a finished artifact: `gr4ad recommend | serve | card | push`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.markdown import Markdown
from rich.table import Table

from gr4ad.commands import terminal
from gr4ad.commands.arguments import CommandParser, parse_configs
from gr4ad.pipeline.config_fields import setting


def recommend(arguments: list[str]) -> None:
    parser = CommandParser(prog="gr4ad recommend", description="Ranks ads for one history.")
    parser.add_argument("--model", required=True, help="folder of `gr4ad run`, or hub id")
    ids = 'separated by commas; ids that hold commas or quotes as a JSON list: \'["a,b", "c"]\''
    parser.add_argument("--history", required=True, help=f"item ids, oldest first, {ids}")
    parser.add_argument("--top-k", "--top_k", type=int, default=10, help="ads to return (default: %(default)s)")
    parser.add_argument(
        "--beam-widths", "--beam_widths", help="beams of each level, e.g. 50,100,100 (default: the model's)"
    )
    parser.add_argument(
        "--exclude-history", "--exclude_history", action="store_true", default=None, help="no item of the history"
    )
    parser.add_argument("--max-per-account", "--max_per_account", type=int, help="ads of one account, at most")
    parser.add_argument("--allow-items", "--allow_items", help="ids that alone may be returned, written as a history")
    parser.add_argument("--block-items", "--block_items", help="ids that may not be returned, written as a history")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    history = listed_ids("--history", options.history)
    lists = {
        name: None if given is None else tuple(listed_ids(f"--{name.replace('_', '-')}", given))
        for name, given in (("allow_items", options.allow_items), ("block_items", options.block_items))
    }
    widths = whole_numbers("--beam-widths", options.beam_widths) if options.beam_widths else None

    from gr4ad import Recommender
    from gr4ad.serving.request_types import RecommendQuery
    from gr4ad.tokenization import UserHistory
    from gr4ad.tokenization.ad_records import shown

    recommender = Recommender.from_pretrained(options.model)
    query = RecommendQuery(
        UserHistory(history),
        options.top_k,
        widths,
        options.exclude_history,
        options.max_per_account,
        allow_items=lists["allow_items"],
        block_items=lists["block_items"],
    )
    [ads] = recommender.rank([query])
    console = terminal.console(stderr=options.json)
    for name, unknown in recommender.unknown_items(query).items():
        where = "" if name == "history" else f" in {name}"
        console.print(f"not in the catalog, skipped{where}: {', '.join(unknown)}", style="yellow", markup=False)
    if options.json:
        json.dump([vars(ad) for ad in ads], sys.stdout, indent=1, default=shown)
        sys.stdout.write("\n")
        return
    unit = recommender.tokenizer.value_unit
    table = Table()
    for column in ("item_id", "title", "score", f"value ({unit})" if unit else "value", "SID"):
        table.add_column(column, justify="right" if column == "score" or column.startswith("value") else "left")
    for ad in ads:
        value = "-" if ad.value is None else f"{ad.value:.2f}"
        table.add_row(ad.item_id, described(ad.attributes), f"{ad.score:.3f}", value, ad.sid)
    console.print(table)


def listed_ids(flag: str, given: str) -> list[str]:
    """Item ids of a list with commas, or of a JSON list where they hold commas themselves.

    Raises:
        ValueError: If what begins as a JSON list is none, or not of text; names the flag.
    """
    if not given.lstrip().startswith("["):
        return [item.strip() for item in given.split(",") if item.strip()]
    try:
        ids = json.loads(given)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"`{flag}` begins like a JSON list, but is none ({error}). Received: {given!r:.100}. Write e.g. "
            f'{flag} \'["a,b", "c"]\', with quotes of the shell around it.'
        ) from error
    wrong = next((item for item in ids if not isinstance(item, str)), None)
    if wrong is not None:
        raise ValueError(f"`{flag}` must hold ids as text. Received: {wrong!r:.100}. Write {json.dumps(str(wrong))}.")
    return ids


def whole_numbers(flag: str, given: str) -> tuple[int, ...]:
    """Whole numbers separated by commas. Raises ValueError, naming the flag, for anything else."""
    try:
        return tuple(int(part) for part in given.split(","))
    except ValueError as error:
        raise ValueError(
            f"`{flag}` must be whole numbers separated by commas, one a level. Received: {given!r:.100}. Write e.g. "
            f"{flag} 50,100,100."
        ) from error


def described(attributes: dict) -> str:
    """The title, or what else the item table says of an ad."""
    return str(attributes.get("title") or " / ".join(str(value) for value in attributes.values() if value))


@dataclass
class ServedModel:
    model: str = field(
        metadata={"help": "Folder of `gr4ad run`, hub id, or folder of a published model, which is followed."}
    )
    backend: str = setting("torch", "torch: the engine of this package; vllm: vLLM's, see `--backend vllm --help`.")


@dataclass
class ModelOnTorch(ServedModel):
    dtype: str = setting("float32", "Of weights and activations: float32, bfloat16, float16, or int8 on a CPU.")
    compile: bool = setting(
        False, "Compile the search before the server opens: takes minutes the first time, and on a CPU a C++ compiler."
    )


def serve(arguments: list[str]) -> None:
    chosen = CommandParser(prog="gr4ad serve", add_help=False)
    chosen.add_argument("--backend", default="torch", choices=("torch", "vllm"))
    if chosen.parse_known_args(arguments)[0].backend == "vllm":
        serve_on_vllm(arguments)
        return
    served, config = parse_configs(
        "gr4ad serve", (f"{__name__}.ModelOnTorch", "gr4ad.serving.server_config.ServerConfig"), arguments
    )

    from gr4ad import Recommender
    from gr4ad.serving.compiled_search import compile_search
    from gr4ad.serving.http_server import serve as serve_http
    from gr4ad.serving.live_model import LiveModel

    if served.backend != "torch":
        raise ValueError(
            f"`backend` = {served.backend!r} stands in a config file, but the options depend on it: give `--backend "
            f"{served.backend}` on the command line."
        )

    def load(source: str | Path) -> Recommender:
        recommender = Recommender.from_pretrained(source, dtype=served.dtype)
        if served.compile:
            policy = config.beam_policy(recommender.beam_widths)
            compile_search(recommender, [policy.scaled(scale) for scale in policy.scales], config.max_batch)
        return recommender

    serve_http(LiveModel(served.model, load), config)


def serve_on_vllm(arguments: list[str]) -> None:
    from gr4ad.serving.vllm_backend.options import RENAMED

    for argument in arguments:
        name = argument.split("=")[0].removeprefix("--").replace("-", "_")
        if argument.startswith("--") and name in RENAMED:
            raise ValueError(f"`--{name}` is called `--{RENAMED[name]}`. Write that.")
    served, config = parse_configs(
        "gr4ad serve --backend vllm",
        (f"{__name__}.ServedModel", "gr4ad.serving.vllm_backend.launch.VLLMServerConfig"),
        arguments,
    )
    from gr4ad.serving.vllm_backend.launch import serve as serve_vllm

    serve_vllm(served.model, config)


def card(arguments: list[str]) -> None:
    parser = CommandParser(prog="gr4ad card", description="Shows an artifact's model card.")
    parser.add_argument("--model", required=True, help="folder of `gr4ad run`")
    options = parser.parse_args(arguments)
    from huggingface_hub import ModelCard

    path = Path(options.model) / "README.md"
    if not path.is_file():
        raise ValueError(f"{options.model}: holds no README.md. Give the `--out` folder of a finished `gr4ad run`.")
    text = ModelCard.load(path).text
    console = terminal.console()
    tables = [line for line in text.splitlines() if line.startswith("|")]
    if console.is_terminal and console.width >= max(map(len, tables), default=0):
        console.print(Markdown(text))
    else:  # rendered, the cells of its tables would be cut
        sys.stdout.write(text)


def push(arguments: list[str]) -> None:
    parser = CommandParser(prog="gr4ad push", description="Uploads an artifact (without its stages) to the hub.")
    parser.add_argument("--model", required=True, help="folder of `gr4ad run`")
    parser.add_argument("--repo", required=True, help="hub id, owner/name")
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    parser.add_argument("--message", default="Upload GR4AD artifact", help="commit message")
    options = parser.parse_args(arguments)
    folder = Path(options.model)
    needed = ("config.json", "model.safetensors", "items.parquet", "README.md")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder}: not an artifact, {missing[0]} is missing. Give the `--out` folder of a finished `gr4ad run`."
        )
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(options.repo, private=options.private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=options.repo,
        folder_path=folder,
        commit_message=options.message,
        # Scores of single users stay here: a hub repository is for the model.
        ignore_patterns=["stages/*", "run.json", ".artifact/*", ".port", "per_user.parquet"],
    )
    terminal.console().print(f"pushed: {commit}")

"""What can be done with a finished artifact: `gr4ad recommend | serve | card | push`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from gr4ad.commands.arguments import CommandParser, parse_configs
from gr4ad.pipeline.config_fields import setting


def recommend(arguments: list[str]) -> None:
    parser = CommandParser(prog="gr4ad recommend", description="Ranks ads for one history.")
    parser.add_argument("--model", required=True, help="folder of `gr4ad run`, or hub id")
    parser.add_argument("--history", required=True, help="item ids, oldest first, separated by commas")
    parser.add_argument("--top-k", "--top_k", type=int, default=10, help="ads to return (default: %(default)s)")
    parser.add_argument(
        "--beam-widths", "--beam_widths", help="beams of each level, e.g. 50,100,100 (default: the model's)"
    )
    parser.add_argument("--exclude-history", "--exclude_history", action="store_true", default=None)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    from gr4ad import Recommender

    recommender = Recommender.from_pretrained(options.model)
    history = [item.strip() for item in options.history.split(",") if item.strip()]
    unknown = [item for item in history if item not in recommender.tokenizer.index.rows]
    widths = [int(width) for width in options.beam_widths.split(",")] if options.beam_widths else None
    ads = recommender.recommend(
        [history], top_k=options.top_k, beam_widths=widths, exclude_history=options.exclude_history
    )[0]
    if options.json:
        json.dump([vars(ad) for ad in ads], sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    console = Console()
    if unknown:
        console.print(f"[yellow]not in the catalog, skipped: {', '.join(unknown)}[/yellow]")
    unit = recommender.tokenizer.value_unit
    table = Table()
    for column in ("item_id", "title", "score", f"value ({unit})" if unit else "value", "SID"):
        table.add_column(column, justify="right" if column == "score" or column.startswith("value") else "left")
    for ad in ads:
        value = "-" if ad.value is None else f"{ad.value:.2f}"
        table.add_row(ad.item_id, described(ad.attributes), f"{ad.score:.3f}", value, ad.sid)
    console.print(table)


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
    Console().print(Markdown(ModelCard.load(path).text))


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
    Console().print(f"pushed: {commit}")

import json
import os
import platform
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gr4ad.cli import COMMANDS, main
from gr4ad.commands.arguments import CommandParser, parse_configs, parse_flags
from gr4ad.pipeline.sections import SECTIONS


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "gr4ad.cli", *arguments], capture_output=True, text=True)


def failure(capsys, *arguments: str) -> str:
    """The one line of a command that fails by something the user can mend."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    errors = [line for line in captured.err.splitlines() if line.startswith(f"gr4ad {arguments[0]}: ")]
    assert len(errors) == 1, captured.err
    return errors[0]


def test_help_names_every_command(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown for name in COMMANDS)
    assert main(["--version"]) == 0 and capsys.readouterr().out.count(".") == 2


def test_help_is_light():
    code = (
        "import sys, gr4ad, gr4ad.cli; gr4ad.cli.main(['--help']); dir(gr4ad); "
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'trl'} & set(sys.modules); sys.exit(bool(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_unknown_commands_are_refused():
    done = run("recomend")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.strip().splitlines() == [
        f"gr4ad: no command 'recomend'. Did you mean `recommend`? Commands: {', '.join(COMMANDS)}."
    ]


def test_recommend_prints_a_table_or_json(tiny_artifact, capsys):
    arguments = ["recommend", "--model", str(tiny_artifact), "--history", "ad_1, ad_5", "--top-k", "4"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "item_id" in table and table.count("<a_") == 4
    assert main([*arguments, "--json", "--beam-widths", "8,64,120", "--exclude-history"]) == 0
    ads = json.loads(capsys.readouterr().out)
    assert [set(ad) for ad in ads] == [{"item_id", "score", "value", "sid", "attributes"}] * 4
    assert not {"ad_1", "ad_5"} & {ad["item_id"] for ad in ads}
    assert main(["recommend", "--model", str(tiny_artifact), "--history", "ad_1,new", "--top-k", "3"]) == 0
    assert "not in the catalog, skipped: new" in capsys.readouterr().out


def test_tables_in_a_pipe_are_not_cut(tiny_artifact, tmp_path, capsys, monkeypatch):
    """Both were cut at 80 columns."""
    monkeypatch.delenv("COLUMNS", raising=False)
    note = "a note that is longer than any line of 80 columns may be, " * 3 + "and ends here"
    card = f"# A model\n\n| figure | note |\n|---|---|\n| R@10 | {note} |\n"
    (tmp_path / "README.md").write_text(f"---\nlibrary_name: gr4ad\n---\n{card}")
    assert main(["card", "--model", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == card.strip()
    shutil.copytree(tiny_artifact, tmp_path / "artifact")
    items = pq.read_table(tmp_path / "artifact" / "items.parquet")
    titles = pa.array([note] * len(items))
    items = items.drop_columns(["title"]) if "title" in items.column_names else items
    pq.write_table(items.append_column("title", titles), tmp_path / "artifact" / "items.parquet")
    assert main(["recommend", "--model", str(tmp_path / "artifact"), "--history", "ad_1", "--top-k", "2"]) == 0
    assert capsys.readouterr().out.count(note) == 2


def test_recommend_names_what_is_wrong(tiny_artifact, tmp_path, capsys):
    model = ["--model", str(tiny_artifact)]
    assert "no item of the catalog" in failure(capsys, "recommend", *model, "--history", "new,newer")
    assert "History 0 is empty" in failure(capsys, "recommend", *model, "--history", " , ")
    assert "`top_k` must be in 1..16" in failure(capsys, "recommend", *model, "--history", "ad_1", "--top-k", "17")
    widths = failure(capsys, "recommend", *model, "--history", "ad_1", "--top-k", "1", "--beam-widths", "8,8")
    assert "`beam_widths` needs 3 widths" in widths
    for folder in (tmp_path, tmp_path / "none"):
        message = failure(capsys, "recommend", "--model", str(folder), "--history", "ad_1")
        assert str(folder) in message and "not a GR4AD artifact" in message
    assert str(tmp_path) in failure(capsys, "card", "--model", str(tmp_path))
    assert "config.json is missing" in failure(capsys, "push", "--model", str(tmp_path), "--repo", "a/b")


def test_run_names_bad_recipes(tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text("embed: {encodr: x}")
    assert "unknown field `embed.encodr`" in failure(capsys, "run", str(path), "--out", str(tmp_path / "out"))
    assert "no such recipe" in failure(capsys, "run", "nothing", "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="no such recipe"):
        main(["run", "nothing", "--out", str(tmp_path), "--debug"])


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_of_every_command_shows_its_flags(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    fields = {
        "simulate": "--ctr_mean", "data": "--validation_start", "tune": "--tune_max_length", "embed": "--tuned",
        "tokenize": "--codebook_sizes", "train": "--hidden_size", "align": "--beta", "evaluate": "--item_weights",
    }  # fmt: skip
    assert f"gr4ad {command}" in shown and fields.get(command, "--") in shown


FOLDERS = ["--out", "x", "--data", ".", "--tokenizer", "."]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demo"], "the following arguments are required: --out"),
        (["run", "demo", "--out", "x", "--sed", "1"], "unknown argument `--sed`. Did you mean `--seed"),
        (["simulate", "--out", "x", "--users", "0"], "`users` should be in [1, 1e+07]. Received: users = 0"),
        (["data", "--out", "x", "--split", "random"], "must be one of leave_one_out, temporal. Received: 'random'"),
        (["embed", "--out", "x", "--data", ".", "--pooling", "max"], "`pooling` must be one of auto, mean, last."),
        (["tokenize", "--out", "x"], "the following arguments are required: --data, --embeddings"),
        (["train", *FOLDERS, "--hiden_size", "8"], "unknown argument `--hiden_size`. Did you mean `--hidden_size`?"),
        (["train", *FOLDERS, "--hidden_size", "wide"], "must be a whole number. Received: 'wide'"),
        (["train", *FOLDERS, "--target_window", "0"], "`target_window` must be >= 1. Received: 0"),
        (["train", *FOLDERS, "--bf16", "perhaps"], "must be true or false. Received: 'perhaps'"),
        (["align", *FOLDERS, "--model", ".", "--beta", "-1"], "`beta` must be > 0 and finite. Received: -1.0"),
        (["reward", *FOLDERS, "--model", "none"], "`--model` should be the folder of `gr4ad train` or `neighbours`."),
        (["evaluate", *FOLDERS, "--models", "none"], "none: holds no trained model"),
        (["evaluate", *FOLDERS, "--models", "a", "--metric", "auc"], "`metric` should be one of recall, hit, ndcg"),
        (["artifact", "--stages", ".", "--out", "x"], ".: holds no finished stage (no stage.json)"),
        (["compare"], "the following arguments are required: RUN"),
        (["serve", "--model", "x", "--prot", "1"], "unknown argument `--prot`. Did you mean `--port`?"),
        (["serve", "--model", "x", "--backend", "cpu"], "invalid choice: 'cpu'"),
        (["bench", "serve", "--url", "x"], "the following arguments are required: --requests, --rate"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line_without_torch(tmp_path, arguments, message):
    code = (
        "import sys; from gr4ad.cli import main; code = main(sys.argv[1:]); "
        "print(*{'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout.strip() == "", done.stdout
    [line] = done.stderr.strip().splitlines()
    assert line.startswith(f"gr4ad {arguments[0]}: ") and message in line
    assert not (tmp_path / "x").exists()


def test_a_config_file_gives_values_that_flags_win_over(tmp_path, capsys):
    config = tmp_path / "market.yaml"
    config.write_text(f"out: {tmp_path / 'market'}\nusers: 60\nads: 50\naccounts: 5\ndays: 9\nhorizon_days: 0\n")
    assert main(["simulate", "--config", str(config), "--days", "2"]) == 0
    written = json.loads((tmp_path / "market" / "market.json").read_text())["config"]
    assert (written["users"], written["days"]) == (60, 2)
    for text, message in (
        ("out: x\nuser: 60", "unknown field `user`. Did you mean `users`?"),
        ("out: x\nusers: many", "`users` must be a whole number. Received: 'many'"),
        ("- users", "must be a map of fields to values"),
        ("a: [", "not YAML"),
    ):
        config.write_text(text)
        assert message in failure(capsys, "simulate", "--config", str(config))


def test_switches_and_lists_are_written_as_before():
    parser = CommandParser(prog="gr4ad train")
    flags = ["--no_item_head", "--item-head-copy", "--fuse_prefix", "false", "--eval_beam_widths", "50", "100", "100",
             "--behavior_weights", '{"click": 1.0}', "--learning-rate", "1e-3", "--save_strategy", "no"]  # fmt: skip
    configs = {"model": SECTIONS["model"], "train": SECTIONS["train"]}
    _, given = parse_flags(parser, configs, flags)
    assert given["model"] == {"item_head": False, "item_head_copy": True, "fuse_prefix": False}
    assert given["train"] == {
        "eval_beam_widths": [50, 100, 100], "behavior_weights": {"click": 1.0}, "learning_rate": 0.001,
        "save_strategy": "no",
    }  # fmt: skip


def test_a_value_may_look_like_flags_where_it_has_a_space():
    kinds = ["gr4ad.serving.vllm_backend.launch.VLLMServerConfig"]
    [config] = parse_configs("gr4ad serve", kinds, ["--vllm_args", "--data-parallel-size 2 --seed 3", "--port", "9"])
    assert config.vllm_args == "--data-parallel-size 2 --seed 3" and config.port == 9
    with pytest.raises(ValueError, match="unknown argument `--data-parallel-size`"):
        parse_configs("gr4ad serve", kinds, ["--data-parallel-size", "2"])


PAGE_FAULTS = """
import ctypes, resource, threading
from gr4ad.cli import keep_freed_memory

keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def take_and_free():
    block = libc.malloc(80 << 20)
    ctypes.memset(block, 1, 80 << 20)
    libc.free(block)

def count():
    take_and_free()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        take_and_free()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=count)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to")
def test_the_thread_of_a_model_keeps_the_memory_that_it_freed() -> None:
    out = subprocess.run([sys.executable, "-c", PAGE_FAULTS], check=True, capture_output=True, text=True).stdout
    assert int(out) < 500  # five blocks of 80 MiB have 102,400 pages


def test_no_bars_but_of_downloads() -> None:
    code = (
        "import sys; from gr4ad.cli import quiet_bars; quiet_bars()\n"
        "from tqdm.auto import tqdm; list(tqdm(range(9), desc='ours', mininterval=0))\n"
        "from transformers.utils.logging import is_progress_bar_enabled\n"
        "from huggingface_hub.utils import are_progress_bars_disabled\n"
        "print(is_progress_bar_enabled(), are_progress_bars_disabled('huggingface_hub.http_get'))"
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("TQDM", "HF_HUB_DISABLE"))
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["False", "False"], done.stderr
    assert "ours" not in done.stderr
    shown = {**environment, "HF_HUB_DISABLE_PROGRESS_BARS": "0"}
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=shown).stdout.split()[0]
        == "True"
    )

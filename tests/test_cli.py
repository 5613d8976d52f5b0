import json
import subprocess
import sys

import pytest

from gr4ad.cli import COMMANDS, main


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


@pytest.mark.parametrize(
    "stage", ["simulate", "data", "embed", "tokenize", "train", "align", "evaluate", "run", "demo", "recommend"]
)
def test_stage_help_shows_its_fields(stage, capsys):
    with pytest.raises(SystemExit) as caught:
        main([stage, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    fields = {
        "train": "--hidden_size",
        "align": "--beta",
        "evaluate": "--item_weights",
        "tokenize": "--codebook_sizes",
    }
    assert f"gr4ad {stage}" in shown and fields.get(stage, "--") in shown

import ast
import os
import re
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from gr4ad.pipeline.artifact import complete_auto_map
from gr4ad.report import RunReport, write_model_card

CONFIG = {
    "codebook_sizes": [4, 2],
    "num_value_buckets": 3,
    "item_head": True,
    "num_hidden_layers": 4,
    "num_parallel_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "max_context_items": 20,
}
RECIPE = "seed: 7\nnote: '{{ braces }} and ```ticks``` stay'\n"


def write(folder, report, config=CONFIG, recipe=RECIPE):
    return write_model_card(folder, report, model_config=config, recipe_name="x.yaml", recipe_text=recipe)


def test_card_loads_back(report, tmp_path):
    path = write(tmp_path / "beauty", report)
    assert path == tmp_path / "beauty" / "README.md" and list(path.parent.iterdir()) == [path]
    card = ModelCard.load(path)
    assert card.data.to_dict() == {
        "license": "apache-2.0",
        "library_name": "gr4ad",
        "tags": ["gr4ad", "generative-recommendation", "semantic-id", "advertising"],
    }
    assert card.text.strip().startswith("# Run &lt;b>1&lt;/b>")


def test_card_tells_the_figures_of_the_run(report, tmp_path):
    text = write(tmp_path / "m", report).read_text(encoding="utf-8")
    assert "Recall@10 **0.0500** (Popularity: 0.0200)" in text
    assert "| **GR4AD (this run)** | **0.0500** ± 0.0040 | 0.0300 | 12.35 | 0 |" in text
    assert "### All items may be recommended (120 users)" in text
    assert "### Items of the history excluded (120 users)" in text
    assert "| 1 | 4 | 3 | 75.0% | 2.9 | 3 |" in text
    assert "- Rows left out, unknown item: 3" in text
    assert "2602.22732" in text and report.command in text and "(EUR)" in text
    for line in re.findall(r"^\|.*\|$(?:\n\|.*\|$)+", text, flags=re.MULTILINE):
        assert len({row.replace("\\|", "").strip("|").count("|") for row in line.splitlines()}) == 1


def test_recipe_is_kept_letter_by_letter(report, tmp_path):
    text = write(tmp_path / "m", report).read_text(encoding="utf-8")
    assert f"````yaml\n{RECIPE}````\n" in text


def test_usage_names_the_folder_and_known_items(report, tmp_path):
    text = write(tmp_path / "beauty", report).read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(snippets) == 3
    ast.parse("\n".join(snippets))
    for snippet in snippets[:2]:
        assert '"beauty"' in snippet and '[["A1", "A2"]]' in snippet


@pytest.mark.slow
def test_transformers_snippet_runs_without_the_package(report, tiny_artifact, tmp_path):
    folder = tmp_path / "beauty"
    shutil.copytree(tiny_artifact, folder)
    complete_auto_map(folder / "config.json")
    report.beam_tree["history"] = [{"item_id": "ad_3", "title": ""}, {"item_id": "ad_5", "title": ""}]
    text = write(folder, report).read_text(encoding="utf-8")
    snippet = "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[1:])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.modules['gr4ad'] = None\n{snippet}"],
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    by_sid, ranked = map(ast.literal_eval, done.stdout.strip().splitlines())
    assert len(by_sid) == 10 and all(by_sid), "every SID that is generated is one of an ad"
    assert len(set(ranked)) == 10


def test_empty_parts_are_left_out(tmp_path):
    config = {"codebook_sizes": [8, 8]}
    text = write(tmp_path / "m", RunReport("Bare"), config, "").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert headings == ["Intended use and limits", "Semantic IDs", "Training", "Usage", "Citation"]
    assert "value head" not in text and "\n\n\n" not in text
    assert ModelCard.load(tmp_path / "m" / "README.md").data.license == "apache-2.0"


def test_config_without_codebooks_is_refused(report, tmp_path):
    with pytest.raises(ValueError, match="`codebook_sizes`"):
        write(tmp_path / "m", report, {})
    assert not (tmp_path / "m").exists()

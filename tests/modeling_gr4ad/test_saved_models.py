import ast
import copy
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation, GR4ADModel, RankingWeights
from gr4ad.pipeline.artifact import save_artifact

LENGTHS = [3, 6, 1, 4]


def test_save_and_load_are_bit_equal_and_auto_classes_find_them(build_model, build_history, tmp_path):
    model = build_model().float()
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(again) is GR4ADForRecommendation and type(AutoConfig.from_pretrained(tmp_path)) is GR4ADConfig
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    history = build_history(model.config, LENGTHS)
    for ours, theirs in zip(model(**history).logits, again.eval()(**history).logits, strict=True):
        assert torch.equal(ours, theirs)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is GR4ADModel
    assert torch.equal(base.embed_tokens.weight, model.model.embed_tokens.weight)


def test_deep_copy_scores_alike(build_model, build_history):
    model = build_model()
    history = build_history(model.config, LENGTHS)
    torch.testing.assert_close(copy.deepcopy(model)(**history).logits, model(**history).logits, rtol=0, atol=0)


def test_remote_code_loads_without_the_package(tiny_artifact, tmp_path):
    folder = tmp_path / "artifact"
    folder.mkdir()
    save_artifact(tiny_artifact, tiny_artifact, RankingWeights((8, 16, 16)), folder)
    code = f"""
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "gr4ad":
                raise ModuleNotFoundError(f"blocked: {{name}}")

    sys.meta_path.insert(0, Blocker())
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

    folder, trust = {str(folder)!r}, {{"trust_remote_code": True}}
    config = AutoConfig.from_pretrained(folder, **trust)
    base = AutoModel.from_pretrained(folder, **trust)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, **trust)
    tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    names = [type(x).__name__ for x in (config, base, model, tokenizer)]
    assert names == ["GR4ADConfig", "GR4ADModel", "GR4ADForRecommendation", "UASIDTokenizer"], names
    assert not any(name.split(".")[0] == "gr4ad" for name in sys.modules)
    batch = tokenizer.encode_histories([["ad_1", "ad_2"]], values=[[0.0, 3.0]], return_tensors="pt")
    candidates = torch.from_numpy(tokenizer.encode_items(["ad_3", "ad_4"])).unsqueeze(0)
    print(model(**batch, candidate_ids=candidates).candidate_logps[0].tolist())
    assert type(model.generate).__name__ == "partial", "the repository's own custom_generate"
    print(tokenizer.decode_items(model.generate(**batch, tokenizer=tokenizer, num_beams=8, num_return_sequences=3)))
    print(tokenizer.decode_items(model.generate(**batch, tokenizer=tokenizer, num_return_sequences=3)))
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]

    from gr4ad import UASIDTokenizer

    tokenizer = UASIDTokenizer.from_pretrained(folder)
    model = GR4ADForRecommendation.from_pretrained(folder).eval()
    batch = tokenizer.encode_histories([["ad_1", "ad_2"]], values=[[0.0, 3.0]], return_tensors="pt")
    candidates = torch.from_numpy(tokenizer.encode_items(["ad_3", "ad_4"])).unsqueeze(0)
    expected = model(**batch, candidate_ids=candidates).candidate_logps[0].tolist()
    scores, narrow, by_default = map(ast.literal_eval, done.stdout.strip().splitlines()[-3:])
    assert scores == pytest.approx(expected, abs=1e-5)
    trie = model.build_trie(tokenizer)
    for found, widths in ((narrow, [8, 8, 8]), (by_default, [8, 16, 16])):
        beams = model.beam_search(**batch, trie=trie, beam_widths=widths)
        assert found == tokenizer.decode_items(beams.sequences[0, :3])

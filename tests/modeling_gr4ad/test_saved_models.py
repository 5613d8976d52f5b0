import ast
import copy
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation, GR4ADModel, RankingWeights, SIDTrie
from gr4ad.pipeline.artifact import save_artifact

LENGTHS = [3, 6, 1, 4]


TRIE = SIDTrie.from_codes(torch.cartesian_prod(*map(torch.arange, (4, 5, 3)))[::2])


@pytest.fixture(params=["codebook", "trie"])
def parts(request, catalog_parts) -> dict:
    """For `build_model`: both ways in which the probabilities of codes sum to one."""
    return catalog_parts if request.param == "trie" else {}


def scores(model: GR4ADForRecommendation, history: dict[str, torch.Tensor]) -> torch.Tensor:
    """log p(SID) of the catalog for each history."""
    sids = TRIE.sids(torch.arange(TRIE.num_sids)) + torch.tensor(model.config.level_offsets)
    with torch.no_grad():
        return model.eval()(**history, candidate_ids=sids.expand(len(LENGTHS), -1, -1), trie=TRIE).candidate_logps


def test_save_and_load_are_bit_equal_and_auto_classes_find_them(build_model, build_history, tmp_path, parts):
    model = build_model(**parts).float()
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(again) is GR4ADForRecommendation and type(AutoConfig.from_pretrained(tmp_path)) is GR4ADConfig
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    history = build_history(model.config, LENGTHS)
    assert torch.equal(scores(again, history), scores(model, history)) and scores(model, history).isfinite().all()
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is GR4ADModel
    assert torch.equal(base.embed_tokens.weight, model.model.embed_tokens.weight)


def test_deep_copy_scores_alike(build_model, build_history, parts):
    model = build_model(**parts)
    history = build_history(model.config, LENGTHS)
    torch.testing.assert_close(scores(copy.deepcopy(model), history), scores(model, history), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_prefixes_survive_any_precision(build_model, build_history, catalog_parts, tmp_path, dtype):
    """Hashes and rows are whole numbers, which no dtype of the weights may round."""
    model = build_model(**catalog_parts).float()
    keys, places = model.prefix_vectors.keys.clone(), model.prefix_vectors.places.clone()
    assert keys.dtype == places.dtype == torch.int64 and len(keys.unique()) == 40 == len(places.unique())
    assert (keys.double().long() != keys).any(), "not even a float64 holds them"
    history = build_history(model.config, LENGTHS)
    model.save_pretrained(tmp_path)
    again = GR4ADForRecommendation.from_pretrained(tmp_path, dtype=dtype)
    for other in (again, copy.deepcopy(again), copy.deepcopy(model).to(dtype)):
        table = other.prefix_vectors
        assert torch.equal(table.keys, keys) and torch.equal(table.places, places)
        assert table.vectors.dtype == table.query.dtype == dtype
        for ours, theirs in zip(table.rows(TRIE), model.prefix_vectors.rows(TRIE), strict=True):
            assert torch.equal(ours, theirs)
        torch.testing.assert_close(scores(other, history), scores(model, history), rtol=0.1, atol=0.5)


def test_weights_that_are_loaded_bring_their_prefixes(build_model, build_history, catalog_parts):
    """A trie that knows the rows of the table before does not go on with them."""
    model, other = build_model(**catalog_parts), build_model(**catalog_parts)
    space = SIDTrie.from_codes(torch.cartesian_prod(*map(torch.arange, (4, 5, 3))))
    other.prefix_vectors.set_prefixes(space, torch.arange(60.0, dtype=torch.float64))
    torch.nn.init.normal_(other.prefix_vectors.vectors)
    history = build_history(model.config, LENGTHS)
    before, wanted = scores(model, history), scores(other, history)
    assert not torch.allclose(before, wanted)
    assert not torch.equal(model.prefix_vectors.keys, other.prefix_vectors.keys)
    own = model.prefix_vectors.keys
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    assert model.prefix_vectors.keys is own and torch.equal(scores(model, history), before)
    model.load_state_dict(other.state_dict())
    assert torch.equal(scores(model, history), wanted)


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
    trie = model.build_trie(tokenizer)
    print(model(**batch, candidate_ids=candidates, trie=trie).candidate_logps[0].tolist())
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
    trie = model.build_trie(tokenizer)
    expected = model(**batch, candidate_ids=candidates, trie=trie).candidate_logps[0].tolist()
    scored, narrow, by_default = map(ast.literal_eval, done.stdout.strip().splitlines()[-3:])
    assert scored == pytest.approx(expected, abs=1e-5)
    for found, widths in ((narrow, [8, 8, 8]), (by_default, [8, 16, 16])):
        beams = model.beam_search(**batch, trie=trie, beam_widths=widths)
        assert found == tokenizer.decode_items(beams.sequences[0, :3])

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from gr4ad.cli import main
from gr4ad.data import load_prepared
from gr4ad.pipeline import load_recipe
from gr4ad.pipeline.recipe_checks import check_columns
from gr4ad.pipeline.run import stage_settings
from gr4ad.pipeline.settings import EmbedConfig
from gr4ad.pipeline.stages import STAGES

ADS = 24


def prepared(folder: Path, *, title=lambda n: f"ad {n}", ads: int = ADS) -> Path:
    catalog = {"item_id": [f"{n:04d}" for n in range(ads)], "title": [title(n) for n in range(ads)]}
    pd.DataFrame({**catalog, "row": range(ads)}).to_parquet(folder / "catalog.parquet")
    events = [(f"user {n % 30}", f"{n * n % ads:04d}", n) for n in range(300)]
    pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"]).to_parquet(folder / "events.parquet")
    assert main(["data", "--root", str(folder), "--out", str(folder / "data")]) == 0
    return folder / "data"


def vectors(folder: Path, name: str, width: int) -> np.ndarray:
    found = np.random.default_rng(width).normal(size=(ADS, width)).astype(np.float32)
    np.save(folder / f"{name}.npy", found)
    (folder / f"{name}.ids.txt").write_text("\n".join(f"{n:04d}" for n in range(ADS)))
    return found


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embed(folder: Path, *words: str) -> int:
    return main(["embed", "--data", str(folder / "data"), "--out", str(folder / "emb"), *map(str, words)])


def test_precomputed_vectors_take_the_place_of_the_encoder(tmp_path):
    prepared(tmp_path)
    looks, sounds = vectors(tmp_path, "looks", 6), vectors(tmp_path, "sounds", 4)
    assert embed(tmp_path, "--vectors", tmp_path / "looks.npy", tmp_path / "sounds.npy") == 0
    content = load_file(tmp_path / "emb/embeddings.safetensors")["content"]
    np.testing.assert_allclose(content, np.concatenate([unit(looks), unit(sounds)], axis=1), atol=1e-6)
    record = json.loads((tmp_path / "emb/stage.json").read_text())
    assert record["summary"]["vectors"] == {
        name: {"matched": ADS, "without_vector": 0, "vectors_unused": 0} for name in ("looks", "sounds")
    }
    encoding = json.loads((tmp_path / "emb/ad_encoding.json").read_text())
    assert encoding["parts"] == {"looks": 6, "sounds": 4} and encoding["encoder"] is None
    assert encoding["columns"]["item_id"] == "string" and encoding["columns"]["row"] == "int64"


def test_vectors_stand_beside_an_encoder_that_is_named(tmp_path, tiny_encoder):
    prepared(tmp_path)
    vectors(tmp_path, "looks", 6)
    assert embed(tmp_path, "--vectors", tmp_path / "looks.npy", "--encoder", tiny_encoder) == 0
    encoding = json.loads((tmp_path / "emb/ad_encoding.json").read_text())
    assert encoding["parts"] == {"encoder": 16, "looks": 6} and encoding["text_columns"] == ["title"]


def test_an_ad_without_a_vector_gets_the_mean_of_the_others(tmp_path):
    prepared(tmp_path)
    looks = vectors(tmp_path, "looks", 6)
    np.save(tmp_path / "looks.npy", looks[:20])
    (tmp_path / "looks.ids.txt").write_text("\n".join(f"{n:04d}" for n in range(20)))
    assert embed(tmp_path, "--vectors", tmp_path / "looks.npy") == 0
    content = load_file(tmp_path / "emb/embeddings.safetensors")["content"]
    np.testing.assert_allclose(content[20:], np.repeat(unit(looks[:20]).mean(0)[None], 4, axis=0), atol=1e-6)


def test_row_numbers_match_a_file_without_ids(tmp_path, capsys):
    prepared(tmp_path)
    looks = vectors(tmp_path, "looks", 6)
    (tmp_path / "looks.ids.txt").unlink()
    assert embed(tmp_path, "--vectors", tmp_path / "looks.npy") == 2
    assert "looks.npy: has no ids, and the catalog may have lost or moved rows" in capsys.readouterr().err
    assert embed(tmp_path, "--vectors", tmp_path / "looks.npy", "--id_column", "row") == 0
    np.testing.assert_allclose(load_file(tmp_path / "emb/embeddings.safetensors")["content"], unit(looks), atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vectors", "looks.pkl"], "`vectors` are files of .npy, .parquet, .safetensors"),
        (["--vectors", "nowhere.npy"], "nowhere.npy: no such file"),
        (["--vectors", "looks.npy", "other/looks.npy"], "which must differ"),
        (["--vectors", "encoder.npy"], "be none of encoder and categories"),
        (["--vectors", "looks.npy", "--id_column", "sku"], "`id_column` names 'sku', which the catalog does not have"),
        (["--text_columns", "titel"], "`text_columns` names 'titel'"),
    ],
)
def test_settings_that_cannot_be_are_one_line(tmp_path, monkeypatch, capsys, tiny_encoder, words, message):
    prepared(tmp_path)
    vectors(tmp_path, "looks", 6)
    monkeypatch.chdir(tmp_path)
    words = words if "--vectors" in words else [*words, "--encoder", str(tiny_encoder)]
    assert embed(tmp_path, *words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and not (tmp_path / "emb" / "embeddings.safetensors").exists()


def test_a_changed_file_is_another_stage(tmp_path):
    vectors(tmp_path, "looks", 6)
    config = EmbedConfig(vectors=str(tmp_path / "looks.npy"))
    assert config.vectors == [str(tmp_path / "looks.npy")] and config.encoder_name is None
    stage = next(stage for stage in STAGES if stage.name == "embed")
    before = stage_settings(stage, {"embed": config, "cooccurrence": {}}, 0)
    np.save(tmp_path / "looks.npy", np.ones((2, 2)))
    after = stage_settings(stage, {"embed": config, "cooccurrence": {}}, 0)
    assert before["embed"]["vectors"].keys() == {"looks.npy"} and before != after
    # Texts that nobody reads need not be there.
    pd.DataFrame({"item_id": ["a"], "row": [0]}).to_parquet(tmp_path / "catalog.parquet")
    pd.DataFrame({"user_id": ["u"], "item_id": ["a"]}).to_parquet(tmp_path / "events.parquet")
    (tmp_path / "recipe.yaml").write_text(f"name: x\nembed: {{vectors: {tmp_path / 'looks.npy'}, id_column: row}}\n")
    recipe = load_recipe(tmp_path / "recipe.yaml", data_root=tmp_path)
    assert recipe.embed.vectors == [str(tmp_path / "looks.npy")]
    recipe.tokenize.business_fields = ["item_id"]
    check_columns(vars(recipe))


def test_tuning_needs_an_encoder(tmp_path, capsys):
    prepared(tmp_path)
    vectors(tmp_path, "looks", 6)
    words = ["--data", tmp_path / "data", "--out", tmp_path / "tuned", "--vectors", tmp_path / "looks.npy"]
    assert main(["tune", *map(str, words)]) == 2
    assert "`encoder` is needed here, but `vectors`" in capsys.readouterr().err


def test_templates_of_ones_own_travel_along(tmp_path, tiny_encoder):
    from gr4ad.tokenization.ad_encoder import AdEncoder
    from gr4ad.tokenization.ad_prompts import PACKAGED_PROMPTS

    prepared(tmp_path)
    own = tmp_path / "own"
    own.mkdir()
    for path in PACKAGED_PROMPTS.iterdir():
        (own / path.name).write_text(path.read_text())
    (own / "product.jinja").write_text("buy {{ title }}")
    assert embed(tmp_path, "--encoder", tiny_encoder, "--prompts", own) == 0
    words = ["--data", tmp_path / "data", "--embeddings", tmp_path / "emb", "--out", tmp_path / "tok"]
    sizes = ["--codebook_sizes", "4", "8", "--num_value_buckets", "0", "--min_used", "0.1"]
    assert main(["tokenize", *map(str, words), *sizes]) == 0
    (own / "product.jinja").write_text("changed since {{ title }}")
    encoder = AdEncoder.load(tmp_path / "tok" / "tokenizer", device="cpu")
    [row] = encoder.embed([{"item_id": "x", "title": "ad 5"}]).vectors
    content = load_file(tmp_path / "emb/embeddings.safetensors")["content"]
    np.testing.assert_allclose(row, encoder.fusion.transform(content[5:6])[0], atol=1e-6)


@pytest.mark.parametrize(
    ("title", "ads", "message"),
    [
        (lambda n: "one and the same", ADS, "All 24 ads of the catalog have one and the same embedding"),
        (lambda n: "alone", 1, "The catalog has one ad, '0000'. Semantic IDs tell ads apart"),
    ],
)
def test_a_catalog_that_cannot_be_told_apart_says_why(tmp_path, tiny_encoder, capsys, title, ads, message):
    data = prepared(tmp_path, title=title, ads=ads)
    assert len(load_prepared(data).catalog) == ads
    assert embed(tmp_path, "--encoder", tiny_encoder) == 0
    words = ["--data", data, "--embeddings", tmp_path / "emb", "--out", tmp_path / "tok", "--codebook_sizes", 1, 1]
    assert main(["tokenize", *map(str, words)]) == 2
    assert message in capsys.readouterr().err


def test_a_new_ad_brings_its_own_vector(tmp_path):
    """Of any length, as the files do; two files need an object."""
    from gr4ad.tokenization.ad_encoder import AdEncoder
    from gr4ad.tokenization.ad_records import AdRecordError

    prepared(tmp_path)
    looks, sounds = vectors(tmp_path, "looks", 6), vectors(tmp_path, "sounds", 4)
    sizes = ["--codebook_sizes", "4", "8", "--num_value_buckets", "0", "--min_used", "0.1"]
    for files, embedding in (
        (["looks"], (3 * looks[5]).tolist()),
        (["looks", "sounds"], {"looks": (3 * looks[5]).tolist(), "sounds": sounds[5].tolist()}),
    ):
        assert embed(tmp_path, "--vectors", *(tmp_path / f"{name}.npy" for name in files)) == 0
        out = tmp_path / "_".join(files)
        words = ["--data", tmp_path / "data", "--embeddings", tmp_path / "emb", "--out", out]
        assert main(["tokenize", *map(str, words), *sizes]) == 0
        encoder = AdEncoder.load(out / "tokenizer")
        [row] = encoder.embed([{"item_id": "x", "embedding": embedding}]).vectors
        np.testing.assert_allclose(
            row, load_file(out / "item_embeddings.safetensors")["item_embeddings"][5], atol=1e-6
        )
        with pytest.raises(AdRecordError, match=r"needs an `embedding` \(looks"):
            encoder.embed([{"item_id": "x", "title": "ad 5"}])

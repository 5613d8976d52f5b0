import datetime
import json
import shutil
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from safetensors.numpy import load_file

from gr4ad import UASIDTokenizer
from gr4ad.data import DataConfig, load_prepared, prepare
from gr4ad.pipeline.embedding import embed_ads
from gr4ad.pipeline.settings import EmbedConfig, TokenizeConfig
from gr4ad.pipeline.tokenizing import build_tokenizer
from gr4ad.tokenization.ad_encoder import AdEncoder
from gr4ad.tokenization.ad_records import AdRecordError, typed

ADS, NEW = 60, 12
BRANDS, WORDS = ("acme", "opi", "nord", "zen"), ("red", "blue", "lamp", "shoe", "soap", "cup", "nail", "tea")


def ad(number: int) -> dict:
    """An ad whose account has leading zeros, with a price that some lack and tags that some lack."""
    rng = np.random.default_rng(number)
    return {
        "item_id": f"ad_{number:03d}",
        "title": " ".join(rng.choice(WORDS, 4)) + f" {number}",
        "brand": BRANDS[number % 4] if number % 7 else None,
        "account_id": f"{number % 5:07d}",
        "price": float(np.float32(rng.integers(1, 50) / 3)) if number % 3 else None,
        "stock": int(number) if number % 4 else None,
        "tags": [f"t{number % 3}", f"u{number % 5}"] if number % 6 else None,
    }


SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("brand", pa.string()),
        ("account_id", pa.string()),
        ("price", pa.float32()),
        ("stock", pa.int32()),
        ("tags", pa.list_(pa.string())),
    ]
)


def prepared(folder: Path, ads: list[dict]) -> Path:
    """Prepared data of a catalog whose last ads nobody has engaged with."""
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(ads, SCHEMA), folder / "catalog.parquet")
    rng = np.random.default_rng(1)
    rows = [
        {"user_id": f"u{user}", "item_id": f"ad_{int(rng.integers(50)):03d}", "timestamp": place}
        for user in range(40)
        for place in range(6)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "events.parquet")
    prepare(DataConfig(root=str(folder)), folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def built(tmp_path_factory, tiny_encoder) -> Path:
    """Folders of the stages for 60 ads: text of three columns, a file of vectors, categories, and a log of 50."""
    root = tmp_path_factory.mktemp("built")
    data = prepared(root / "source", [ad(number) for number in range(ADS)])
    own = np.random.default_rng(2).normal(size=(ADS + NEW, 6)).astype(np.float32)
    known = [number for number in range(ADS) if number % 9]  # some have no vector
    table = {"item_id": [f"ad_{number:03d}" for number in known], "vector": own[known].tolist()}
    pq.write_table(pa.table(table), root / "looks.parquet")
    np.save(root / "own.npy", own)
    config = EmbedConfig(
        encoder=str(tiny_encoder),
        text_columns=["title", "brand", "price"],
        category_columns=["brand", "tags"],
        category_dimension=4,
        vectors=[str(root / "looks.parquet")],
    )
    counts = embed_ads(config, {"epochs": 1, "dimension": 8}, data_dir=data, out_dir=made(root / "emb"), seed=0)
    assert counts["vectors"] == {"looks": {"matched": len(known), "without_vector": 7, "vectors_unused": 0}}
    tokens = TokenizeConfig(
        codebook_sizes=["4", "4", "8*"],
        business_fields=["account_id", "stock", "item_id"],
        display_columns=["title", "stock", "tags"],
        num_value_buckets=0,
        min_used=0.1,
    )
    build_tokenizer(tokens, data_dir=data, embeddings_dir=root / "emb", out_dir=made(root / "tok"), seed=0)
    return root


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture
def encoder(built) -> AdEncoder:
    return AdEncoder.load(built / "tok" / "tokenizer", device="cpu")


def record(built: Path, number: int, *, vector: bool = True) -> dict:
    own = np.load(built / "own.npy")[number].tolist() if vector else None
    said = {name: value for name, value in ad(number).items() if value is not None or name == "stock"}
    return said | ({"embedding": {"looks": own}} if own is not None else {})


def test_an_ad_of_the_catalog_gets_the_vector_that_it_was_built_with(built, encoder):
    quantized = load_file(built / "tok" / "item_embeddings.safetensors")["item_embeddings"]
    data = load_prepared(built / "source" / "data")
    logged = {item for items in data.train["items"] for item in items}
    cold = [number for number in range(ADS) if f"ad_{number:03d}" not in logged]
    assert len(cold) >= 10
    ads = encoder.embed([record(built, number, vector=number % 9 != 0) for number in cold])
    np.testing.assert_allclose(ads.vectors, quantized[cold], atol=2e-6)
    content = load_file(built / "emb" / "embeddings.safetensors")["content"]
    everyone = encoder.embed([record(built, number, vector=number % 9 != 0) for number in range(ADS)])
    np.testing.assert_allclose(everyone.vectors, encoder.fusion.transform(content), atol=2e-6)


def test_a_new_ad_gets_what_a_rebuild_with_the_same_codebooks_gives(built, encoder, tmp_path, tiny_encoder):
    """The catalog with the new ads is embedded anew by the stage; categories, fusion and codebooks stay. The codes are
    written out by hand: the nearest centroid of each level, then the first free hash."""
    data = prepared(tmp_path / "source", [ad(number) for number in range(ADS + NEW)])
    ids = [f"ad_{number:03d}" for number in range(ADS + NEW)]
    own = np.load(built / "own.npy")
    with_vector = [number for number in range(ADS + NEW) if number % 9]
    vectors = {"item_id": [ids[number] for number in with_vector], "vector": own[with_vector].tolist()}
    pq.write_table(pa.table(vectors), tmp_path / "looks.parquet")
    config = EmbedConfig(
        encoder=str(tiny_encoder), text_columns=["title", "brand", "price"], vectors=str(tmp_path / "looks.parquet")
    )
    embed_ads(config, {}, data_dir=data, out_dir=made(tmp_path / "emb"), seed=0)
    content = load_file(tmp_path / "emb" / "embeddings.safetensors")["content"][ADS:]
    mean = load_file(built / "emb" / "ad_encoding.safetensors")["looks"]
    for row, number in enumerate(range(ADS, ADS + NEW)):
        if not number % 9:  # the mean over the ads of the first catalog
            content[row, 16:] = mean
    labels = [
        [f"0:{a['brand']}"] * (a["brand"] is not None) + [f"1:{tag}" for tag in a["tags"] or ()]
        for a in (ad(number) for number in range(ADS, ADS + NEW))
    ]
    whole = np.concatenate([content, encoder.contents.categories.transform(labels)], axis=1)
    expected = encoder.fusion.transform(whole)
    records = [record(built, number, vector=number % 9 != 0) for number in range(ADS, ADS + NEW)]
    ads = encoder.embed(records)
    np.testing.assert_allclose(ads.vectors, expected, atol=2e-6)
    assert ads.keys == [
        f"{number % 5:07d}|{number if number % 4 else None}|ad_{number:03d}" for number in range(ADS, ADS + NEW)
    ]

    index = encoder.tokenizer.index
    taken = {tuple(codes) for codes in index.codes.tolist()}
    books = encoder.quantizer.codebooks
    for place, found in enumerate(encoder.codes(ads, index).tolist()):
        first = int(((expected[place] - books[0]) ** 2).sum(1).argmin())
        second = int(((expected[place] - books[0][first] - books[1]) ** 2).sum(1).argmin())
        last = xxhash.xxh64_intdigest(ads.keys[place].encode()) % 8
        free = [code for code in ((last + step) % 8 for step in range(8)) if (first, second, code) not in taken]
        assert found == [first, second, free[0] if free else last]
        taken.add(tuple(found))
    # One by one they get the same codes as together.
    alone = index.snapshot()
    for place, codes in enumerate(encoder.codes(ads, index).tolist()):
        one = encoder.embed([records[place]])
        assert encoder.codes(one, alone).tolist() == [codes]
        alone.add(one.item_ids, np.array([codes]))


def test_an_ad_that_is_served_keeps_its_sid_and_gives_its_code_free_where_it_moves(built, encoder):
    index = encoder.tokenizer.index.snapshot()
    ads = encoder.embed([record(built, ADS)])
    codes = encoder.codes(ads, index)
    index.add(ads.item_ids, codes)
    assert encoder.codes(ads, index).tolist() == codes.tolist()
    moved = ads.take([0])
    moved.vectors = -ads.vectors
    after = encoder.codes(moved, index)[0]
    assert after[:2].tolist() != codes[0, :2].tolist()


def test_the_order_and_number_of_records_do_not_matter(built, encoder):
    records = [record(built, number) for number in range(ADS, ADS + 6)]
    together = encoder.embed(records).vectors
    np.testing.assert_allclose(encoder.embed(records[::-1]).vectors[::-1], together, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([encoder.embed([r]).vectors for r in records]), together, atol=1e-6)


BAD = [
    ({"item_id": 7}, "item_id", "`item_id` must be a string. Received: 7. Write ids as text"),
    ({"item_id": None}, "item_id", "`item_id` must be a string"),
    ({"account_id": 3}, "account_id", "`account_id` is text in the catalog. Received: 3, which is a number"),
    ({"price": "cheap"}, "price", "`price` is a number in the catalog. Received: 'cheap'"),
    ({"price": "007"}, "price", "`price` is a number"),
    ({"stock": 1.5}, "stock", "`stock` is a whole number"),
    ({"stock": 10**400}, "stock", "`stock` is a whole number"),
    ({"titel": "Lamp"}, "titel", "`titel` is no column of the catalog that the artifact was built on. It has: title"),
    ({"tags": "a"}, "tags", "`tags` is a list in the catalog"),
    ({"title": {"en": "Lamp"}}, "title", "`title` is text in the catalog"),
    ({"embedding": [1.0] * 5}, "embedding", "must be of 26 numbers (the whole content) or 6 (looks), 16 (encoder)"),
    ({"embedding": {"sounds": [1.0]}}, "embedding", "`embedding` names 'sounds'. The parts that can be given are:"),
    ({"embedding": {"looks": [float("nan")] * 6}}, "embedding", "`embedding` must be finite floats"),
    ({"embedding": {"looks": [3e19] * 6}}, "embedding", "and its length is beyond what float32 holds"),
    ({"embedding": {"looks": [10**400] * 6}}, "embedding", "`embedding` must be a list of floats"),
    ({"priority": "high"}, "priority", "`priority` must be one finite number"),
    ({"business_key": 5}, "business_key", "`business_key` must be a string"),
    ({"account_id": ...}, "account_id", "or 'account_id' among `attributes`"),
    ({"title": "half \ud800"}, "title", "half of a surrogate pair"),
    ({"item_id": "half \ud800"}, "item_id", "`item_id` must be Unicode text. Received half of a surrogate pair"),
    ({"business_key": "half \ud800"}, "business_key", "`business_key` must be Unicode text"),
    ({"half \ud800": 1}, "half \\ud800", "`half \\ud800` is no column of the catalog"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "name", "message"), BAD)
def test_a_bad_record_is_told_by_field_and_set_aside(built, encoder, changes, name, message):
    good = record(built, ADS) | {"stock": 1}
    bad = {key: value for key, value in (record(built, ADS + 1) | {"stock": 2} | changes).items() if value is not ...}
    with pytest.raises(AdRecordError) as error:
        encoder.embed([good, bad])
    assert message in str(error.value) and error.value.place == 1 and error.value.field == name
    refused: list[AdRecordError] = []
    ads = encoder.embed([good, bad], refuse=refused.append)
    assert ads.item_ids == ["ad_060"] and ads.places == [0] and [e.place for e in refused] == [1]


def test_what_says_nothing_and_what_comes_twice_is_told(built, encoder):
    nothing = {"item_id": "x", "account_id": "0000001", "stock": 1, "price": None}
    with pytest.raises(AdRecordError, match="says nothing that can be embedded: it needs a text or category"):
        encoder.embed([nothing])
    twice = record(built, ADS) | {"stock": 1}
    with pytest.raises(AdRecordError, match="'ad_060' stands twice"):
        encoder.embed([twice, twice])


def test_values_are_read_as_the_catalog_has_them():
    assert typed("0000010", "string", "a") == "0000010"
    assert typed(datetime.date(2024, 1, 2), "string", "a") == "2024-01-02"
    assert typed(Decimal("12"), "int64", "a") == 12 and typed("12", "int64", "a") == 12
    assert typed(12, "double", "a") == 12.0 and isinstance(typed(12, "double", "a"), float)
    assert typed(np.int64(3), "int64", "a") == 3 and typed(float("nan"), "string", "a") is None
    assert typed("true", "bool", "a") is True
    assert typed("2024-01-02", "date32[day]", "a") == datetime.date(2024, 1, 2)
    assert typed((1, 2), "list of int64", "a") == [1, 2]
    for value, kind in ((True, "int64"), (10, "string"), ("soon", "date32[day]"), ([[1]], "list of int64")):
        with pytest.raises(ValueError, match="`a` is"):
            typed(value, kind, "a")


def test_another_encoder_is_refused_and_a_folder_without_settings_says_so(built, encoder, tmp_path):
    folder = tmp_path / "tokenizer"
    shutil.copytree(built / "tok" / "tokenizer", folder)
    settings = json.loads((folder / "ad_encoding.json").read_text())
    settings["encoder_check"]["encoder_weights"] = "0" * 32
    (folder / "ad_encoding.json").write_text(json.dumps(settings))
    good = record(built, ADS) | {"stock": 1}
    with pytest.raises(ValueError, match="is not the one that the ads of .* were embedded with"):
        AdEncoder.load(folder, device="cpu").embed([good])
    (folder / "ad_encoding.json").write_text("{")
    with pytest.raises(ValueError, match="ad_encoding.json: not readable"):
        AdEncoder.load(folder).embed([good])
    (folder / "ad_encoding.json").unlink()
    old = AdEncoder.load(folder)
    with pytest.raises(ValueError, match="has no ad_encoding.json: an earlier version"):
        old.embed([good])
    # A vector of the whole content is enough for the codes.
    whole = load_file(built / "emb" / "embeddings.safetensors")["content"][5]
    ads = old.embed([{"item_id": "x", "embedding": whole.tolist(), "business_key": "k"}])
    np.testing.assert_array_equal(ads.vectors, encoder.fusion.transform(whole[None]))


def test_ids_that_are_removed_come_back_with_free_codes(built, encoder):
    index = encoder.tokenizer.index.snapshot()
    before = index.sid_of("ad_007")
    index.remove(["ad_007"])
    ads = encoder.embed([record(built, 7)])
    codes = encoder.codes(ads, index)[0]
    active = {tuple(row) for row in index.codes[index.active].tolist()}
    assert tuple(codes) not in active and len(before) == 3
    assert isinstance(encoder.tokenizer, UASIDTokenizer)


def test_the_peers_of_an_ad_are_those_with_the_nearest_vectors(built, encoder):
    index = encoder.tokenizer.index.snapshot()
    quantized = load_file(built / "tok" / "item_embeddings.safetensors")["item_embeddings"]
    records = [record(built, ADS), record(built, 7)]
    ads = encoder.embed(records)
    index.remove(["ad_003"])
    centred = quantized - quantized.mean(0)
    for item, vector, peers in zip(ads.item_ids, ads.vectors, encoder.peers(ads, index), strict=True):
        mine = vector - quantized.mean(0)
        cosines = centred @ mine / np.linalg.norm(centred, axis=1) / np.linalg.norm(mine)
        order = [f"ad_{row:03d}" for row in np.argsort(-cosines).tolist() if f"ad_{row:03d}" not in ("ad_003", item)]
        assert len(peers) == 5 and len(set(peers) & set(order[:6])) >= 4  # as far as half precision goes
    by_hand = AdEncoder(built / "tok", encoder.tokenizer)
    assert by_hand.neighbours is None and by_hand.peers(ads, index) is None

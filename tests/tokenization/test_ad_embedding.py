import ast
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from tiny_vlm import save_picture, save_tiny_vlm, tiny_tokenizer
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    set_seed,
)

import gr4ad.tokenization
from gr4ad.tokenization.ad_embedding import OFFLINE_ENCODER, AdEmbedder, load_encoder
from gr4ad.tokenization.ad_prompts import AD_FORMS
from gr4ad.tokenization.embedding_shards import EmbeddingShards

WORDS = ["red", "blue", "shoes", "boots", "sport", "games", "acme", "fashion"]


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> str:
    return str(save_tiny_vlm(tmp_path_factory.mktemp("vlm")))


@pytest.fixture(scope="module")
def llm(tmp_path_factory) -> str:
    """A causal decoder without chat template."""
    folder = tmp_path_factory.mktemp("llm")
    tokenizer = tiny_tokenizer(chat=False)
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in {"red": (220, 0, 0), "blue": (0, 0, 220), "green": (0, 200, 0)}.items():
        save_picture(folder / f"{name}.png", colour, (20, 12))
    return folder


@pytest.fixture(scope="module")
def mixed_ads() -> Dataset:
    """Ads with 0 to 3 images, texts of many lengths, some without text, one (row 6) with neither, two alike."""
    rng = np.random.default_rng(0)
    images = [[], ["red.png"], ["blue.png"], ["red.png", "blue.png"], None, ["red.png"], [], ["green.png"] * 3, []]
    titles = [" ".join(rng.choice(WORDS, 1 + 3 * row)) for row in range(len(images))]
    titles[2], titles[6], titles[8] = "", None, titles[0]
    return Dataset.from_dict(
        {
            "item_id": [f"ad_{row}" for row in range(len(images))],
            "title": titles,
            "form": ["product", "image_product", None, "product_video", *AD_FORMS[:4], "product"],
            "images": images,
        }
    )


def vlm_embedder(vlm, pictures, **changes) -> AdEmbedder:
    settings = {
        "image_column": "images",
        "image_root": pictures,
        "prompts": "default",
        "form_column": "form",
    } | changes
    return AdEmbedder(vlm, ["title"], **settings)


# --- text encoders


def test_packaged_encoder_embeds_each_distinct_text_once(monkeypatch):
    titles = ["red shoes", "a much longer text about blue boots for winter", "", "red shoes", None]
    embedder = AdEmbedder(OFFLINE_ENCODER, ["title"], batch_size=2)
    encoded: list[str] = []
    encode = embedder.encoder.encode
    monkeypatch.setattr(
        embedder.encoder, "encode", lambda inputs, **rest: encoded.extend(inputs) or encode(inputs, **rest)
    )
    embeddings, empty = embedder.embed(Dataset.from_dict({"title": titles}), progress=False)
    assert sorted(encoded) == sorted({"red shoes", titles[1]})
    assert embeddings.shape == (5, 384) and embeddings.dtype == np.float32 and empty == 2
    by_hand = encode([titles[0], titles[1]], normalize_embeddings=True)
    np.testing.assert_allclose(embeddings[:2], by_hand, atol=1e-6)
    np.testing.assert_array_equal(embeddings[3], embeddings[0])
    np.testing.assert_allclose(embeddings[2], embeddings[[0, 1, 3]].mean(0), atol=1e-6)  # mean over ads, not texts
    np.testing.assert_array_equal(embeddings[4], embeddings[2])


def test_max_length_cuts_texts():
    long = Dataset.from_dict({"title": ["red shoes " * 30, "red shoes"]})
    embeddings, _ = AdEmbedder(OFFLINE_ENCODER, ["title"], max_length=4).embed(long, progress=False)
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-6)  # [CLS] red shoes [SEP] is all that fits


def test_pooling_of_a_plain_decoder(llm, tmp_path):
    catalog = Dataset.from_dict({"title": ["red shoes", "blue boots sport games", "acme"]})
    ours = {pooling: AdEmbedder(llm, ["title"], pooling=pooling) for pooling in ("auto", "last", "mean")}
    made = {pooling: embedder.embed(catalog, progress=False)[0] for pooling, embedder in ours.items()}
    np.testing.assert_array_equal(made["auto"], made["last"])
    assert not np.allclose(made["auto"], made["mean"], atol=1e-2)
    model, tokenizer = LlamaModel.from_pretrained(llm), tiny_tokenizer(chat=False)
    for row, text in enumerate(catalog["title"]):  # the formula, one at a time and so without padding
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].detach().numpy()
        for pooling, vector in {"last": states[-1], "mean": states.mean(0)}.items():
            np.testing.assert_allclose(made[pooling][row], vector / np.linalg.norm(vector), atol=1e-5)
    # A bare decoder's configuration does not say ForCausalLM, and a sentence-transformers folder says it itself.
    model.save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    assert load_encoder(str(tmp_path / "bare"))[1].pooling_mode == "lasttoken"
    ours["mean"].encoder.save(str(tmp_path / "configured"))
    assert load_encoder(str(tmp_path / "configured"))[1].pooling_mode == "mean"
    assert load_encoder(str(tmp_path / "configured"), pooling="last")[1].pooling_mode == "lasttoken"


def test_a_bidirectional_encoder_is_mean_pooled(tmp_path):
    tokenizer = tiny_tokenizer(chat=False)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_encoder(str(tmp_path))[1].pooling_mode == "mean"


def test_half_precision_rows_have_length_1(llm):
    catalog = Dataset.from_dict({"title": ["red shoes", "blue boots"]})
    exact, _ = AdEmbedder(llm, ["title"], dtype="float32").embed(catalog, progress=False)
    half, _ = AdEmbedder(llm, ["title"], dtype="bfloat16").embed(catalog, progress=False)
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-5)
    assert ((exact * half).sum(1) > 0.98).all() and not np.array_equal(exact, half)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "cls"}, "`pooling` must be one of auto, mean, last. Received: 'cls'"),
        ({"dtype": "int8"}, "`dtype` must be one of auto, float32, bfloat16, float16. Received: 'int8'"),
        ({"batch_size": 0}, "`batch_size` must be >= 1. Received: 0"),
        ({"max_images": 0}, "`max_images` must be >= 1. Received: 0"),
        ({"form_column": "form"}, "`form_column` 'form' chooses a template, and `prompts` is None"),
        ({"encoder": "/nowhere/model"}, "`encoder` '/nowhere/model' cannot be loaded"),
        ({"image_column": "image"}, "reads text only. Name a vision-language model"),
    ],
)
def test_bad_settings_are_refused(llm, settings, message):
    with pytest.raises(ValueError, match=message):
        AdEmbedder(**({"encoder": llm, "text_columns": ["title"]} | settings))


def test_catalog_without_the_column_or_any_text(llm):
    embedder = AdEmbedder(llm, ["title"])
    with pytest.raises(
        ValueError, match="`text_columns` names 'title', which the catalog does not have. It has: name"
    ):
        embedder.embed(Dataset.from_dict({"name": ["x"]}))
    with pytest.raises(ValueError, match="No ad has text in the columns"):
        embedder.embed(Dataset.from_dict({"title": ["", None]}))


# --- vision-language models


def test_images_and_texts_batched_equal_one_at_a_time(vlm, pictures, mixed_ads):
    embedder = vlm_embedder(vlm, pictures, batch_size=4)
    assert embedder.encoder[1].pooling_mode == "lasttoken"
    together, empty = embedder.embed(mixed_ads, progress=False)
    assert together.shape == (9, 32) and empty == 1
    for row in range(len(mixed_ads)):
        if row != 6:
            alone, _ = embedder.embed(mixed_ads.select([row]), progress=False)
            np.testing.assert_allclose(together[row], alone[0], atol=1e-5)
    np.testing.assert_allclose(together[6], np.delete(together, 6, 0).mean(0), atol=1e-6)
    np.testing.assert_array_equal(together[8], together[0])


def test_an_image_moves_the_embedding_and_so_does_its_order(vlm, pictures):
    images = [["red.png"], ["blue.png"], [], ["red.png", "blue.png"], ["blue.png", "red.png"]]
    catalog = Dataset.from_dict({"title": ["red shoes"] * 5, "images": images})
    embeddings, _ = vlm_embedder(vlm, pictures, form_column=None).embed(catalog, progress=False)
    distances = np.linalg.norm(embeddings[:, None] - embeddings[None], axis=2)
    assert (distances[~np.eye(5, dtype=bool)] > 1e-3).all()


def test_the_embedding_is_the_state_before_the_answer(vlm, pictures):
    embedder = vlm_embedder(vlm, pictures, prompts=None, form_column=None)
    catalog = Dataset.from_dict({"title": ["red <image> shoes"], "images": ["red.png"]})  # a title with a placeholder
    embeddings, _ = embedder.embed(catalog, progress=False)
    from PIL import Image
    from transformers import AutoModel, AutoProcessor

    processor = AutoProcessor.from_pretrained(vlm)
    inputs = processor(
        text="<|user|><image>red   shoes<|end|><|assistant|>",
        images=Image.open(pictures / "red.png"),
        return_tensors="pt",
    )
    state = AutoModel.from_pretrained(vlm)(**inputs).last_hidden_state[0, -1].detach().numpy()
    np.testing.assert_allclose(embeddings[0], state / np.linalg.norm(state), atol=1e-5)


def test_max_length_cuts_the_text_and_never_an_image(vlm, pictures):
    long = ["red shoes " * 20, "red shoes"]
    catalog = Dataset.from_dict({"title": long, "images": [["red.png", "blue.png"]] * 2})
    settings = {"prompts": None, "form_column": None}
    cut, _ = vlm_embedder(vlm, pictures, max_length=2, **settings).embed(catalog, progress=False)
    whole, _ = vlm_embedder(vlm, pictures, **settings).embed(catalog, progress=False)
    np.testing.assert_allclose(cut[0], cut[1], atol=1e-5)
    np.testing.assert_allclose(cut[1], whole[1], atol=1e-5)
    assert not np.allclose(whole[0], whole[1], atol=1e-3)


def test_a_title_that_is_a_file_name_stays_a_text(vlm, pictures):
    path = str(pictures / "red.png")
    catalog = Dataset.from_dict({"title": [path, "https://example.org/a.png"]})
    embeddings, empty = AdEmbedder(vlm, ["title"]).embed(catalog, progress=False)
    assert empty == 0 and not np.allclose(embeddings[0], embeddings[1], atol=1e-3)


def test_an_unreadable_image_names_ad_and_file(vlm, pictures):
    catalog = Dataset.from_dict({"item_id": ["a", "b"], "title": ["x", "y"], "images": ["red.png", "gone.png"]})
    embedder = vlm_embedder(vlm, pictures, form_column=None)
    with pytest.raises(ValueError, match=r"Ad 'b' \(row 1\): image .*gone\.png cannot be read"):
        embedder.embed(catalog, progress=False)
    with pytest.raises(ValueError, match="more than `max_pixels` = 100"):
        vlm_embedder(vlm, pictures, form_column=None, max_pixels=100).embed(catalog, progress=False)


def test_an_encoder_of_one_space_gives_the_mean_of_text_and_images(pictures, tmp_path):
    """CLIP: no chat template, texts and images are embedded apart."""
    tokenizer = tiny_tokenizer(chat=False)
    set_seed(0)
    common = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": 4, "pad_token_id": 0}
    vision = {"image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text | common, vision_config=vision | common, projection_dim=8)).save_pretrained(
        tmp_path
    )
    images = CLIPImageProcessorPil(size={"height": 16, "width": 16}, do_center_crop=False)
    tokenizer.model_max_length = 16
    CLIPProcessor(images, tokenizer).save_pretrained(tmp_path)
    catalog = Dataset.from_dict(
        {
            "title": ["red", "red", "", "blue", ""],
            "images": [["red.png"], [], ["red.png"], ["red.png", "blue.png"], []],
        }
    )
    embedder = AdEmbedder(str(tmp_path), ["title"], image_column="images", image_root=pictures)
    rows, empty = embedder.embed(catalog, progress=False)
    assert rows.shape == (5, 8) and empty == 1
    both = rows[1] + rows[2]
    np.testing.assert_allclose(rows[0], both / np.linalg.norm(both), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows[:4], axis=1), 1, atol=1e-5)
    with pytest.raises(ValueError, match="gives one vector an input by itself"):
        AdEmbedder(str(tmp_path), ["title"], pooling="mean")


# --- shards


def test_embed_to_equals_embed_and_counts(vlm, pictures, mixed_ads, tmp_path):
    embedder = vlm_embedder(vlm, pictures)
    counts = embedder.embed_to(mixed_ads, tmp_path / "out", shard_size=4)
    # neither titles nor images: row 6; row 2 has only an image
    assert counts == {"ads": 9, "without_text": 2, "without_image": 4, "without_content": 1}
    shards = EmbeddingShards(tmp_path / "out")
    assert shards.item_ids == mixed_ads["item_id"][:]
    together, _ = embedder.embed(mixed_ads, progress=False)
    np.testing.assert_allclose(shards[:], together, atol=1e-5)


def test_embed_to_goes_on_and_notices_changes(vlm, pictures, mixed_ads, tmp_path, monkeypatch):
    embedder = vlm_embedder(vlm, pictures)
    embedder.embed_to(mixed_ads, tmp_path / "whole", shard_size=2)
    calls = 0
    embed_contents = embedder.embed_contents

    def dies(contents, **rest):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return embed_contents(contents, **rest)

    monkeypatch.setattr(embedder, "embed_contents", dies)
    with pytest.raises(KeyboardInterrupt):
        embedder.embed_to(mixed_ads, tmp_path / "killed", shard_size=2)
    again = vlm_embedder(vlm, pictures, batch_size=64)
    assert again.embed_to(mixed_ads, tmp_path / "killed", shard_size=2)["ads"] == 9
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "killed" / file.name).read_bytes(), file.name

    changed = mixed_ads.select(range(8)).add_item(mixed_ads[8] | {"title": "other"})
    with pytest.raises(ValueError, match="rows 8 to 8 of the catalog changed"):
        again.embed_to(changed, tmp_path / "killed", shard_size=2)
    with pytest.raises(ValueError, match="prompts was '.*', is None"):
        vlm_embedder(vlm, pictures, prompts=None, form_column=None).embed_to(
            mixed_ads, tmp_path / "killed", shard_size=2
        )
    next(again.encoder.parameters()).data.mul_(1.001)
    with pytest.raises(ValueError, match="encoder_weights was"):
        again.embed_to(mixed_ads, tmp_path / "killed", shard_size=2)
    again.embed_to(mixed_ads, tmp_path / "killed", shard_size=2, overwrite=True)


def test_heavy_libraries_are_imported_where_they_are_used():
    folder = Path(gr4ad.tokenization.__file__).parent
    for file in folder.glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                tops = {name.split(".")[0] for name in names}
                assert not tops & {"trl", "sentence_transformers", "peft", "PIL", "jinja2", "trainers"}, file.name
                if file.name == "__init__.py":
                    assert not tops & {"datasets", "ad_embedding", "ad_prompts", "embedding_shards"}

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlamaForCausalLM, set_seed

from gr4ad.tokenization.ad_embedding import AdEmbedder
from gr4ad.trainers.instruction import (
    InstructionConfig,
    build_instruction_dataset,
    build_instruction_trainer,
    save_encoder,
)

sys.path.append(str(Path(__file__).parents[1] / "tokenization"))

from tiny_vlm import save_picture, save_tiny_vlm, tiny_tokenizer  # noqa: E402


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> str:
    return str(save_tiny_vlm(tmp_path_factory.mktemp("vlm")))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    save_picture(folder / "red.png", (220, 0, 0))
    save_picture(folder / "blue.png", (0, 0, 220))
    return folder


@pytest.fixture(scope="module")
def catalog() -> Dataset:
    """Ads whose brand can be told from the picture alone; row 4 has no answer, row 5 no content, row 6 no picture."""
    rows = 14
    colours = ["red", "blue"] * (rows // 2)
    brands = ["acme" if colour == "red" else "boots" for colour in colours]
    images = [[f"{colour}.png"] for colour in colours]
    titles = ["red shoes <image> sport"] * rows
    brands[4] = ""
    titles[5], images[5] = "", []
    images[6] = []
    return Dataset.from_dict(
        {
            "item_id": [f"ad_{row}" for row in range(rows)],
            "title": titles,
            "brand": brands,
            "form": ["product", "image_product"] * (rows // 2),
            "images": images,
        }
    )


def pairs_of(catalog, processor, pictures, **changes):
    settings = {"image_column": "images", "image_root": pictures, "form_column": "form"} | changes
    return build_instruction_dataset(catalog, ["title", "brand"], ["brand"], processing_class=processor, **settings)


def config(folder, **changes) -> InstructionConfig:
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_steps": 12,
        "per_device_train_batch_size": 6,
        "learning_rate": 3e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 0,
    }
    return InstructionConfig(**(settings | changes))


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# --- dataset


def test_pairs_hide_the_answer_and_count_what_is_left_out(vlm, catalog, pictures):
    pairs, counts = pairs_of(catalog, AutoProcessor.from_pretrained(vlm), pictures)
    assert counts == {"ads": 14, "examples": 12, "without_target": 1, "without_content": 1, "without_image": 1}
    assert len(pairs) == 12 and pairs.column_names == ["prompt", "completion", "images"]
    first = pairs[0]
    assert first["completion"] == [{"role": "assistant", "content": "Brand: acme"}]
    (question,) = first["prompt"]
    assert question["role"] == "user" and "Title: red shoes   sport" in question["content"]
    assert "acme" not in question["content"]
    assert first["images"][0].mode == "RGB" and first["images"][0].getpixel((15, 15)) == (220, 0, 0)
    assert pairs[4]["images"] == []
    assert question["content"] != pairs[1]["prompt"][0]["content"]  # the form's own question


def test_texts_are_limited_in_tokens(vlm, catalog, pictures):
    processor = AutoProcessor.from_pretrained(vlm)
    pairs, _ = pairs_of(catalog, processor, pictures, max_length=7)
    ids = processor.tokenizer(pairs[0]["prompt"][0]["content"], add_special_tokens=False)["input_ids"]
    assert len(ids) == 7


def test_bad_catalogs_are_refused(vlm, catalog, pictures):
    processor = AutoProcessor.from_pretrained(vlm)
    with pytest.raises(ValueError, match="`target_columns` names 'industry', which the catalog does not have"):
        build_instruction_dataset(catalog, ["title"], ["industry"], processing_class=processor)
    with pytest.raises(ValueError, match="`target_columns` is empty"):
        build_instruction_dataset(catalog, ["title"], [], processing_class=processor)
    with pytest.raises(ValueError, match="No ad has both content and a target: 14 of 14 lack a target"):
        # no target template of the packaged ones uses the title
        build_instruction_dataset(catalog, ["form"], ["title"], processing_class=processor)
    with pytest.raises(ValueError, match=r"Ad 'ad_0' \(row 0\): image .*red\.png cannot be read"):
        pairs_of(catalog, processor, pictures / "elsewhere")


# --- training


def test_tuning_a_vision_language_model_and_embedding_with_it(vlm, catalog, pictures, tmp_path):
    set_seed(0)
    model, processor = AutoModelForImageTextToText.from_pretrained(vlm), AutoProcessor.from_pretrained(vlm)
    pairs, _ = pairs_of(catalog, processor, pictures)
    before = {name: weights.detach().clone() for name, weights in model.named_parameters()}
    trainer = build_instruction_trainer(model, config(tmp_path / "run"), pairs, processor)

    batch = trainer.data_collator([dict(pairs[row]) for row in range(3)])
    for labels, row in zip(batch["labels"], range(3), strict=True):
        target = pairs[row]["completion"][0]["content"]
        # the loss is on the answer and the end of the turn, and on nothing else
        assert labels[labels != -100].tolist() == processor.tokenizer(target + "<|end|>")["input_ids"]

    trainer.train()
    course = losses(trainer)
    assert all(math.isfinite(loss) for loss in course)
    assert np.mean(course[-3:]) < 0.5 * np.mean(course[:3])
    language = [name for name in before if "language_model" in name or "lm_head" in name]
    assert len(language) > 10
    after = dict(model.named_parameters())
    assert not [name for name in language if np.array_equal(before[name].numpy(), after[name].detach().numpy())]

    folder = tmp_path / "encoder"
    save_encoder(trainer, folder)
    settings = {
        "prompts": "default",
        "form_column": "form",
        "image_column": "images",
        "image_root": pictures,
    }
    embedder = AdEmbedder(str(folder), ["title"], **settings)
    assert embedder.encoder[1].pooling_mode == "lasttoken"
    embeddings, empty = embedder.embed(catalog, progress=False)
    assert empty == 1 and np.isfinite(embeddings).all()
    untuned, _ = AdEmbedder(vlm, ["title"], **settings).embed(catalog, progress=False)
    assert not np.allclose(embeddings, untuned, atol=1e-2)
    np.testing.assert_allclose(embedder.embed(catalog.select([1]), progress=False)[0][0], embeddings[1], atol=1e-5)
    # the picture alone tells rows 0 and 1's brand: another picture, another embedding
    swapped = catalog.select([0]).remove_columns("images").add_column("images", [["blue.png"]])
    assert np.linalg.norm(embedder.embed(swapped, progress=False)[0][0] - embeddings[0]) > 1e-3


def test_lora_is_merged_into_the_encoder(vlm, catalog, pictures, tmp_path):
    set_seed(0)
    model, processor = AutoModelForImageTextToText.from_pretrained(vlm), AutoProcessor.from_pretrained(vlm)
    pairs, _ = pairs_of(catalog, processor, pictures)
    lora = LoraConfig(r=4, target_modules=r".*language_model.*(q_proj|v_proj)")
    trainer = build_instruction_trainer(model, config(tmp_path / "run"), pairs, processor, peft_config=lora)
    trained = [name for name, weights in trainer.model.named_parameters() if weights.requires_grad]
    assert trained and all("lora" in name for name in trained)
    trainer.train()
    assert np.mean(losses(trainer)[-3:]) < np.mean(losses(trainer)[:3])
    inputs = trainer.data_collator([dict(pairs[0])])
    trainer.model.eval()
    state = trainer.model(**inputs, output_hidden_states=True).hidden_states[-1].detach().numpy()
    save_encoder(trainer, tmp_path / "encoder")
    encoder = AdEmbedder(str(tmp_path / "encoder"), ["title"], image_column="images").encoder
    inputs.pop("labels")
    merged = encoder.transformers_model.eval()(**inputs).last_hidden_state.detach().numpy()
    np.testing.assert_allclose(merged, state, atol=1e-4)


def test_a_language_model_without_images(catalog, tmp_path):
    set_seed(0)
    tokenizer = tiny_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            pad_token_id=0,
        )
    )
    pairs, counts = build_instruction_dataset(catalog, ["title"], ["brand"], processing_class=tokenizer)
    assert pairs.column_names == ["prompt", "completion"] and counts["without_image"] == 0
    trainer = build_instruction_trainer(model, config(tmp_path / "run", max_length=512), pairs, tokenizer)
    trainer.train()
    assert np.mean(losses(trainer)[-3:]) < 0.5 * np.mean(losses(trainer)[:3])
    save_encoder(trainer, tmp_path / "encoder")
    embeddings, _ = AdEmbedder(str(tmp_path / "encoder"), ["title"], prompts="default").embed(catalog, progress=False)
    assert embeddings.shape == (14, 32)


def test_settings_that_would_train_something_else_are_refused(vlm, catalog, pictures, tmp_path):
    with pytest.raises(ValueError, match="`completion_only_loss` must be True"):
        config(tmp_path, completion_only_loss=False)
    with pytest.raises(ValueError, match="`packing` must be False"):
        config(tmp_path, packing=True)
    processor = AutoProcessor.from_pretrained(vlm)
    pairs, _ = pairs_of(catalog, processor, pictures)
    model = AutoModelForImageTextToText.from_pretrained(vlm)
    with pytest.raises(ValueError, match="`max_length` must be None with images.*Received: 100"):
        build_instruction_trainer(model, config(tmp_path, max_length=100), pairs, processor)
    with pytest.raises(ValueError, match="no processor of a vision-language model"):
        build_instruction_trainer(model, config(tmp_path), pairs, processor.tokenizer)
    with pytest.raises(ValueError, match="has no chat template"):
        build_instruction_trainer(model, config(tmp_path), pairs, tiny_tokenizer(chat=False))
    with pytest.raises(ValueError, match="`train_dataset` lacks the column 'completion'"):
        build_instruction_trainer(model, config(tmp_path), pairs.remove_columns("completion"), processor)

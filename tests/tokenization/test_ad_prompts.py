import io
import shutil

import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from tiny_vlm import save_picture, tiny_tokenizer
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from gr4ad.tokenization.ad_prompts import (
    AD_FORMS,
    PACKAGED_PROMPTS,
    AdImage,
    AdPrompts,
    AdReader,
    ChatText,
    present_fields,
)


@pytest.fixture
def own_prompts(tmp_path):
    folder = tmp_path / "prompts"
    shutil.copytree(PACKAGED_PROMPTS, folder)
    return folder


def test_six_forms_ask_differently_and_state_only_what_the_ad_has():
    prompts = AdPrompts("default", targets=True)
    fields = {"title": "Red shoes", "brand": "Acme", "my_column": 7}
    texts = {form: prompts.render(form, fields) for form in AD_FORMS}
    assert len(set(texts.values())) == 6
    for text in texts.values():
        lines = text.splitlines()
        assert "Title: Red shoes" in lines and "Brand: Acme" in lines and "My column: 7" in lines
        assert "None" not in text and "Industry:" not in text and "Comments:" not in text
    assert [line.split(":")[0] for line in texts["product"].splitlines()[-3:]] == ["Title", "Brand", "My column"]


def test_lists_are_joined_and_targets_hold_what_is_known():
    prompts = AdPrompts(targets=True)
    assert "Comments: nice; where from?" in prompts.render("livestream", {"comments": ["nice", "where from?"]})
    assert (
        prompts.render_target("product", {"industry": "fashion", "brand": "Acme"}) == "Industry: fashion\nBrand: Acme"
    )
    parts = prompts.render_target("livestream_traffic", {"selling_elements": ["gift", "price"], "title": "x"})
    assert parts == "Selling elements: gift; price"
    assert all(prompts.render_target(form, {}) == "" for form in AD_FORMS)
    # every form can be answered from the structured fields that most catalogs have
    assert all("Industry: games" in prompts.render_target(form, {"industry": "games"}) for form in AD_FORMS)


def test_absent_values():
    pairs = [("a", None), ("b", float("nan")), ("c", "  "), ("d", []), ("e", 0), ("f", " x "), ("g", [None, "y"])]
    assert present_fields(pairs) == {"e": 0, "f": "x", "g": ["y"]}


def test_own_folder_may_import_the_packaged_macros_and_changes_the_digest(own_prompts):
    (own_prompts / "_fields.jinja").unlink()
    (own_prompts / "product.jinja").write_text('{% import "_fields.jinja" as ad %}Mine\n{{ ad.lines(fields, []) }}')
    prompts = AdPrompts(own_prompts)
    assert prompts.render("product", {"title": "Red"}) == "Mine\nTitle: Red"
    assert prompts.digest() != AdPrompts().digest()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("one\n{% if %}\n", r"product\.jinja, line 2: "),
        ("one\ntwo\n{{ brand.name.first }}\n", r"product\.jinja, line 3: UndefinedError"),
        ("{{ 1 / 0 }}", r"product\.jinja, line 1: ZeroDivisionError"),
        ("{{ ''.__class__.__mro__ }}", r"product\.jinja, line 1: SecurityError"),
    ],
)
def test_a_faulty_template_is_named_with_its_line(own_prompts, template, message):
    (own_prompts / "product.jinja").write_text(template)
    with pytest.raises(ValueError, match=message):
        AdPrompts(own_prompts).render("product", {})


def test_missing_folder_and_missing_templates_are_named(own_prompts, tmp_path):
    with pytest.raises(ValueError, match="'default' or a folder"):
        AdPrompts(tmp_path / "nowhere")
    (own_prompts / "livestream.target.jinja").unlink()
    AdPrompts(own_prompts)
    with pytest.raises(ValueError, match=r"lacks livestream\.target\.jinja"):
        AdPrompts(own_prompts, targets=True)


def test_form_column_chooses_the_template_and_unknown_forms_are_refused():
    catalog = Dataset.from_dict(
        {"item_id": ["a", "b", "c"], "title": ["x", "y", ""], "form": ["livestream", None, "virtual_goods"]}
    )
    reader = AdReader(["title"], prompts="default", form_column="form", default_form="product_video")
    contents = reader.read(catalog)
    assert [content.form for content in contents] == ["livestream", "product_video", "virtual_goods"]
    assert contents[0].text == AdPrompts().render("livestream", {"title": "x"})
    assert [bool(content) for content in contents] == [True, True, False]  # a question alone is no content
    assert contents[2].text == ""
    bad = Dataset.from_dict({"item_id": ["a", "b"], "title": ["x", "y"], "form": ["product", "banner"]})
    with pytest.raises(ValueError, match=r"Ad 'b' \(row 1\).*'banner'.*Allowed: product, livestream"):
        reader.read(bad)
    with pytest.raises(ValueError, match="`default_form` must be one of"):
        AdReader(["title"], default_form="banner")
    with pytest.raises(ValueError, match="`form_column` names 'kind'.*It has: item_id, title, form"):
        AdReader(["title"], prompts="default", form_column="kind").read(catalog)


def test_target_columns_are_not_shown_in_the_question():
    catalog = Dataset.from_dict({"title": ["x"], "brand": ["Acme"]})
    (content,) = AdReader(["title", "brand"], prompts="default", target_columns=["brand"]).read(catalog)
    assert content.target == "Brand: Acme" and "Acme" not in content.text


def test_lines_of_columns_without_prompts():
    catalog = Dataset.from_dict({"title": ["x", None], "price": [3, 0], "brand": [None, ""]})
    contents = AdReader(["title", "price", "brand"]).read(catalog)
    assert [content.text for content in contents] == ["title: x\nprice: 3", ""]
    assert [content.item for content in contents] == ["row 0", "row 1"]


def test_images_as_paths_lists_and_dataset_images(tmp_path):
    picture = save_picture(tmp_path / "a.png", (200, 0, 0))
    reader = AdReader(["title"], image_column="image", image_root=tmp_path)
    paths = Dataset.from_dict({"title": ["x", "y", "z"], "image": ["a.png", None, " "]})
    contents = reader.read(paths)
    assert contents[0].images[0].open("ad").getpixel((15, 15)) == (200, 0, 0)
    assert [len(content.images) for content in contents] == [1, 0, 0]
    assert contents[0].images[0].path == str(picture)

    lists = Dataset.from_dict({"title": ["x", "y"], "image": [["a.png", None, "a.png"], []]})
    assert [len(content.images) for content in reader.read(lists)] == [2, 0]

    data = picture.read_bytes()
    coded_images = [(ImageFeature(), {"bytes": data, "path": None}), (List(ImageFeature()), [{"bytes": data}])]
    for feature, value in coded_images:
        features = Features({"title": Value("string"), "image": feature})
        coded = Dataset.from_dict({"title": ["x", "y"], "image": [value, None]}, features=features)
        contents = AdReader(["title"], image_column="image").read(coded)
        assert contents[0].images == (AdImage(None, data),) and contents[1].images == ()

    url = Dataset.from_dict({"title": ["x"], "image": ["https://example.org/a.png"]})
    with pytest.raises(ValueError, match=r"Ad 'row 0' \(row 0\): `image_column` 'image' holds 'https"):
        reader.read(url)


@pytest.mark.parametrize(
    ("frames", "kept"), [(3, [0, 1, 2]), (4, [0, 1, 2, 3]), (10, [0, 3, 6, 9]), (100, [0, 33, 66, 99])]
)
def test_frames_are_kept_evenly(frames, kept):
    catalog = Dataset.from_dict({"title": ["x"], "image": [[f"{number}.png" for number in range(frames)]]})
    (content,) = AdReader(["title"], image_column="image", max_images=4).read(catalog)
    assert [image.path for image in content.images] == [f"{number}.png" for number in kept]


def test_images_that_cannot_be_used_name_ad_and_file(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    whole = save_picture(tmp_path / "whole.png", (1, 2, 3), (64, 64)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name in ("absent.png", "text.png", "cut.png"):
        with pytest.raises(ValueError, match=rf"Ad 'x'.*{name} cannot be read"):
            AdImage(str(tmp_path / name)).open("Ad 'x'")
    with pytest.raises(
        ValueError, match=r"Ad 'x': image .*whole\.png has 4,096 pixels, more than `max_pixels` = 4,095"
    ):
        AdImage(str(tmp_path / "whole.png")).open("Ad 'x'", max_pixels=4095)
    with pytest.raises(ValueError, match="in the catalog"):
        AdImage(None, b"none").open("Ad 'x'")


def test_pillows_own_bomb_limit_names_the_file(tmp_path, monkeypatch):
    picture = save_picture(tmp_path / "bomb.png", (1, 2, 3), (64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"Ad 'x': image .*bomb\.png is too large"):
        AdImage(str(picture)).open("Ad 'x'")


def test_turned_photos_are_turned_back():
    buffer = io.BytesIO()
    photo = Image.new("L", (4, 2))
    exif = photo.getexif()
    exif[0x0112] = 6  # lies on its side
    photo.save(buffer, "PNG", exif=exif)
    image = AdImage(None, buffer.getvalue()).open("ad")
    assert image.size == (2, 4) and image.mode == "RGB"


def test_texts_are_cut_by_tokens_and_lose_special_tokens():
    tokenizer = tiny_tokenizer()
    assert ChatText(tokenizer)("a <image> b") == "a   b"
    assert "<image>" not in ChatText(tokenizer)("<ima<image>ge> <<pad>image>")
    text = "red shoes blue boots " * 5
    for length in (1, 3, 8):
        cut = ChatText(tokenizer, length)(text)
        assert text.startswith(cut)
        assert len(tokenizer(cut, add_special_tokens=False)["input_ids"]) == length
    assert ChatText(tokenizer, 100)("red shoes") == "red shoes"


def test_a_character_of_several_tokens_is_kept_whole_or_cut():
    backend = Tokenizer(
        models.BPE(vocab={letter: n for n, letter in enumerate(sorted(ByteLevel.alphabet()))}, merges=[])
    )
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    text = "é😀x"  # 2, 4 and 1 tokens
    cuts = [ChatText(tokenizer, length)(text) for length in range(1, 8)]
    assert cuts == ["", "é", "é", "é", "é", "é😀", "é😀x"]

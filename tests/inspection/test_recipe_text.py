import yaml

from gr4ad.inspection.choices import Choice
from gr4ad.inspection.recipe_text import WIDTH, recipe_text

CHOICES = [
    Choice("data", "catalog", "a file, with: odd #name.csv", "the catalog"),
    Choice("data", "event_columns", {"user_id": "Käufer: Nr", "value": "off"}, "why " * 60),
    Choice("data", "validation_start", "2024-03-01"),
    Choice("tokenize", "codebook_sizes", ["256", "256", "256*"], "because"),
    Choice("train", "learning_rate", 1.0e-4),
    Choice("train", "load_best_model_at_end", True),
    Choice("data", "drop", ["missing"], "a reason with\na line break # and a hash"),
]


def test_a_recipe_is_read_back_as_it_was_chosen():
    text = recipe_text("gr4ad-shop", CHOICES, ["header " * 40, "second"])
    read = yaml.safe_load(text)
    assert read.pop("name") == "gr4ad-shop" and read.pop("seed") == 0
    expected = {}
    for choice in CHOICES:
        expected.setdefault(choice.section, {})[choice.field] = choice.value
    assert read == expected
    comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    assert all(len(line) <= WIDTH for line in comments)
    assert text.index("because") < text.index("train:") and text.startswith("# header")

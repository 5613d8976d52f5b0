import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy import sparse
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from gr4ad.tokenization.ad_embedding import AdEmbedder
from gr4ad.trainers.cooccurrence import CooccurrenceLoss, EncoderTuningConfig, cooccurrence_recall, tune_encoder
from gr4ad.trainers.cooccurrence.encoder_tuning import draw_pairs

sys.path.insert(0, str(Path(__file__).parent.parent / "tokenization"))

WORDS = [f"w{n}" for n in range(24)]


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory) -> Path:
    """A random BERT of width 16 that reads the words w0..w23, mean pooling."""
    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder / "bert")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder / "bert"
    )
    transformer = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").save_pretrained(str(folder / "st"))
    return folder / "st"


def catalog_in_pairs() -> tuple[Dataset, sparse.csr_array, np.ndarray]:
    """24 ads of two words each, co-occurring in pairs (0, 1), (2, 3), ..; ad 24 has no text, ad 25 no neighbour."""
    texts = [*(f"{word} w0" for word in WORDS), "", "w0 w5"]
    catalog = Dataset.from_dict({"item_id": [f"ad_{n}" for n in range(26)], "title": texts})
    first = np.arange(0, 24, 2)
    rows, columns = np.r_[first, first + 1, 24, 0], np.r_[first + 1, first, 0, 24]
    similarity = sparse.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(26, 26))
    return catalog, similarity, np.arange(26)


def test_loss_is_equation_1():
    torch.manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(5, 4, dtype=torch.float64), dim=-1).requires_grad_()
    cooccur = np.zeros((5, 5))
    for i, j in ((0, 1), (0, 2), (3, 4)):
        cooccur[i, j] = cooccur[j, i] = 1
    content = np.array([0, 1, 2, 3, 0])  # ad 4 looks like ad 0: for it, ad 0 is not in the sums
    loss = CooccurrenceLoss(None, sparse.csr_array(cooccur), np.arange(5), content, 0.3)
    ads = torch.arange(5)
    found = loss.from_embeddings(z, ads, z, ads)
    similarity = np.exp((z @ z.T).detach().numpy() / 0.3)
    terms = []
    for i in range(5):
        others = [k for k in range(5) if content[k] != content[i]]
        positives = [k for k in others if cooccur[i, k]]
        terms.append(-np.log(sum(similarity[i, positives]) / sum(similarity[i, others])))
    assert found.item() == pytest.approx(np.mean(terms))
    assert torch.autograd.gradcheck(lambda v: loss.from_embeddings(v, ads, v, ads), (z,))


def test_ads_of_one_unit_are_positives_and_a_batch_without_positives_costs_nothing():
    z = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    nothing = sparse.csr_array((2, 2))
    ads = torch.arange(3)
    of_one_unit = CooccurrenceLoss(None, nothing, np.array([0, 0, 1]), np.arange(3), 0.1)
    apart = CooccurrenceLoss(None, sparse.csr_array((3, 3)), np.arange(3), np.arange(3), 0.1)
    assert of_one_unit.from_embeddings(z, ads, z, ads) > 0
    assert apart.from_embeddings(z, ads, z, ads) == 0


def test_pairs_follow_similarity():
    similarity = sparse.csr_array(np.array([[0, 3, 1, 0], [3, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], np.float32))
    anchors, positives = draw_pairs(similarity, np.array([0, 1, 2, 3, 1]), np.ones(5, bool), 4000, seed=0)
    assert np.bincount(anchors, minlength=5).tolist() == [4000, 4000, 4000, 0, 4000]
    drawn = np.bincount(positives[anchors == 0], minlength=5) / 4000
    np.testing.assert_allclose(drawn, [0, 0.375, 0.25, 0, 0.375], atol=0.03)  # unit 1 has the ads 1 and 4
    anchors, positives = draw_pairs(similarity, np.array([0, 1, 2, 3, 1]), np.array([1, 0, 1, 1, 0], bool), 50, seed=0)
    assert set(anchors.tolist()) == {0, 2} and set(positives.tolist()) == {0, 2}


@pytest.mark.parametrize(("lora_rank", "least"), [(0, 0.9), (4, 0.2)])  # adapters leave the word vectors at random
def test_tuning_brings_pairs_together(tiny_encoder, tmp_path, lora_rank, least):
    catalog, similarity, units = catalog_in_pairs()
    embedder = AdEmbedder(str(tiny_encoder), ["title"], device="cpu")
    before = {name: p.detach().clone() for name, p in embedder.encoder.named_parameters()}
    pairs = [np.array([n, n + 1]) for n in range(0, 24, 2)]
    raw = cooccurrence_recall(embedder.embed(catalog, progress=False)[0], pairs, ks=(1,))["recall@1"]
    config = EncoderTuningConfig(epochs=60, batch_size=12, learning_rate=1e-2, lora_rank=lora_rank)
    log = tune_encoder(embedder, catalog, similarity, units, config, output_dir=tmp_path / "checkpoints", seed=0)
    losses = [row["loss"] for row in log if "loss" in row]
    tuned = cooccurrence_recall(embedder.embed(catalog, progress=False)[0], pairs, ks=(1,))["recall@1"]
    assert losses[-1] < 0.9 * losses[0] and tuned > max(least, raw + 0.1)
    after = dict(embedder.encoder.named_parameters())
    assert set(after) == set(before), "adapters are merged"
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    linear = {name for name in after if name.endswith("weight") and ("attention" in name or "dense" in name)}
    expected = {name for name in linear if "LayerNorm" not in name} if lora_rank else set(after)
    # Mean pooling does not read the pooler, and the softmax does not see a bias of all keys.
    assert {name for name in expected if "pooler" not in name and "key.bias" not in name} <= changed
    embedder.encoder.save_pretrained(str(tmp_path / "tuned"))
    again = AdEmbedder(str(tmp_path / "tuned"), ["title"], device="cpu")
    np.testing.assert_allclose(
        again.embed(catalog, progress=False)[0], embedder.embed(catalog, progress=False)[0], atol=1e-5
    )


def test_a_killed_tuning_resumes(tiny_encoder, tmp_path):
    catalog, similarity, units = catalog_in_pairs()
    config = EncoderTuningConfig(epochs=30, batch_size=12, learning_rate=1e-2)

    def tune(folder: Path) -> np.ndarray:
        embedder = AdEmbedder(str(tiny_encoder), ["title"], device="cpu")
        tune_encoder(embedder, catalog, similarity, units, config, output_dir=folder, seed=0)
        return embedder.embed(catalog, progress=False)[0]

    whole = tune(tmp_path / "whole")
    (checkpoint,) = (tmp_path / "whole").glob("checkpoint-*")
    assert (checkpoint / "model.safetensors").is_file()
    np.testing.assert_allclose(tune(tmp_path / "whole"), whole, atol=1e-5)  # from the last checkpoint to the end


def test_a_vision_language_model_is_tuned_on_images(tmp_path):
    from tiny_vlm import save_picture, save_tiny_vlm

    save_tiny_vlm(tmp_path / "vlm")
    for n in range(4):
        save_picture(tmp_path / f"{n}.png", (60 * n, 255 - 60 * n, 30))
    catalog = Dataset.from_dict(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": ["red shoes"] * 4,  # only the pictures tell them apart
            "image": [str(tmp_path / f"{n}.png") for n in range(4)],
        }
    )
    similarity = sparse.csr_array(np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], np.float32))
    embedder = AdEmbedder(str(tmp_path / "vlm"), ["title"], image_column="image", pooling="last", device="cpu")
    config = EncoderTuningConfig(epochs=30, batch_size=4, learning_rate=1e-2, temperature=0.2)
    log = tune_encoder(embedder, catalog, similarity, np.arange(4), config, output_dir=tmp_path / "checkpoints")
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[-1] < losses[0]


def test_nothing_to_learn_from(tiny_encoder, tmp_path):
    catalog, _, units = catalog_in_pairs()
    embedder = AdEmbedder(str(tiny_encoder), ["title"], device="cpu")
    with pytest.raises(ValueError, match="No two ads co-occur in the training log"):
        tune_encoder(
            embedder, catalog, sparse.csr_array((26, 26)), units, EncoderTuningConfig(epochs=1), output_dir=tmp_path
        )
    for settings, message in (
        ({"temperature": 0.0}, "`temperature` must be > 0"),
        ({"batch_size": 1}, "must be >= 2"),
    ):
        with pytest.raises(ValueError, match=message):
            EncoderTuningConfig(**settings)


def test_recall_by_hand():
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0]], dtype=np.float32)
    scores = cooccurrence_recall(vectors, [np.array([0, 1, 1]), np.array([0, 2, 3]), np.array([4])], ks=(1, 2))
    assert scores["users"] == 2
    # user 1: both found first. user 2: 0 finds none of {2, 3} among 1, 3; 2 finds 3, and 3 finds 2, then 1 or 0.
    second = np.mean([0, 1, 1]), np.mean([0.5, 0.5, 0.5])
    assert scores["recall@1"] == pytest.approx((1 + second[0]) / 2)
    assert scores["recall@2"] == pytest.approx((1 + second[1]) / 2)
    with pytest.raises(ValueError, match="no user with two distinct ads"):
        cooccurrence_recall(vectors, [np.array([1, 1])])


def test_two_processes_have_the_gradient_of_one(tmp_path):
    rng = np.random.default_rng(0)
    cooccur = np.zeros((8, 8))
    for i, j in ((0, 4), (1, 5), (2, 3), (6, 7)):  # some partners are in the other process's half
        cooccur[i, j] = cooccur[j, i] = 1
    np.savez(tmp_path / "batch.npz", weights=rng.normal(size=(8, 4)).astype(np.float32), cooccur=cooccur)
    for processes in ("1", "2"):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
        script = str(Path(__file__).parent / "distributed_loss.py")
        done = subprocess.run([*launch, script, str(tmp_path)], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    one, two = (np.load(tmp_path / f"gradient_{n}.npy") for n in (1, 2))
    assert np.abs(one).max() > 0.01
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> Path:
    """A BERT of 16 dimensions with random seeded weights and a vocabulary of characters."""
    folder = tmp_path_factory.mktemp("encoder")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=128).save_pretrained(folder)
    return folder

"""A vision-language model of a few thousand weights with all that belongs to it, from scratch."""

from pathlib import Path

from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    set_seed,
)

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<pad>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>", "<image>"]


def tiny_tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer of at most 400 tokens that can spell any ASCII text."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    words = ["industry category brand product name title red shoes blue boots sport fashion games acme"] * 5
    backend.train_from_iterator(
        words,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=letters, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<image>"],
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tiny_vlm(folder: Path) -> Path:
    """Saves a Llava model: images of 16 x 16 pixels in 4 patches, hidden size 32, two layers."""
    tokenizer = tiny_tokenizer()
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"height": 16, "width": 16}, do_center_crop=False, crop_size={"height": 16, "width": 16}
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    set_seed(0)
    common = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(hidden_size=16, image_size=16, patch_size=8, projection_dim=16, **common),
            text_config=LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                num_key_value_heads=2,
                max_position_embeddings=1024,
                initializer_range=0.2,  # outputs far enough apart to see an image's part in them
                pad_token_id=tokenizer.pad_token_id,
                **common,
            ),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            vision_feature_select_strategy="default",
            vision_feature_layer=-1,
        )
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> Path:
    """A picture of one colour, with a white corner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, colour)
    image.paste((255, 255, 255), (0, 0, size[0] // 4, size[1] // 4))
    image.save(path)
    return path

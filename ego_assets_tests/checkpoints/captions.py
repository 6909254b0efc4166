"""A small LLaVA-OneVision, written as ``save_pretrained`` writes the large ones."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resources.models import registry

#: What the constructed model answers, whatever it sees.
SENTENCE = "A person in the kitchen holds one knife with both hands and cuts an onion on wooden board"

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")
#: The template of the published repository in short: the parts of a message in order.
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers  # type: ignore[import-not-found,unused-ignore]
    from transformers import PreTrainedTokenizerFast  # type: ignore[import-not-found,unused-ignore]

    words = ["<unk>", *_SPECIAL, *dict.fromkeys(SENTENCE.split()), "assistant", "user"]
    filler = [f"word{number}" for number in range(64 - len(words))]
    tokenizer = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate([*words, *filler])}, "<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=list(_SPECIAL),
    )
    fast.chat_template = _TEMPLATE
    return fast


def write_llava_onevision(folder: Path, *, says: str = "") -> None:
    """Write a model with its processor.

    Args:
        folder: Where.
        says: A sentence of different words of :data:`SENTENCE` that it answers to everything; by default its weights
            are random.
    """
    import torch  # type: ignore[import-not-found,unused-ignore]
    from transformers import (  # type: ignore[import-not-found,unused-ignore]
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
        Qwen2Config,
        SiglipVisionConfig,
    )

    tokenizer = _tokenizer()
    side, patch, vocabulary = 28, 14, len(tokenizer)
    grid = [[rows * side, columns * side] for rows in (1, 2) for columns in (1, 2)]
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=side,
            patch_size=patch,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
    )
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = LlavaOnevisionForConditionalGeneration(config)
        for name, value in network.named_parameters():
            if value.ndim > 1 and "language_model" in name:
                # Wide enough that no two words are nearly as likely.
                torch.nn.init.normal_(value, std=0.3)
    if says:
        path = ["assistant", *says.split(), "<|im_end|>"]
        _chain(network, [tokenizer.convert_tokens_to_ids(word) for word in path])
    # Every fourth token ends a random answer, so that it ends somewhere.
    network.generation_config.eos_token_id = [end] if says else list(range(0, vocabulary, 4))
    network.generation_config.pad_token_id = tokenizer.pad_token_id
    folder.mkdir(parents=True, exist_ok=True)
    network.save_pretrained(folder)
    LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size={"height": side, "width": side}, image_grid_pinpoints=grid
        ),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size={"height": side, "width": side}),
        num_image_tokens=(side // patch) ** 2,
        vision_feature_select_strategy="full",
        chat_template=_TEMPLATE,
    ).save_pretrained(folder)


def _chain(network: Any, tokens: Sequence[int]) -> None:
    """Make each token be followed by the next one, in place: the layers add nothing, the head reads the last token."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    state = network.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                value.zero_()
        embedding = network.get_input_embeddings().weight
        embedding.zero_()
        embedding.fill_diagonal_(1.0)
        head = network.get_output_embeddings().weight
        head.zero_()
        for token, following in itertools.pairwise(tokens):
            head[following, token] = 1.0


def as_published(folder: Path) -> None:
    """Lay the files of the processor out as the repositories of llava-hf do, which are older than transformers 5."""
    described = json.loads((folder / "processor_config.json").read_text())
    pictures = {**described.pop("image_processor"), "processor_class": "LlavaOnevisionProcessor"}
    described.pop("video_processor")
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    (folder / "processor_config.json").write_text(json.dumps(described))
    template = folder / "chat_template.jinja"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    template.unlink()
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("")
    added = {name: vocabulary[name] for name in _SPECIAL}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"})
    )


def make_transformers_vlm(models_dir: Path) -> Mapping[str, Any]:
    """The checkpoint ``llava_onevision_0_5b`` with random weights, in the files of the published repository."""
    folder = models_dir / registry.LLAVA_ONEVISION_0_5B.folder
    if not folder.is_dir():
        write_llava_onevision(folder)
        as_published(folder)
    return {
        "checkpoint": "llava_onevision_0_5b",
        "device": "cpu",
        "batch_size": 3,
        "max_new_tokens": 24,
        "max_side": 64,
    }


MAKERS = {"transformers_vlm": make_transformers_vlm}

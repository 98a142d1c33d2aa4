"""Models of known shapes with random weights, and text for them to read.

What a weight is does not change what a product with it costs, so no weights are downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from tracker.documents import from_programs, shipped_concepts
from tracker.positions import index_concepts
from tracker.probes import Context
from tracker.probes.alignment import Alignment
from tracker.probes.importance import Importance
from tracker.probes.lape import Lape
from tracker.probes.performance import Performance
from tracker.probes.subspaces import LanguageSubspaces
from tracker.probes.transferring import Transferring
from tracker.probes.vocabulary_mass import VocabularyMass
from tracker.probes.working_language import WorkingLanguage
from tracker.text import TextSettings, build_text

STATISTICS = (Performance(), Lape(), LanguageSubspaces(), Alignment())
LENS = (WorkingLanguage(), VocabularyMass())
BUT_REGIONS = (*STATISTICS, *LENS, Transferring(), Importance())
"""All that needs no gradients of parameters."""
logging.disable_progress_bar()  # type: ignore[no-untyped-call]
LANGUAGES = ("python", "php", "java", "go", "csharp")


def _neox(width: int, layers: int, heads: int) -> PreTrainedConfig:
    return GPTNeoXConfig(
        vocab_size=50304, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width, max_position_embeddings=2048,
        tie_word_embeddings=False, use_parallel_residual=True,
    )  # fmt: skip


def _llama(width: int, layers: int, heads: int) -> PreTrainedConfig:
    return LlamaConfig(
        vocab_size=32000, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=int(8 * width / 3 / 64) * 64, max_position_embeddings=2048,
        tie_word_embeddings=True,
    )  # fmt: skip


SHAPES: dict[str, PreTrainedConfig] = {
    "pythia-70m": _neox(512, 6, 8),
    "pythia-160m": _neox(768, 12, 12),
    "pythia-410m": _neox(1024, 24, 16),
    "pythia-1.4b": _neox(2048, 24, 16),
    "pythia-6.9b": _neox(4096, 32, 32),
    "llama-110m": _llama(768, 12, 12),
}


def make(
    name: str, dtype: torch.dtype = torch.float32, device: str = "cpu", attention: str = "eager"
) -> Any:
    """A model of a shape, seeded."""
    torch.manual_seed(0)
    with torch.device(device):
        make: Any = AutoModelForCausalLM.from_config
        model = make(SHAPES[name], dtype=dtype, attn_implementation=attention)
    return model.eval().requires_grad_(False)


@cache
def tokenizer(documents: Sequence[Any]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the text itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    raw.train_from_iterator([d.text for d in documents], trainer)
    make: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = make(tokenizer_object=raw, eos_token="<|endoftext|>")
    return made


def context(tokens_per_language: int, languages: int = len(LANGUAGES)) -> Context:
    """Parallel generated programs, with their concepts located."""
    chosen = LANGUAGES[:languages]
    documents = tuple(
        d for d in from_programs().documents if d.language in chosen and not d.graded_only
    )
    reader = tokenizer(documents)
    settings = TextSettings(tokens_per_language=tokens_per_language)
    text = build_text(documents, reader, chosen, settings, 2048)
    found = index_concepts(text, shipped_concepts(chosen), reader, chosen[0])
    return Context(text, chosen[0], found, 0)

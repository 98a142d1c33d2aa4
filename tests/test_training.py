"""The text that interventions train on: as much as is needed, documents kept apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from tokenizers import processors

from checkpoints.corpus import read_corpus
from checkpoints.errors import UserError
from tracker.interventions import training
from tracker.interventions.training import read_stream, require_trainable
from tracker.model import LanguageModel

TEXTS = ["dax a wug b", "mip", "kiki c dax"]


def corpus(folder: Path, texts: list[str]) -> Path:
    path = folder / "xx.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n\n" for t in texts))
    return path


def test_documents_are_told_apart_by_the_end_of_text_token(tmp_path: Path, tokenizer: Any) -> None:
    stream = read_stream(corpus(tmp_path, TEXTS), tokenizer, 10**6)
    expected = [i for t in TEXTS for i in (tokenizer.eos_token_id, *tokenizer(t)["input_ids"])]
    assert stream.tolist() == expected


def test_what_the_tokenizer_puts_around_a_text_is_enough(tmp_path: Path, tokenizer: Any) -> None:
    """As the built-in series is trained: one separator in front, and no second one."""
    own = tokenizer.__class__(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|endoftext|>"
    )
    before = own.backend_tokenizer.post_processor
    try:
        own.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", own.eos_token_id)]
        )
        path = corpus(tmp_path, TEXTS)
        stream = read_stream(path, own, 10**6)
        path.write_text("".join(line + "\n" for line in path.read_text().split("\n") if line))
        assert stream.tolist() == read_corpus(path, own)[0].tolist()
        assert (stream == own.eos_token_id).sum() == len(TEXTS)
    finally:
        own.backend_tokenizer.post_processor = before


def test_no_more_is_read_than_needed(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHUNK", 1)
    path = corpus(tmp_path, TEXTS)
    path.write_text(path.read_text() + "never read\n")
    needed = len(tokenizer(TEXTS[0])["input_ids"]) + 2
    stream = read_stream(path, tokenizer, needed)
    assert needed <= len(stream) < needed + 10
    with pytest.raises(UserError, match="line 7: not JSON"):
        read_stream(path, tokenizer, 10**6)


@pytest.mark.parametrize("line", ["[1]", '{"content": "dax"}', "dax", '"dax"', '{"text": 3}'])
def test_a_line_that_is_no_document_is_named(tmp_path: Path, tokenizer: Any, line: str) -> None:
    path = tmp_path / "xx.jsonl"
    path.write_text('{"text": "dax"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"xx\.jsonl, line 2"):
        read_stream(path, tokenizer, 100)


def test_a_corpus_that_is_not_there_is_an_error_of_use(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_stream(tmp_path / "none.jsonl", tokenizer, 100)
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    with pytest.raises(UserError, match="not UTF-8 text"):
        read_stream(tmp_path / "latin.jsonl", tokenizer, 100)


def test_half_precision_weights_are_refused(tokenizer: Any) -> None:
    model = tiny_model("llama", len(tokenizer)).to(torch.bfloat16)
    with pytest.raises(UserError, match=r"intervention=freeze: .*bfloat16 weights.*model\.dtype"):
        require_trainable("freeze", LanguageModel.of(model))

"""Train a small Llama series on real text: one language first, then a mix (docs/findings.md).

    python benchmarks/real_text_series.py OUT --primary eng --others fra deu spa por rus \
        --text parallel.jsonl.gz --text mono.jsonl.gz

Every file is JSON lines with `language`, `text` and, where documents are translations of each
other, a shared `id`. Documents whose id every language has are parallel: `--held-out` of them
become the probe text (`OUT/probe.jsonl`), everything else is trained on. `OUT/series` then holds
the checkpoints (`tracker series=local series.path=OUT/series text=jsonl text.path=OUT/probe.jsonl`)
and `OUT/corpus.jsonl` the table that `tracker task=remix` reads. The recipe is the built-in
series' one (`checkpoints/demo.py`), with a Llama (RMSNorm, tied head, BOS) instead of a GPT-NeoX.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from checkpoints.batches import MixedBatches, Phase
from checkpoints.corpus import read_corpus, write_table
from checkpoints.demo import save_checkpoint
from checkpoints.train import Recipe, Seen, train

LENGTH, ROWS = 160, 16
"""Tokens per row, rows per step."""
FALL = (0, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
"""Checkpoints, in steps after the switch."""

Documents = Mapping[str, Mapping[str, list[str]]]
"""Language -> id ('' where none) -> texts."""


def read(files: Iterable[Path], languages: Iterable[str]) -> Documents:
    """The documents of the given languages."""
    found: dict[str, dict[str, list[str]]] = {c: defaultdict(list) for c in languages}
    for file in files:
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
            for row in map(json.loads, lines):
                if row["language"] in found:
                    found[row["language"]][str(row.get("id", ""))].append(row["text"])
    return found


def held_out(documents: Documents, count: int) -> list[str]:
    """`count` of the ids that every language has, the same ones on every machine."""
    parallel = set.intersection(*(set(texts) for texts in documents.values())) - {""}
    return sorted(parallel, key=lambda i: hashlib.sha256(i.encode()).hexdigest())[:count]


def make_tokenizer(corpus: Mapping[str, list[str]], vocabulary: int) -> Any:
    """Byte-level BPE on equally many characters per language."""
    level = min(sum(map(len, texts)) for texts in corpus.values())
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        ["\n".join(texts)[:level] for texts in corpus.values()],
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=["<s>"], initial_alphabet=alphabet,
            show_progress=False,
        ),
    )  # fmt: skip
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="<s>", model_max_length=256
    )


def make_model(vocabulary: int, seed: int) -> Any:
    """6 layers, d = 128."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=128, intermediate_size=352, num_hidden_layers=6,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256,
            tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0,
            attn_implementation="eager",
        )
    )  # fmt: skip


def main() -> None:
    """Read, hold out, train, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--primary", required=True)
    parser.add_argument("--others", nargs="+", required=True)
    parser.add_argument("--held-out", type=int, default=400)
    parser.add_argument("--primary-steps", type=int, default=600)
    parser.add_argument("--mix-steps", type=int, default=640)
    parser.add_argument("--primary-share", type=float, default=0.5)
    parser.add_argument("--vocabulary", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    languages = [o.primary, *o.others]
    documents = read(o.text, languages)
    kept = set(held_out(documents, o.held_out))
    out: Path = o.out
    (out / "corpus").mkdir(parents=True, exist_ok=True)
    write_rows(
        out / "probe.jsonl",
        [(i, c, documents[c][i][0]) for i in sorted(kept) for c in languages],
    )
    corpus = {
        c: [t for i, texts in documents[c].items() if i not in kept for t in texts]
        for c in languages
    }
    tokenizer = make_tokenizer(corpus, o.vocabulary)
    streams, table = {}, {}
    for c, texts in corpus.items():
        path = out / "corpus" / f"{c}.jsonl"
        write_rows(path, [(str(i), c, t) for i, t in enumerate(texts)])
        streams[c], mean = read_corpus(path, tokenizer)
        table[c] = (len(streams[c]), mean, path)
        print(f"{c}: {len(texts)} documents, {len(streams[c])} tokens", flush=True)
    write_table(out / "corpus.jsonl", table)
    total = o.primary_steps + o.mix_steps
    shares = {o.primary: o.primary_share}
    shares |= {c: (1 - o.primary_share) / len(o.others) for c in o.others}
    phases = [Phase(o.primary_steps, {o.primary: 1.0}), Phase(o.mix_steps, shares)]
    batches = MixedBatches(streams, phases, batch_size=ROWS, sequence_length=LENGTH, seed=o.seed)
    model = make_model(len(tokenizer), o.seed)

    def save(seen: Seen) -> None:
        save_checkpoint(out / "series" / f"step-{seen.step:09d}", model, tokenizer, seen)
        print(f"step {seen.step}", flush=True)

    steps = {0, o.primary_steps // 2, total, *(o.primary_steps + s for s in FALL)}
    train(model, batches, Recipe(steps=total, seed=o.seed), save_at=steps, save=save)


def write_rows(path: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """JSON lines of id, language and text."""
    with path.open("w", encoding="utf-8") as file:
        for i, c, text in rows:
            row = {"id": i, "language": c, "text": text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

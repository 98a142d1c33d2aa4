"""A proposed mixture as the data settings of trainers: file names and texts, ready to write.

An exporter is a small function of a `Blend` that returns {file name: text}; `EXPORTERS` names
them. Token shares are right as they stand where a sampler draws samples of one fixed length
(packed text); where it draws whole examples, as `interleave_datasets` does, the probability of
language i is `p_i ∝ share_i / mean_tokens_per_example_i`. Languages without a share are left out:
samplers refuse or loop over a weight of 0. Formats were read from the documentation and sources of
datasets 5.2, Megatron-LM (August 2026), streaming 0.13 and LLM Foundry 0.22.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from analysis.mixture import Mixture, Source
from checkpoints.errors import UserError

COMPRESSIONS = (".gz", ".zst", ".xz", ".bz2")
TEXT_FORMATS = (".jsonl", ".json", ".csv", ".parquet", ".txt")


@dataclass(frozen=True)
class Part:
    """One language of a blend."""

    source: Source
    token_share: float
    """Fraction of the training tokens, above 0; the parts' shares sum to 1."""


@dataclass(frozen=True)
class Blend:
    """A proposal joined to its corpora: all that an exporter needs."""

    proposer: str
    tokens: float
    """Training tokens of the budget."""
    parts: tuple[Part, ...]

    @property
    def examples(self) -> float:
        """Examples that hold the budget: `B * sum_i share_i / mean tokens per example_i`."""
        return self.tokens * sum(_per_token(part) for part in self.parts)

    @property
    def probabilities(self) -> list[float]:
        """Probability per example of each part: `p_i ∝ share_i / mean tokens per example_i`."""
        total = sum(_per_token(part) for part in self.parts)
        return [_per_token(part) / total for part in self.parts]


Exporter = Callable[[Blend], dict[str, str]]


def _per_token(part: Part) -> float:
    return part.token_share / part.source.mean_tokens_per_example


def blend(mixture: Mixture, proposer: str | None = None) -> Blend:
    """Join a proposal (None: the default one) to the corpora; UserError if it has no shares."""
    proposal = mixture.proposal(proposer)
    if not proposal.applies:
        raise UserError(f"{proposal.proposer} {proposal.reason}: export another proposer's mixture")
    parts = tuple(
        Part(mixture.corpus[language], share)
        for language, share in proposal.shares.items()
        if share > 0
    )
    return Blend(proposal.proposer, mixture.budget.tokens, parts)


def _number(value: float) -> str:
    # YAML 1.1 reads 1e-07 as a text, so never an exponent; the shortest digits that read back.
    return np.format_float_positional(value, trim="0")


def _stem(path: str) -> str:
    """The path without the endings of text files: what a converter's output is named after."""
    bare = PurePosixPath(path)
    endings = 0
    if bare.suffix in COMPRESSIONS:
        bare, endings = bare.with_suffix(""), len(bare.suffix)
    if bare.suffix not in TEXT_FORMATS:
        return path
    return path[: len(path) - endings - len(bare.suffix)]


INTERLEAVE = '''\
"""Draw a training mixture with Hugging Face datasets (3.2 or later).

Settings are in the JSON file of the same name beside this one. Use `mixture()` as the training
set, or run this file to see what the first examples bring.
"""

import json
from collections import Counter
from pathlib import Path

from datasets import IterableDataset, interleave_datasets, load_dataset

SETTINGS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}


def source(language: str, path: str, seed: int) -> IterableDataset:
    """One language's examples, over and over, each with its language."""
    endings = [ending for ending in Path(path).suffixes if ending in READERS]
    if endings:
        reader = READERS[endings[-1]]
        rows = load_dataset(reader, data_files=path, split="train", streaming=True)
    else:
        rows = load_dataset(path, split="train", streaming=True)
    rows = rows.select_columns([SETTINGS["text_column"]])
    rows = rows.shuffle(seed=seed, buffer_size=SETTINGS["shuffle_buffer"]).repeat(None)
    return rows.map(lambda row: {**row, "language": language})


def mixture(seed: int = 0) -> IterableDataset:
    """As many examples as the token budget needs, drawn with the proposed probabilities."""
    sources = SETTINGS["sources"]
    drawn = interleave_datasets(
        [source(entry["language"], entry["path"], seed) for entry in sources],
        probabilities=[entry["probability"] for entry in sources],
        seed=seed,
    )
    return drawn.take(SETTINGS["examples"])


def main() -> None:
    """Print how often each language comes up in the first examples."""
    first = min(1000, SETTINGS["examples"])
    counts = Counter(row["language"] for row in mixture().take(first))
    for entry in SETTINGS["sources"]:
        seen = counts[entry["language"]] / first
        print(f"{entry['language']}: {seen:.3f} of examples, wanted {entry['probability']:.3f}")


if __name__ == "__main__":
    main()
'''


def huggingface(mix: Blend) -> dict[str, str]:
    """`interleave_datasets`: a runnable Python file, and a JSON file with its settings.

    Every source repeats without end and the whole stops at the budget: `first_exhausted` alone
    would end the run after the first pass over the scarcest language.
    """
    sources = [
        {
            "language": part.source.language,
            "path": part.source.path,
            "probability": probability,
            "token_share": part.token_share,
            "mean_tokens_per_example": part.source.mean_tokens_per_example,
        }
        for part, probability in zip(mix.parts, mix.probabilities, strict=True)
    ]
    settings = {
        "proposer": mix.proposer,
        "units": {
            "probability": "per example",
            "token_share": "fraction of the training tokens",
            "tokens": "training tokens",
        },
        "tokens": mix.tokens,
        "examples": max(1, round(mix.examples)),
        "text_column": "text",
        "shuffle_buffer": 10_000,
        "sources": sources,
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False, allow_nan=False)
    return {"huggingface_mixture.py": INTERLEAVE, "huggingface_mixture.json": text + "\n"}


def megatron(mix: Blend) -> dict[str, str]:
    """Megatron-LM: the words of `--data-path`, and the same in a file for `--data-args-path`.

    Weights are per sample of the sequence length, hence token shares. A prefix is a path without
    .bin or .idx; a path to text becomes the prefix that `tools/preprocess_data.py` writes when
    its `--output-prefix` is the path without its ending. UserError: white space in a path, which
    both forms split at.
    """
    words = []
    for part in mix.parts:
        prefix = _megatron_prefix(part.source.path)
        if prefix != "".join(prefix.split()):
            raise UserError(
                f"Megatron-LM cannot read a path with spaces: {part.source.path!r} "
                f"({part.source.language}): rename it or link to it"
            )
        words.append((_number(part.token_share), prefix))
    flat = [word for pair in words for word in pair]
    return {
        "megatron_data_path.txt": " ".join(flat) + "\n",
        "megatron_data_args.txt": "".join(f"{weight} {prefix}\n" for weight, prefix in words),
    }


def _megatron_prefix(path: str) -> str:
    if path.endswith((".bin", ".idx")):
        return path[:-4]
    stem = _stem(path)
    return path if stem == path else f"{stem}_text_document"


def mosaicml(mix: Blend) -> dict[str, str]:
    """MosaicML streaming: YAML with `proportion` on every stream, packed and one per document.

    A stream mixes samples. The packed file is for shards whose samples all have one length
    (LLM Foundry's `--concat_tokens`), where the proportion is the token share; the documents
    file is for one document per sample. `streams` goes under `dataset` of LLM Foundry's
    `train_loader`, or each entry into `streaming.Stream`. A path to text becomes the folder of
    the same name without its ending: where the shards are expected.
    """
    shares = [part.token_share for part in mix.parts]
    return {
        "mosaicml_packed.yaml": _streams(mix, shares, "token share: samples of one length"),
        "mosaicml_documents.yaml": _streams(
            mix, mix.probabilities, "share of documents: one document per sample"
        ),
    }


def _streams(mix: Blend, proportions: list[float], unit: str) -> str:
    lines = [f"# Mixture of {mix.proposer}; proportion is a {unit}.", "streams:"]
    for part, proportion in zip(mix.parts, proportions, strict=True):
        folder = _stem(part.source.path)
        place = "remote" if "://" in folder else "local"
        lines += [
            f"  {_quoted(part.source.language)}:",
            f"    {place}: {_quoted(folder)}",
            f"    proportion: {_number(proportion)}",
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A YAML double-quoted scalar; everything beyond printable ASCII as a YAML escape."""
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if " " <= character <= "~" else f"\\U{ord(character):08x}"


EXPORTERS: dict[str, Exporter] = {
    "huggingface": huggingface,
    "megatron": megatron,
    "mosaicml": mosaicml,
}


def export(mixture: Mixture, name: str, proposer: str | None = None) -> dict[str, str]:
    """File names and texts of one format.

    UserError: an unknown format or proposer, a proposal that does not apply, and what the format
    itself cannot hold.
    """
    if name not in EXPORTERS:
        raise UserError(f"unknown export format {name!r}: choose one of {', '.join(EXPORTERS)}")
    return EXPORTERS[name](blend(mixture, proposer))


def export_all(
    mixture: Mixture, proposer: str | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Files of every format, and for each format that cannot hold this mixture the reason."""
    mix = blend(mixture, proposer)
    files: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name, exporter in EXPORTERS.items():
        try:
            files |= exporter(mix)
        except UserError as error:
            refused[name] = str(error)
    return files, refused

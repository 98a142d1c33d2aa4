"""Exports are read back by strict readers written from each format's documentation, or run."""

from __future__ import annotations

import json
import math
import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.exporters import EXPORTERS, blend, export, export_all
from analysis.mixture import (
    Budget,
    Corpus,
    Evidence,
    Mixture,
    Proposal,
    Source,
    Weight,
    propose,
    read_corpus,
)
from checkpoints.errors import UserError


def made(shares: dict[str, float], paths: dict[str, str] | None = None) -> Mixture:
    """A mixture with one proposal; language number i has examples of 10 (i + 1) tokens."""
    where = paths or {name: f"/data/{name}" for name in shares}
    sources = tuple(Source(name, 1e6, 10.0 * (i + 1), where[name]) for i, name in enumerate(shares))
    weights = {name: Weight(s, s, s, 1.0, s * 1e4, "") for name, s in shares.items()}
    proposal = Proposal("epoch_cap", True, "", "none", weights, 0.0)
    return Mixture("python", "epoch_cap", Budget(1e4), Corpus(sources), (proposal,))


def read_megatron(text: str) -> dict[str, float]:
    """Prefix -> weight as the trainer reads it: words at white space, pairs of weight and prefix.

    An odd number of words, or a weight that is not a number, silently means "no weights" there;
    a weight of 0 fails an assertion: all are refused here.
    """
    words = text.split()
    assert words
    assert len(words) % 2 == 0
    weights = [float(word) for word in words[::2]]
    assert all(math.isfinite(weight) and weight > 0 for weight in weights)
    prefixes = words[1::2]
    assert len(set(prefixes)) == len(prefixes)
    assert not any(prefix.endswith((".bin", ".idx")) for prefix in prefixes)
    return dict(zip(prefixes, weights, strict=True))


def read_streams(text: str) -> dict[str, dict[str, Any]]:
    """Stream name -> arguments: a place, and a proportion on every stream and nothing else."""
    content = yaml.safe_load(text)
    assert list(content) == ["streams"]
    for arguments in content["streams"].values():
        place, proportion = arguments
        assert place in ("remote", "local")
        assert proportion == "proportion"
        assert isinstance(arguments[place], str)
        assert isinstance(arguments["proportion"], float)
        assert arguments["proportion"] > 0
    return dict(content["streams"])


def test_huggingface_probabilities_are_per_example() -> None:
    # Shares .5/.5, examples of 10 and 20 tokens: .5/10 = .05 and .5/20 = .025 -> 2/3 and 1/3.
    # Examples in 10,000 tokens: 10,000 * (.05 + .025) = 750.
    files = export(made({"python": 0.5, "php": 0.5}), "huggingface")
    content = json.loads(files["huggingface_mixture.json"])
    assert [entry["probability"] for entry in content["sources"]] == pytest.approx([2 / 3, 1 / 3])
    assert content["examples"] == 750
    assert [entry["path"] for entry in content["sources"]] == ["/data/python", "/data/php"]


def test_megatron_holds_token_shares_as_weight_and_prefix() -> None:
    files = export(made({"python": 0.75, "php": 0.25}), "megatron")
    wanted = {"/data/python": 0.75, "/data/php": 0.25}
    assert files["megatron_data_path.txt"] == "0.75 /data/python 0.25 /data/php\n"
    assert read_megatron(files["megatron_data_path.txt"]) == wanted
    assert read_megatron(files["megatron_data_args.txt"]) == wanted
    assert files["megatron_data_args.txt"].splitlines()[0] == "0.75 /data/python"


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("/d/php_text_document.bin", "/d/php_text_document"),
        ("/d/php_text_document.idx", "/d/php_text_document"),
        ("/d/php.jsonl", "/d/php_text_document"),
        ("/d/php.jsonl.gz", "/d/php_text_document"),
        ("/d/v1.2", "/d/v1.2"),
        ("/d/v1.2.gz", "/d/v1.2.gz"),
    ],
)
def test_megatron_prefixes(path: str, prefix: str) -> None:
    mixture = made({"python": 0.5, "php": 0.5}, {"python": "/d/python", "php": path})
    text = export(mixture, "megatron")["megatron_data_args.txt"]
    assert list(read_megatron(text)) == ["/d/python", prefix]


def test_megatron_refuses_white_space_in_a_path() -> None:
    mixture = made({"python": 0.5, "php": 0.5}, {"python": "/d/my code/python", "php": "/d/php"})
    message = "cannot read a path with spaces: '/d/my code/python' (python)"
    with pytest.raises(UserError, match=re.escape(message)):
        export(mixture, "megatron")
    files, refused = export_all(mixture)
    assert list(refused) == ["megatron"]
    assert message in refused["megatron"]
    assert not any(name.startswith("megatron") for name in files)
    assert read_streams(files["mosaicml_packed.yaml"])["python"]["local"] == "/d/my code/python"


def test_mosaicml_has_a_proportion_on_every_stream() -> None:
    paths = {"python": "s3://bucket/python", "php": "/d/php.jsonl"}
    files = export(made({"python": 0.5, "php": 0.5}, paths), "mosaicml")
    assert read_streams(files["mosaicml_packed.yaml"]) == {
        "python": {"remote": "s3://bucket/python", "proportion": 0.5},
        "php": {"local": "/d/php", "proportion": 0.5},
    }
    documents = read_streams(files["mosaicml_documents.yaml"])
    assert documents["python"]["proportion"] == pytest.approx(2 / 3)
    assert documents["php"]["proportion"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", sorted(EXPORTERS))
def test_a_language_without_a_share_is_left_out(name: str) -> None:
    for text in export(made({"python": 0.0, "php": 0.75, "go": 0.25}), name).values():
        assert "/data/python" not in text


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(1e-12, 1), min_size=2, max_size=5), st.data())
def test_shares_and_names_survive_every_format(raw: list[float], data: st.DataObject) -> None:
    shares = np.array(raw) / sum(raw)
    text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
    names = data.draw(st.lists(text, min_size=len(raw), max_size=len(raw), unique=True))
    mixture = made({f"l{i}": float(share) for i, share in enumerate(shares)})
    sources = tuple(Source(name, 1e6, 10.0, f"/d/{i}/{name}") for i, name in enumerate(names))
    weights = {
        name: Weight(float(s), float(s), float(s), 1.0, 1.0, "")
        for name, s in zip(names, shares, strict=True)
    }
    proposal = Proposal("epoch_cap", True, "", "none", weights, 0.0)
    mixture = Mixture(names[0], "epoch_cap", Budget(1e4), Corpus(sources), (proposal,))
    wanted = dict(zip(names, shares, strict=True))
    files, refused = export_all(mixture)
    streams = read_streams(files["mosaicml_packed.yaml"])
    assert {name: stream["proportion"] for name, stream in streams.items()} == wanted
    entries = json.loads(files["huggingface_mixture.json"])["sources"]
    assert {entry["language"]: entry["token_share"] for entry in entries} == wanted
    assert sum(entry["probability"] for entry in entries) == pytest.approx(1, abs=1e-9)
    if any(len(name.split()) != 1 or name.split()[0] != name for name in names):
        assert "megatron" in refused
    else:
        read = read_megatron(files["megatron_data_args.txt"])
        assert list(read.values()) == list(shares)


def corpora(folder: Path, rng: np.random.Generator) -> Corpus:
    """Three small corpora of different example lengths, with their table."""
    lines = ["language,tokens,mean_tokens_per_example,path"]
    for language, mean in (("python", 6), ("php", 18), ("go", 40)):
        lengths = rng.integers(mean // 2, mean * 3 // 2 + 1, size=60)
        rows = (json.dumps({"text": " ".join(["w"] * n), "id": i}) for i, n in enumerate(lengths))
        (folder / f"{language}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        lines.append(f"{language},{lengths.sum()},{lengths.mean()},{language}.jsonl")
    (folder / "corpus.csv").write_text("\n".join(lines), encoding="utf-8")
    return read_corpus(folder / "corpus.csv")


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Mixture]:
    """The default proposal for small real files, written out as the Hugging Face export."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    evidence = Evidence("python", ("python", "php", "go"))
    corpus = corpora(tmp_path, np.random.default_rng(0))
    # 16 passes fill .22 (php) and .48 (go); python has about 360 tokens and is read 70 times.
    mixture = propose(evidence, corpus, Budget(80_000, max_passes=200))
    for name, text in export(mixture, "huggingface").items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / "huggingface_mixture.py", mixture


def test_the_huggingface_export_runs_and_brings_the_proposed_token_shares(
    exported: tuple[Path, Mixture],
) -> None:
    script, mixture = exported
    rows = list(runpy.run_path(str(script))["mixture"](seed=1))
    tokens = np.array([len(row["text"].split()) for row in rows], dtype=float)
    # The budget is met in expectation; every source is read many times without ending the run.
    assert tokens.sum() == pytest.approx(mixture.budget.tokens, rel=0.1)
    for language, weight in mixture.proposal().weights.items():
        mine = np.array([row["language"] == language for row in rows])
        share = tokens[mine].sum() / tokens.sum()
        # Standard error of a ratio of means (delta method).
        error = np.std(tokens * (mine - share)) / (tokens.mean() * math.sqrt(len(rows)))
        assert share > 0.1
        assert abs(share - weight.token_share) < 4 * error < 0.05


def test_the_huggingface_export_prints_what_it_draws(exported: tuple[Path, Mixture]) -> None:
    script, mixture = exported
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    printed = dict(re.findall(r"^(\w+): (\S+) of examples", run.stdout, flags=re.MULTILINE))
    probabilities = dict(zip(("python", "php", "go"), blend(mixture).probabilities, strict=True))
    assert {name: float(seen) for name, seen in printed.items()} == pytest.approx(
        probabilities, abs=0.07
    )


def test_the_same_seed_draws_the_same_examples(exported: tuple[Path, Mixture]) -> None:
    draw = runpy.run_path(str(exported[0]))["mixture"]
    first, again, other = ([row["text"] for row in draw(s).take(100)] for s in (0, 0, 1))
    assert first == again
    assert first != other
    assert len(Counter(first)) > 1


def test_what_cannot_be_exported_is_said() -> None:
    mixture = made({"python": 0.5, "php": 0.5})
    with pytest.raises(UserError, match="unknown export format 'x': choose one of huggingface"):
        export(mixture, "x")
    with pytest.raises(UserError, match="no mixture was proposed by 'x': choose one of epoch_cap"):
        export(mixture, "megatron", "x")
    none = Proposal("babel_tower", False, "does not apply: no peak", "none", {}, math.nan)
    silent = Mixture("python", "babel_tower", mixture.budget, mixture.corpus, (none,))
    with pytest.raises(UserError, match="babel_tower does not apply: no peak: export another"):
        export_all(silent)

"""Settings of the built-in series, and what makes them valid."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from checkpoints.errors import UserError
from checkpoints.programs import LANGUAGES

_FORMAT = 1
"""Raised whenever the same settings would give another series."""


@dataclass(frozen=True)
class DemoSettings:
    """Everything that determines the built-in series; mirrors `conf/series/demo.yaml`."""

    seed: int = 0
    primary: str = "python"
    shares: Mapping[str, float] = field(
        default_factory=lambda: {"python": 0.6, "php": 0.1, "java": 0.1, "go": 0.1, "csharp": 0.1}
    )
    """Token shares after the switch."""
    corpus_tokens: Mapping[str, int] = field(
        default_factory=lambda: {
            "python": 600_000,
            "php": 10_000,
            "java": 18_000,
            "go": 20_000,
            "csharp": 14_000,
        }
    )
    """Unique tokens per language; training repeats them as often as needed."""
    primary_steps: int = 250
    """Steps on the primary language alone; then comes the switch."""
    mix_steps: int = 420
    """Steps on the mixture."""
    primary_checkpoints: Sequence[int] = (0, 125)
    """Steps at which a checkpoint is saved before the switch; 0 is the untrained model."""
    mix_checkpoints: Sequence[int] = (
        0, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 336, 420,
    )  # fmt: skip
    """Steps after the switch at which a checkpoint is saved."""
    vocabulary: int = 1200
    """Tokens at most; there are fewer where the text has fewer words than that."""
    hidden_size: int = 128
    layers: int = 6
    heads: int = 4
    sequence_length: int = 160
    batch_size: int = 13
    learning_rate: float = 3e-3
    warmup_steps: int = 30
    decay_share: float = 0.2
    weight_decay: float = 0.1
    precision: str = "auto"
    """auto | bfloat16 | float32; see `train.Recipe`."""
    threads: int = 2
    """Fixed rather than all cores: the number of threads changes the last bits."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be trained.

        Raises:
            UserError: Naming the setting, its value and what would do.
        """
        _check_types(self)
        _check_sizes(self)
        _check_languages(self)
        _check_checkpoints(self)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.primary_steps + self.mix_steps

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, ascending."""
        after = {self.primary_steps + s for s in self.mix_checkpoints}
        return sorted(set(self.primary_checkpoints) | after)

    @property
    def digest(self) -> str:
        """Of everything that determines the series."""
        content = json.dumps([_FORMAT, asdict(self)], sort_keys=True, default=list)
        return hashlib.sha256(content.encode()).hexdigest()


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise UserError(f"series.{name}={value}: {wanted}")


def _is_number(value: object, kind: str) -> bool:
    return type(value) is int or (kind == "float" and type(value) is float)


def _check_types(s: DemoSettings) -> None:
    for item in fields(s):
        value, annotation = getattr(s, item.name), str(item.type)
        kind = "float" if "float" in annotation else "int"
        wanted = "whole numbers" if kind == "int" else "numbers"
        if annotation.startswith("Mapping"):
            fits = isinstance(value, Mapping) and all(_is_number(v, kind) for v in value.values())
            wanted = f"choose {wanted} by language, e.g. {{python: 1, php: 2}}"
        elif annotation.startswith("Sequence"):
            fits = isinstance(value, Sequence) and all(_is_number(v, kind) for v in value)
            wanted = f"choose a list of {wanted}"
        elif annotation == "str":
            fits, wanted = isinstance(value, str), "choose a name"
        else:
            fits, wanted = _is_number(value, kind), f"choose one of the {wanted}"
        _require(fits, item.name, value, wanted)


def _check_sizes(s: DemoSettings) -> None:
    for name in ("primary_steps", "mix_steps", "layers", "heads", "batch_size", "threads"):
        _require(getattr(s, name) >= 1, name, getattr(s, name), "choose at least 1")
    for name in ("seed", "warmup_steps", "weight_decay"):
        _require(getattr(s, name) >= 0, name, getattr(s, name), "choose at least 0")
    _require(s.sequence_length >= 8, "sequence_length", s.sequence_length, "choose at least 8")
    _require(s.vocabulary >= 300, "vocabulary", s.vocabulary, "choose at least 300 (bytes: 256)")
    _require(s.learning_rate > 0, "learning_rate", s.learning_rate, "choose more than 0")
    _require(0 <= s.decay_share <= 1, "decay_share", s.decay_share, "choose 0 to 1")
    _require(
        s.hidden_size > 0 and s.hidden_size % (8 * s.heads) == 0,
        "hidden_size",
        s.hidden_size,
        f"choose a multiple of 8 x {s.heads} heads (a quarter of each head is rotated, in pairs)",
    )
    known = ("auto", "bfloat16", "float32")
    _require(s.precision in known, "precision", s.precision, f"choose {', '.join(known)}")


def _check_languages(s: DemoSettings) -> None:
    unknown = sorted(set(s.shares) - set(LANGUAGES))
    _require(not unknown, "shares", dict(s.shares), f"choose from {', '.join(LANGUAGES)}")
    _require(s.primary in s.shares, "primary", s.primary, "it needs a share in series.shares")
    _require(len(s.shares) >= 2, "shares", dict(s.shares), "choose at least two languages")
    fair = all(v > 0 for v in s.shares.values()) and abs(sum(s.shares.values()) - 1) < 1e-6
    _require(fair, "shares", dict(s.shares), "choose positive shares that sum to 1")
    _require(
        set(s.corpus_tokens) == set(s.shares),
        "corpus_tokens",
        dict(s.corpus_tokens),
        "name the same languages as series.shares",
    )
    least = 4 * s.sequence_length
    _require(
        min(s.corpus_tokens.values()) >= least,
        "corpus_tokens",
        dict(s.corpus_tokens),
        f"choose at least {least} (four sequences) each",
    )


def _check_checkpoints(s: DemoSettings) -> None:
    for name, last in (("primary_checkpoints", s.primary_steps), ("mix_checkpoints", s.mix_steps)):
        steps = list(getattr(s, name))
        _require(
            bool(steps) and min(steps) >= 0 and max(steps) <= last,
            name,
            steps,
            f"choose steps from 0 to {last}",
        )

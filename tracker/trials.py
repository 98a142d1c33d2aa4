"""Small training runs that are measured as they go: each leaves a folder of ordinary records.

A trial trains a small model from scratch on one or more phases of a mixture and reads the probe
text at evenly spaced steps. Its folder is a run as `task=track` leaves one (`records/step-*.h5`),
so everything that reads a run reads a trial; `trial.json`, written last, says what was trained
and that it is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.batches import Ints, MixedBatches, Phase
from checkpoints.errors import UserError
from checkpoints.files import clear_unfinished
from checkpoints.series import Checkpoint
from checkpoints.small import SmallModel
from checkpoints.train import Recipe, Seen, train
from tracker import store
from tracker.model import LanguageModel
from tracker.provenance import Weights
from tracker.store import array
from tracker.sweep import Measurement, Sweep, make_context

TRIAL, STATE = "trial.json", "state.pt"
READ_ROWS = 16
"""Rows of training text per stream on which the training loss is read."""


@dataclass(frozen=True)
class Trial:
    """One small training run."""

    name: str
    """Also the name of its folder."""
    role: str
    """What it is for: `mix`, `scratch` (a target alone), `donor` (another language first)."""
    phases: tuple[Phase, ...]
    """Shares are of the lab's streams."""
    unique: Mapping[str, int]
    """Stream -> tokens of it that may be read, over and over."""
    seed: int
    learning_rate: float
    decay_share: float = 0.2
    """Last part of the run in which the learning rate falls to 0."""
    evaluate_every: int = 20
    """Steps between two readings of the probe text; the last step always is one."""
    languages: tuple[str, ...] = ()
    """Languages of the probe text that are read; none named: all."""

    @property
    def steps(self) -> int:
        """Optimizer steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def readings(self) -> list[int]:
        """Steps after which the probe text is read."""
        return sorted({*range(self.evaluate_every, self.steps, self.evaluate_every), self.steps})


@dataclass(frozen=True)
class Training:
    """How every trial trains."""

    model: SmallModel = field(default_factory=SmallModel)
    batch_size: int = 16
    warmup_steps: int = 30
    weight_decay: float = 0.1
    precision: str = "auto"
    state_every: int = 200
    """Steps between two states to go on from."""

    def recipe(self, trial: Trial) -> Recipe:
        """How the weights of a trial are changed."""
        return Recipe(
            steps=trial.steps,
            learning_rate=trial.learning_rate,
            warmup_steps=self.warmup_steps,
            decay_share=trial.decay_share,
            weight_decay=self.weight_decay,
            precision=self.precision,
            seed=trial.seed,
        )

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.batch_size * self.model.sequence_length


@dataclass(frozen=True)
class TrainingLoss:
    """Loss on the text that is trained on."""

    train_loss: NDArray[np.float64] = array(
        "language",
        unit="nats/token",
        doc="on rows of its training text; NaN where none",
        curve=True,
    )


class Lab:
    """What the trials of one process share: texts, probe text and settings."""

    def __init__(
        self,
        measurement: Measurement,
        streams: Mapping[str, Ints],
        training: Training,
    ) -> None:
        """Prepare.

        Args:
            measurement: Probe text, tokenizer and probes; its series gives the runs' name.
            streams: Name -> packed training text. A stream with a language's name is that
                language's; others (controls) are none's.
            training: Model and recipe.
        """
        self.measurement, self.streams, self.training = measurement, streams, training
        self.sweep = Sweep(measurement, Path(), make_context(measurement))

    @cached_property
    def digest(self) -> str:
        """Hash of everything but the trial that changes a trial's records."""
        text = {c: hashlib.sha256(s.tobytes()).hexdigest() for c, s in self.streams.items()}
        content = [self.measurement.digest(), repr(self.training), text]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def run(
        self, trial: Trial, folder: Path, start: Path | None = None, keep: bool = False
    ) -> Path:
        """Train and measure a trial into `folder/<name>/seed-<seed>`, or find it done.

        An interrupted trial goes on where its last state was saved.

        Args:
            trial: What to train.
            folder: Where trials are kept.
            start: State (`state.pt`) of a trial that is this one's beginning, to go on from.
            keep: Keep the last state, for trials that begin with this one.

        Returns:
            The trial's folder.
        """
        place = folder / trial.name / f"seed-{trial.seed}"
        described = self.describe(trial)
        if finished(place) == described:
            return place
        if place.exists() and finished(place) is not None:
            raise UserError(f"{place}: a trial of other settings; choose another folder")
        (place / store.RECORDS).mkdir(parents=True, exist_ok=True)
        clear_unfinished(place)
        state = place / STATE
        if start is not None and not state.exists():
            shutil.copy(start, state)
        self._train(trial, place, state)
        store.write_text(place / TRIAL, json.dumps(described, indent=1) + "\n")
        if not keep:
            state.unlink(missing_ok=True)
        return place

    def describe(self, trial: Trial) -> dict[str, Any]:
        """What `trial.json` holds."""
        content = json.loads(json.dumps(asdict(trial)))
        return {**content, "step_tokens": self.training.step_tokens, "lab_sha256": self.digest}

    def _train(self, trial: Trial, place: Path, state: Path) -> None:
        settings = self.training
        model = settings.model.build(self.measurement.tokenizer, trial.seed)
        streams = {c: self._slice(c, n, trial.seed) for c, n in trial.unique.items()}
        batches = MixedBatches(
            streams,
            trial.phases,
            batch_size=settings.batch_size,
            sequence_length=settings.model.sequence_length,
            seed=trial.seed,
        )
        train(
            model,
            batches,
            settings.recipe(trial),
            save_at=trial.readings,
            save=partial(self._measure, model, streams, trial, place),
            state=state,
            state_every=settings.state_every,
        )

    def _slice(self, name: str, tokens: int, seed: int) -> Ints:
        """`tokens` consecutive tokens of a stream; another seed reads another stretch of it."""
        stream = self.streams[name]
        spare = len(stream) - tokens
        assert spare >= 0, f"{name}: {tokens} of {len(stream)} tokens"
        # A control (`python~shuffled`) reads the stretch that the language itself would.
        draws = np.random.RandomState([seed, zlib.crc32(name.split("~")[0].encode())])
        first = int(draws.randint(spare + 1))
        return stream[first : first + tokens]

    def _measure(
        self, model: Any, streams: Mapping[str, Ints], trial: Trial, place: Path, seen: Seen
    ) -> None:
        """Read the probe text, and some of the training text; one record."""
        path = place / store.RECORDS / store.record_name(seen.step)
        if path.exists():
            return
        checkpoint = Checkpoint(
            seen.step, place, tokens=seen.tokens, tokens_by_language=dict(seen.tokens_by_language)
        )
        names = self.measurement.languages
        read = {names.index(c) for c in trial.languages} if trial.languages else None
        with _quiet(model):
            taken = LanguageModel.of(model)
            groups = self.sweep.measure(taken, read)
            groups["training"] = store.variables(self._training_loss(model, streams))
        self.sweep.add_tokens_seen(groups, checkpoint)
        kept = {"weights_sha256": "", "weights_stat": "[]", "config_sha256": self.digest}
        self.sweep.write(path, checkpoint, taken, groups, Weights(), kept)

    def _training_loss(self, model: Any, streams: Mapping[str, Ints]) -> TrainingLoss:
        length = self.training.model.sequence_length
        loss = np.full(len(self.measurement.languages), np.nan)
        for c, language in enumerate(self.measurement.languages):
            if language in streams:
                rows = streams[language][: READ_ROWS * length]
                ids = torch.from_numpy(rows[: len(rows) // length * length].reshape(-1, length))
                loss[c] = float(model(input_ids=ids, labels=ids).loss)
        return TrainingLoss(loss)


@contextmanager
def _quiet(model: Any) -> Iterator[None]:
    """The model as it is measured: no dropout, no gradients."""
    model.eval().requires_grad_(False)
    try:
        with torch.no_grad():
            yield
    finally:
        model.train().requires_grad_(True)


def finished(place: Path) -> dict[str, Any] | None:
    """What a finished trial's folder says of it; None where the trial is not finished."""
    path = place / TRIAL
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

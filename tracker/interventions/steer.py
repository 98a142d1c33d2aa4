"""Steering: one language's units off, another's on; which language is then written (methods 3).

Tang et al. 2024 (arXiv 2402.16438): the units specific to the source language are held at 0, those
of the target at their mean activation on the target's text; a unit of both counts as the target's
(**choice**). The model continues the beginnings of the source's documents greedily, and the
language of what it writes is told by its tokens (`distinctive_tokens` of the probe text, with the
run's settings). Controls hold as many random units of each layer at 0, and as many others at their
own means on the target's text.

Units and means come from one half of the text and the beginnings from the other, and the reverse.
Two things that a share of tokens does not tell stand beside it. A beginning may commit the model to
its language: hence what is written without steering, from the same prompts. And a model that
steering breaks may repeat one word of the target for ever: hence the number of different tokens,
and a sample to look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import UserError
from tracker.generation import continued
from tracker.interventions import HALVES, Subject
from tracker.interventions.arms import NONE, Folds
from tracker.interventions.edits import random_units, units_held
from tracker.neurons import NeuronSet
from tracker.probes import require_whole
from tracker.probes.lape import Lape, LapeResult
from tracker.probes.vocabulary_mass import VocabularyMass, distinctive_tokens
from tracker.store import array
from tracker.text import ProbeText, Row

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Prompts = Mapping[str, Sequence[Sequence[Row]]]
"""Source language -> the rows that begin its prompts, for each half that units are chosen on."""

STEER = "steer"
SETS = ("specific", "specific_absolute")
DIRECTIONS = ("primary", "all")


@dataclass(frozen=True)
class SteerArm:
    """One direction; without a target, what is written unchanged."""

    source: str
    target: str = ""
    control: int = -1
    """-1: the change itself; r: its r-th random control."""

    @property
    def edit(self) -> str:
        """`none` or `steer`."""
        return STEER if self.target else NONE

    @property
    def name(self) -> str:
        """`php`, `php -> python`, `php -> python (random 0)`."""
        direction = f"{self.source} -> {self.target}" if self.target else self.source
        return direction if self.control < 0 else f"{direction} (random {self.control})"


@dataclass(frozen=True)
class SteerResult:
    """What was written after every prompt under every arm, counted by language."""

    arm: NDArray[Any] = array("arm", doc="language of the prompts -> language steered to")
    arm_edit: NDArray[Any] = array("arm", doc="none or steer")
    arm_source: NDArray[Any] = array("arm", doc="language of the prompts, whose units are off")
    arm_target: NDArray[Any] = array("arm", doc="language whose units are on; empty: none")
    arm_control: NDArray[np.int64] = array("arm", doc="-1: the change; r: its random control r")
    arm_size: Floats = array("arm", unit="units", doc="held at 0 or on, mean of the halves")
    arm_size_on: Floats = array("arm", unit="units", doc="held at their means, mean of the halves")
    prompt: Ints = array("prompt", doc="number; the same documents under every arm of a source")
    prompt_document: NDArray[Any] = array(
        "language", "prompt", doc="id of the document that it begins; empty: no source"
    )
    prompt_tokens: Ints = array(unit="tokens", doc="length of every prompt")
    generated_count: Ints = array(
        "arm", "prompt", unit="tokens", doc="written before the end of the text"
    )
    distinctive_count: Ints = array(
        "arm", "prompt", "decoded_language", unit="tokens", doc="of these distinctive of a language"
    )
    different_count: Ints = array(
        "arm", "prompt", unit="tokens", doc="of these different: few where the model repeats itself"
    )
    distinctive_share: Floats = array(
        "language", "decoded_language", unit="share",
        doc="tokens of a language's own text that are distinctive of a language",
    )  # fmt: skip
    sample: NDArray[Any] = array("arm", doc="what was written after the first prompt")


@dataclass(frozen=True)
class Steer:
    """Settings: whose units, which directions, how much is written."""

    sets: str = "specific"
    directions: str = "primary"
    """`primary`: between the primary and each other language, both ways; `all`: every pair."""
    prompts: int = 16
    """Per source language, both halves of the text together."""
    prompt_tokens: int = 24
    new_tokens: int = 32
    controls: int = 3

    def __post_init__(self) -> None:
        """Refuse unknown names and what is no number."""
        for setting, known in (("sets", SETS), ("directions", DIRECTIONS)):
            value = getattr(self, setting)
            if value not in known:
                raise UserError(
                    f"interventions.steer.{setting}={value}: choose {' or '.join(known)}"
                )
        require_whole("interventions.steer", 2, prompts=self.prompts)
        require_whole(
            "interventions.steer", 1,
            prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens, controls=self.controls,
        )  # fmt: skip

    def run(self, subject: Subject) -> SteerResult:
        """Continue the prompts of every direction, unchanged, steered, and by the controls.

        Raises:
            UserError: The prompts do not fit the text or the model.
        """
        arms = self._arms(subject)
        prompts = self._prompts(subject.context.text, {arm.source for arm in arms})
        sizes: dict[SteerArm, list[tuple[int, int]]] = {arm: [] for arm in arms}
        written: dict[SteerArm, list[Ints]] = {arm: [] for arm in arms}
        for number, folds in enumerate(HALVES):
            units = _Units.of(subject, self.sets, folds)
            for arm in arms:
                subject.progress(arm.name)
                change = units.change(subject, arm)
                ids = np.stack([self._begin(row) for row in prompts[arm.source][number]])
                with change.made(subject):
                    more = continued(subject.model, ids, self.new_tokens, subject.batch_tokens)
                sizes[arm].append((len(change.off) + len(change.on), len(change.on)))
                written[arm].append(more)
        return self._result(subject, prompts, sizes, written)

    def _arms(self, subject: Subject) -> list[SteerArm]:
        languages, primary = subject.context.text.languages, subject.context.primary
        pairs = [
            (source, target)
            for source in languages
            for target in languages
            if source != target and (self.directions == "all" or primary in (source, target))
        ]
        arms = [SteerArm(source) for source in languages]
        for pair in pairs:
            arms += [SteerArm(*pair, control) for control in range(-1, self.controls)]
        return arms

    def _prompts(self, text: ProbeText, sources: set[str]) -> Prompts:
        """Equally many beginnings for every language and half, in the order of the text."""
        found = {c: self._beginnings(text, text.languages.index(c)) for c in sorted(sources)}
        most = min(len(rows) for halves in found.values() for rows in halves)
        if not most:
            scarce = next(c for c, halves in found.items() if not all(halves))
            raise UserError(
                f"interventions.steer.prompt_tokens={self.prompt_tokens}: {scarce!r} has no "
                "documents that long in one half of the text; choose fewer, or add text"
            )
        count = min(self.prompts // 2, most)
        return {c: [rows[:count] for rows in halves] for c, halves in found.items()}

    def _beginnings(self, text: ProbeText, language: int) -> list[list[Row]]:
        """A language's rows with different beginnings, in the half that is read after each half.

        The same beginning twice would be continued alike and count as two observations.
        """
        different: dict[tuple[int, ...], Row] = {}
        for row in text.rows:
            usable = row.language == language and not (row.graded_only or row.continued)
            if usable and len(row.ids) >= row.prefix + self.prompt_tokens:
                different.setdefault(tuple(self._begin(row).tolist()), row)
        rows = list(different.values())
        return [[row for row in rows if row.fold in read_on] for read_on in HALVES[::-1]]

    def _begin(self, row: Row) -> Ints:
        return row.ids[: row.prefix + self.prompt_tokens]

    def _result(
        self,
        subject: Subject,
        prompts: Prompts,
        sizes: Mapping[SteerArm, list[tuple[int, int]]],
        written: Mapping[SteerArm, list[Ints]],
    ) -> SteerResult:
        text, arms = subject.context.text, list(written)
        ids = np.stack([np.concatenate(parts) for parts in written.values()])
        before_end = np.cumsum(ids == subject.tokenizer.eos_token_id, axis=-1) == 0
        distinctive = _distinctive(subject)
        counts = text.token_counts()
        size = np.array(list(sizes.values()), np.float64).mean(1)
        return SteerResult(
            arm=np.array([a.name for a in arms], dtype=object),
            arm_edit=np.array([a.edit for a in arms], dtype=object),
            arm_source=np.array([a.source for a in arms], dtype=object),
            arm_target=np.array([a.target for a in arms], dtype=object),
            arm_control=np.array([a.control for a in arms], np.int64),
            arm_size=size[:, 0],
            arm_size_on=size[:, 1],
            prompt=np.arange(ids.shape[1]),
            prompt_document=_documents(text, prompts),
            prompt_tokens=np.asarray(self.prompt_tokens),
            generated_count=before_end.sum(-1),
            distinctive_count=np.moveaxis((distinctive[:, ids] & before_end).sum(-1), 0, -1),
            different_count=np.array(
                [
                    [len(set(i[kept].tolist())) for i, kept in zip(*arm, strict=True)]
                    for arm in zip(ids, before_end, strict=True)
                ]
            ),
            distinctive_share=counts @ distinctive[:, : counts.shape[1]].T / text.tokens()[:, None],
            sample=np.array(
                [
                    _readable(subject, i[0][kept[0]])
                    for i, kept in zip(ids, before_end, strict=True)
                ],
                dtype=object,
            ),
        )


@dataclass(frozen=True)
class _Change:
    """Units at 0, others on."""

    off: NeuronSet
    on: NeuronSet
    mean: Floats
    """[layer, unit] at which units are on."""

    def made(self, subject: Subject) -> AbstractContextManager[None]:
        """Steered inside."""
        values = np.where(self.on.mask, self.mean, 0.0)
        return units_held(subject.model, self.off | self.on, values)


@dataclass(frozen=True)
class _Units:
    """What one half of the text tells about every language."""

    member: NDArray[np.bool_]
    """[language, layer, unit]."""
    mean: Floats
    """[language, layer, unit] mean activation."""

    @classmethod
    def of(cls, subject: Subject, sets: str, folds: Folds) -> _Units:
        """Measure them."""
        (sums,) = subject.measure([subject.probe(Lape)], folds)
        found: LapeResult = sums.result()
        mean = found.activation_sum / np.maximum(found.tokens, 1)
        return cls(getattr(found, sets), np.moveaxis(mean, -1, 0))

    def change(self, subject: Subject, arm: SteerArm) -> _Change:
        """What an arm does; the random units of a control are in neither set."""
        languages = subject.context.text.languages
        nobody = NeuronSet(np.zeros_like(self.member[0]))
        if not arm.target:
            return _Change(nobody, nobody, self.mean[0])
        target = languages.index(arm.target)
        on = NeuronSet(self.member[target])
        off = NeuronSet(self.member[languages.index(arm.source)]) - on
        if arm.control >= 0:
            generator = subject.generator(STEER, arm.source, arm.target, arm.control)
            free = ~(off | on)
            off = random_units(off, generator, free)
            on = random_units(on, generator, free - off)
        return _Change(off, on, self.mean[target])


def _distinctive(subject: Subject) -> NDArray[np.bool_]:
    """[language, id] for every id that the model can write: heads are often padded."""
    probe = subject.probe(VocabularyMass)
    counts = subject.context.text.token_counts()
    known = distinctive_tokens(counts, probe.least_share, probe.least_count)
    padding = len(subject.model.unembedding) - counts.shape[1]
    return np.pad(known, ((0, 0), (0, padding)))


def _documents(text: ProbeText, prompts: Prompts) -> NDArray[Any]:
    """[language, prompt] ids; empty where a language is no source."""
    names = {
        c: [text.documents[r.document].id for rows in halves for r in rows]
        for c, halves in prompts.items()
    }
    count = len(next(iter(names.values())))
    return np.array([names.get(c, [""] * count) for c in text.languages], dtype=object)


def _readable(subject: Subject, ids: Ints) -> str:
    """Text for a record: HDF5 strings end at a NUL."""
    return str(subject.tokenizer.decode(ids.tolist())).replace("\0", "\ufffd")

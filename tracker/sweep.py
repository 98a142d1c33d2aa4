"""The loop over the checkpoints of a series: one pass each, one record each, resumable."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.errors import CheckpointError, DownloadError, UserError, first_line
from checkpoints.files import ClaimedError, claimed, clear_unfinished
from checkpoints.series import Checkpoint, Series
from checkpoints.shelf import BusyError
from tracker import store
from tracker.concepts import canonical
from tracker.documents import Document, text_digest
from tracker.loading import ModelSettings
from tracker.model import LanguageModel, anatomy_of
from tracker.one_pass import one_pass
from tracker.positions import ConceptIndex, index_concepts
from tracker.precision import choose, decide, decided
from tracker.probes import Context, Probe
from tracker.provenance import (
    DigestsAhead,
    Weights,
    digest_of_files,
    is_of,
    software,
    tool_version,
)
from tracker.refill import Loader
from tracker.store import Variable
from tracker.text import ProbeText, TextSettings, build_text

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what is being done)."""


@dataclass(frozen=True)
class Measurement:
    """Everything that decides what a record holds, apart from the checkpoint itself."""

    series: Series
    tokenizer: Any
    tokenizer_digest: str
    documents: Sequence[Document]
    concept_table: Sequence[Mapping[str, Any]]
    languages: tuple[str, ...]
    primary: str
    text_settings: TextSettings
    probes: Mapping[str, Probe]
    model_settings: ModelSettings
    seed: int
    config: str
    least_positions: int = 5
    most_positions: int = 64
    longest: int | None = None
    """The model's maximum length."""
    own_tokenizer: bool = True
    """The checkpoints' own tokenizer is used, so one that differs is another model's."""

    def digest(self) -> str:
        """Hash of everything that changes a record; where it runs and how wide is not part."""
        origin = self.series.origin or str(self.series.checkpoints[0].path.resolve().parent)
        content = {
            "schema": store.SCHEMA_VERSION,
            "series": [self.series.name, origin],
            "tokenizer": self.tokenizer_digest,
            "documents": text_digest(self.documents),
            "concepts": [dict(row) for row in self.concept_table],
            "languages": self.languages,
            "primary": self.primary,
            "text": repr(self.text_settings),
            "probes": {name: repr(probe) for name, probe in sorted(self.probes.items())},
            "dtype": self.model_settings.dtype,
            "seed": self.seed,
            "positions": [self.least_positions, self.most_positions],
            "longest": self.longest,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What became of each checkpoint of a sweep."""

    measured: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    """Steps whose record was there already."""
    skipped: Mapping[int, str] = field(default_factory=dict)
    pending: Mapping[int, str] = field(default_factory=dict)


def track(
    measurement: Measurement,
    folder: Path,
    *,
    shard: int = 0,
    shards: int = 1,
    progress: Progress | None = None,
    context: Context | None = None,
) -> Outcome:
    """Measure the checkpoints that have no record yet.

    Checkpoint `i` belongs to shard `i mod shards`. A checkpoint that cannot be measured is noted
    and the others go on; it is tried again in the next run. So is one that cannot be downloaded:
    **choice**: what was measured counts, also where the network breaks in the middle.

    Args:
        measurement: What to measure.
        folder: Where the records go.
        shard: This process' shard.
        shards: Number of shards.
        progress: Told after each checkpoint.
        context: The measurement's context, where it is made already.

    Raises:
        UserError: There is no record yet, and none of the checkpoints can be downloaded; or the
            folder is another configuration's.
    """
    try:
        with claimed(folder / ".configuration", measurement.digest()):
            refuse_foreign(folder, measurement.digest())
            return _track(measurement, folder, shard, shards, progress, context)
    except ClaimedError as error:
        raise _foreign(folder, str(error), measurement.digest()) from None


def refuse_foreign(folder: Path, digest: str) -> None:
    """Records of another configuration are never mixed in.

    Args:
        folder: Of the records.
        digest: Of the configuration.

    Raises:
        UserError: There are some.
    """
    for record in folder.glob("step-*.h5"):
        with suppress(OSError):  # a damaged one is measured again
            other = str(store.read_attributes(record).get("config_sha256"))
            if other != digest:
                raise _foreign(folder, other, digest)


def _foreign(folder: Path, other: str, digest: str) -> UserError:
    return UserError(
        f"run_dir={folder.parent}: it holds records of another configuration "
        f"({other[:12]}, this one is {digest[:12]}); choose another folder"
    )


def _track(
    measurement: Measurement,
    folder: Path,
    shard: int,
    shards: int,
    progress: Progress | None,
    context: Context | None,
) -> Outcome:
    sweep = Sweep(measurement, folder, context)
    clear_unfinished(folder)
    mine = measurement.series.checkpoints[shard::shards]
    due = {c.step: c for c in mine if not sweep.stands(c)}
    done, measured = len(mine) - len(due), set[int]()
    following = dict(pairwise(due))
    failed: dict[int, CheckpointError] = {}
    tell = progress or _say_nothing
    with closing(measurement.series.shelf) as shelf:
        shelf.clear(c.step for c in mine if c.step not in due)
        for step, weights in shelf.turns([*due], lambda step: not sweep.recorded(due[step])):
            tell(done, len(mine), f"step {step}")
            try:
                with weights:
                    if sweep.visit(due[step], due.get(following.get(step, -1))):
                        measured.add(step)
            except BusyError:
                continue
            except CheckpointError as error:
                failed[step] = error
                if not isinstance(error, DownloadError):
                    store.note_skip(folder, step, str(error))
            done += 1
    if len(failed) == len(mine):
        require_one(list(failed.values()))
    skipped = {step: str(error) for step, error in failed.items()}
    for step, failure in failed.items():
        if isinstance(failure, DownloadError):
            store.note_skip(folder, step, skipped[step])
    tell(len(mine), len(mine), "done")
    kept = (c.step for c in mine if c.step not in measured and c.step not in skipped)
    return Outcome(tuple(sorted(measured)), tuple(kept), skipped, dict(measurement.series.pending))


def _say_nothing(done: int, total: int, what: str) -> None:
    """Progress where nobody asks for it."""


def require_one(failed: Sequence[CheckpointError]) -> None:
    """Where all checkpoints fail for want of a network, the first failure says what to do.

    Raises:
        UserError: That is so.
    """
    if failed and all(isinstance(error, DownloadError) for error in failed):
        raise UserError(str(failed[0])) from failed[0]


class Sweep:
    """State shared by the checkpoints of one process: the text is tokenised once, when needed."""

    def __init__(
        self,
        measurement: Measurement,
        folder: Path,
        context: Context | None = None,
        settings: ModelSettings | None = None,
    ) -> None:
        """Take over what is measured.

        Args:
            measurement: What to measure.
            folder: Of the records.
            context: The text, where it is made already.
            settings: How checkpoints are loaded; by default as the measurement says.
        """
        self.measurement, self.folder = measurement, folder
        self._settings = measurement.model_settings if settings is None else settings
        self.reference = common_shape(measurement.series)
        self._context = context
        self._text_digest = text_digest(measurement.documents)
        self._tested = False
        self._loader: Loader | None = None
        self._digests = DigestsAhead()

    @property
    def context(self) -> Context:
        """The text with its concepts located."""
        if self._context is None:
            self._context = make_context(self.measurement)
        return self._context

    def recorded(self, checkpoint: Checkpoint) -> bool:
        """Whether the record is there and of these weights."""
        path = self.folder / store.record_name(checkpoint.step)
        return is_of(path, checkpoint, self.measurement.series.shelf.digest(checkpoint.step))

    def stands(self, checkpoint: Checkpoint) -> bool:
        """The same; the record learns the tokens told since."""
        if not self.recorded(checkpoint):
            return False
        self._amend_tokens(self.folder / store.record_name(checkpoint.step), checkpoint)
        return True

    def visit(self, checkpoint: Checkpoint, following: Checkpoint | None = None) -> bool:
        """Measure a checkpoint unless its record stands; whether it was measured.

        Args:
            checkpoint: Which.
            following: The next one, whose weights are read meanwhile where they are here.
        """
        if self.stands(checkpoint):  # another process was faster, and the weights are not here
            return False
        path = self.folder / store.record_name(checkpoint.step)
        weights = Weights.of(checkpoint.path)
        model = self.load(checkpoint)
        for each in (checkpoint, following):
            if each is not None and self.measurement.series.shelf.digest(each.step) is None:
                self._digests.ask(each.path)
        groups = self.measure(model)
        self.add_tokens_seen(groups, checkpoint)
        self.write(path, checkpoint, model, groups, weights)
        store.clear_skip(self.folder, checkpoint.step)
        return True

    def load(self, checkpoint: Checkpoint) -> LanguageModel:
        """A checkpoint that has the series' shape and tokenizer; the first one is self-tested."""
        _check_tokenizer(checkpoint, self.measurement)
        _check_shape(checkpoint, self.reference)
        if self._loader is None:
            self._loader = self._settled(checkpoint)
        return self._read(self._loader, checkpoint)

    def _settled(self, checkpoint: Checkpoint) -> Loader:
        """A loader of the type that holds for all records of the folder."""
        settings, last = self._settings, None
        if settings.dtype == "auto":
            found = decided(self.folder)
            if found is None:

                def load(dtype: str) -> LanguageModel:
                    nonlocal last
                    self._tested = False
                    last = Loader(replace(settings, dtype=dtype))  # the one before is gone
                    return self._read(last, checkpoint)

                probes = usable_probes(self.measurement.probes, self.context)
                found = choose(load, self.context, probes, settings.batch_tokens)
                found = decide(self.folder, found)
            settings = replace(settings, dtype=found.dtype)
        return last if last is not None and last.settings == settings else Loader(settings)

    def _read(self, loader: Loader, checkpoint: Checkpoint) -> LanguageModel:
        model = self._fitting(loader.load(checkpoint.path))
        if not self._tested:
            first = torch.from_numpy(self.context.text.rows[0].ids)[None]
            model.self_test(first.to(model.device))
            self._tested = True
        return model

    def _fitting(self, model: LanguageModel) -> LanguageModel:
        """The same, if it has an entry for every token."""
        entries, needed = model.unembedding.shape[0], self.context.text.vocabulary
        if entries < needed:
            raise CheckpointError(f"the vocabulary has {entries} entries, the tokenizer {needed}")
        return model

    def measure(
        self, model: LanguageModel, languages: Container[int] | None = None
    ) -> dict[str, dict[str, Variable]]:
        """One pass over the text (of some languages) for all probes; variables by group."""
        probes = list(usable_probes(self.measurement.probes, self.context).values())
        size = self.measurement.model_settings.batch_tokens
        running = one_pass(model, self.context, probes, size, languages=languages)
        groups: dict[str, dict[str, Variable]] = {}
        for probe, accumulator in zip(probes, running, strict=True):
            found = store.variables(accumulator.result())
            group = groups.setdefault(probe.group, {})
            assert not set(found) & set(group), (probe, set(found) & set(group))
            group.update(found)
        return groups

    def add_tokens_seen(
        self, groups: dict[str, dict[str, Variable]], checkpoint: Checkpoint
    ) -> None:
        """Add what the checkpoint has seen of each language to what was measured in it."""
        groups.setdefault("performance", {})["tokens_seen"] = Variable(
            ("language",), self._tokens_seen(checkpoint), "tokens", "-1 where unknown"
        )

    def _tokens_seen(self, checkpoint: Checkpoint) -> NDArray[np.int64]:
        """[language] tokens seen; -1 where the sidecar does not tell.

        A sidecar that counts some language of the text, and does not name another, has seen
        nothing of that one. Names such as `py` or `eng` are understood.
        """
        known = {canonical(c).casefold(): n for c, n in checkpoint.tokens_by_language.items()}
        names = [canonical(c).casefold() for c in self.measurement.languages]
        counted = any(c in known for c in names) or checkpoint.tokens == 0
        return np.array([known.get(c, 0) if counted else -1 for c in names], np.int64)

    def _amend_tokens(self, path: Path, checkpoint: Checkpoint) -> None:
        """Tokens seen may be told after the weights were measured: the record follows."""
        record = store.read_tokens(path)
        tokens = -1 if checkpoint.tokens is None else checkpoint.tokens
        seen = self._tokens_seen(checkpoint)
        if record is not None and (record[0] != tokens or (record[1] != seen).any()):
            store.amend(path, {"tokens": tokens}, {"performance/tokens_seen": seen})

    def _weights_digest(self, checkpoint: Checkpoint, files: Sequence[Path]) -> str:
        """Of the series' list where it has one; of no files where a state was never written."""
        listed = self.measurement.series.shelf.digest(checkpoint.step) if files else None
        try:
            return listed or self._digests.of(files)
        except OSError as error:
            raise CheckpointError(f"its weights went away ({first_line(error)})") from None

    def write(
        self,
        path: Path,
        checkpoint: Checkpoint,
        model: LanguageModel,
        groups: Mapping[str, Mapping[str, Variable]],
        weights: Weights,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """Write what was found in a checkpoint, with where it comes from.

        Args:
            path: Where to.
            checkpoint: What was measured.
            model: The same, loaded.
            groups: What was found.
            weights: Its files, as they were before it was loaded.
            attributes: Root attributes beside those that every record has.

        Raises:
            CheckpointError: The files are not the same any more.
        """
        digest = self._weights_digest(checkpoint, weights.files)
        weights.require_same()
        m, text = self.measurement, self.context.text
        store.write_record(
            path,
            groups,
            {
                "language": np.array(text.languages, dtype=object),
                "decoded_language": np.array(text.languages, dtype=object),
                "layer": np.arange(1, model.layers + 1),
                "hidden_layer": np.arange(model.layers + 1),
                "unit": np.arange(model.units),
                "document": np.array([d.id for d in text.documents], dtype=object),
                "fold": np.arange(text.folds),
            },
            {
                "tool_version": tool_version(),
                "software": software(),
                "series": m.series.name,
                "step": checkpoint.step,
                "tokens": -1 if checkpoint.tokens is None else checkpoint.tokens,
                "revision": checkpoint.revision,
                "weights_sha256": digest,
                "weights_stat": weights.stat,
                "config_sha256": m.digest(),
                "text_sha256": self._text_digest,
                "tokenizer_sha256": m.tokenizer_digest,
                "dtype": str(model.unembedding.dtype).removeprefix("torch."),
                "device": str(model.device.type),
                "seed": m.seed,
                "primary": m.primary,
                "architecture": model.model.config.model_type,
                "parameters": sum(p.numel() for p in model.model.parameters()),
                **(attributes or {}),
            },
            m.config,
        )


def usable_probes(probes: Mapping[str, Probe], context: Context) -> dict[str, Probe]:
    """The probes that can run: those that need concepts only where a table fits the text."""
    have = context.concepts is not None
    return {n: p for n, p in probes.items() if have or not getattr(p, "needs_concepts", False)}


def make_context(measurement: Measurement) -> Context:
    """Tokenise the probe text and locate the concepts in it."""
    m = measurement
    text = build_text(m.documents, m.tokenizer, m.languages, m.text_settings, m.longest)
    found = None
    if m.concept_table:
        found = index_concepts(
            text,
            m.concept_table,
            m.tokenizer,
            m.primary,
            least=m.least_positions,
            most=m.most_positions,
            seed=m.seed,
        )
    notes = [*text.notes]
    if found is None or not found.names:
        found = None
        notes.append(
            "no concept table fits the text: the working language is read from vocabulary mass, "
            "which cannot tell translation from a preference for a language (text.pairs adds one)"
        )
    else:
        notes += _concept_notes(text, found)
    return Context(replace(text, notes=tuple(notes)), m.primary, found, m.seed)


def _concept_notes(text: ProbeText, found: ConceptIndex) -> list[str]:
    notes = [
        f"{language}: {n} spellings in comments and strings are not counted"
        for language, n in zip(text.languages, found.quoted, strict=True)
        if n
    ]
    for pair in found.pairs.values():
        reasons = Counter(pair.dropped.values())
        detail = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
        name = text.languages[pair.language]
        dropped = f" ({detail})" if detail else ""
        notes.append(f"{name}: {len(pair.concepts)} concepts compared{dropped}")
    return notes


def common_shape(series: Series) -> tuple[Any, ...]:
    """The shape that most checkpoints have.

    Raises:
        UserError: No config is readable, or the architecture is not supported.
    """
    configs = [c for checkpoint in series.checkpoints if (c := _config(checkpoint)) is not None]
    if not configs:
        raise UserError(f"series {series.name}: no checkpoint has a readable config.json")
    reference = Counter(map(_shape, configs)).most_common(1)[0][0]
    anatomy_of(next(c for c in configs if _shape(c) == reference))
    return reference


_SHAPE = ("model_type", "vocab_size", "hidden_size", "n_embd", "num_hidden_layers", "n_layer")


def _config(checkpoint: Checkpoint) -> dict[str, Any] | None:
    try:
        config = json.loads((checkpoint.path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def _shape(config: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(config.get(key) for key in _SHAPE)


def _check_shape(checkpoint: Checkpoint, reference: tuple[Any, ...]) -> None:
    config = _config(checkpoint)
    if config is None:
        raise CheckpointError("config.json is damaged")
    for key, mine, common in zip(_SHAPE, _shape(config), reference, strict=True):
        if mine != common:
            raise CheckpointError(f"{key} is {mine}, in the rest of the series {common}")


def _check_tokenizer(checkpoint: Checkpoint, measurement: Measurement) -> None:
    if not measurement.own_tokenizer:
        return
    digest = tokenizer_digest(checkpoint.path)
    if digest is not None and digest != measurement.tokenizer_digest:
        raise CheckpointError("its tokenizer differs from that of the series")


def tokenizer_digest(folder: Path) -> str | None:
    """Hash of a folder's tokenizer, padding and truncation apart; None where it has none."""
    file = folder / "tokenizer.json"
    if file.exists():
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise CheckpointError(f"{file.name} is damaged") from None
        for key in ("padding", "truncation"):
            content.pop(key, None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    parts = [
        p for n in ("vocab.json", "merges.txt", "tokenizer.model") if (p := folder / n).exists()
    ]
    return digest_of_files(parts) if parts else None


def series_tokenizer(series: Series, folder: str | None) -> tuple[Any, str]:
    """The series' tokenizer and its digest: `folder`'s, else the one most checkpoints have.

    Raises:
        UserError: There is none, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    if folder is not None:
        place, digest = Path(folder).expanduser(), None
        if not place.is_dir():
            raise UserError(f"series.tokenizer={folder}: no such folder")
        digest = tokenizer_digest(place)
    else:
        place, digest = _common_tokenizer(series)
    if digest is None:
        public = ", or to ORG/NAME@REVISION of a repository with one" if series.origin else ""
        raise UserError(
            f"series {series.name}: no tokenizer in {series.origin or place}; "
            f"set series.tokenizer to a folder with a tokenizer.json{public}"
        )
    try:
        return AutoTokenizer.from_pretrained(place, local_files_only=True), digest
    except Exception as error:  # a damaged tokenizer shows as any of several types
        raise UserError(f"{place}: the tokenizer cannot be loaded ({first_line(error)})") from error


def _common_tokenizer(series: Series) -> tuple[Path, str | None]:
    found: Counter[str] = Counter()
    place: dict[str, Path] = {}
    for checkpoint in series.checkpoints:
        try:
            digest = tokenizer_digest(checkpoint.path)
        except CheckpointError:
            continue
        if digest is not None:
            found[digest] += 1
            place.setdefault(digest, checkpoint.path)
    if not found:
        return series.checkpoints[0].path, None
    digest = found.most_common(1)[0][0]
    return place[digest], digest

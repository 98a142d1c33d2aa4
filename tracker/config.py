"""The configuration, typed at the edge: what Hydra composed becomes plain arguments."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from checkpoints.demo import DemoSettings, ensure_series
from checkpoints.errors import UserError
from checkpoints.fingerprint import checked
from checkpoints.local import local_series
from checkpoints.remote import HubRun, hub_series, hub_tokenizer
from checkpoints.series import Series
from checkpoints.small import SmallModel
from tracker import store
from tracker.documents import (
    Source,
    choose_languages,
    from_dataset,
    from_jsonl,
    from_programs,
    from_prompts,
    from_starter,
    read_concepts,
    shipped_concepts,
)
from tracker.interventions import Intervention
from tracker.loading import ModelSettings, count_parameters
from tracker.presets import from_preset
from tracker.primary import Choice, auto_primary
from tracker.probes import Probe, require_number, require_whole
from tracker.sweep import (
    Measurement,
    Progress,
    common_shape,
    series_tokenizer,
)
from tracker.text import TextSettings
from tracker.trials import Training
from tracker.validate import CONTROL_ARMS

TASKS = ("all", "track", "analyze", "remix", "intervene", "validate", "plan")


@dataclass
class Selection:
    """`series.select`."""

    n: int | None = None
    spacing: str = "log"


@dataclass
class LocalSettings:
    """`series=local`."""

    name: str | None = None
    path: str | None = None
    pattern: str | None = None
    tokens_per_step: int | None = None
    suspects: str = "exclude"
    tokenizer: str | None = None
    steps: list[int] | None = None
    select: Selection = field(default_factory=Selection)


@dataclass
class HubSettings:
    """`series=hub`, and the named series."""

    repo: str | None = None
    name: str | None = None
    variant: str = ""
    more_repos: list[str] = field(default_factory=list)
    pattern: str | None = None
    refs: str = "branches"
    tokens_per_step: int | None = None
    stages: Any = None
    final: str = "main"
    dtype: str | None = None
    gated: bool = False
    keep: bool = False
    suspects: str = "exclude"
    tokenizer: str | None = None
    steps: list[int] | None = None
    select: Selection = field(default_factory=Selection)
    verified: bool = False

    def run(self) -> HubRun:
        """As the series is made of."""
        if self.repo is None:
            raise UserError("series=hub needs series.repo=ORG/NAME, the run's repository")
        return HubRun(
            repo=self.repo,
            name=self.name,
            more_repos=self.more_repos,
            pattern=self.pattern,
            refs=self.refs,
            tokens_per_step=self.tokens_per_step,
            stages=self.stages,
            final=self.final,
            dtype=self.dtype,
            keep=self.keep,
            suspects=self.suspects,
            steps=self.steps,
            select=None if self.select.n is None else (self.select.n, self.select.spacing),
        )


@dataclass
class ConceptSettings:
    """`concepts`."""

    least_positions: int = 5
    most_positions: int = 64


@dataclass
class AnalysisSettings:
    """`analysis`."""

    replicates: int = 1000
    seed: int = 0
    seeds: Any = None


@dataclass
class MixtureSettings:
    """`mixture`."""

    corpus: Any = None
    text_field: str = "text"
    budget: float | None = None
    proposer: str = "epoch_cap"
    temperature: float = 0.3
    outcome: str = "loss"
    weights: dict[str, float] | None = None
    fixed: dict[str, float] | None = None
    max_passes: float = 40.0
    scores: str | None = None
    runs: str | None = None


@dataclass
class ValidateSettings:
    """`validate`."""

    tokens: int = 614_400
    seeds: int = 3
    arms: list[str] | None = None
    controls: list[str] = field(default_factory=lambda: list(CONTROL_ARMS))
    sweep: list[float] = field(default_factory=list)
    pilots: int = 2
    vocabulary: int | None = None
    hidden_size: int = 64
    layers: int = 4
    heads: int = 4
    sequence_length: int = 128
    batch_size: int = 16
    learning_rate: float = 4e-3
    precision: str = "auto"
    workers: int | None = None

    def training(self) -> Training:
        """How small runs train.

        Raises:
            UserError: A setting that cannot be.
        """
        _require_validate(self)
        shape = SmallModel(self.hidden_size, self.layers, self.heads, self.sequence_length)
        return Training(shape, self.batch_size, precision=self.precision)


def _require_validate(v: ValidateSettings) -> None:
    where = "validate"
    require_whole(where, 1, seeds=v.seeds, layers=v.layers, heads=v.heads, batch_size=v.batch_size)
    require_whole(where, 1, **({} if v.workers is None else {"workers": v.workers}))
    require_whole(where, 0, pilots=v.pilots)
    require_whole(where, 8, sequence_length=v.sequence_length)
    require_number(where, 1e-12, learning_rate=v.learning_rate)
    require_whole(where, 2 * v.batch_size * v.sequence_length, tokens=v.tokens)
    if v.vocabulary is not None:
        require_whole(where, 300, vocabulary=v.vocabulary)
    if v.hidden_size <= 0 or v.hidden_size % (8 * v.heads):
        raise UserError(f"validate.hidden_size={v.hidden_size}: choose a multiple of 8 x heads")
    if v.precision not in ("auto", "float32", "bfloat16"):
        raise UserError(f"validate.precision={v.precision}: auto, float32 or bfloat16")
    unknown = [c for c in v.controls if c not in CONTROL_ARMS]
    if unknown:
        raise UserError(
            f"validate.controls: no control {unknown[0]}; choose {', '.join(CONTROL_ARMS)}"
        )
    if not all(0 <= share < 1 for share in v.sweep):
        raise UserError(f"validate.sweep={v.sweep}: choose primary shares from 0 to below 1")


@dataclass
class RunSettings:
    """The plain values at the top of the configuration."""

    task: str = "all"
    steps: Any = None
    primary: str = "auto"
    languages: list[str] | None = None
    runs: str = "runs"
    run_dir: str | None = None
    seed: int = 0
    shard: int = 0
    shards: int = 1
    concepts: ConceptSettings = field(default_factory=ConceptSettings)
    analysis: AnalysisSettings = field(default_factory=AnalysisSettings)
    mixture: MixtureSettings = field(default_factory=MixtureSettings)
    validate: ValidateSettings = field(default_factory=ValidateSettings)


_RECORDED = ("series", "text", "probes", "model", "concepts", "languages", "primary", "seed")
"""What of the configuration a record keeps: all that can change it, nothing that cannot."""

_TEXT_ONLY = ("kind", "pairs", *TextSettings.__dataclass_fields__)
_SOURCES: dict[str, Callable[..., Source]] = {
    "programs": from_programs,
    "starter": from_starter,
    "prompts": from_prompts,
    "jsonl": from_jsonl,
    "dataset": from_dataset,
    "preset": from_preset,
}


def typed(schema: Any, config: Any, where: str) -> Any:
    """`config` as an instance of the dataclass `schema`.

    Raises:
        UserError: A value of another type, or a key that the schema does not have.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), config)
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        first = str(error).strip().splitlines()[0]
        if "is not a ListConfig" in first:
            first = "give a list, such as [a, b]"
        key = getattr(error, "full_key", None) or getattr(error, "key", "")
        name = ".".join(part for part in (where, str(key or "")) if part)
        raise UserError(f"{name}: {first}") from None


def run_settings(config: DictConfig) -> RunSettings:
    """The values at the top, checked."""
    names = RunSettings.__dataclass_fields__
    chosen = OmegaConf.create({n: config[n] for n in names})
    settings: RunSettings = typed(RunSettings, chosen, "")
    if settings.task not in TASKS:
        raise UserError(f"task={settings.task}: choose {', '.join(TASKS)}")
    if settings.analysis.replicates < 1:
        raise UserError(f"analysis.replicates={settings.analysis.replicates}: choose at least 1")
    settings.analysis.seeds = _folders(settings.analysis.seeds)
    if settings.shards < 1 or not 0 <= settings.shard < settings.shards:
        raise UserError(
            f"shard={settings.shard} shards={settings.shards}: shard counts from 0 to shards - 1"
        )
    return settings


def _folders(given: Any) -> list[str]:
    """`analysis.seeds` as a list, empty where it is not set."""
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(f, str) and f for f in given):
        raise UserError(
            f"analysis.seeds={given}: give a list of the run folders of other seeds, [DIR, DIR]"
        )
    return given


def demo_settings(config: DictConfig) -> DemoSettings | None:
    """Settings of the built-in series; None where another series is tracked."""
    group = OmegaConf.to_container(config.series, resolve=True)
    assert isinstance(group, dict)
    if group.pop("kind") != "demo":
        return None
    for name in ("path", "name", "seeds"):  # none of them determines the series
        group.pop(name, None)
    try:
        return DemoSettings(**{str(k): v for k, v in group.items()})
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"series=demo: {error}") from None


def demo_folder(config: DictConfig, settings: DemoSettings) -> Path:
    """Where the built-in series' checkpoints and corpora live."""
    if config.series.path is not None:
        return Path(config.series.path)
    return Path(config.runs) / str(config.series.name) / f"series-{settings.digest[:12]}"


def hub_settings(config: DictConfig) -> HubSettings | None:
    """Settings of a public series; None where another one is tracked."""
    group = OmegaConf.to_container(config.series, resolve=True)
    assert isinstance(group, dict)
    if group.pop("kind") != "hub":
        return None
    found: HubSettings = typed(HubSettings, OmegaConf.create(group), "series")
    return found


def find_series(config: DictConfig, progress: Progress | None) -> tuple[Series, str | None]:
    """The series, trained first if it is the built-in one and absent, and its tokenizer folder."""
    demo = demo_settings(config)
    if demo is not None:
        folder = ensure_series(demo_folder(config, demo), demo, progress)
        return local_series(folder, name=str(config.series.name)), None
    public = hub_settings(config)
    if public is not None:
        return hub_series(public.run()), _tokenizer_folder(public.tokenizer)
    group = OmegaConf.to_container(config.series, resolve=True)
    assert isinstance(group, dict)
    group.pop("kind")
    local: LocalSettings = typed(LocalSettings, OmegaConf.create(group), "series")
    if local.path is None:
        raise UserError("series=local needs series.path=DIR, the folder of the checkpoints")
    select = None if local.select.n is None else (local.select.n, local.select.spacing)
    series = local_series(
        local.path,
        name=local.name,
        pattern=local.pattern,
        tokens_per_step=local.tokens_per_step,
        steps=local.steps,
        select=select,
        check=partial(checked, wrong=local.suspects),
    )
    return series, local.tokenizer


def _tokenizer_folder(given: str | None) -> str | None:
    """`series.tokenizer` of a public series, fetched if it is a repository's."""
    if given is None or Path(given).expanduser().is_dir():
        return given
    return str(hub_tokenizer(given))


def tokenizer_of(config: DictConfig) -> tuple[Any, str]:
    """The tokenizer of a series that is there, and its digest; nothing is trained for it."""
    demo = demo_settings(config)
    if demo is not None and not demo_folder(config, demo).exists():
        raise UserError("mixture.corpus: no tokenizer to count with: name the series, series=...")
    return series_tokenizer(*find_series(config, None))


def find_text(config: DictConfig) -> tuple[Source, TextSettings]:
    """The documents with their concept table, and how they become rows."""
    group = OmegaConf.to_container(config.text, resolve=True)
    assert isinstance(group, dict)
    plain = {str(k): v for k, v in group.items() if k not in _TEXT_ONLY}
    settings: TextSettings = typed(
        TextSettings,
        OmegaConf.create({k: group[k] for k in TextSettings.__dataclass_fields__}),
        "text",
    )
    try:
        source = _SOURCES[group["kind"]](**plain)
    except TypeError as error:
        raise UserError(f"text={group['kind']}: {error}") from None
    return replace(source, concepts=_concepts(source, group["pairs"])), settings


def _concepts(source: Source, pairs: str | None) -> tuple[Mapping[str, Any], ...]:
    """The given table, else the text's own, else the shipped ones."""
    if pairs is not None:
        return read_concepts(pairs)
    return source.concepts or shipped_concepts(d.language for d in source.documents)


def find_probes(config: DictConfig) -> dict[str, Probe]:
    """The chosen probes by name."""
    if "performance" not in config.probes:
        raise UserError("probe: performance is missing, and everything else rests on it; add it")
    return _made(config.probes, "probe")


def _made(group: DictConfig, what: str) -> dict[str, Any]:
    """What a group of settings describes, by name."""
    try:
        return {str(name): instantiate(settings) for name, settings in group.items()}
    except HydraException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise UserError(f"{what}: {str(error).splitlines()[0]}") from None


def find_interventions(config: DictConfig) -> dict[str, Intervention]:
    """The chosen interventions by name.

    Raises:
        UserError: None is chosen, or a setting is wrong.
    """
    if not config.interventions:
        known = sorted(
            entry.name.removesuffix(".yaml")
            for entry in files("conf").joinpath("intervention").iterdir()
            if entry.name.endswith(".yaml")
        )
        raise UserError(f"task=intervene: choose intervention={' | '.join(known)}")
    return _made(config.interventions, "intervention")


def measurement(
    config: DictConfig, settings: RunSettings, progress: Progress | None = None
) -> tuple[Measurement, Choice]:
    """What to measure, and why this primary language.

    Raises:
        UserError: Whatever is wrong with series, text, languages or probes.
    """
    source, text_settings = find_text(config)
    languages = choose_languages(source.documents, settings.languages)
    primary = settings.primary
    if primary != "auto" and primary not in languages:
        raise UserError(f"primary={primary}: not among the languages {', '.join(languages)}")
    model: ModelSettings = typed(ModelSettings, config.model, "model").placed(settings.shard)
    model.where()  # a device that is not there is refused before anything is read
    probes = find_probes(config)
    series, tokenizer_folder = find_series(config, progress)
    common_shape(series)
    model = model.of_series(series.dtype)
    tokenizer, digest = series_tokenizer(series, tokenizer_folder)
    if text_settings.folds > FOLDS_OF_LARGE and _is_large(series, model):
        text_settings = replace(text_settings, folds=FOLDS_OF_LARGE)
    found = Measurement(
        series=series,
        tokenizer=tokenizer,
        tokenizer_digest=digest,
        documents=tuple(d for d in source.documents if d.language in languages),
        concept_table=source.concepts,
        languages=languages,
        primary=languages[0] if primary == "auto" else primary,
        text_settings=text_settings,
        probes=probes,
        model_settings=model,
        seed=settings.seed,
        config=OmegaConf.to_yaml(OmegaConf.create({k: config[k] for k in _RECORDED}), resolve=True),
        least_positions=settings.concepts.least_positions,
        most_positions=settings.concepts.most_positions,
        longest=_longest(series),
        own_tokenizer=tokenizer_folder is None,
    )
    if primary != "auto":
        return found, Choice(primary, "given")
    chosen = auto_primary(found, _earlier_runs(settings, series.name), progress)
    return replace(found, primary=chosen.primary), chosen


def _earlier_runs(settings: RunSettings, series: str) -> Iterator[Path]:
    """Folders of runs that may have found the primary language already."""
    if settings.run_dir is not None:
        yield Path(settings.run_dir)
    yield from sorted(p.parent for p in (Path(settings.runs) / series).glob(f"*/{store.RUN}"))


LARGE, FOLDS_OF_LARGE = 1_000_000_000, 2
"""Above so many parameters, unit-level sums are kept in 2 folds: a record stays below 200 MB."""


def _is_large(series: Series, model: ModelSettings) -> bool:
    for checkpoint in series.checkpoints:
        try:
            return count_parameters(checkpoint.path, model.trust_remote_code) > LARGE
        except (OSError, ValueError):
            continue
    return False


def _longest(series: Series) -> int | None:
    """The models' maximum length, by the first readable config."""
    for checkpoint in series.checkpoints:
        try:
            config = json.loads((checkpoint.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        for key in ("max_position_embeddings", "n_positions"):
            if isinstance(config.get(key), int):
                return int(config[key])
    return None


def run_folder(settings: RunSettings, found: Measurement) -> Path:
    """`run_dir`, or `<runs>/<series>/<digest>`."""
    if settings.run_dir is not None:
        return Path(settings.run_dir)
    return Path(settings.runs) / found.series.name / found.digest()[:12]

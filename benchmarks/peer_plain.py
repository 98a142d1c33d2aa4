"""This project, and transformers with nothing on it, doing the jobs of `peers.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_sums import BASE_POSITIONS, BATCH, Ends, Found, Place, PlainSums, Sums, Values, Work
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tracker.loading import ModelSettings
from tracker.model import Anatomy, anatomy_of
from tracker.one_pass import one_pass
from tracker.probes.alignment import Alignment
from tracker.probes.importance import Importance
from tracker.probes.lape import Lape
from tracker.probes.performance import Performance
from tracker.probes.subspaces import LanguageSubspaces
from tracker.probes.transferring import Transferring
from tracker.probes.working_language import WorkingLanguage
from tracker.refill import Loader

See = Callable[[int, Tensor], None]
"""Takes a layer and what was seen there."""
Wanted = Mapping[str, Sequence[See]]
METRICS = ("count", "loss", "language", "document", "importance", "score", "evidence")


@dataclass(frozen=True)
class Job:
    """One of the two lists of measurements."""

    name: str
    target: float
    """How much faster than TransformerLens and nnsight this project wants to be."""
    metrics: tuple[str, ...]
    probes: tuple[Any, ...]


JOBS = (
    Job("counts", 2.0, ("count",), (Lape(),)),
    Job(
        "whole", 3.0, METRICS,
        (
            Performance(), Lape(), LanguageSubspaces(), Alignment(), Importance(),
            WorkingLanguage(base_positions=BASE_POSITIONS), Transferring(),
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """The same for all arms."""

    folder: Path
    work: Work
    config: Any

    @cached_property
    def row(self) -> Anatomy:
        """Names of the parts in transformers' modules."""
        return anatomy_of(self.config.to_dict())

    def sums(self) -> Sums:
        """Nothing summed yet."""
        c = self.config
        return Sums(self.work, c.num_hidden_layers, c.intermediate_size, c.hidden_size)

    def plain_sums(self) -> PlainSums:
        """The same, to be added to as a notebook does."""
        c = self.config
        return PlainSums(self.work, c.num_hidden_layers, c.intermediate_size, c.hidden_size)

    def ends(self, norm: Callable[[Tensor], Tensor], unembedding: Tensor) -> Ends:
        """`unembedding` is [vocabulary, d]."""
        rms = getattr(self.config, "rms_norm_eps", None)
        eps = self.config.layer_norm_eps if rms is None else rms
        return Ends(norm, unembedding[self.work.tokens], rms is None, eps)


class OneForward(ABC):
    """A peer at its best: one forward per batch, whose tensors go to `Sums`."""

    setting: Setting

    def __call__(self, job: Job) -> Found:
        """Measure."""
        sums = self.setting.sums()
        for place in self.setting.work.places:
            sums.begin(place)
            self._whole(sums, place) if job.name == "whole" else self._counts(sums, place)
        return sums.found()

    @abstractmethod
    def _counts(self, sums: Sums, place: Place) -> None:
        """Of a batch, where activations are counted and nothing else."""

    @abstractmethod
    def _whole(self, sums: Sums, place: Place) -> None:
        """Everything of a batch."""


class Ours:
    """`one_pass`, on weights that are there or, for the reload's sake, after loading them."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.loader = Loader(ModelSettings(dtype="float32", device="cpu"))
        self.model = self.loader.load(setting.folder)

    def run(self, job: Job, load: bool = False) -> list[Any]:
        """Accumulators of the job's probes."""
        model = self.loader.load(self.setting.folder) if load else self.model
        return one_pass(model, self.setting.work.context, job.probes, BATCH)

    def found(self, job: Job, sums: list[Any]) -> Found:
        """The sums as the peers have them."""
        by = {type(p).__name__: a for p, a in zip(job.probes, sums, strict=True)}
        found = {"count": by["Lape"].result().activation_count.transpose(2, 0, 1)}
        if job.name == "counts":
            return found
        subspaces, working = by["LanguageSubspaces"], by["WorkingLanguage"]
        return found | {
            "loss": by["Performance"].result().nll,
            "importance": by["Importance"].result().importance,
            "language": subspaces.result().language_mean,
            "document": subspaces.means.sum.numpy(),
            "base": working.base.flatten(2).numpy(),
            "score": self._scores(working),
            "evidence": by["Transferring"].sum.flatten(1, 2).transpose(1, 2).cpu().numpy(),
            # Which documents were averaged, and which were kept.
            "averaged": subspaces.chosen.averaged,
            "kept": np.argsort(subspaces.means.slot.numpy())[-len(subspaces.means.sum) :],
        }

    def _scores(self, working: Any) -> Values:
        """[position, hidden layer, set], NaN where this project does not keep them."""
        work = self.setting.work
        shape = (len(work.index.positions), working.layers, work.languages, work.concepts)
        scores = np.full(shape, np.nan, np.float32)
        p = work.context.primary_index
        for places, found in zip(working.places, working.scored, strict=True):
            language = work.index.language[places[0]]
            wanted = list(range(work.languages)) if language == p else [p, language]
            for i, c in enumerate(wanted):
                scores[places, :, c] = found[:, :, i]
        return scores.reshape(*shape[:2], -1)


class Reload(ABC):
    """Plain transformers: for each metric the checkpoint is loaded, read with and dropped."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def __call__(self, job: Job) -> Found:
        """Measure metric by metric."""
        return {
            name: value
            for metric in job.metrics
            for name, value in self._metric(metric).items()
            if name == metric or (metric, name) == ("score", "base")
        }

    def _loaded(self) -> tuple[Any, Ends]:
        load: Any = AutoModelForCausalLM.from_pretrained
        model = load(self.setting.folder, dtype=torch.float32)
        norm = model.get_submodule(self.setting.row.final_norm)
        return model, self.setting.ends(norm, model.get_output_embeddings().weight)

    @abstractmethod
    def _metric(self, metric: str) -> Found:
        """Load the checkpoint and measure; one metric of what is returned counts."""


class ReloadAtItsBest(Reload):
    """A reload that runs only as much of the model as the metric needs."""

    def _metric(self, metric: str) -> Found:
        model, ends = self._loaded()
        model.requires_grad_(False)
        sums = self.setting.sums()
        for place in self.setting.work.places:
            sums.begin(place)
            one_metric(model, self.setting.row, metric, sums, place, ends)
        return sums.found()


class ReloadAsDocumented(Reload):
    """A reload as pico-analyze has it: every metric gets all of a checkpoint's states anew.

    Its loop (`scripts/analyze.py`) asks `get_checkpoint_states` for the weights, the activations
    and the gradients of the step, metric by metric, whichever of them the metric reads. It reads
    them from files that pico-train wrote; other checkpoints have none, so they are made here, with
    nothing kept but what is read later.
    """

    def _metric(self, metric: str) -> Found:
        model, ends = self._loaded()
        sums = self.setting.plain_sums()
        for place in self.setting.work.places:
            sums.begin(place)
            states = States.of(model, self.setting.row, place)
            model.zero_grad()
            with torch.no_grad():
                self._add(metric, sums, states, ends, model.get_output_embeddings())
        return sums.found()

    def _add(
        self, metric: str, sums: PlainSums, states: States, ends: Ends, head: torch.nn.Module
    ) -> None:
        slopes = zip(states.unit, states.slope, strict=True)
        scale = ends.scale(states.hidden[-1])
        at = sums.place.rows, sums.place.tokens
        layers: dict[str, tuple[Callable[[int, Any], None], Iterable[Any]]] = {
            "count": (sums.add_active, states.activation),
            "language": (sums.add_means, states.hidden),
            "document": (sums.add_means, states.hidden),
            "importance": (lambda i, pair: sums.add_slope(i, *pair), slopes),
            "evidence": (lambda i, unit: sums.add_evidence(i, unit, scale), states.unit),
            "score": (
                lambda i, h: sums.add_lens(
                    i, head(ends.norm(h[at])).log_softmax(-1)[:, sums.work.tokens]
                ),
                states.hidden,
            ),
        }
        if metric == "loss":
            sums.add_loss(states.nll)
            return
        add, tensors = layers[metric]
        for i, tensor in enumerate(tensors):
            add(i, tensor)


@dataclass(frozen=True)
class States:
    """What a batch leaves behind, a tensor per layer."""

    hidden: list[Tensor]
    activation: list[Tensor]
    unit: list[Tensor]
    slope: list[Tensor]
    """`dL/da` of `unit`."""
    nll: Tensor

    @classmethod
    def of(cls, model: Any, row: Anatomy, place: Place) -> States:
        """Of a forward and a backward."""
        hidden: list[Tensor] = []
        activation: list[Tensor] = []
        units: list[Tensor] = []

        def unit(_layer: int, u: Tensor) -> None:
            u.retain_grad()
            units.append(u)

        wanted: Wanted = {
            "hidden": [lambda _layer, h: hidden.append(h)],
            "activation": [lambda _layer, a: activation.append(a)],
            "unit": [unit],
        }
        with watched(model, row, wanted):
            logits = model(
                input_ids=place.batch.ids, attention_mask=place.batch.attention, use_cache=False
            ).logits
        target = place.batch.ids[:, 1:].flatten()
        nll = functional.cross_entropy(logits[:, :-1].flatten(0, 1), target, reduction="none")
        nll = nll.view(len(logits), -1)
        nll[place.batch.scored[:, :-1]].sum().backward()  # type: ignore[no-untyped-call]
        slopes = [u.grad for u in units if u.grad is not None]
        return cls(
            [t.detach() for t in hidden],
            [t.detach() for t in activation],
            [t.detach() for t in units],
            slopes,
            nll.detach(),
        )


def one_metric(model: Any, row: Anatomy, metric: str, sums: Sums, place: Place, ends: Ends) -> None:
    """One forward with only the hooks, the logits and the gradients that a metric needs."""
    units: list[Tensor] = []

    def unit(_layer: int, u: Tensor) -> None:
        if not units:
            u.requires_grad_(True)
        units.append(u)

    hidden: list[See] = []
    hidden += [sums.see_means] * (metric in ("language", "document"))
    hidden += [lambda _layer, h: sums.see_positions(h)] * (metric in ("score", "evidence"))
    wanted: Wanted = {
        "hidden": hidden,
        "activation": [sums.see_active] * (metric == "count"),
        "unit": [unit] * (metric == "importance")
        + [lambda _layer, u: sums.see_units(u)] * (metric == "evidence"),
    }
    scored = metric in ("loss", "importance")
    with torch.set_grad_enabled(metric == "importance"), watched(model, row, wanted):
        logits = model(
            input_ids=place.batch.ids,
            attention_mask=place.batch.attention,
            use_cache=False,
            logits_to_keep=0 if scored else 1,
        ).logits
        loss = sums.see_logits(logits) if scored else logits.sum()
    if metric == "importance":
        for i, slope in enumerate(torch.autograd.grad(loss, units)):
            sums.see_slope(i, units[i], slope)
    if metric == "score":
        sums.lens(ends)
    if metric == "evidence":
        sums.divide(ends)


@contextmanager
def watched(model: Any, row: Anatomy, wanted: Wanted) -> Iterator[None]:
    """Hooks that hand each layer's hidden state, activation and unit to functions."""
    blocks = list(model.get_submodule(row.blocks))
    handles: list[Any] = []

    def after(module: Any, layer: int, see: See) -> None:
        handles.append(module.register_forward_hook(lambda _m, _i, out: see(layer, out)))

    for see in wanted["hidden"]:
        handles.append(
            blocks[0].register_forward_pre_hook(
                lambda _m, args, kwargs, see=see: see(
                    0, args[0] if args else kwargs["hidden_states"]
                ),
                with_kwargs=True,
            )
        )
    for i, block in enumerate(blocks):
        for see in wanted["hidden"]:
            after(block, i + 1, see)
        for see in wanted["activation"]:
            after(block.get_submodule(row.activation), i, see)
        for see in wanted["unit"]:
            handles.append(
                block.get_submodule(row.down).register_forward_pre_hook(
                    lambda _m, args, i=i, see=see: see(i, args[0])
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Alone:
    """The forward (`whole`: and the activations' gradients) as transformers does it, and no more.

    No lower bound: this project never holds all logits, and leaves out what is not scored.
    """

    def __init__(self, setting: Setting) -> None:
        load: Any = AutoModelForCausalLM.from_pretrained
        self.setting = setting
        self.model = load(setting.folder, dtype=torch.float32).requires_grad_(False)

    def __call__(self, job: Job) -> Found:
        """Run, and look at nothing."""
        units: list[Tensor] = []

        def unit(_layer: int, u: Tensor) -> None:
            if not units:
                u.requires_grad_(True)
            units.append(u)

        whole = job.name == "whole"
        wanted: Wanted = {"hidden": [], "activation": [], "unit": [unit] * whole}
        for place in self.setting.work.places:
            units.clear()
            with torch.set_grad_enabled(whole), watched(self.model, self.setting.row, wanted):
                logits = self.model(
                    input_ids=place.batch.ids,
                    attention_mask=place.batch.attention,
                    use_cache=False,
                    logits_to_keep=0 if whole else 1,
                ).logits
                if whole:
                    target = place.labels.flatten()
                    loss = functional.cross_entropy(
                        logits.flatten(0, 1).float(), target, reduction="sum"
                    )
                    torch.autograd.grad(loss, units)
        return {}

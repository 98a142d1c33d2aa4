"""Side by side with TransformerLens, nnsight and a reload per metric: the same numbers, timed.

    python benchmarks/peers.py --out peers.json     # a table on stdout
    pip install 'transformer-lens>=4.3' 'nnsight>=0.8'   # what is compared; never needed otherwise

Two jobs on the same text, in the same batches, with the same weights:

- `counts`: on how many tokens each MLP unit is active, per language (what LAPE starts from);
- `whole`: that, the loss of each document, mean hidden states of each language and each document
  at every layer, importance `|a · dL/da|` of each unit, the logit lens' scores of the concepts'
  first tokens at counterpart positions, and `a/σ` summed at those positions.

Every peer gets one forward per batch for all of it, and the means of its own documentation that
make it fastest here: forward hooks rather than a cache, no unembedding where no loss is asked for
(`logits_to_keep=1`), no gradients of parameters, none below the first activation. What it does with
the tensors is `Sums` for all of them, and cheaper than what this project does: no sums per fold, no
summed activations. The reload loads the checkpoint and runs once for each of seven metrics, as
pico-analyze reads a checkpoint's states anew for each metric; this project's time beside it
includes its own load. A peer's load is not counted.

The sums of all must agree (`agree`). Statistics that come after the sums are in nobody's time.
Arms take turns within a round; ratios are those of one round.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial, reduce
from importlib import import_module, util
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from shapes import SHAPES, context, make, tokenizer
from timing import CLOCKS, against, machine, rounds, spread, table
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from tracker.documents import from_programs
from tracker.loading import ModelSettings
from tracker.model import Anatomy, anatomy_of
from tracker.one_pass import one_pass
from tracker.positions import random_positions
from tracker.probes import Context
from tracker.probes.alignment import Alignment
from tracker.probes.importance import Importance
from tracker.probes.lape import Lape
from tracker.probes.performance import Performance
from tracker.probes.subspaces import LanguageSubspaces
from tracker.probes.transferring import Transferring
from tracker.probes.working_language import WorkingLanguage
from tracker.refill import Loader
from tracker.text import Batch

Values = NDArray[Any]
Found = dict[str, Values]
See = Callable[[int, Tensor], None]
"""Takes a layer and what was seen there."""
Wanted = Mapping[str, Sequence[See]]
BATCH = 1024
"""Tokens of a batch. Of a short text a quarter is then padding, which the peers unembed: about as
much as of 20,000 tokens per language in batches of 4096."""
BASE_POSITIONS = 400
OURS = "this project"
METRICS = ("count", "loss", "language", "document", "importance", "score", "evidence")
TOLERANCE = {
    "count": 1e-4, "loss": 1e-4, "language": 1e-4, "document": 1e-4, "importance": 1e-3,
    "score": 1e-3, "base": 1e-3, "evidence": 1e-3,
}  # fmt: skip
"""Largest `sum |theirs - ours| / sum |ours|`. An activation within rounding of 0 may count or not,
so that single counts may differ by a token."""


@dataclass(frozen=True)
class Place:
    """One batch with what is known of it before a model is."""

    batch: Batch
    weight: Tensor
    """[rows, tokens] 1.0 at tokens of the text."""
    labels: Tensor
    """[rows, tokens] next token, -100 where it is not scored."""
    rows: Tensor
    """Counterpart positions, then random ones."""
    tokens: Tensor
    places: Values
    """Index of each counterpart position in the text's list."""
    cell: Tensor
    """Fold and concept of each counterpart position, as one index."""


class Work:
    """What every arm reads: batches, positions, token sets."""

    def __init__(self, given: Context) -> None:
        assert given.concepts is not None
        self.context, self.index, self.text = given, given.concepts, given.text
        self.languages, self.concepts = len(self.text.languages), len(self.index.names)
        self.random, self.random_language = random_positions(self.text, BASE_POSITIONS, given.seed)
        self.places = [
            self._place(b) for b in self.text.batches(BATCH) if not b.graded_only
        ]  # fmt: skip
        everything = np.arange(self.concepts)
        sets = [s for c in range(self.languages) for s in self.index.token_sets(everything, c)]
        union = sorted({t for s in sets for t in s})
        self.tokens = torch.tensor(union)
        self.member = torch.full((len(sets), max(map(len, sets))), len(union))
        for i, s in enumerate(sets):
            self.member[i, : len(s)] = torch.tensor([union.index(t) for t in s])

    def _place(self, batch: Batch) -> Place:
        rows, tokens, places = self.index.positions.inside(batch.rows)
        more_rows, more_tokens, _ = self.random.inside(batch.rows)
        return Place(
            batch=batch,
            weight=batch.real.float(),
            labels=batch.target.masked_fill(~batch.scored, -100),
            rows=torch.cat([rows, more_rows]),
            tokens=torch.cat([tokens, more_tokens]),
            places=places,
            cell=batch.fold[rows] * self.concepts + torch.from_numpy(self.index.concept[places]),
        )


@dataclass(frozen=True)
class Ends:
    """The parts of a model that turn hidden states into scores."""

    norm: Callable[[Tensor], Tensor]
    """The final norm."""
    head: Tensor
    """[union of the token sets, d] rows of the unembedding."""
    centres: bool
    eps: float


class Sums:
    """What the peers add up, in plain PyTorch: one method per tensor that a hook hands over."""

    def __init__(self, work: Work, layers: int, units: int, width: int) -> None:
        self.work = work
        c, k, folds = work.languages, work.concepts, work.text.folds
        self.count = torch.zeros(c, layers, units)
        self.importance = torch.zeros(c, layers, units)
        self.hidden = torch.zeros(layers + 1, len(work.text.documents), width)
        self.loss = torch.zeros(len(work.text.documents), dtype=torch.float64)
        self.score = torch.zeros(len(work.index.positions), layers + 1, len(work.member))
        self.base = torch.zeros(c, layers + 1, len(work.member), dtype=torch.float64)
        self.evidence = torch.zeros(c, layers, folds * k, units)

    def begin(self, place: Place) -> None:
        """A batch is about to be read."""
        self.place, self.language = place, place.batch.language
        self.at_positions: list[Tensor] = []
        self.units: list[Tensor] = []

    @torch.no_grad()
    def see_active(self, layer: int, activation: Tensor) -> None:
        """Count tokens at which a unit is active; a product with the mask is the fastest sum."""
        active = (activation > 0).flatten(0, 1).float()
        self.count[self.language, layer] += self.place.weight.flatten() @ active

    @torch.no_grad()
    def see_means(self, layer: int, hidden: Tensor) -> None:
        """Sum hidden states per document."""
        rows = torch.bmm(self.place.weight[:, None], hidden)[:, 0]
        self.hidden[layer].index_add_(0, self.place.batch.document, rows)

    @torch.no_grad()
    def see_positions(self, hidden: Tensor) -> None:
        """Keep hidden states at the positions."""
        self.at_positions.append(hidden[self.place.rows, self.place.tokens])

    @torch.no_grad()
    def see_units(self, unit: Tensor) -> None:
        """Keep units at counterpart positions."""
        known = len(self.place.cell)
        self.units.append(unit[self.place.rows[:known], self.place.tokens[:known]])

    def see_logits(self, logits: Tensor) -> Tensor:
        """Loss per document; returns its sum."""
        flat = functional.cross_entropy(
            logits.flatten(0, 1).float(), self.place.labels.flatten(), reduction="none"
        )
        nll = flat.view(self.place.labels.shape)
        self.loss.index_add_(0, self.place.batch.document, nll.detach().double().sum(1))
        return nll.sum()

    @torch.no_grad()
    def see_slope(self, layer: int, unit: Tensor, slope: Tensor) -> None:
        """Add `|a · dL/da|`."""
        effect = (unit * slope).abs_().flatten(0, 1)
        self.importance[self.language, layer] += self.place.weight.flatten() @ effect

    @torch.no_grad()
    def lens(self, ends: Ends) -> None:
        """Score the token sets at all layers at once."""
        h = torch.stack(self.at_positions, 1)
        scores = functional.pad(ends.norm(h) @ ends.head.T, (0, 1), value=-torch.inf)
        found = scores[..., self.work.member].logsumexp(-1)
        known = len(self.place.cell)
        self.score[torch.from_numpy(self.place.places)] = found[:known]
        self.base[self.language] += found[known:].double().sum(0)

    @torch.no_grad()
    def divide(self, ends: Ends) -> None:
        """Add `a / σ`, `σ` the scale of the final norm at the last hidden state."""
        last = self.at_positions[-1][: len(self.place.cell)]
        square = last.var(-1, correction=0) if ends.centres else last.square().mean(-1)
        scale = (square + ends.eps).sqrt()[:, None]
        for layer, unit in enumerate(self.units):
            self.evidence[self.language, layer].index_add_(0, self.place.cell, unit / scale)

    def found(self) -> Found:
        """Everything by metric."""
        document = self.hidden.transpose(0, 1).numpy()
        return {
            "count": self.count.numpy(),
            "importance": self.importance.numpy(),
            "loss": self.loss.numpy(),
            "document": document,
            "language": document,
            "score": self.score.numpy(),
            "base": self.base.numpy(),
            "evidence": self.evidence.numpy(),
        }


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
RELOAD_TARGET = 10.0
CACHE = "TransformerLens, its cache"
LOADED = f"{OURS}, with its load"
RELOAD = "reload per metric"


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

    def ends(self, norm: Callable[[Tensor], Tensor], unembedding: Tensor) -> Ends:
        """`unembedding` is [vocabulary, d]."""
        rms = getattr(self.config, "rms_norm_eps", None)
        eps = self.config.layer_norm_eps if rms is None else rms
        return Ends(norm, unembedding[self.work.tokens], rms is None, eps)


# This project.


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


# The peers. Each is made of a `Setting` and called with a job.


class TransformerLens:
    """`TransformerBridge` of TransformerLens 4 (which has no `HookedTransformer` any more)."""

    package = "transformer_lens"

    def __init__(self, setting: Setting, cached: bool = False) -> None:
        bridge: Any = import_module("transformer_lens.model_bridge").TransformerBridge
        self.setting, self.cached = setting, cached
        self.model = bridge.boot_transformers(str(setting.folder), device="cpu")
        self.model.requires_grad_(False)
        self.layers = range(self.model.cfg.n_layers)
        # Where the MLP is gated, a SiLU is positive where its input is.
        gated = setting.row.up is not None
        self.act = "mlp.gate.hook_out" if gated else "mlp.hook_post"
        self.ends = setting.ends(self.model.ln_final, self.model.W_U.T)

    def __call__(self, job: Job) -> Found:
        """Measure."""
        sums = self.setting.sums()
        for place in self.setting.work.places:
            sums.begin(place)
            if job.name == "whole":
                self._whole(sums, place)
            elif self.cached:
                self._counts_of_cache(sums, place)
            else:
                self._counts(sums, place)
        return sums.found()

    @torch.no_grad()
    def _counts(self, sums: Sums, place: Place) -> None:
        self.model.run_with_hooks(
            place.batch.ids,
            attention_mask=place.batch.attention,
            logits_to_keep=1,
            fwd_hooks=[self._hook(i, self.act, sums.see_active) for i in self.layers],
        )

    @torch.no_grad()
    def _counts_of_cache(self, sums: Sums, place: Place) -> None:
        names = [f"blocks.{i}.{self.act}" for i in self.layers]
        _, cache = self.model.run_with_cache(
            place.batch.ids, attention_mask=place.batch.attention, names_filter=names
        )
        for i, name in enumerate(names):
            sums.see_active(i, cache[name])

    def _whole(self, sums: Sums, place: Place) -> None:
        units: list[Tensor] = []

        def hidden(layer: int, h: Tensor) -> None:
            sums.see_means(layer, h)
            sums.see_positions(h)

        def unit(_layer: int, u: Tensor) -> None:
            if not units:
                u.requires_grad_(True)
            units.append(u)
            sums.see_units(u)

        hooks = [self._hook(0, "hook_in", hidden)]
        for i in self.layers:
            hooks.append(self._hook(i, self.act, sums.see_active))
            hooks.append(self._hook(i, "mlp.hook_post", unit))
            hooks.append((f"blocks.{i}.hook_out", lambda h, hook, i=i: hidden(i + 1, h)))
        logits = self.model.run_with_hooks(
            place.batch.ids, attention_mask=place.batch.attention, fwd_hooks=hooks
        )
        loss = sums.see_logits(logits)
        for i, slope in enumerate(torch.autograd.grad(loss, units)):
            sums.see_slope(i, units[i], slope)
        sums.lens(self.ends)
        sums.divide(self.ends)

    @staticmethod
    def _hook(layer: int, name: str, see: See) -> tuple[str, Any]:
        return f"blocks.{layer}.{name}", lambda tensor, hook: see(layer, tensor)


class NNsight:
    """`TransformersModel` of nnsight 0.8, one trace per batch."""

    package = "nnsight"

    def __init__(self, setting: Setting) -> None:
        self.nnsight = import_module("nnsight")
        self.setting, row = setting, setting.row
        self.model = self.nnsight.TransformersModel(
            str(setting.folder), task="text-generation", dtype=torch.float32, dispatch=True
        )
        self.model.requires_grad_(False)
        self.blocks = list(reduce(getattr, row.blocks.split("."), self.model))
        self.acts = [reduce(getattr, row.activation.split("."), b) for b in self.blocks]
        self.downs = [reduce(getattr, row.down.split("."), b) for b in self.blocks]
        inner = self.model._module
        norm = inner.get_submodule(row.final_norm)
        self.ends = setting.ends(norm, inner.get_output_embeddings().weight)

    def __call__(self, job: Job) -> Found:
        """Measure."""
        sums = self.setting.sums()
        for place in self.setting.work.places:
            sums.begin(place)
            self._whole(sums, place) if job.name == "whole" else self._counts(sums, place)
        return sums.found()

    @torch.no_grad()
    def _counts(self, sums: Sums, place: Place) -> None:
        inputs = {"input_ids": place.batch.ids, "attention_mask": place.batch.attention}
        acts = self.acts
        with self.model.trace(inputs, use_cache=False) as tracer:
            for i, act in enumerate(acts):
                sums.see_active(i, act.output)
            tracer.stop()

    def _whole(self, sums: Sums, place: Place) -> None:
        inputs = {"input_ids": place.batch.ids, "attention_mask": place.batch.attention}
        model, blocks, acts, downs = self.model, self.blocks, self.acts, self.downs
        with model.trace(inputs, use_cache=False):
            units: list[Tensor] = []
            h = blocks[0].input
            sums.see_means(0, h)
            sums.see_positions(h)
            for i in range(len(blocks)):
                sums.see_active(i, acts[i].output)
                u = downs[i].input
                if i == 0:
                    u.requires_grad_(True)
                units.append(u)
                sums.see_units(u)
                h = blocks[i].output
                sums.see_means(i + 1, h)
                sums.see_positions(h)
            loss = sums.see_logits(model.output.logits)
            with loss.backward():  # type: ignore[no-untyped-call]
                for i in range(len(units) - 1, -1, -1):
                    sums.see_slope(i, units[i], cast(Tensor, units[i].grad))
        sums.lens(self.ends)
        sums.divide(self.ends)


class Reload:
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

    def _metric(self, metric: str) -> Found:
        load: Any = AutoModelForCausalLM.from_pretrained
        model = load(self.setting.folder, dtype=torch.float32).requires_grad_(False)
        row = self.setting.row
        ends = self.setting.ends(
            model.get_submodule(row.final_norm), model.get_output_embeddings().weight
        )
        sums = self.setting.sums()
        for place in self.setting.work.places:
            sums.begin(place)
            one_metric(model, row, metric, sums, place, ends)
        return sums.found()


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


# Whether all found the same.


def agree(ours: Found, theirs: Found, work: Work) -> dict[str, float]:
    """`sum |theirs - ours| / sum |ours|` of every metric.

    Raises:
        AssertionError: One is above `TOLERANCE`.
    """
    missing = set(TOLERANCE) & set(ours) - set(theirs)
    assert not missing, f"not measured: {missing}"
    theirs = dict(theirs)
    if "language" in ours:
        text = work.text
        averaged = np.array(
            [ours["averaged"] & (text.document_language == c) for c in range(work.languages)]
        )
        tokens = np.zeros(len(text.documents))
        for row in text.rows:
            tokens[row.document] += len(row.ids) - row.prefix
        sums = np.einsum("cd,dlw->clw", averaged, theirs["language"])
        theirs["language"] = sums / (averaged @ tokens)[:, None, None]
        theirs["document"] = theirs["document"][ours["kept"]]
    error = {}
    for name in [name for name in TOLERANCE if name in ours]:
        known = np.isfinite(ours[name])  # empty token sets score -inf
        mine, other = ours[name][known], theirs[name][known]
        error[name] = float(np.abs(other - mine).sum() / np.abs(mine).sum())
    wrong = {name: e for name, e in error.items() if not e <= TOLERANCE[name]}
    assert not wrong, f"not the same numbers: {wrong}"
    return error


# Timing.


class Arm:
    """One way of doing a job: notes its processor time, and its first result for comparison."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.cpu: list[float] = []
        self.first: Any = None

    def __call__(self) -> None:
        """Once."""
        start = time.process_time()
        result = self.work()
        self.cpu.append(time.process_time() - start)
        if len(self.cpu) == 1:
            self.first = result


@dataclass(frozen=True)
class Row:
    """One arm of one job. Ratios are within rounds, to the arm `beside`."""

    job: str
    arm: str
    beside: str
    wall: list[float]
    cpu: list[float]
    wall_ratio: list[float]
    cpu_ratio: list[float]
    target: float | None

    def cells(self) -> list[str]:
        """As the table has them."""
        own = self.arm == self.beside
        return [
            self.job,
            self.arm,
            f"{spread(self.wall)} s",
            "" if own else spread(self.wall_ratio),
            f"{spread(self.cpu)} s",
            "" if own else spread(self.cpu_ratio),
            "" if self.target is None else f"{self.target:g}",
        ]


HEADS = ("job", "", "wall", "times ours", "CPU", "times ours", "target")


class Bench:
    """All arms, made once."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.ours = setting, Ours(setting)
        self.peers: dict[str, Any] = {}
        if installed(TransformerLens.package):
            self.peers["TransformerLens"] = TransformerLens(setting)
            self.peers[CACHE] = TransformerLens(setting, cached=True)
        if installed(NNsight.package):
            self.peers["nnsight"] = NNsight(setting)
        self.alone, self.reload = Alone(setting), Reload(setting)

    def arms(self, job: Job) -> dict[str, Arm]:
        """By name."""
        whole = job.name == "whole"
        found = {OURS: Arm(lambda: self.ours.run(job))}
        for name, peer in self.peers.items():
            if not (whole and name == CACHE):
                found[name] = Arm(partial(peer, job))
        found["transformers alone"] = Arm(lambda: self.alone(job))
        if whole:
            found[LOADED] = Arm(lambda: self.ours.run(job, load=True))
            found[RELOAD] = Arm(lambda: self.reload(job))
        return found

    def run(self, job: Job, count: int) -> tuple[list[Row], dict[str, dict[str, float]]]:
        """A row per arm, and how far each peer's sums are from ours."""
        arms = self.arms(job)
        wall = rounds(arms, count, CLOCKS["wall"])
        cpu = {name: arm.cpu[1:] for name, arm in arms.items()}
        rows = []
        for name in arms:
            beside = LOADED if name in (LOADED, RELOAD) else OURS
            target = RELOAD_TARGET if name == RELOAD else job.target
            rows.append(
                Row(
                    job.name, name, beside, wall[name], cpu[name],
                    against(wall[name], wall[beside]), against(cpu[name], cpu[beside]),
                    target if name in (RELOAD, *self.peers) else None,
                )
            )  # fmt: skip
        ours = self.ours.found(job, arms[OURS].first)
        error = {
            name: agree(ours, arm.first, self.setting.work)
            for name, arm in arms.items()
            if name in (RELOAD, *self.peers)
        }
        return rows, error


def installed(package: str) -> bool:
    """Whether a peer is there; says so where it is not."""
    if util.find_spec(package) is not None:
        return True
    print(f"{package} is not installed and left out\n")
    return False


def save(shape: str, folder: Path) -> None:
    """A checkpoint with a tokenizer, which the peers load although none is used."""
    make(shape).save_pretrained(folder)
    documents = tuple(d for d in from_programs().documents if d.language == "python")[:100]
    tokenizer(documents).save_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, and write the numbers where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=SHAPES, default="pythia-70m")
    parser.add_argument("--tokens", type=int, default=800, help="per language")
    parser.add_argument("--languages", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    work = Work(context(given.tokens, given.languages))
    rows, error = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        save(given.shape, Path(scratch))
        bench = Bench(Setting(Path(scratch), work, SHAPES[given.shape]))
        for job in JOBS:
            more, error[job.name] = bench.run(job, given.rounds)
            rows += more
    print(table(HEADS, [row.cells() for row in rows]))
    for name, errors in error.items():
        worst = {m: max(e[m] for e in errors.values()) for e in errors.values() for m in e}
        said = ", ".join(f"{m} {e:.0e}" for m, e in worst.items())
        if errors:
            print(f"\n{name}: largest relative difference of the sums: {said}")
    if given.out is not None:
        facts = {
            "machine": machine("transformer-lens", "nnsight"),
            "shape": given.shape,
            "tokens": int(work.text.tokens().sum()),
            "padded": sum(p.batch.ids.numel() for p in work.places),
            "positions": len(work.index.positions),
            "difference": error,
            "rows": [asdict(row) for row in rows],
        }
        given.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

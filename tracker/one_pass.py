"""The one pass over the probe text that serves every probe."""

from __future__ import annotations

from collections.abc import Container, Sequence

from tracker.model import LanguageModel
from tracker.probes import Accumulator, Context, Probe
from tracker.trace import Need, run


def one_pass(
    model: LanguageModel,
    context: Context,
    probes: Sequence[Probe],
    batch_tokens: int,
    folds: Container[int] | None = None,
    languages: Container[int] | None = None,
    accumulators: Sequence[Accumulator] | None = None,
) -> list[Accumulator]:
    """Read the text once: one forward per batch, and one backward if a probe asks for gradients.

    Args:
        model: What reads.
        context: What is read.
        probes: What is measured; their needs are joined.
        batch_tokens: Tokens per batch, padding included.
        folds: Read only rows of these folds; None: all.
        languages: Read only rows of these languages; None: all.
        accumulators: The probes' sums so far, to be added to; None: fresh ones.

    Returns:
        The accumulators, in the order of `probes`.
    """
    running = list(accumulators or [probe.start(context, model) for probe in probes])
    needs = Need.NOTHING
    for probe in probes:
        needs |= probe.needs
    for batch in context.text.batches(batch_tokens, folds, languages):
        moved = batch.to(model.device)
        trace = run(model, moved, Need.LOSS if batch.graded_only else needs)
        for accumulator in running:
            accumulator.update(trace)
    return running

"""Is every checkpoint what its label says? Read from the hashes of the weight files alone.

Public series hold checkpoints that serve another step's weights, or single shards of the final
model's. Two steps of a run cannot have the same weights, so equal files tell that a label is
wrong; which of the labels is right cannot be read from them. Two exceptions: the step on which
the series ends may equal the final model, and with a learning rate that is warmed up from 0 the
first step changes nothing, so step 0 and step 1 may agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

SUSPECTS = ("exclude", "keep")
"""What becomes of a step whose label may be wrong: `series.suspects`."""


@dataclass(frozen=True)
class Weights:
    """The weight files of one checkpoint, or of the final model."""

    files: Mapping[str, str]
    """File name -> hash of its content."""

    @property
    def content(self) -> tuple[str, ...]:
        """Hashes in an order that file names do not decide."""
        return tuple(sorted(self.files.values()))


@dataclass(frozen=True)
class Group:
    """Steps whose weights, or one of their files, are equal."""

    steps: tuple[int, ...]
    shard: str = ""
    """The file that is shared; empty where all are."""
    kept: int | None = None
    """The step whose label is taken to be right."""
    why: str = ""
    """Why it is kept, or what else the weights equal."""

    @property
    def suspects(self) -> tuple[int, ...]:
        """Steps whose label may be wrong."""
        return tuple(step for step in self.steps if step != self.kept)

    def sentence(self) -> str:
        """`steps 40, 320: identical weights (320 kept: equals main)`."""
        steps = ", ".join(map(str, self.steps))
        label = "step" if len(self.steps) == 1 else "steps"
        what = f"shared {self.shard}" if self.shard else "identical weights"
        if self.kept is not None:
            return f"{label} {steps}: {what} ({self.kept} kept: {self.why})"
        return f"{label} {steps}: {what} ({f'none kept: {self.why}' if self.why else 'none kept'})"


def equal_groups(
    series: Mapping[int, Weights], *finals: Weights, name: str = "main"
) -> tuple[Group, ...]:
    """Groups of steps that cannot all be what their labels say, by their first step.

    Args:
        series: Step -> weights, of all steps of the run (not only those that are tracked).
        finals: Weights of the model that the run ended with, once for every format that it is
            stored in: steps may have another one than it is read from.
        name: What it is called.

    Returns:
        First the groups with equal weights, then those that share a file and are in no such group
        together.
    """
    judge = _Judge(max(series, default=0), finals, name)
    whole: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for step in sorted(series):
        whole[series[step].content].append(step)
    found = [
        judge.group(steps, "", any(content == final.content for final in finals))
        for content, steps in whole.items()
    ]
    found += _shared_files(series, judge)
    return tuple(g for g in found if g is not None)


@dataclass(frozen=True)
class _Judge:
    last: int
    finals: Sequence[Weights]
    name: str

    def group(self, steps: Sequence[int], shard: str, equals_final: bool) -> Group | None:
        """The verdict on steps with the same content; None where nothing is wrong."""
        kept, why = None, ""
        if equals_final:
            why = f"equals {self.name}"
            if steps == [self.last]:
                return None
            kept = self.last if self.last in steps else None
        elif len(steps) < 2:
            return None
        elif {0, 1} <= set(steps) and not shard:
            kept, why = 0, "a first step without a learning rate changes nothing"
        if kept is None and equals_final:
            why = f"they equal {self.name}" if len(steps) > 1 else f"it {why}"
        return Group(tuple(steps), shard, kept, why)


def _shared_files(series: Mapping[int, Weights], judge: _Judge) -> Iterator[Group]:
    """Files that steps share whose weights differ elsewhere."""
    owners: dict[str, list[int]] = defaultdict(list)
    names: dict[str, str] = {}
    for step in sorted(series):
        for name, digest in sorted(series[step].files.items()):
            if step not in owners[digest]:
                owners[digest].append(step)
            names.setdefault(digest, name)
    for digest, steps in owners.items():
        with_it = [final.content for final in judge.finals if digest in final.content]
        contents = {series[step].content for step in steps} | set(with_it)
        # All of one content were told already, as a group with equal weights.
        if len(contents) > 1:
            group = judge.group(steps, names[digest], bool(with_it))
            if group is not None:
                yield group


def suspects(groups: Iterable[Group]) -> dict[int, str]:
    """Step -> what is wrong with it, the first that was found."""
    found: dict[int, str] = {}
    for group in groups:
        for step in group.suspects:
            found.setdefault(step, group.sentence())
    return dict(sorted(found.items()))


LEAST_OF_GRID = 3
"""Equal distances that make a grid."""


def missing_steps(steps: Iterable[int]) -> tuple[int, ...]:
    """Steps that a regular grid lacks, between its first and its last one.

    The grid is the most frequent distance between neighbours, from where it first occurs: what
    comes before (powers of two) is spaced on purpose. A series without a frequent distance lacks
    nothing.
    """
    given = sorted(set(steps))
    distances = [b - a for a, b in pairwise(given)]
    if not distances:
        return ()
    grid, count = Counter(distances).most_common(1)[0]
    if count < LEAST_OF_GRID:
        return ()
    start = given[distances.index(grid)]
    have = set(given)
    # Steps off the grid (the last one, often) are nobody's neighbours.
    return tuple(step for step in range(start, given[-1], grid) if step not in have)

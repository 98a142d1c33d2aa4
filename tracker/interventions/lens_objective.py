"""The three terms of the Lens objective (see `tracker.interventions.lens`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracker.subspaces import Subspaces

Floats = NDArray[np.float64]

TERMS = ("pull", "move", "keep")


@dataclass(frozen=True)
class Objective:
    """The subspaces and the direction of one target."""

    agnostic: Tensor
    """[d] of length 1, or 0 where there is no agnostic direction."""
    specific: Tensor
    """[d, r] orthonormal."""
    delta: Tensor
    """[d] inside the specific subspace."""

    @classmethod
    def of(cls, spaces: Subspaces, difference: Floats, device: torch.device) -> Objective:
        """`difference`: [d] mean state of the target minus the primary's."""
        length = np.linalg.norm(spaces.agnostic)
        agnostic = spaces.agnostic / length if length else spaces.agnostic
        delta = spaces.specific @ (spaces.specific.T @ difference)
        parts = (agnostic, spaces.specific, delta)
        return cls(*(torch.from_numpy(x).float().to(device) for x in parts))

    def random(self, generator: np.random.Generator, difference: Floats) -> Objective:
        """The control: random subspaces of the same ranks, a direction of the same length."""
        draw = generator.standard_normal((len(self.delta), 1 + self.specific.shape[1]))
        basis = np.linalg.qr(draw)[0]
        first = basis[:, 0] * float(self.agnostic.norm())
        found = self.of(Subspaces(first, basis[:, 1:], np.zeros(0)), difference, self.delta.device)
        stretch = self.delta.norm() / found.delta.norm().clamp_min(torch.finfo().tiny)
        return replace(found, delta=found.delta * stretch)

    def terms(self, now: Tensor, before: Tensor) -> Tensor:
        """[3] pull, move, keep of states [2, pair, d] of target and primary."""
        target, primary = now
        pull = ((target - primary) @ self.agnostic)[:, None] * self.agnostic
        step = (target - before[0]) @ self.specific @ self.specific.T
        gaps = (pull, step - self.delta, primary - before[1])
        return torch.stack([gap.square().mean() for gap in gaps])

"""A normalisation taken apart: `N(h) = γ ⊙ centre(h) / σ(h) + β`.

`centre` subtracts the mean over the model dimension in a LayerNorm and does nothing in an RMSNorm;
`σ = sqrt(mean of centre(h)^2 + eps)`. At fixed `σ` a norm is linear, and what a unit adds to a
logit can be followed through it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """The parts of a LayerNorm or RMSNorm, all in float32."""

    module: Any
    added: float = 0.0
    """What the module adds to the weight that it stores: 1 in Gemma's."""

    @property
    def centres(self) -> bool:
        """LayerNorms do, RMSNorms do not; OLMo's LayerNorm is a class of its own."""
        return type(self.module).__name__.endswith("LayerNorm")

    @property
    def eps(self) -> float:
        """The module's, by either of its names; OLMo's LayerNorm has torch's default, unnamed."""
        module = self.module
        return float(getattr(module, "eps", getattr(module, "variance_epsilon", 1e-5)))

    @property
    def gain(self) -> Tensor | float:
        """[d] `γ`; 1 where the norm has no weight (OLMo)."""
        weight = self._weight
        return 1.0 if weight is None else weight.float() + self.added

    @property
    def _weight(self) -> Tensor | None:
        weight: Tensor | None = getattr(self.module, "weight", None)
        return weight

    def of(self, h: Tensor) -> Tensor:
        """`N(h)` of [..., d], where `h` is, wherever the module's weight is."""
        weight = self._weight
        normalised: Tensor = self.module(h if weight is None else h.to(weight.device))
        return normalised.to(h.device)

    def centre(self, h: Tensor) -> Tensor:
        """[..., d] without its mean, if the norm takes it away."""
        h = h.float()
        return h - h.mean(-1, keepdim=True) if self.centres else h

    def scale(self, h: Tensor) -> Tensor:
        """[...] `σ` of `h` [..., d]: dividing by it is exactly what the norm does."""
        return (self.centre(h).square().mean(-1) + self.eps).sqrt()

    def reading(self, rows: Tensor) -> Tensor:
        """[..., d] `centre(γ ⊙ rows)`: its product with `h`, over `σ`, is `rows · (N(h) - β)`."""
        return self.centre(rows.float() * self._gain_at(rows))

    def writing(self, rows: Tensor) -> Tensor:
        """[..., d] `γ ⊙ centre(rows)`: over `σ`, what `rows` in the input are in the output."""
        return self.centre(rows) * self._gain_at(rows)

    def _gain_at(self, rows: Tensor) -> Tensor | float:
        gain = self.gain
        return gain.to(rows.device) if isinstance(gain, Tensor) else gain

    def fits(self, h: Tensor) -> bool:
        """Whether the module, on `h` [..., d], does what these parts say."""
        bias: Tensor | None = getattr(self.module, "bias", None)
        shift = 0.0 if bias is None else bias.float().to(h.device)
        mine = self.writing(h) / self.scale(h)[..., None] + shift
        theirs = self.of(h)
        tolerance = 1e-3 if theirs.dtype == torch.float32 else 5e-2
        return torch.allclose(mine, theirs.float(), rtol=tolerance, atol=tolerance)

"""How alike the gradients of two languages are: a step for one helps the other, or it does not.

The loss of language `b` changes by `-η <G_a, G_b>` in a small step on language `a`; the cosine
`<G_a, G_b> / (|G_a| |G_b|)` is that without the scales (gradient alignment as in DoGE, Fan et al.
2023, arXiv 2310.15393). A gradient over a few thousand tokens is noisy, and noise is orthogonal to
everything: the plain cosine of two noisy gradients is too small. Batches of a language go to two
halves in turn, so products between halves, in which the noise of one meets that of the other only
across languages, can be compared with products between the halves of one language.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST = 2**18
"""Parameters at which gradients are compared; a model with fewer is compared whole."""


class GradientSample:
    """Gradients of every language at the same random parameters, each in two halves."""

    def __init__(self, matrices: Mapping[str, Tensor], languages: int, seed: int) -> None:
        """Choose parameters, from each matrix in proportion to its size."""
        generator = np.random.default_rng(seed)
        total = sum(m.numel() for m in matrices.values())
        self.places: dict[str, Tensor] = {}
        for name, matrix in matrices.items():
            size = matrix.numel()
            count = size if total <= MOST else max(1, size * MOST // total)
            chosen = generator.choice(size, count, replace=False, shuffle=False)
            self.places[name] = torch.from_numpy(np.sort(chosen)).to(matrix.device)
        number = sum(map(len, self.places.values()))
        device = next(iter(matrices.values())).device
        self.half = torch.zeros(languages, 2, number, device=device)
        self._before = torch.zeros(number, device=device)
        self._batches = 0

    def add(self, language: int, gradients: Mapping[str, Tensor]) -> None:
        """Add a batch, given the language's gradient summed over its batches so far."""
        parts = [gradients[name].flatten()[at].float() for name, at in self.places.items()]
        now = torch.cat([part.to(self.half.device, non_blocking=True) for part in parts])
        self.half[language, self._batches % 2] += now - self._before
        self._before, self._batches = now, self._batches + 1

    def close(self) -> None:
        """The language is done: the next one's gradient starts at zero."""
        self._before, self._batches = torch.zeros_like(self._before), 0

    def products(self) -> NDArray[np.float64]:
        """[language, half, language, half] inner products."""
        flat = self.half.flatten(0, 1).cpu().double()
        languages = len(self.half)
        return (flat @ flat.T).numpy().reshape(languages, 2, languages, 2)


def cosines(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """[language, language] cosines of the whole gradients; NaN where a language has none."""
    return _normalised(products.sum((1, 3)), products.sum((1, 3)).diagonal())


def corrected_cosines(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same without the noise of the gradients themselves.

    Products between the halves only, `(<a1, b2> + <a2, b1>) / 2`, over the root of the languages'
    own `<a1, a2> <b1, b2>` (attenuation, Spearman 1904). NaN where a language's halves do not
    point the same way: its gradient is noise. May exceed 1 a little.
    """
    across = (products[:, 0, :, 1] + products[:, 1, :, 0]) / 2
    return _normalised(across, across.diagonal())


def _normalised(products: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.sqrt(np.where(own > 0, own, np.nan))
    found: NDArray[np.float64] = products / (length[:, None] * length[None])
    return found

"""Scores of sets of tokens through the logit lens, at every layer and many positions at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tracker.model import LanguageModel


class TokenSets:
    """Sets of tokens whose log-probabilities are combined by log-sum-exp.

    Only the union of the tokens is scored, not the vocabulary: what is read off afterwards are
    differences between sets at one position and layer, in which the softmax's normaliser cancels.
    """

    def __init__(self, sets: Sequence[Sequence[int]], device: torch.device) -> None:
        tokens = sorted({t for s in sets for t in s})
        self.tokens = torch.tensor(tokens, dtype=torch.int64).to(device)
        place = {t: i for i, t in enumerate(tokens)}
        width = max((len(s) for s in sets), default=0)
        members = torch.zeros((len(sets), max(width, 1)), dtype=torch.int64)
        present = torch.zeros(members.shape, dtype=torch.bool)
        for i, s in enumerate(sets):
            members[i, : len(s)] = torch.tensor([place[t] for t in s], dtype=torch.int64)
            present[i, : len(s)] = True
        self.members = members.to(device)
        self.absent = ~present.to(device)

    def scores(
        self, model: LanguageModel, residual: Sequence[Tensor], rows: Tensor, tokens: Tensor
    ) -> Tensor:
        """[positions, n+1, sets] float32: log-probability of each set up to a constant.

        The constant (the normaliser) differs between positions and layers, not between sets. An
        empty set scores -inf.

        Args:
            model: The model that made `residual`.
            residual: [n+1] of [rows, tokens, d].
            rows: [positions] row of each position in the batch.
            tokens: [positions] its token.
        """
        device = self.tokens.device
        # Once, not in every layer.
        rows, tokens = (t.to(device, non_blocking=True) for t in (rows, tokens))
        layers = []
        for h in residual:
            score = model.lens(h[rows, tokens], self.tokens)
            picked = score[:, self.members].masked_fill(self.absent, -torch.inf)
            layers.append(picked.logsumexp(-1))
        return torch.stack(layers, 1)

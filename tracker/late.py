"""Tensors on their way from a device, looked at when they are here: nobody waits meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

MOST = 2
"""Tensors on their way; with one more the first is waited for, which left two batches before."""


class Mark(Protocol):
    """A point in the work that a device was given."""

    def synchronize(self) -> None:
        """Wait until the device has come so far."""


class Arrivals:
    """Does something with tensors of a device on the host, in the order in which they left."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Tensor, Mark, Callable[[Tensor], None]]] = deque()

    def add(self, tensor: Tensor, then: Callable[[Tensor], None]) -> None:
        """Have `then` called with `tensor` on the host, at once where it is there already."""
        if tensor.device.type == "cpu":
            then(tensor)
            return
        copy = tensor.to("cpu", non_blocking=True)
        self._waiting.append((copy, mark(tensor.device), then))
        while len(self._waiting) > MOST:
            self._take()

    def finish(self) -> None:
        """Wait for all that is on its way."""
        while self._waiting:
            self._take()

    def _take(self) -> None:
        copy, here, then = self._waiting.popleft()
        here.synchronize()
        then(copy)


def mark(device: torch.device) -> Mark:
    """What `device` was given so far, copies from it included."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event

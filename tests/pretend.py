"""Several devices on a machine that has one: tensors that say where they are, and are on the host.

An operation on tensors of two devices fails as it would on real ones; the numbers are the host's.
Copies to the host that are not waited for hold something else until they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from tracker import late

FIRST, SECOND = torch.device("xla:0"), torch.device("xla:1")
_COPIES = ("aten._to_copy.default", "aten.copy_.default")
_INDEXED = ("aten.index.Tensor", "aten.index_put_.default", "aten._index_put_impl_.default")
"""Indices may be the host's."""
_READ = (
    "aten._local_scalar_dense.default", "aten.nonzero.default", "aten.masked_select.default",
    "aten._unique2.default", "aten.equal.default",
)  # fmt: skip
"""What the host cannot go on without knowing the values of."""
_waits: list[str] = []
_underway: list[tuple[Tensor, Tensor]] = []
"""Tensors of the host, and what arrives in them."""


class Placed(Tensor):
    """A tensor of the host that says it is somewhere else."""

    held: Tensor
    where: torch.device

    @staticmethod
    def __new__(cls, held: Tensor, where: torch.device) -> Placed:
        make: Any = torch.Tensor._make_wrapper_subclass  # type: ignore[attr-defined]
        made: Placed = make(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, layout=held.layout, requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held, made.where = held, where
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Placed({self.held!r}, {self.where})"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.where

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        _waits.append("cpu")
        return _Move.apply(self, torch.device("cpu"))  # type: ignore[no-any-return, no-untyped-call]

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """To a type, a device, both, or another tensor's."""
        rest, where = [], self.where
        for given in (*args, *(kwargs[k] for k in ("device", "dtype", "other") if k in kwargs)):
            if isinstance(given, Tensor):
                rest, where = [given.dtype], given.device
            elif isinstance(given, torch.dtype):
                rest = [given]
            elif given is not None:
                where = torch.device(given)
        if where.type == "cpu" and kwargs.get("non_blocking"):
            assert not rest, "a copy that is not waited for cannot be converted on the host"
            return _sent(self.held)
        if where.type == "cpu":
            _waits.append("to the host")
        moved = self if where == self.where else _Move.apply(self, where)  # type: ignore[no-untyped-call]
        return torch.Tensor.to(moved, *rest) if rest else moved

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})


def _sent(held: Tensor) -> Tensor:
    """A copy that holds something else until it is waited for."""
    copy = torch.empty(held.shape, dtype=held.dtype)
    copy.copy_(~held if held.dtype == torch.bool else held + 1)
    _underway.append((copy, held.clone()))
    return copy


class _Mark:
    """As an event of a device: what was sent before it is here once it is waited for."""

    def __init__(self, _where: torch.device) -> None:
        self.sent = list(_underway)

    def synchronize(self) -> None:
        for copy, held in self.sent:
            copy.copy_(held)


class _Move(torch.autograd.Function):
    """A copy on another device; its gradient comes back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, where: torch.device) -> Tensor:  # type: ignore[override]
        ctx.back = tensor.device
        held = _held(tensor).clone()
        return held if where.type == "cpu" else Placed(held, where)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return slope.to(ctx.back), None


def _run(function: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """On the host, if all tensors are on one device; numbers of the host go with any."""
    name, kwargs = str(function), dict(kwargs)
    asked = kwargs.get("device")
    given: list[Tensor] = []
    tree_map(lambda x: given.append(x) if isinstance(x, Tensor) else None, (args, kwargs))
    places = {_where(t) for t in given if t.dim() or isinstance(t, Placed)}
    if name in _INDEXED and _where(given[0]).type != "cpu":
        places -= {torch.device("cpu")}
    if name not in _COPIES and len(places) > 1:
        raise RuntimeError(f"{name}: tensors are on {', '.join(sorted(map(str, places)))}")
    _note_wait(name, args, kwargs, given)
    elsewhere = asked is not None and torch.device(asked).type != "cpu"
    if elsewhere:
        kwargs["device"] = torch.device("cpu")
    where = torch.device(asked) if elsewhere else next(iter(places), torch.device("cpu"))
    found = function(*tree_map(_held, args), **tree_map(_held, kwargs))
    if name.split(".")[1].endswith("_") or function._schema.is_mutable:
        return args[0] if isinstance(found, Tensor) else found
    return tree_map(lambda x: _placed(x, where), found)


def _note_wait(name: str, args: Any, kwargs: Mapping[str, Any], given: list[Tensor]) -> None:
    """Whether the program would stop here until a real device has done all it was told."""
    placed = [t for t in given if isinstance(t, Placed)]
    asked = kwargs.get("device")
    if name == "aten._to_copy.default":
        comes = asked is not None and torch.device(asked).type != "cpu" and not placed
        waits = comes and not kwargs.get("non_blocking") and given[0].dim() > 0
    elif name == "aten.copy_.default":
        waits = len(placed) == 1 and given[1].dim() > 0 and not (len(args) > 2 and args[2])
    elif name in _INDEXED:
        indices = [t for t in args[1] if t is not None]
        waits = isinstance(args[0], Placed) and any(
            t.dtype == torch.bool or not isinstance(t, Placed) for t in indices
        )
    else:
        waits = bool(placed) and name in _READ
    if waits:
        _waits.append(name)


@contextmanager
def counted_waits() -> Iterator[list[str]]:
    """What the host would wait at for a device of its own, from here on."""
    _waits.clear()
    yield _waits


def _where(tensor: Tensor) -> torch.device:
    return tensor.where if isinstance(tensor, Placed) else tensor.device


def _held(x: Any) -> Any:
    return x.held if isinstance(x, Placed) else x


def _placed(x: Any, where: torch.device) -> Any:
    if not isinstance(x, Tensor) or isinstance(x, Placed) or where.type == "cpu":
        return x
    return Placed(x, where)


class _Making(TorchDispatchMode):
    """Has tensors that are made on a pretended device be there."""

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """The same for tensors that are made of lists and numbers."""

    def __torch_function__(
        self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function not in (torch.tensor, torch.as_tensor):
            return function(*args, **kwargs)
        where = kwargs.pop("device", None)
        made = function(*args, **kwargs)
        return made if where is None else made.to(where)


@contextmanager
def several_devices() -> Iterator[None]:
    """`xla:0` and `xla:1` can be named."""
    _underway.clear()
    with _FromNumbers(), _Making(), patch.object(late, "mark", _Mark):
        yield


def put(module: nn.Module, where: torch.device) -> None:
    """Have a module's parameters and buffers on a device."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and not isinstance(parameter.data, Placed):
                part._parameters[name] = nn.Parameter(
                    Placed(parameter.detach(), where), requires_grad=False
                )
        for name, buffer in part._buffers.items():
            if buffer is not None and not isinstance(buffer, Placed):
                part._buffers[name] = Placed(buffer, where)

"""Checkpoints read into memory: once, on the device, in the type that was asked for."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoints.errors import CheckpointError, UserError, first_line
from tracker.model import anatomy_of

DTYPES = ("float32", "bfloat16")
MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways of accelerate to share a model out over devices."""


@dataclass(frozen=True)
class ModelSettings:
    """How checkpoints are loaded and run."""

    dtype: str = "auto"
    """`auto`: as the series says, else what `tracker.precision` finds."""
    device: str = "auto"
    device_map: str | None = None
    """How a model that is larger than one device is shared out over all of them."""
    batch_tokens: int = 4096
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Refuse unknown types."""
        if self.dtype not in ("auto", *DTYPES):
            raise UserError(f"model.dtype={self.dtype}: choose auto, {' or '.join(DTYPES)}")
        if self.batch_tokens < 1:
            raise UserError(f"model.batch_tokens={self.batch_tokens}: choose at least 1")
        if self.device_map not in (None, *MAPS):
            raise UserError(f"model.device_map={self.device_map}: choose {', '.join(MAPS)}")
        if self.device_map is not None and self.device != "auto":
            raise UserError(
                f"model.device={self.device} model.device_map={self.device_map}: the map chooses "
                "the devices; leave out one of them"
            )

    def of_series(self, dtype: str | None) -> ModelSettings:
        """The same with `auto` replaced by the series' own type, where it has one.

        Raises:
            UserError: The series names a type that does not exist.
        """
        if dtype not in (None, *DTYPES):
            raise UserError(f"series.dtype={dtype}: choose {' or '.join(DTYPES)}")
        return replace(self, dtype=dtype) if dtype and self.dtype == "auto" else self

    def exact(self) -> ModelSettings:
        """The same in float32 where the type is open."""
        return replace(self, dtype="float32") if self.dtype == "auto" else self

    def placed(self, shard: int) -> ModelSettings:
        """The same for one of several processes: shard `s` takes GPU `s mod count` of the visible.

        A task of a cluster that is given one GPU sees only that one; processes that are started
        beside each other on one machine see all, and would otherwise all take the first.
        """
        if self.device != "auto" or self.device_map is not None or torch.cuda.device_count() < 2:
            return self
        return replace(self, device=f"cuda:{shard % torch.cuda.device_count()}")

    def where(self) -> torch.device:
        """The device: the first GPU if there is one, else the CPU."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise UserError(
                f"model.device={self.device}: choose auto, cpu, cuda or cuda:N"
            ) from None
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise UserError(
                f"model.device={self.device}: this machine has {torch.cuda.device_count()} GPUs"
            )
        return device


def load_model(folder: Path, settings: ModelSettings) -> Any:
    """Load a checkpoint's weights from its folder; every weight must be there and finite.

    The model is made without memory and takes each weight as it is read, so that there is one copy;
    safetensors of the same type are mapped, not read. No pickle is executed: safetensors, or `.bin`
    read with `weights_only`.

    Raises:
        CheckpointError: Weights missing, of another shape, not finite, or not readable.
        UserError: The architecture is not supported, or the devices are too small.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # ours counts checkpoints
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # we refuse what it reports
    remote = settings.trust_remote_code
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=remote)
    except Exception as error:  # any, where the repository's own code reads it
        raise CheckpointError(f"the config cannot be read ({first_line(error)})") from error
    anatomy_of(config.to_dict())
    if settings.device_map is not None:
        _require_accelerate(settings.device_map)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=getattr(torch, settings.exact().dtype),
                device_map=settings.device_map,
                attn_implementation="eager",
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=remote,
            )
    except Exception as error:  # damage shows as any of a dozen types, all of them this one's fault
        raise CheckpointError(f"the weights cannot be loaded ({first_line(error)})") from error
    model, info = loaded
    _refuse_incomplete(info)
    if settings.device_map is None:
        model.to(settings.where())
    refuse_offloaded(model, settings)
    for name, weight in model.named_parameters():
        refuse_infinite(name, weight)
    return model.eval().requires_grad_(False)


def count_parameters(folder: Path, trust_remote_code: bool = False) -> int:
    """Parameters of the model that a checkpoint's config describes, without reading weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        make: Any = AutoModelForCausalLM.from_config
        model = make(config, trust_remote_code=trust_remote_code)
    return sum(p.numel() for p in model.parameters())


def refuse_offloaded(model: Any, settings: ModelSettings) -> None:
    """Weights that are fetched for every forward cannot be measured.

    Raises:
        UserError: Some are left on the disk or, beside a GPU, in the host's memory.
    """
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    if any(p.is_meta for p in model.parameters()):
        raise UserError(
            f"model.device_map={settings.device_map}: the model does not fit into the devices' "
            f"memory (parts are left on {', '.join(sorted(places & {'cpu', 'disk'}))}); "
            "use more devices, or model.dtype=bfloat16"
        )


def _require_accelerate(how: str) -> None:
    try:
        import accelerate  # noqa: F401
    except ImportError:
        raise UserError(
            f"model.device_map={how} needs the package accelerate: install it"
        ) from None


def _refuse_incomplete(info: Any) -> None:
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(f"the weights lack {missing[0]} ({len(missing)} missing)")
    mismatched = list(info.get("mismatched_keys", ()))
    if mismatched:
        raise CheckpointError(f"the weights have another shape: {mismatched[0]}")


def refuse_infinite(name: str, weight: Tensor) -> None:
    """A weight must be finite. The extremes tell, NaN included, and take one reading of it.

    Raises:
        CheckpointError: It is not.
    """
    if weight.numel() and not all(bool(x.isfinite()) for x in weight.detach().aminmax()):
        raise CheckpointError(f"{name} holds NaN or infinite values")

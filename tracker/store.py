"""Records: the result of one checkpoint in one HDF5 file.

A record is written to a temporary name in its own folder, closed, fsynced and renamed, so a file
that exists is complete. Every variable carries named dimensions as HDF5 dimension scales, which
stand at the root and again in every group that uses them: xarray reads coordinates only from the
group that it opens (`xarray.open_dataset(file, engine="h5netcdf", group="neurons")`).

Nothing here needs torch: `analysis` reads records with this module alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from checkpoints.errors import UserError, first_line
from checkpoints.files import new_file

SCHEMA_VERSION = 1

Coordinates = Mapping[str, NDArray[Any]]
"""Dimension name -> its coordinate values (strings or integers)."""

_STRING = h5py.string_dtype("utf-8")
_MASK_COMPRESSION = {"compression": "gzip", "compression_opts": 4, "shuffle": True}


def array(*dims: str, unit: str = "", doc: str = "", curve: bool = False) -> Any:
    """A field of a probe's result: its dimension names, its unit and what it is.

    With `curve=True` a field [language] is drawn and tabulated over the checkpoints under its own
    name, without `analysis` knowing the probe.
    """
    assert not curve or dims == ("language",), "a curve has one value per language"
    return field(metadata={"dims": dims, "unit": unit, "doc": doc, "curve": curve})


@dataclass(frozen=True)
class Variable:
    """An array with named dimensions, as it stands in a record."""

    dims: tuple[str, ...]
    data: NDArray[Any]
    unit: str = ""
    doc: str = ""
    curve: bool = False

    def __post_init__(self) -> None:
        """No dimension may repeat, and there is one name per axis."""
        assert self.data.ndim == len(self.dims), (self.dims, self.data.shape)
        assert len(set(self.dims)) == len(self.dims), self.dims


def variables(result: Any) -> dict[str, Variable]:
    """The arrays of a probe's result, by field name."""
    found = {}
    for f in dataclasses.fields(result):
        if "dims" in f.metadata:
            found[f.name] = Variable(data=np.asarray(getattr(result, f.name)), **f.metadata)
    return found


RECORDS, INTERVENTIONS = "records", "interventions"
"""Folders, within a run's, of its records and of those of interventions."""
RUN = "run.json"
"""File of a run's folder that tells of it what no record does."""


def record_name(step: int) -> str:
    """File name of the record of `step`."""
    return f"step-{step:09d}.h5"


def record_step(path: Path) -> int:
    """Step of a record, from its file name."""
    return int(path.stem.removeprefix("step-"))


def write_text(path: Path, text: str) -> None:
    """Write a small text file so that it is complete or absent."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_record(
    path: Path,
    groups: Mapping[str, Mapping[str, Variable]],
    coordinates: Coordinates,
    attributes: Mapping[str, str | int | float | bool],
    config: str,
) -> None:
    """Write one record.

    Args:
        path: `records/step-....h5`.
        groups: Group name -> variables. A variable whose only dimension has its own name is the
            coordinate of that dimension in its group (e.g. `concept`).
        coordinates: Values of the dimensions shared by all groups.
        attributes: Root attributes (provenance).
        config: The resolved configuration, as YAML.

    Raises:
        UserError: The disk is full, or cannot be written to.
    """
    try:
        with new_file(path) as temporary, h5py.File(temporary, "w", libver="v110") as file:
            file.attrs["schema_version"] = SCHEMA_VERSION
            for key in sorted(attributes):
                file.attrs[key] = attributes[key]
            file.create_dataset("config", data=config, dtype=_STRING)
            for name in sorted(coordinates):
                _write_scale(file, name, coordinates[name])
            for name in sorted(groups):
                _write_group(file.create_group(name), groups[name], coordinates)
    except (OSError, RuntimeError) as error:  # HDF5 says either where a disk is full
        raise UserError(
            f"{path}: it cannot be written ({first_line(error)}): look for room on the disk and "
            "for your rights; what is finished is kept, the same command continues"
        ) from error


def _write_scale(group: h5py.Group, name: str, values: NDArray[Any]) -> h5py.Dataset:
    values = np.asarray(values)
    text = values.dtype.kind in "UO"
    data = values.astype(object) if text else values
    options = _MASK_COMPRESSION if values.size > 256 and not text else {}
    scale = group.create_dataset(name, data=data, dtype=_STRING if text else None, **options)
    scale.make_scale(name)
    return scale


def _write_group(group: h5py.Group, content: Mapping[str, Variable], shared: Coordinates) -> None:
    own = {n: v.data for n, v in content.items() if v.dims == (n,)}
    scales: dict[str, h5py.Dataset] = {}
    for dim in sorted({d for v in content.values() for d in v.dims}):
        values = own.get(dim, shared.get(dim))
        assert values is not None, f"{group.name}: dimension {dim} has no coordinate"
        scales[dim] = _write_scale(group, dim, values)
        if dim in own:
            _describe(scales[dim], content[dim])
    for name in sorted(set(content) - set(own)):
        _write_variable(group, name, content[name], scales)


def _write_variable(
    group: h5py.Group, name: str, variable: Variable, scales: Mapping[str, h5py.Dataset]
) -> None:
    data = variable.data
    for axis, dim in enumerate(variable.dims):
        expected = scales[dim].shape[0]
        assert data.shape[axis] == expected, (group.name, name, dim, data.shape, expected)
    if data.dtype == np.float64:
        data = data.astype(np.float32)
    text = data.dtype.kind in "UO"
    compressed = data.size > 256 and not text
    options = _MASK_COMPRESSION if compressed else {}
    if data.dtype == np.bool_ and data.ndim and data.size:
        options = {**_MASK_COMPRESSION, "chunks": data.shape if data.size < 1 << 20 else True}
    dataset = group.create_dataset(
        name, data=data.astype(object) if text else data, dtype=_STRING if text else None, **options
    )
    _describe(dataset, variable)
    for axis, dim in enumerate(variable.dims):
        dataset.dims[axis].attach_scale(scales[dim])


def _describe(dataset: h5py.Dataset, variable: Variable) -> None:
    if variable.unit:
        dataset.attrs["units"] = variable.unit
    if variable.doc:
        dataset.attrs["long_name"] = variable.doc
    if variable.curve:
        dataset.attrs["curve"] = 1


@dataclass(frozen=True)
class Record:
    """One checkpoint's record, read into memory."""

    path: Path
    attributes: Mapping[str, Any]
    config: str
    groups: Mapping[str, Mapping[str, Variable]]

    @property
    def step(self) -> int:
        """Optimizer step."""
        return int(self.attributes["step"])

    @property
    def tokens(self) -> int | None:
        """Tokens seen, all languages; None where unknown."""
        tokens = int(self.attributes["tokens"])
        return None if tokens < 0 else tokens

    def get(self, variable: str) -> NDArray[Any] | None:
        """The array at `group/name`, or None where this record does not hold it."""
        group, _, name = variable.partition("/")
        found = self.groups.get(group, {}).get(name)
        return None if found is None else found.data

    def __getitem__(self, variable: str) -> NDArray[Any]:
        """The array at `group/name`."""
        found = self.get(variable)
        if found is None:
            raise KeyError(f"{self.path.name} has no {variable}")
        return found


def read_attributes(path: Path) -> dict[str, Any]:
    """Root attributes of a record, without reading any array."""
    with h5py.File(path, "r") as file:
        return dict(file.attrs)


def read_tokens(path: Path) -> tuple[int, NDArray[np.int64]] | None:
    """Tokens seen, all and by language, as a record has them."""
    with h5py.File(path, "r") as file:
        if "performance/tokens_seen" not in file:
            return None
        return int(file.attrs["tokens"]), np.asarray(file["performance/tokens_seen"][()])


def read_record(path: Path, skip: Iterable[str] = ()) -> Record:
    """Read a record; variables named `group/name` in `skip` are left on disk."""
    skipped = set(skip)
    with _whole(path) as file:
        groups = {
            name: {
                key: _read_variable(dataset)
                for key, dataset in group.items()
                if f"{name}/{key}" not in skipped
            }
            for name, group in file.items()
            if isinstance(group, h5py.Group)
        }
        config = file["config"].asstr()[()]
        return Record(path, dict(file.attrs), config, groups)


@contextmanager
def _whole(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise UserError(
            f"{path}: it is damaged ({first_line(error)}); task=track measures it again"
        ) from error


def _read_variable(dataset: h5py.Dataset) -> Variable:
    text = h5py.check_string_dtype(dataset.dtype) is not None
    data = np.asarray(dataset.asstr()[()], dtype=object) if text else np.asarray(dataset[()])
    if dataset.is_scale:
        dims: tuple[str, ...] = (dataset.name.rpartition("/")[2],)
    else:
        dims = tuple(d[0].name.rpartition("/")[2] for d in dataset.dims)
    attributes = dataset.attrs
    return Variable(
        dims,
        data,
        str(attributes.get("units", "")),
        str(attributes.get("long_name", "")),
        bool(attributes.get("curve", 0)),
    )


def amend(path: Path, attributes: Mapping[str, int], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Replace attributes and same-shaped arrays (`group/name`) of a record, all or nothing."""
    with new_file(path) as temporary:
        temporary.write_bytes(path.read_bytes())
        with h5py.File(temporary, "r+") as file:
            for key, value in attributes.items():
                file.attrs[key] = value
            for name, values in arrays.items():
                file[name][...] = values


def note_skip(folder: Path, step: int, reason: str) -> None:
    """Keep beside the records why a step has none, until it has one."""
    write_text(_skip_path(folder, step), json.dumps({"step": step, "reason": reason}) + "\n")


def clear_skip(folder: Path, step: int) -> None:
    """Forget why a step was skipped: it has a record now."""
    _skip_path(folder, step).unlink(missing_ok=True)


def read_skips(folder: Path) -> dict[int, str]:
    """Step -> reason of every skipped step."""
    notes = []
    for path in folder.glob("step-*.skipped.json"):
        # Another process has just measured the step, or the note is damaged.
        with suppress(FileNotFoundError, ValueError):
            notes.append(json.loads(path.read_text(encoding="utf-8")))
    return {int(n["step"]): str(n["reason"]) for n in sorted(notes, key=lambda n: int(n["step"]))}


def missing_steps(folder: Path, steps: Iterable[int], pending: Mapping[int, str]) -> dict[int, str]:
    """Step -> why it has no record in `folder`.

    Args:
        folder: Where the records are.
        steps: Steps that should have one.
        pending: Steps without a checkpoint to measure yet, and why.
    """
    have = {record_step(record) for record in folder.glob("step-*.h5")}
    noted = read_skips(folder)
    found = {s: noted.get(s, "not measured yet") for s in steps}
    found |= pending
    return {s: why for s, why in sorted(found.items()) if s not in have}


def read_plan(run: Path) -> dict[str, Any]:
    """What `run.json` of a run's folder holds; empty where there is none.

    Raises:
        UserError: It is damaged.
    """
    path = run / RUN
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path}: it is damaged; remove it, and task=track writes it again")
    return found


def missing_of(run: Path, plan: Mapping[str, Any]) -> dict[int, str]:
    """Step -> why a run's folder has no record of it, by its plan (`read_plan`)."""
    pending = {int(step): str(why) for step, why in plan.get("pending", {}).items()}
    return missing_steps(run / RECORDS, plan.get("steps", ()), pending)


def _skip_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}.skipped.json"


def _index_says(path: Path, records: Sequence[Path], missing: Mapping[int, str]) -> bool:
    if not path.exists():
        return False
    try:
        with h5py.File(path, "r") as file:
            names = file["record"].asstr()[()].tolist()
            gaps = dict(
                zip(
                    file["missing/step"][()].tolist(),
                    file["missing/reason"].asstr()[()].tolist(),
                    strict=True,
                )
            )
    except (OSError, KeyError):  # damaged: all of it can be made again
        return False
    return bool(names == [r.name for r in records] and gaps == dict(missing))


def write_index(
    path: Path,
    records: Sequence[Path],
    missing: Mapping[int, str],
    curves: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Write `index.h5`: the records' names and steps, what is missing and why, the small curves.

    Everything in it can be made again from the records and the notes beside them.

    Args:
        path: `index.h5`.
        records: The record files, ascending by step.
        missing: Step -> why there is no record.
        curves: Columns of the tidy table of curves (see `analysis`); None before analysis: an
            index that lists the same records and gaps already keeps the curves it has.
    """
    if curves is None and _index_says(path, records, missing):
        return
    curves = curves or {}
    with new_file(path) as temporary, h5py.File(temporary, "w", libver="v110") as file:
        file.attrs["schema_version"] = SCHEMA_VERSION
        names = np.array([r.name for r in records], dtype=object)
        file.create_dataset("record", data=names, dtype=_STRING)
        file.create_dataset("step", data=np.array([record_step(r) for r in records], np.int64))
        gaps = file.create_group("missing")
        gaps.create_dataset("step", data=np.array(sorted(missing), np.int64))
        reasons = np.array([missing[s] for s in sorted(missing)], dtype=object)
        gaps.create_dataset("reason", data=reasons, dtype=_STRING)
        table = file.create_group("curves")
        for name, column in curves.items():
            text = column.dtype.kind in "UO"
            table.create_dataset(
                name,
                data=column.astype(object) if text else column,
                dtype=_STRING if text else None,
            )

"""Records: round trip, atomicity, and what other tools see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray
from numpy.typing import NDArray

from tracker import store
from tracker.store import Variable, array

COORDINATES = {
    "language": np.array(["en", "日本"], dtype=object),
    "layer": np.arange(1, 4),
    "unit": np.arange(300),
}


@dataclass(frozen=True)
class Example:
    """A probe's result."""

    kind: NDArray[Any] = array("kind", doc="names of things")
    mask: NDArray[Any] = array("language", "layer", "unit")
    score: NDArray[Any] = array("layer", "unit", unit="nats", doc="a score")
    level: NDArray[Any] = array("language", unit="share", curve=True)
    scalar: NDArray[Any] = array(unit="share")
    name: NDArray[Any] = array("language")
    per_kind: NDArray[Any] = array("language", "kind")


def example() -> Example:
    rng = np.random.default_rng(0)
    return Example(
        kind=np.array(["a", "b"], dtype=object),
        mask=rng.random((2, 3, 300)) < 0.1,
        score=rng.normal(size=(3, 300)),
        level=np.array([0.25, np.nan]),
        scalar=np.asarray(0.5),
        name=np.array(["x", "ü"], dtype=object),
        per_kind=np.array([[1, 2], [3, 4]]),
    )


def write(path: Path) -> None:
    groups = {"neurons": store.variables(example())}
    store.write_record(path, groups, COORDINATES, {"step": 7, "tokens": -1}, "a: 1\n")


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / store.record_name(7)
    write(path)
    record, expected = store.read_record(path), example()
    assert (record.step, record.tokens, record.config) == (7, None, "a: 1\n")
    assert store.record_step(path) == 7
    for name, variable in store.variables(expected).items():
        found = record.groups["neurons"][name]
        assert found.dims == variable.dims
        assert (found.unit, found.doc, found.curve) == (variable.unit, variable.doc, variable.curve)
        if variable.data.dtype == np.float64:
            np.testing.assert_array_equal(found.data, variable.data.astype(np.float32))
        else:
            np.testing.assert_array_equal(found.data, variable.data)
    assert record.groups["neurons"]["mask"].data.dtype == np.bool_
    assert record.get("neurons/absent") is None
    with pytest.raises(KeyError, match="has no neurons/absent"):
        record["neurons/absent"]
    assert "mask" not in store.read_record(path, skip=["neurons/mask"]).groups["neurons"]


def test_xarray_opens_every_group_with_named_coordinates(tmp_path: Path) -> None:
    path = tmp_path / "record.h5"
    write(path)
    with xarray.open_dataset(path, engine="h5netcdf", group="neurons") as data:
        assert data["mask"].dims == ("language", "layer", "unit")
        assert data["mask"].dtype == np.bool_
        assert data.coords["language"].values.tolist() == ["en", "日本"]
        assert data["score"].sel(layer=2, unit=5) == np.float32(example().score[1, 5])
        assert data["score"].attrs["units"] == "nats"
        assert data["per_kind"].sel(language="日本", kind="a") == 3
    with xarray.open_dataset(path, engine="h5netcdf") as root:
        assert set(COORDINATES) <= set(root.coords)


def test_masks_are_compressed_bool_and_scores_float32(tmp_path: Path) -> None:
    path = tmp_path / "record.h5"
    write(path)
    with h5py.File(path) as file:
        mask = file["neurons/mask"]
        assert mask.dtype == np.bool_
        assert (mask.compression, mask.compression_opts, mask.shuffle) == ("gzip", 4, True)
        assert mask.chunks is not None
        assert file["neurons/score"].dtype == np.float32
        assert file.attrs["schema_version"] == store.SCHEMA_VERSION


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "r.h5", tmp_path / "b" / "r.h5"
    write(first)
    write(second)
    assert first.read_bytes() == second.read_bytes()


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    bad = {"g": {"v": Variable(("layer",), np.arange(99))}}
    with pytest.raises(AssertionError, match="layer"):
        store.write_record(tmp_path / "r.h5", bad, COORDINATES, {}, "")
    assert list(tmp_path.iterdir()) == []


def test_a_dimension_without_coordinate_or_repeated_is_refused(tmp_path: Path) -> None:
    bad = {"g": {"v": Variable(("fold",), np.arange(9))}}
    with pytest.raises(AssertionError, match="dimension fold has no coordinate"):
        store.write_record(tmp_path / "r.h5", bad, COORDINATES, {}, "")
    with pytest.raises(AssertionError, match="layer"):
        Variable(("layer", "layer"), np.zeros((3, 3)))


def test_skips_are_noted_and_cleared(tmp_path: Path) -> None:
    store.note_skip(tmp_path, 12, "truncated")
    store.note_skip(tmp_path, 3, "NaN")
    assert store.read_skips(tmp_path) == {3: "NaN", 12: "truncated"}
    store.clear_skip(tmp_path, 12)
    store.clear_skip(tmp_path, 12)
    assert store.read_skips(tmp_path) == {3: "NaN"}


def test_the_index_lists_records_gaps_and_curves(tmp_path: Path) -> None:
    curves = {
        "measure": np.array(["loss", "loss"], dtype=object),
        "value": np.array([1.5, 1.25]),
    }
    records = [tmp_path / store.record_name(s) for s in (0, 8)]
    store.write_index(tmp_path / "index.h5", records, {4: "truncated"}, curves)
    with h5py.File(tmp_path / "index.h5") as file:
        assert file["record"].asstr()[()].tolist() == [r.name for r in records]
        assert file["step"][()].tolist() == [0, 8]
        assert file["missing/step"][()].tolist() == [4]
        assert file["missing/reason"].asstr()[()].tolist() == ["truncated"]
        assert file["curves/value"][()].tolist() == [1.5, 1.25]

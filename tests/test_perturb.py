"""Perturbation: the definition by loops, weights set by hand, planted dimensions, orientation."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LANGUAGES, tiny_model
from hydra import compose, initialize_config_module
from subjects import fingerprint, losses, planted, subject_of, words_only

from checkpoints.errors import UserError
from tracker import store
from tracker.config import find_interventions
from tracker.interventions import HALVES, Subject
from tracker.interventions.perturb import (
    Dimension,
    Half,
    Perturb,
    PerturbResult,
    pushed,
    top_dimension,
)
from tracker.model import LanguageModel
from tracker.probes import Context
from tracker.probes.regions import Regions
from tracker.regions import RegionIndices

SMALL = Perturb(trials=3, controls=2, top_fraction=0.03)


def whole(context: Context, model: Any, **changes: Any) -> Subject:
    """A subject that is read in few batches."""
    return replace(subject_of(context, model, **changes), batch_tokens=4096)


@pytest.fixture(scope="module")
def perturbed(context: Context, model: Any) -> PerturbResult:
    """One run on every architecture."""
    before = fingerprint(model)
    result = SMALL.run(whole(context, model))
    assert fingerprint(model) == before
    return result


def found_on(subject: Subject, half: frozenset[int], fraction: float) -> RegionIndices:
    (sums,) = subject.measure([Regions(top_fraction=fraction)], half)
    regions = sums.regions()
    assert isinstance(regions, RegionIndices)
    return regions


def core_of(regions: RegionIndices, name: str) -> list[tuple[float, int, int]]:
    """(importance, row, column) of every core parameter, the most important first."""
    row, column = regions.dimensions(name, regions.core[name])
    values = regions.importance_of_core[name].tolist()
    return sorted(zip(values, row.tolist(), column.tolist(), strict=True), reverse=True)


def fullest(core: list[tuple[float, int, int]]) -> tuple[str, int, int]:
    """(axis, index, count): loops over rows, then columns; only a larger count replaces."""
    best = ("", -1, 0)
    for axis, place in (("row", 1), ("column", 2)):
        for index in sorted({parameter[place] for parameter in core}):
            count = sum(parameter[place] == index for parameter in core)
            if count > best[2]:
                best = (axis, index, count)
    return best


def test_trials_are_the_most_important_parameters_on_the_fullest_lines(
    context: Context, model: Any, perturbed: PerturbResult
) -> None:
    subject, result = whole(context, model), perturbed
    for h, half in enumerate(HALVES):
        regions = found_on(subject, half, 0.03)
        first: dict[str, tuple[float, int, int]] = {}
        other: dict[str, tuple[float, int, int]] = {}
        for m, name in enumerate(regions.core):
            core = core_of(regions, name)
            axis, index, count = fullest(core)
            assert (result.matrix[m], result.top_axis[h, m]) == (name, axis)
            assert result.top_index[h, m] == index
            assert result.top_share[h, m] == pytest.approx(count / len(core))
            on = [p for p in core if p[1 if axis == "row" else 2] == index]
            first[name] = on[0]
            other[name] = next(p for p in core if p not in on)
        order = sorted(first, key=lambda name: -first[name][0])[:3]
        for number, name in enumerate(order, 1):
            for edit, expected in (("top", first), ("elsewhere", other)):
                assert_place(result, f"{edit} #{number}", h, name, expected[name][1:])
            for r in range(2):
                assert_outside(result, f"top #{number} (random {r})", h, regions, name)


def row_of(result: PerturbResult, arm: str) -> int:
    found: int = result.arm.tolist().index(arm)
    return found


def assert_place(
    result: PerturbResult, arm: str, half: int, name: str, place: tuple[int, ...]
) -> None:
    a = row_of(result, arm)
    assert result.arm_matrix[a, half] == name
    assert (result.arm_row[a, half], result.arm_column[a, half]) == place
    assert result.arm_size[a] == 1


def assert_outside(
    result: PerturbResult, arm: str, half: int, regions: RegionIndices, name: str
) -> None:
    a, m = row_of(result, arm), result.matrix.tolist().index(name)
    place = result.arm_row[a, half], result.arm_column[a, half]
    assert result.arm_matrix[a, half] == name
    assert place not in {(row, column) for _, row, column in core_of(regions, name)}
    axis = 0 if result.top_axis[half, m] == "row" else 1
    assert place[axis] != result.top_index[half, m]


def weight_at(model: Any, name: str, row: int, column: int) -> Any:
    """The parameter at an output and an input, as the model's own class stores it."""
    matrix = model.get_parameter(name)
    return matrix[column : column + 1, row] if is_gpt2(model) else matrix[row, column : column + 1]


def is_gpt2(model: Any) -> bool:
    return bool(model.config.model_type == "gpt2")


def test_perturbing_is_setting_one_weight(
    context: Context, model: Any, perturbed: PerturbResult
) -> None:
    result = perturbed
    main = result.token_count > 0
    assert (np.isfinite(result.nll) == main).all()
    for arm, half in (("top #1", 0), ("elsewhere #2", 1), ("top #1 (random 0)", 1)):
        a = row_of(result, arm)
        read = main & (result.document_half == half)
        copied = copy.deepcopy(model)
        place = (result.arm_matrix[a, half], result.arm_row[a, half], result.arm_column[a, half])
        weight = weight_at(copied, *place)
        assert float(weight) == result.arm_before[a, half]
        largest = float(copied.get_parameter(place[0]).abs().max())
        expected = float(weight) - (1 if float(weight) >= 0 else -1) * 10 * largest
        assert result.arm_after[a, half] == pytest.approx(expected)
        weight.fill_(expected)
        np.testing.assert_allclose(result.nll[a, read], losses(context, copied)[read], rtol=1e-3)
    assert not np.allclose(result.nll[1, main], result.nll[0, main], rtol=1e-3)


def test_documents_were_read_under_the_other_half_s_choice(
    context: Context, perturbed: PerturbResult
) -> None:
    fold = {row.document: row.fold for row in context.text.rows}
    for document, chosen in enumerate(perturbed.document_half):
        assert fold[document] in HALVES[1 - chosen]
    assert set(perturbed.document_half.tolist()) == {0, 1}


def test_top_dimensions_are_set_to_zero_at_once(
    context: Context, model: Any, perturbed: PerturbResult
) -> None:
    subject, result = whole(context, model), perturbed
    regions = found_on(subject, HALVES[0], 0.03)
    copied, size = copy.deepcopy(model), 0
    for name in regions.core:
        core = core_of(regions, name)
        axis, index, count = fullest(core)
        size += count
        for _, row, column in core:
            if (row if axis == "row" else column) == index:
                weight_at(copied, name, row, column).fill_(0.0)
    read = (result.token_count > 0) & (result.document_half == 0)
    a = row_of(result, "dimensions")
    np.testing.assert_allclose(result.nll[a, read], losses(context, copied)[read], rtol=1e-3)
    assert result.arm_matrix[a].tolist() == ["", ""]
    assert result.arm_row[a].tolist() == [-1, -1]
    assert result.arm_size[row_of(result, "dimensions (random 0)")] == result.arm_size[a]
    second = found_on(subject, HALVES[1], 0.03)
    sizes = size, sum(fullest(core_of(second, name))[2] for name in second.core)
    assert result.arm_size[a] == np.mean(sizes)


UNITS = {(0, 3): (LANGUAGES, 1.0)}
"""One unit that reads three inputs and writes three outputs: a row, and then a column."""


def test_planted_dimensions_are_found_and_only_they_matter(tokenizer: Any) -> None:
    context = words_only(tokenizer)
    model = planted(context, UNITS)
    draw = torch.Generator().manual_seed(0)
    for matrix in LanguageModel.of(model).matrices.values():
        matrix += 1e-5 * torch.randn(matrix.shape, generator=draw)
    result = Perturb(trials=2, controls=3, top_fraction=3 / 512).run(whole(context, model))
    up, down = (f"gpt_neox.layers.0.mlp.dense_{way}.weight" for way in ("h_to_4h", "4h_to_h"))
    for h in range(2):
        for name, axis in ((up, "row"), (down, "column")):
            m = result.matrix.tolist().index(name)
            assert (result.top_axis[h, m], result.top_index[h, m]) == (axis, 3)
            assert result.top_share[h, m] == 1
        arms = [row_of(result, f"top #{number}") for number in (1, 2)]
        assert set(result.arm_matrix[arms, h]) == {up, down}
        place = {result.arm_matrix[a, h]: (result.arm_row[a, h], result.arm_column[a, h])
                 for a in arms}  # fmt: skip
        assert place[up][0] == 3
        assert place[up][1] in (0, 1, 2)
        assert place[down][0] in (3, 4, 5)
        assert place[down][1] == 3
    for number in (1, 2):
        assert harm(result, f"top #{number}").max() > 0.1
        controls = [harm(result, f"top #{number} (random {r})") for r in range(3)]
        assert np.abs(controls).max() < 0.02
        # All of the core lies on the top dimension: there is nothing elsewhere.
        a = row_of(result, f"elsewhere #{number}")
        assert (result.arm_size[a], result.arm_matrix[a].tolist()) == (0, ["", ""])
    assert (harm(result, "dimensions") > 0.1).all()
    assert np.abs(harm(result, "dimensions (random 0)")).max() < 0.02


def harm(result: PerturbResult, arm: str) -> np.ndarray[Any, Any]:
    """[language] change of the loss, nats/token."""
    mine = np.array([result.document_language == c for c in LANGUAGES])
    lost = np.nan_to_num(result.nll[row_of(result, arm)] - result.nll[0])
    found: np.ndarray[Any, Any] = mine @ lost / (mine @ result.token_count)
    return found


def test_gpt2_rows_are_outputs(context: Context) -> None:
    """Only the weights into unit 7 of the first MLP are not zero: they are one row."""
    model = tiny_model("gpt2", context.text.vocabulary)
    with torch.no_grad():
        weight = model.transformer.h[0].mlp.c_fc.weight
        weight[:, :7] = 0
        weight[:, 8:] = 0
    result = Perturb(trials=12, controls=1).run(whole(context, model))
    name = "transformer.h.0.mlp.c_fc.weight"
    m = result.matrix.tolist().index(name)
    assert result.top_axis[:, m].tolist() == ["row", "row"]
    assert result.top_index[:, m].tolist() == [7, 7]
    (a,) = [
        a
        for a, edit in enumerate(result.arm_edit)
        if edit == "top" and result.arm_control[a] < 0 and result.arm_matrix[a, 0] == name
    ]
    assert result.arm_row[a, 0] == 7
    assert float(weight[result.arm_column[a, 0], 7]) == result.arm_before[a, 0]


def test_where_parameters_run_out_nothing_is_changed(tokenizer: Any) -> None:
    context = words_only(tokenizer)
    model = planted(context, UNITS)
    before = fingerprint(model)
    result = Perturb(trials=9, controls=1, dimension=False).run(whole(context, model))
    assert fingerprint(model) == before
    # Three parameters into the unit and three out of it have any effect.
    size = {n: result.arm_size[row_of(result, f"top #{n}")] for n in range(1, 10)}
    assert list(size.values()) == [1] * 6 + [0] * 3
    chosen = {
        (result.arm_matrix[a, 0], result.arm_row[a, 0], result.arm_column[a, 0])
        for a in range(len(result.arm))
        if result.arm_edit[a] == "top" and result.arm_control[a] < 0 and result.arm_size[a]
    }
    assert len(chosen) == 6
    for arm in ("top #8", "top #8 (random 0)", "elsewhere #8"):
        np.testing.assert_array_equal(result.nll[row_of(result, arm)], result.nll[0])
    assert "dimensions" not in result.arm.tolist()


def test_controls_of_a_trial_stand_under_both_comparisons(perturbed: PerturbResult) -> None:
    for number in (1, 2, 3):
        a, b = (row_of(perturbed, f"{e} #{number} (random 0)") for e in ("top", "elsewhere"))
        for name in ("nll", "arm_row", "arm_after", "arm_size"):
            np.testing.assert_array_equal(getattr(perturbed, name)[a], getattr(perturbed, name)[b])
        assert perturbed.arm_number[[a, b]].tolist() == [number, number]


def regions_of(flat: list[int], shape: tuple[int, int], input_first: bool) -> RegionIndices:
    core = np.array(flat, np.int64)
    return RegionIndices(
        core={"w": core}, bottom={}, language=(), monolingual=(),
        importance_of_core={"w": np.ones(len(flat), np.float32)}, importance={},
        size={}, shape={"w": shape}, input_first=frozenset({"w"} if input_first else ()),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flat", "stored", "expected"),
    [
        ([4, 5, 6, 0], "output first", Dimension("row", 1, 3)),
        ([4, 5, 6, 0], "input first", Dimension("column", 1, 3)),
        ([1, 5, 9], "output first", Dimension("column", 1, 3)),
        ([1, 5, 9], "input first", Dimension("row", 1, 3)),
        ([0, 1, 5], "output first", Dimension("row", 0, 2)),
        ([0, 1, 10, 11], "output first", Dimension("row", 0, 2)),
        ([7], "output first", Dimension("row", 1, 1)),
        ([], "output first", Dimension("", -1, 0)),
    ],
)
def test_the_top_dimension_is_the_fullest_line(
    flat: list[int], stored: str, expected: Dimension
) -> None:
    assert top_dimension(regions_of(flat, (3, 4), stored == "input first"), "w") == expected


@pytest.mark.parametrize("input_first", [False, True])
def test_random_parameters_are_any_outside_the_core_and_off_the_top_dimension(
    input_first: bool,
) -> None:
    # Stored 3 x 4; the core is 4, 5, 6 and 1; the fullest line is 4, 5, 6, 7.
    half = Half(regions_of([1, 4, 5, 6], (3, 4), input_first))
    free = {0, 2, 3, 8, 9, 10, 11}
    count = np.zeros(12)
    for seed in range(700):
        drawn = half.random("w", 2, np.random.default_rng(seed))
        assert len(set(drawn.tolist())) == 2
        count[drawn] += 1
    assert set(np.flatnonzero(count).tolist()) == free
    # 700 draws of 2 out of 7: 200 of each.
    assert np.abs(count[sorted(free)] - 200).max() < 5 * np.sqrt(700 * 2 / 7 * 5 / 7)
    everything = half.random("w", 50, np.random.default_rng(0))
    assert everything.tolist() == sorted(free)


@pytest.mark.parametrize(("scale", "after"), [(10.0, [-19.0, 18.0]), (-10.0, [21.0, -22.0])])
def test_a_weight_goes_through_zero_or_away_from_it(scale: float, after: list[float]) -> None:
    model = tiny_model("llama", 40)
    parts = LanguageModel.of(model)
    name = next(iter(parts.matrices))
    matrix = parts.matrices[name]
    matrix.zero_()
    matrix[0, 1], matrix[1, 0] = 1.0, -2.0
    second = matrix.shape[1]
    change = pushed(parts, name, np.array([1, second]), scale)
    assert change.values[name].tolist() == after
    assert pushed(parts, name, np.array([0]), scale).values[name].tolist() == [-2 * scale]
    assert pushed(parts, name, np.zeros(0, np.int64), scale).size == 0


def test_a_bfloat16_model_can_be_perturbed(context: Context) -> None:
    model = tiny_model("llama", context.text.vocabulary).to(torch.bfloat16)
    before = fingerprint(model)
    result = SMALL.run(whole(context, model))
    assert fingerprint(model) == before
    assert (np.isfinite(result.nll) == (result.token_count > 0)).all()


def test_an_error_inside_leaves_the_model_as_it_was(context: Context, model: Any) -> None:
    before = fingerprint(model)

    def stop(what: str) -> None:
        if what == "top #2":
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        SMALL.run(whole(context, model, progress=stop))
    assert fingerprint(model) == before


def test_a_record_holds_it(context: Context, perturbed: PerturbResult, tmp_path: Path) -> None:
    shared = {
        "document": np.arange(len(context.text.documents)),
        "language": np.array(LANGUAGES, dtype=object),
    }
    path = tmp_path / "record.h5"
    store.write_record(path, {"perturb": store.variables(perturbed)}, shared, {"step": 0}, "")
    read = store.read_record(path)
    assert read["perturb/arm_matrix"].tolist() == perturbed.arm_matrix.tolist()
    assert read["perturb/top_axis"].tolist() == perturbed.top_axis.tolist()
    np.testing.assert_allclose(read["perturb/arm_after"], perturbed.arm_after, rtol=1e-6)


def test_the_yaml_is_the_class() -> None:
    with initialize_config_module("conf", version_base="1.3"):
        found = find_interventions(compose("config", ["intervention=perturb"]))
    assert found == {"perturb": Perturb()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": 0}, "trials=0: choose a whole number of at least 1"),
        ({"controls": 1.5}, "controls=1.5: choose a whole number"),
        ({"scale": 0}, "scale=0: choose a number above 0, or below 0"),
        ({"scale": float("inf")}, "scale=inf: choose"),
        ({"scale": "much"}, "scale=much: choose"),
        ({"dimension": "all"}, "dimension=all: choose true or false"),
        ({"top_fraction": 0.51}, "top_fraction=0.51: choose at most 0.5"),
        ({"top_fraction": 0}, "top_fraction=0: choose more than 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^interventions\.perturb\.{message}"):
        Perturb(**settings)

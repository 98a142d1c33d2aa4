"""Removal: planted regions, weights set to zero by hand, matched sizes, and a record of it all."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
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
from tracker.interventions import HALVES, remove
from tracker.interventions.remove import OF_CORE_SIZE, Remove, RemoveResult
from tracker.model import LanguageModel
from tracker.probes import Context
from tracker.probes.regions import Regions
from tracker.regions import RegionIndices

UNITS = {(0, 3): (("xx",), 1.0), (0, 9): (("yy",), 1.0), (1, 4): (("zz",), 1.0)}
"""(layer, unit) -> whose words it fires on and writes for, and how strongly."""

ARMS = ["core", "bottom", "largest", *(f"monolingual {c}" for c in LANGUAGES)]


def change(result: Any, arm: str) -> np.ndarray[Any, Any]:
    """[language] change of the loss, nats/token."""
    row = result.arm.tolist().index(arm)
    mine = np.array([result.document_language == c for c in LANGUAGES])
    lost = np.nan_to_num(result.nll[row] - result.nll[0])
    found: np.ndarray[Any, Any] = mine @ lost / (mine @ result.token_count)
    return found


def found_on(subject: Any, half: frozenset[int], fraction: float) -> RegionIndices:
    (sums,) = subject.measure([Regions(top_fraction=fraction)], half)
    regions = sums.regions()
    assert isinstance(regions, RegionIndices)
    return regions


def places_of(regions: RegionIndices, arm: str) -> Any:
    edit, _, language = arm.partition(" ")
    if edit == "monolingual":
        return regions.monolingual[LANGUAGES.index(language)]
    return getattr(regions, edit)


def test_planted_regions_carry_their_languages_and_nothing_else_does(tokenizer: Any) -> None:
    context = words_only(tokenizer)
    model = planted(context, UNITS)
    draw = torch.Generator().manual_seed(0)
    for matrix in LanguageModel.of(model).matrices.values():
        matrix += 1e-3 * torch.randn(matrix.shape, generator=draw)
    before = fingerprint(model)
    result = Remove(top_fraction=1 / 64, controls=2).run(subject_of(context, model))
    assert fingerprint(model) == before
    assert (change(result, "core") > 0.2).all()
    harmless = ["bottom", "core (random 0)", "core (random 1)", "bottom (random 1)"]
    for arm in harmless:
        assert np.abs(change(result, arm)).max() < 0.01, arm
    changes = np.stack([change(result, f"monolingual {c}") for c in LANGUAGES])
    assert (np.diag(changes) > 0.2).all(), changes
    assert np.abs(changes[~np.eye(3, dtype=bool)]).max() < 0.01, changes
    overlap = dict(zip(result.arm, result.arm_overlap, strict=True))
    assert 0.5 < overlap["core"] <= 1
    assert np.isnan([overlap["none"], overlap["core (random 0)"]]).all()


def test_removing_is_setting_weights_to_zero(context: Context, model: Any) -> None:
    fraction = 0.05
    subject = subject_of(context, model, probes={"r": Regions(top_fraction=fraction)})
    subject = replace(subject, batch_tokens=4096)
    before = fingerprint(model)
    result = Remove(controls=1).run(subject)
    assert fingerprint(model) == before
    assert result.top_fraction == fraction
    fold = np.zeros(len(context.text.documents), int)
    for row in context.text.rows:
        fold[row.document] = row.fold
    main = np.array([not d.graded_only for d in context.text.documents])
    regions = [found_on(subject, half, fraction) for half in HALVES]
    for found, read_on, arm in zip(regions, HALVES[::-1], ("core", "monolingual yy"), strict=True):
        read = main & np.isin(fold, sorted(read_on))
        copied = copy.deepcopy(model)
        for name, matrix in LanguageModel.of(copied).matrices.items():
            matrix.view(-1)[places_of(found, arm)[name]] = 0.0
        expected = losses(context, copied)[read]
        here = result.nll[result.arm.tolist().index(arm), read]
        np.testing.assert_allclose(here, expected, rtol=1e-3)
        assert not np.allclose(result.nll[0, read], expected, rtol=1e-3)
    for arm in ("core", "monolingual zz"):
        a, b = (
            {(n, i) for n, flat in places_of(r, arm).items() for i in flat.tolist()}
            for r in regions
        )
        where = result.arm.tolist().index(arm)
        assert result.arm_overlap[where] == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
        assert result.arm_size[where] == (len(a) + len(b)) / 2
    # Of every arm, whatever was read is a number, and everything was read.
    assert (np.isfinite(result.nll) == (result.token_count > 0)).all()
    assert result.parameter_count == sum(m.numel() for m in subject.model.matrices.values())


LARGEST = 4
CONTROLS = {0: [1, 2], 5: [6, 7], 8: [9, 10], 11: [12, 13]}
"""Place of a region's removal among those of one half -> places of its controls'."""


def assert_matched(removed: list[dict[str, set[int]]]) -> None:
    for place, size in zip(removed, [0, 0, 0, 0, 0, 5, 5, 5, 8, 8, 8, 11, 11, 11], strict=True):
        for name, inside in removed[size].items():
            assert len(place[name]) == len(inside)
    for whose, (first, second) in CONTROLS.items():
        assert removed[first] != removed[second]
        for name, inside in removed[whose].items():
            assert not inside & (removed[first][name] | removed[second][name])


def test_random_controls_are_matched_in_every_matrix_and_read_once(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("gpt2", context.text.vocabulary)
    subject = subject_of(context, model)
    seen: list[dict[str, set[int]]] = []

    def spy(parts: Any, places: Any) -> AbstractContextManager[None]:
        seen.append({name: set(flat.tolist()) for name, flat in places.items()})
        return original(parts, places)

    original = remove.parameters_set
    monkeypatch.setattr(remove, "parameters_set", spy)
    result = Remove(top_fraction=0.03, controls=2).run(subject)
    assert [a for a in result.arm if "random" not in a and a != "none"] == ARMS
    per_half = len(ARMS) + 2 * (len(ARMS) - len(OF_CORE_SIZE))
    assert len(seen) == 2 * per_half
    for here in (seen[:per_half], seen[per_half:]):
        assert_matched(here)
        for name, matrix in subject.model.matrices.items():
            size = round(0.03 * matrix.numel())
            assert len(here[0][name]) == size
            assert here[LARGEST][name] == set(matrix.abs().flatten().topk(size).indices.tolist())
    for r in range(2):
        rows = [result.arm.tolist().index(f"{e} (random {r})") for e in ("core", *OF_CORE_SIZE)]
        for row in rows:
            np.testing.assert_array_equal(result.nll[row], result.nll[rows[0]])
            assert result.arm_size[row] == result.arm_size[rows[0]] == result.arm_size[1]


def test_an_error_inside_leaves_the_model_as_it_was(context: Context, model: Any) -> None:
    before = fingerprint(model)

    def stop(what: str) -> None:
        if what == "bottom":
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        Remove(controls=1).run(subject_of(context, model, progress=stop))
    assert fingerprint(model) == before


def test_a_matrix_without_effect_has_nothing_to_remove(tokenizer: Any) -> None:
    """Attention and all unplanted weights are exactly 0: they are in no region."""
    context = words_only(tokenizer)
    result = Remove(top_fraction=0.5, controls=1).run(subject_of(context, planted(context, UNITS)))
    size = dict(zip(result.arm, result.arm_size, strict=True))
    assert size["core"] == size["largest"] == size["bottom"] == 2 * len(UNITS)
    assert [size[f"monolingual {c}"] for c in LANGUAGES] == [2, 2, 2]
    assert (change(result, "largest") > 0.2).all()
    np.testing.assert_allclose(change(result, "core (random 0)"), 0, atol=1e-6)


def test_a_record_holds_it(context: Context, tmp_path: Path) -> None:
    model = tiny_model("llama", context.text.vocabulary)
    result = Remove(controls=1).run(subject_of(context, model))
    assert isinstance(result, RemoveResult)
    shared = {
        "document": np.arange(len(context.text.documents)),
        "language": np.array(LANGUAGES, dtype=object),
    }
    path = tmp_path / "record.h5"
    store.write_record(path, {"remove": store.variables(result)}, shared, {"step": 0}, "")
    read = store.read_record(path)
    np.testing.assert_allclose(read["remove/nll"], result.nll, rtol=1e-6)
    assert read["remove/arm"].tolist() == result.arm.tolist()
    assert read["remove/top_fraction"] == pytest.approx(0.01)


def test_the_yaml_is_the_class(context: Context) -> None:
    with initialize_config_module("conf", version_base="1.3"):
        assert find_interventions(compose("config", ["intervention=remove"])) == {
            "remove": Remove()
        }


@pytest.mark.parametrize("fraction", [0, 0.6, "much", float("nan")])
def test_a_fraction_that_leaves_no_room_is_refused(fraction: Any) -> None:
    with pytest.raises(UserError, match=r"^interventions\.remove\.top_fraction=.*: choose .*at mo"):
        Remove(top_fraction=fraction)


def test_settings_are_checked(context: Context) -> None:
    for controls in (0, 1.5):
        with pytest.raises(UserError, match=r"^interventions\.remove\.controls="):
            Remove(controls=controls)  # type: ignore[arg-type]
    model = tiny_model("llama", context.text.vocabulary)
    subject = subject_of(context, model, probes={"r": Regions(top_fraction=0.7)})
    with pytest.raises(UserError, match=r"^interventions\.remove\.top_fraction=0.7: choose at mos"):
        Remove().run(subject)

"""Records as tables: values by hand, intervals by brute force, axes, outcomes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from planted_runs import X, fall, write_run
from scipy.special import logit
from test_sweep import measurement

from analysis import load_run
from analysis.measured import Weights
from analysis.measures import middle_layers
from analysis.run import CURVE_COLUMNS, STAGE_COLUMNS, Run
from analysis.transfer import READINGS
from checkpoints.errors import UserError
from tracker import store
from tracker.probes.importance import Importance
from tracker.probes.lape import Lape
from tracker.probes.performance import Performance
from tracker.probes.regions import Regions
from tracker.probes.subspaces import LanguageSubspaces
from tracker.probes.transferring import Transferring
from tracker.probes.vocabulary_mass import VocabularyMass
from tracker.probes.working_language import WorkingLanguage
from tracker.sweep import track

PROBES: dict[str, Any] = {
    "performance": Performance(),
    "working_language": WorkingLanguage(),
    "vocabulary_mass": VocabularyMass(),
    "lape": Lape(top_fraction=0.1),
    "transferring": Transferring(least_mass=0.0),
    "importance": Importance(),
    "subspaces": LanguageSubspaces(),
}


@pytest.fixture(scope="module")
def folder(series_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    track(measurement(series_folder, probes=PROBES), place / "records")
    return place


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return load_run(folder, replicates=400, seed=1)


def rows(table: pd.DataFrame, measure: str, language: str) -> pd.DataFrame:
    return table[(table["measure"] == measure) & (table["language"] == language)]


def test_curves_are_the_records_means(run: Run) -> None:
    table = run.curves()
    assert list(table.columns) == list(CURVE_COLUMNS)
    middle = middle_layers(4)
    assert middle.tolist() == [1, 2]  # 1/3 and 2/3 of three layers
    for c, language in enumerate(run.languages):
        loss = rows(table, "loss", language)
        share = rows(table, "working_language_share", language)
        for i, record in enumerate(run.records):
            mine = record["performance/document_language"] == language
            nll = record["performance/nll"][mine].sum()
            tokens = record["performance/token_count"][mine].sum()
            size = record["performance/byte_count"][mine].sum()
            assert loss["value"].iloc[i] == pytest.approx(nll / tokens, rel=1e-6)
            bits = rows(table, "bits_per_byte", language)["value"].iloc[i]
            assert bits == pytest.approx(nll / np.log(2) / size, rel=1e-6)
            if language != run.primary:
                stored = record["working_language/share"][c, middle].mean()
                assert share["value"].iloc[i] == pytest.approx(stored, rel=1e-4)
                mass = record["neurons/mass_share"][c]
                nn = rows(table, "neuron_mass_share", language)["value"].iloc[i]
                assert nn == pytest.approx(mass, rel=1e-5, nan_ok=True)
            count = rows(table, "lape", language)["value"].iloc[i]
            assert count == record["neurons/specific"][c].sum()
    assert rows(table, "working_language_share", run.primary).empty
    assert (share["chance"] == 0.5).all()
    assert share["ceiling"].notna().all()
    specificity = rows(table, "specificity", "yy")
    assert (specificity["chance"] == 1 / 8).all()


def test_intervals_are_those_of_resampled_documents(run: Run) -> None:
    """Redraw documents in a loop with the very weights and recompute the ratio of sums."""
    record, language = run.records[2], "yy"
    weights = run.weights
    mine = record["performance/document_language"] == language
    assert (weights.document[:, mine].sum(1) == mine.sum()).all()
    nll = record["performance/nll"][mine].astype(float)
    tokens = record["performance/token_count"][mine].astype(float)
    redrawn = [(w @ nll) / (w @ tokens) for w in weights.document[:, mine].astype(float)]
    low, high = np.quantile(redrawn, [0.025, 0.975])
    row = rows(run.curves(), "loss", language).iloc[2]
    assert row["low"] == pytest.approx(low, rel=1e-5)
    assert row["high"] == pytest.approx(high, rel=1e-5)
    assert row["low"] < row["value"] < row["high"]


def test_working_language_replicates_by_brute_force(run: Run) -> None:
    record, c = run.records[3], 1
    p, o, n = (
        record[f"working_language/{name}"].astype(float)
        for name in ("primary_sum", "own_sum", "position_count")
    )
    mine = record["performance/document_language"] == "yy"
    curve = run.curve("working_language_share", "yy")
    for b in (0, 7, 99):
        w = run.weights.document[b].astype(float) * mine
        counts = w @ n
        present = counts > 0
        big_p = (np.einsum("d,dkl->kl", w, p)[present] / counts[present, None]).mean(0)
        big_o = (np.einsum("d,dkl->kl", w, o)[present] / counts[present, None]).mean(0)
        share = (big_p / (big_p + big_o))[middle_layers(4)].mean()
        assert curve.replicates[b, 3] == pytest.approx(share, rel=1e-4)
    assert run.languages[c] == "yy"


def test_axis_prefers_tokens_of_the_language_then_tokens_then_steps(
    run: Run, folder: Path, series_folder: Path, tmp_path: Path
) -> None:
    assert run.axis("yy")[1] == "tokens of yy seen"
    assert run.axis("yy")[0].tolist() == [0, 200, 400, 800, 1600]
    copy = Path(shutil.copytree(series_folder, tmp_path / "series"))
    for sidecar in copy.glob("*/tracker.json"):
        sidecar.write_text(json.dumps({"tokens": int(sidecar.parent.name[5:]) * 7}))
    track(measurement(copy), tmp_path / "tokens" / "records")
    assert load_run(tmp_path / "tokens", 20).axis("yy")[1] == "tokens seen"
    for sidecar in copy.glob("*/tracker.json"):
        sidecar.unlink()
    track(measurement(copy), tmp_path / "steps" / "records")
    x, unit = load_run(tmp_path / "steps", 20).axis("yy")
    assert (x.tolist(), unit) == ([0, 1, 2, 4, 8], "steps")


def test_formed_follows_the_unigram_entropies(run: Run) -> None:
    loss = np.stack([run.curve("loss", c).value for c in run.languages])
    entropy = run.records[0]["performance/unigram_entropy"]
    above = loss > entropy[:, None]
    np.testing.assert_array_equal(run.formed, ~(above & above[0]))


def test_sets_count_births_and_deaths(run: Run) -> None:
    table = run.sets()
    for name, variable in (("lape", "specific"), ("own", "own")):
        for layer in (1, 2, 3):
            mine = table[
                (table["set"] == name) & (table["language"] == "zz") & (table["layer"] == layer)
            ]
            masks = [r[f"neurons/{variable}"][2, layer - 1] for r in run.records]
            assert mine["count"].tolist() == [m.sum() for m in masks]
            births = [(b & ~a).sum() for a, b in pairwise(masks)]
            deaths = [(a & ~b).sum() for a, b in pairwise(masks)]
            assert mine["births"].iloc[1:].tolist() == births
            assert mine["deaths"].iloc[1:].tolist() == deaths
            assert np.isnan(mine["births"].iloc[0])


def test_lineage_is_that_of_the_records_sets(run: Run) -> None:
    table = run.lineage()
    assert run.primary not in set(table[table["set"] == "own"]["language"])
    assert run.primary in set(table[table["set"] == "lape"]["language"])
    mine = table[(table["set"] == "bilingual") & (table["language"] == "yy")]
    assert mine["step"].tolist() == [1, 2, 4, 8]
    masks = [r["neurons/bilingual"][1] for r in run.records]
    assert mine["survivors"].tolist() == [int((a & b).sum()) for a, b in pairwise(masks)]


def test_layers_hold_the_share_of_every_layer(run: Run) -> None:
    table = run.layers()
    mine = table[(table["language"] == "zz") & (table["step"] == 4)]
    assert mine["hidden_layer"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(mine["depth"], [0, 1 / 3, 2 / 3, 1])
    record = next(r for r in run.records if r.step == 4)
    np.testing.assert_allclose(mine["share"], record["working_language/share"][2], rtol=1e-6)


def test_random_models_do_not_split(run: Run) -> None:
    table = run.stages()
    assert set(table["outcome"]) == {"no_split", "no_transition", "no_lag"}
    assert (table["reason"] != "").all()
    assert len(run.sentences()) == 2
    assert all("no split found (" in s for s in run.sentences())
    assert run.fit_curves().empty


def test_without_concepts_vocabulary_mass_is_fitted(series_folder: Path, tmp_path: Path) -> None:
    probes = {k: PROBES[k] for k in ("performance", "vocabulary_mass", "working_language")}
    m = measurement(series_folder, probes=probes, concept_table=())
    track(m, tmp_path / "records")
    loaded = load_run(tmp_path, 20)
    assert loaded.fitted_measures("yy") == ["vocabulary_mass"]
    assert {measure for measure, _ in loaded.fits} == {"vocabulary_mass", "accuracy"}
    value = loaded.curve("vocabulary_mass", "yy").value
    sums = loaded.records[0]["working_language/mass_corrected_sum"]
    mine = sums[loaded.records[0]["performance/document_language"] == "yy"]
    total = mine[:, middle_layers(4)].mean(1).sum(0)
    assert value[0] == pytest.approx(total[0] / (total[0] + total[1]), rel=1e-5)


def test_a_model_of_one_layer_has_no_middle_and_says_so(tmp_path: Path, tokenizer: Any) -> None:
    from conftest import tiny_model

    for step in (0, 1):
        model = tiny_model("gpt_neox", len(tokenizer), seed=step)
        model.gpt_neox.layers = model.gpt_neox.layers[:1]
        model.config.num_hidden_layers = 1
        model.save_pretrained(tmp_path / "series" / f"step-{step}")
        tokenizer.save_pretrained(tmp_path / "series" / f"step-{step}")
    track(measurement(tmp_path / "series", probes=PROBES), tmp_path / "records")
    loaded = load_run(tmp_path, 20)
    assert np.isnan(loaded.curve("working_language_share", "yy").value).all()
    assert "working_language_share" not in set(loaded.curves()["measure"])
    assert all("no split found" in s for s in loaded.sentences())


def test_weights_are_the_same_for_the_same_seed(run: Run) -> None:
    again = Weights.draw(run.records[0], 400, 1)
    np.testing.assert_array_equal(again.document, run.weights.document)
    other = Weights.draw(run.records[0], 400, 2)
    assert not np.array_equal(other.document, run.weights.document)


def test_missing_steps_are_listed_with_reasons(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    (copy / "records" / store.record_name(2)).unlink()
    store.note_skip(copy / "records", 2, "truncated")
    plan = (
        '{"steps": [0, 1, 2, 4, 8, 16], "pending": {"32": "still being written: no config.json"}}'
    )
    store.write_text(copy / "run.json", plan)
    assert load_run(copy, 20).missing() == {
        2: "truncated",
        16: "not measured yet",
        32: "still being written: no config.json",
    }


def test_records_of_suspects_are_left_out(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    store.write_text(copy / "run.json", '{"suspects": {"2": "steps 2, 8: identical weights"}}')
    assert list(load_run(copy, 20).steps) == [0, 1, 4, 8]
    store.write_text(copy / "run.json", '{"suspects": {}}')
    assert list(load_run(copy, 20).steps) == [0, 1, 2, 4, 8]
    store.write_text(copy / "run.json", "{")
    with pytest.raises(UserError, match=r"run\.json: it is damaged; remove it"):
        load_run(copy, 20)


def test_a_folder_without_records_or_of_two_runs_is_refused(
    folder: Path, series_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no records in it"):
        load_run(tmp_path)
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    other = measurement(series_folder, probes=PROBES, seed=9)
    track(other, tmp_path / "other" / "records")
    name = store.record_name(4)
    shutil.copyfile(tmp_path / "other" / "records" / name, copy / "records" / name)
    with pytest.raises(UserError, match="2 different configurations"):
        load_run(copy)


def test_angles_between_checkpoints(run: Run) -> None:
    table = run.angles()
    steps = [r.step for r in run.records]
    assert sorted(set(zip(table.step_before, table.step, strict=True))) == list(pairwise(steps))
    one, two = run.records[:2]
    layer = 1
    cosines = np.linalg.svd(
        one["subspaces/specific_basis"][layer].T @ two["subspaces/specific_basis"][layer]
    ).S
    row = table[(table.step == steps[1]) & (table.hidden_layer == layer)].iloc[0]
    assert row.overlap == pytest.approx(np.mean(cosines**2), rel=1e-4)
    assert np.cos(row.largest_angle) == pytest.approx(cosines.min(), abs=1e-4)


def test_permuted_labels_are_a_control_of_the_vocabulary_mass(run: Run) -> None:
    table = run.curves()
    record = run.records[2]
    mass = record["working_language/mass_permuted"][:, middle_layers(4)].mean(1).astype(float)
    for c, language in ((1, "yy"), (2, "zz")):
        mine = rows(table, "vocabulary_mass_permuted", language)
        expected = mass[c, 0] / (mass[c, 0] + mass[c, c])
        assert mine["value"].iloc[2] == pytest.approx(expected, rel=1e-5)
        assert (mine["chance"] == 0.5).all()
    assert rows(table, "vocabulary_mass_permuted", run.primary).empty


# What a notebook asks ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("planted")
    return load_run(write_run(place, fall(1.3), 0.9 - fall(1.0, 0.7, 0.0)), replicates=200)


def test_a_planted_run_has_its_split_and_its_rise(planted: Run) -> None:
    table = planted.stages().set_index(["measure", "statistic"])
    truth = 10**4.3 - 1e3
    share = table.loc[("working_language_share", "midpoint")]
    assert (share["outcome"], share["unit"]) == ("split", "tokens of aa seen")
    assert share["low"] <= truth <= share["high"]
    accuracy = table.loc[("accuracy", "midpoint")]
    assert accuracy["outcome"] == "transition"
    assert accuracy["low"] <= 10**4.0 - 1e3 <= accuracy["high"]
    names = {s for m, s in table.index if m == "accuracy"}
    assert {"onset", "midpoint", "plateau"} <= names
    assert planted.sentences() == [planted.fits["working_language_share", "aa"][1].sentence()]


def test_the_lag_is_that_of_the_planted_midpoints(planted: Run) -> None:
    table = planted.lags()
    assert list(table.columns) == list(STAGE_COLUMNS)
    assert table["statistic"].tolist() == ["lag_begin", "lag_midpoint", "lag_end"]
    assert set(table["unit"]) == {"octaves"}
    middle = table.set_index("statistic").loc["lag_midpoint"]
    assert (middle["measure"], middle["reference"]) == ("accuracy", "working_language_share")
    truth = np.log2((10**4.0 - 1e3) / (10**4.3 - 1e3))
    assert middle["low"] <= truth <= middle["high"] < 0
    pd.testing.assert_frame_equal(
        planted.stages()[planted.stages()["reference"] != ""].reset_index(drop=True), table
    )


def test_tables_are_tidy_and_complete(planted: Run) -> None:
    stages = planted.stages()
    assert list(stages.columns) == list(STAGE_COLUMNS)
    key = ["measure", "reference", "language", "statistic"]
    assert not stages.duplicated(key).any()
    for measure, fit in ((m, f) for (m, _), (f, _) in planted.fits.items()):
        said = stages[(stages["measure"] == measure) & (stages["reference"] == "")]
        by_name = said.set_index("statistic")["value"]
        assert by_name["p_value"] == fit.p_value < 0.05
        assert {f"aicc_{model}" for model in fit.aicc} <= set(by_name.index)
        assert by_name["checkpoints_fitted"] == len(X)
        assert {"start_level", "end_level", "width", "transition_width"} <= set(by_name.index)
        assert (said["unit"][said["statistic"].isin(["midpoint"])] == "tokens of aa seen").all()
    curves = planted.curves()
    assert not curves.duplicated(["measure", "language", "step"]).any()
    assert (curves["unit"] != "").all()
    share = rows(curves, "working_language_share", "aa")["value"]
    assert np.abs(logit(share) - logit(fall(1.3))).max() < 1


def test_a_notebook_shows_runs_and_tables(planted: Run) -> None:
    shown = planted._repr_html_()
    assert "<table" in shown
    assert "py, aa" in shown
    assert "15 (steps 0 to 14)" in shown
    for table in (planted.curves(), planted.stages(), planted.lags()):
        assert isinstance(table, pd.DataFrame)
        assert "<table" in table._repr_html_()


def test_the_transfer_matrix_is_read_from_what_is_loaded(
    series_folder: Path, tmp_path: Path
) -> None:
    """Nothing that a reading needs may be left on disk as too heavy."""
    probes = {**PROBES, "regions": Regions()}
    last = measurement(series_folder, probes=probes)
    track(replace(last, series=last.series.take([8])), tmp_path / "records")
    table = load_run(tmp_path, 20).transfer()
    assert set(table["reading"]) == set(READINGS)
    assert set(table["step"]) == {8}
    assert len(table) == len(READINGS) * 6
    with h5py.File(tmp_path / "records" / store.record_name(8)) as file:
        cosine = file["regions/gradient_cosine"][()]
        important = file["neurons/important"][()]
    found = table.set_index(["reading", "donor", "target"])["value"]
    assert found["gradient_cosine", "xx", "zz"] == pytest.approx(cosine[2, 0])
    both = (important[0] & important[2]).sum() / important[2].sum()
    assert found["importance_overlap", "xx", "zz"] == pytest.approx(both)

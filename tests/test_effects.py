"""What interventions did: tables from synthetic records, and the figures drawn from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from figure_tools import check_texts
from scipy.stats import t as student

from analysis.captions import INTERVENTION_CAPTIONS, caption
from analysis.curves import bootstrap_weights
from analysis.effects import labels, load_interventions, sentences
from analysis.figures.interventions import draw
from tracker import store
from tracker.store import Variable

LANGUAGES = ("xx", "yy")
ARMS = [
    ("none", "", -1), ("specific", "xx", -1), ("specific", "xx", 0), ("specific", "xx", 1),
    ("specific", "yy", -1), ("specific", "yy", 0), ("specific", "yy", 1),
]  # fmt: skip


def write(
    folder: Path,
    name: str,
    step: int,
    nll: np.ndarray,
    tokens: np.ndarray,
    label: np.ndarray,
    arms: list[tuple[str, str, int]] = ARMS,
    digest: str = "abcd1234",
    **more: Variable,
) -> None:
    names = [" ".join(map(str, a)) for a in arms]
    group = {
        "arm": Variable(("arm",), np.array(names, dtype=object)),
        "arm_edit": Variable(("arm",), np.array([a[0] for a in arms], dtype=object)),
        "arm_target": Variable(("arm",), np.array([a[1] for a in arms], dtype=object)),
        "arm_control": Variable(("arm",), np.array([a[2] for a in arms])),
        "arm_number": Variable(("arm",), np.zeros(len(arms), int)),
        "arm_size": Variable(("arm",), np.full(len(arms), 5.0)),
        "nll": Variable(("arm", "document"), nll),
        "token_count": Variable(("document",), tokens),
        "document_language": Variable(("document",), label.astype(object)),
        **more,
    }
    store.write_record(
        folder / store.INTERVENTIONS / f"{name}-{digest}" / store.record_name(step),
        {name: group},
        {
            "document": np.array([f"d{i}" for i in range(len(tokens))], dtype=object),
            "language": np.array(LANGUAGES, dtype=object),
            "fold": np.arange(8),
        },
        {"step": step, "tokens": 1000 * step, "intervention": "Specific()"},
        "",
    )


@pytest.fixture
def losses() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 40, 24)
    label = np.array(["xx"] * 12 + ["yy"] * 12)
    nll = rng.normal(2, 0.1, (len(ARMS), 24)) * tokens
    nll[1, :12] += 0.8 * tokens[:12]  # without its units xx loses .8 nats a token ...
    nll[4, 12:] += 0.5 * tokens[12:]  # ... and yy .5
    return {"nll": nll, "tokens": tokens, "label": label}


def only(table: pd.DataFrame, **where: Any) -> pd.Series:
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1, where
    return table.iloc[0]


def test_changes_are_differences_of_mean_losses(
    tmp_path: Path, losses: dict[str, np.ndarray]
) -> None:
    write(tmp_path, "specific", 8, **losses)
    (found,) = load_interventions(tmp_path, replicates=400, seed=3)
    nll = losses["nll"].astype(np.float32)
    tokens = losses["tokens"]
    for c, language in enumerate(LANGUAGES):
        mine = losses["label"] == language
        mean = [float(row[mine].sum() / tokens[mine].sum()) for row in nll]
        where = {"target": "xx", "language": language}
        assert only(found.table, statistic="before", **where).value == pytest.approx(mean[0])
        change = only(found.table, statistic="change", **where)
        assert change.value == pytest.approx(mean[1] - mean[0], abs=1e-6)
        control = only(found.table, statistic="control", **where)
        each = [mean[2] - mean[0], mean[3] - mean[0]]
        assert control.value == pytest.approx(np.mean(each), abs=1e-6)
        assert (control.low, control.high) == pytest.approx((min(each), max(each)), abs=1e-6)
        excess = only(found.table, statistic="excess", **where)
        assert excess.value == pytest.approx(mean[1] - (mean[2] + mean[3]) / 2, abs=1e-6)
        # The interval, by drawing documents one replicate at a time.
        drawn = []
        for weight in bootstrap_weights(int(mine.sum()), 400, 3 + 2 * c):
            times = np.repeat(np.flatnonzero(mine), weight)
            per = nll[:, times].sum(1) / tokens[times].sum()
            drawn.append(per[1] - (per[2] + per[3]) / 2)
        assert (excess.low, excess.high) == pytest.approx(
            tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-5
        )
    planted = only(found.table, statistic="excess", target="xx", language="xx")
    assert planted.value == pytest.approx(0.8, abs=0.1)
    assert planted.low > 0.5
    assert "specific of xx: +0." in sentences(found.table)[0]
    assert len(sentences(found.table)) == 2  # each on its own language


def test_what_was_not_read_is_left_out(tmp_path: Path, losses: dict[str, np.ndarray]) -> None:
    losses["nll"][1:4, 12:] = np.nan
    write(tmp_path, "specific", 8, **losses)
    (found,) = load_interventions(tmp_path, replicates=50)
    assert set(found.table[found.table.target == "xx"].language) == {"xx"}
    assert np.isfinite(found.table.value).all()


def test_evidence_intervals_are_a_jackknife_over_folds(
    tmp_path: Path, losses: dict[str, np.ndarray]
) -> None:
    rng = np.random.default_rng(1)
    value = rng.normal(size=(len(ARMS), 2, 2, 2))
    without = value[..., None] + 0.1 * rng.normal(size=(*value.shape, 8))
    dims = ("arm", "language", "written_language", "lens_place")
    more = {
        "written_language": Variable(
            ("written_language",), np.array(["primary", "own"], dtype=object)
        ),
        "lens_place": Variable(("lens_place",), np.array(["middle", "output"], dtype=object)),
        "evidence": Variable(dims, value),
        "evidence_without": Variable((*dims, "fold"), without),
    }
    write(tmp_path, "specific", 8, **losses, **more)
    (found,) = load_interventions(tmp_path, replicates=50)
    excess = only(
        found.table, statistic="evidence_excess", target="yy", written="own", place="output"
    )
    here = np.concatenate([value[..., None], without], -1)[:, 1, 1, 1].astype(np.float32)
    contrast = here[4] - (here[5] + here[6]) / 2
    assert excess.value == pytest.approx(contrast[0], abs=1e-6)
    pseudo = 8 * contrast[0] - 7 * contrast[1:]  # Tukey's pseudo-values
    half = student.ppf(0.975, 7) * pseudo.std(ddof=1) / np.sqrt(8)
    assert excess.high - excess.value == pytest.approx(half, rel=1e-4)


def test_ratios_and_where_they_say_nothing(tmp_path: Path) -> None:
    arms = [
        ("none", "", -1), ("language", "xx", -1), ("shared", "xx", -1), ("shared", "xx", 0),
        ("language", "yy", -1), ("shared", "yy", -1), ("shared", "yy", 0),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    tokens = np.full(20, 10)
    label = np.array(["xx"] * 10 + ["yy"] * 10)
    nll = np.tile(rng.normal(20, 2, 20), (7, 1)) + rng.normal(0, 0.01, (7, 20))
    nll[1, :10] += 10
    nll[2, :10] += 4
    nll[3, :10] += 1
    more = {"arm_importance": Variable(("arm",), np.zeros(7))}
    write(tmp_path, "ablate", 8, nll, tokens, label, arms, **more)
    (found,) = load_interventions(tmp_path, replicates=200)
    ratio = only(found.table, statistic="ratio", target="xx")
    assert ratio.value == pytest.approx(0.4, abs=0.01)
    assert ratio.low < 0.4 < ratio.high
    assert only(found.table, statistic="ratio_control", target="xx").value == pytest.approx(
        0.1, abs=0.01
    )
    nothing = only(found.table, statistic="ratio", target="yy")
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def test_settings_of_one_intervention_are_told_apart(
    tmp_path: Path, losses: dict[str, np.ndarray]
) -> None:
    write(tmp_path, "specific", 8, **losses, digest="aaaa0000")
    assert labels(load_interventions(tmp_path)) == ["specific"]
    write(tmp_path, "specific", 8, **losses, digest="bbbb0000")
    assert labels(load_interventions(tmp_path)) == ["specific-aaaa0000", "specific-bbbb0000"]
    assert load_interventions(tmp_path / "nothing") == []


def table(steps: list[int], languages: list[str], kind: str) -> pd.DataFrame:
    """A table as the analysis makes them, of random numbers."""
    rng = np.random.default_rng(0)
    rows = []
    readings: list[tuple[Any, Any]] = [(np.nan, np.nan)]
    edits, statistics = ["specific"], ["change", "control", "excess"]
    if kind == "evidence":
        readings = [(w, p) for w in ("primary", "own") for p in ("middle", "output")]
        edits = ["transferring", "bilingual", "own"]
        statistics = [f"evidence_{s}" for s in statistics]
    if kind == "ratio":
        edits, statistics = ["shared", "shared_matched", "unshared_matched"], ["ratio"]
    for step in steps:
        for edit in edits:
            for target in languages:
                for language in languages if kind == "matrix" else [target]:
                    for written, place in readings:
                        for statistic in statistics:
                            v = rng.normal()
                            rows.append(
                                {
                                    "step": step,
                                    "tokens": step * 1e4,
                                    "edit": edit,
                                    "target": target,
                                    "number": 0,
                                    "size": 9.0,
                                    "language": language,
                                    "written": written,
                                    "place": place,
                                    "statistic": statistic,
                                    "value": v,
                                    "low": v - 0.3,
                                    "high": v + 0.3,
                                    "unit": "nats/token",
                                }
                            )
    return pd.DataFrame(rows)


@pytest.mark.parametrize("kind", ["matrix", "evidence", "ratio"])
@pytest.mark.parametrize("steps", [[8], [0, 8, 64, 512]])
@pytest.mark.parametrize("count", [2, 6])
def test_figures_can_be_read(kind: str, steps: list[int], count: int) -> None:
    languages = ["python", "php", "java", "go", "csharp", "javascript"][:count]
    figures = dict(draw("deactivate", table(steps, languages, kind)))
    endings = {
        "matrix": {"_specific_matrix", "_loss"},
        "evidence": {"_evidence"},
        "ratio": {"_ratio"},
    }[kind]
    if len(steps) > 1 and kind != "ratio":
        endings |= {"_loss_evolution" if kind == "matrix" else "_evidence_evolution"}
    assert set(figures) == {f"deactivate{ending}" for ending in endings}
    for name, make in figures.items():
        check_texts({name: make()})
        assert caption(name).reading


def test_matrix_cells_are_the_table(tmp_path: Path) -> None:
    content = table([8], ["python", "php"], "matrix")
    figure = dict(draw("d", content))["d_specific_matrix"]()
    shown = figure.axes[0].images[0].get_array()
    for i, target in enumerate(["python", "php"]):
        for j, language in enumerate(["python", "php"]):
            cell = only(content, statistic="change", target=target, language=language)
            assert shown[i, j] == pytest.approx(cell.value)


def test_captions_of_interventions() -> None:
    for ending, each in INTERVENTION_CAPTIONS.items():
        found = caption(f"deactivate{ending}")
        assert found.title == f"Deactivate: {each.title}"
        assert found.reading == each.reading
        assert each.limits
    assert caption("something_new").title == "something new"


def test_nothing_to_draw_draws_nothing() -> None:
    assert list(draw("x", pd.DataFrame())) == []


def strings(*values: str) -> np.ndarray:
    return np.array(values, dtype=object)


def save(
    folder: Path, name: str, variables: dict[str, Variable], coordinates: dict[str, Any]
) -> None:
    store.write_record(
        folder / store.INTERVENTIONS / f"{name}-abcd1234" / store.record_name(8),
        {name: variables},
        {"decoded_language": strings(*LANGUAGES), "language": strings(*LANGUAGES)} | coordinates,
        {"step": 8, "tokens": 8000, "intervention": "It()"},
        "",
    )


def test_steering_is_read_off_the_distinctive_tokens(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count = rng.integers(0, 6, (5, 10, 2))
    arms = [("xx", "", -1), ("xx", "yy", -1), ("xx", "yy", 0), ("xx", "yy", 1), ("yy", "", -1)]
    variables = {
        "arm": Variable(("arm",), strings(*map(str, arms))),
        "arm_source": Variable(("arm",), strings(*(a[0] for a in arms))),
        "arm_target": Variable(("arm",), strings(*(a[1] for a in arms))),
        "arm_control": Variable(("arm",), np.array([a[2] for a in arms])),
        "arm_size": Variable(("arm",), np.full(5, 7.0)),
        "distinctive_count": Variable(("arm", "prompt", "decoded_language"), count),
    }
    save(tmp_path, "steer", variables, {"prompt": np.arange(10)})
    (found,) = load_interventions(tmp_path, replicates=300, seed=5)
    shares = count.sum(1) / count.sum((1, 2))[:, None]
    where = {"edit": "xx to yy", "language": "yy"}
    assert only(found.table, statistic="share_before", **where).value == shares[0, 1]
    steered = only(found.table, statistic="share_steered", **where)
    assert steered.value == shares[1, 1]
    drawn = []
    for weight in bootstrap_weights(10, 300, 5):
        times = np.repeat(count[1], weight, axis=0)
        drawn.append(times[:, 1].sum() / times.sum())
    assert (steered.low, steered.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    control = only(found.table, statistic="share_control", **where)
    assert (control.low, control.high) == (shares[2:4, 1].min(), shares[2:4, 1].max())
    assert sentences(found.table)[0].startswith("step 8, xx to yy: ")
    ((name, make),) = draw("steer", found.table)
    assert name == "steer_written"
    check_texts({name: make()})


def test_forgetting_is_compared_at_equal_gain(tmp_path: Path) -> None:
    steps, tokens = np.array([0, 1, 2, 4]), np.full(4, 10)
    label = strings("xx", "xx", "yy", "yy")
    # Gain on yy and forgetting of xx per step; the frozen arm learns at half the speed.
    gain = {"free": [0, 1, 2, 3], "core": [0, 0.5, 1, 1.5], "random": [0, 1, 2, 3]}
    lost = {"free": [0, 0.4, 0.8, 1.2], "core": [0, 0.1, 0.2, 0.3], "random": [0, 0.4, 0.8, 1.2]}
    nll = np.full((3, 2, 4, 4), 50.0)
    for a, arm in enumerate(gain):
        for seed in range(2):
            nll[a, seed, :, 2:] -= 10 * np.array(gain[arm])[:, None]
            nll[a, seed, :, :2] += 10 * (np.array(lost[arm]) * (1 + seed))[:, None]
    variables = {
        "freeze_arm": Variable(("freeze_arm",), strings(*gain)),
        "seed": Variable(("seed",), np.arange(2)),
        "training_step": Variable(("training_step",), steps),
        "nll": Variable(("freeze_arm", "seed", "training_step", "document"), nll),
        "token_count": Variable(("document",), tokens),
        "document_language": Variable(("document",), label),
        "new_language": Variable((), np.array("yy", dtype=object)),
        "matrix": Variable(("matrix",), strings("w")),
        "frozen_count": Variable(("freeze_arm", "matrix"), np.array([[0.0], [5.0], [5.0]])),
    }
    documents = {"document": strings("a", "b", "c", "d")}
    save(tmp_path, "freeze", variables, documents)
    (found,) = load_interventions(tmp_path)
    # All arms have gained 1.5: free training has then lost .6, the frozen one .3 (seed 0; twice
    # as much in seed 1).
    core = only(found.table, statistic="forgetting", edit="core", language="xx")
    assert core.value == pytest.approx((0.3 + 0.6) / 2)
    excess = only(found.table, statistic="forgetting_excess", edit="core", language="xx")
    assert excess.value == pytest.approx((-0.3 - 0.6) / 2)
    half = student.ppf(0.975, 1) * np.std([-0.3, -0.6], ddof=1) / np.sqrt(2)
    assert excess.high - excess.value == pytest.approx(half, rel=1e-5)
    random = only(found.table, statistic="forgetting_excess", edit="random", language="xx")
    assert random.value == pytest.approx(0)
    assert "core frozen: -0.45" in sentences(found.table)[0]
    ((name, make),) = draw("freeze", found.table, None, found.paths)
    assert name == "freeze_forgetting"
    check_texts({name: make()})


def test_many_numbered_changes_are_a_matrix_and_no_dots() -> None:
    content = pd.concat(
        table([8, 64], ["python", "php", "java"], "matrix")
        .query("target == 'php'")
        .assign(target="", number=n, edit="top")
        for n in range(1, 9)
    )
    figures = dict(draw("perturb", content))
    assert set(figures) == {"perturb_top_matrix"}
    figure = figures["perturb_top_matrix"]()
    check_texts({"matrix": figure})
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        f"#{n}" for n in range(1, 9)
    ]

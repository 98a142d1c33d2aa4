"""The loop over checkpoints: what is written where, what is kept, skipped and refused."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from conftest import concept_rows, tiny_model
from conftest import documents as parallel_rows
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from subjects import fingerprint

import conf
from checkpoints.errors import UserError
from checkpoints.local import local_series
from tracker import store
from tracker.cli import main
from tracker.config import find_interventions
from tracker.documents import Document, Span
from tracker.intervene import Plan, choose_steps, intervene, record_path
from tracker.interventions import FOLDS, Subject
from tracker.interventions.ablate_shared import AblateShared
from tracker.interventions.deactivate import Deactivate
from tracker.interventions.steer import Steer
from tracker.loading import ModelSettings
from tracker.probes.lape import Lape
from tracker.probes.performance import Performance
from tracker.store import array
from tracker.sweep import Measurement, series_tokenizer
from tracker.text import TextSettings

KNOWN = sorted(p.stem for p in (Path(conf.__file__).parent / "intervention").glob("*.yaml"))


@dataclass(frozen=True)
class Seen:
    """What the fake intervention below found."""

    value: np.ndarray[Any, Any] = array("language", doc="its setting")


@dataclass(frozen=True)
class Fake:
    """Writes down what it was given."""

    value: float = 1.0
    needs_concepts: bool = False
    needs_corpus: bool = False

    def run(self, subject: Subject) -> Seen:
        SUBJECTS.append(subject)
        subject.progress("looking")
        return Seen(np.full(len(subject.context.text.languages), self.value))


SUBJECTS: list[Subject] = []


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    SUBJECTS.clear()


@pytest.fixture
def series(series_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(series_folder, tmp_path / "series"))


def measurement(folder: Path, **changes: Any) -> Measurement:
    found = local_series(folder)
    tokenizer, digest = series_tokenizer(found, None)
    documents = [
        Document(r["id"], r["language"], r["text"]) for r in parallel_rows(per_language=16)
    ]
    documents.append(Document("g", "xx", "dax a wug b", (Span(6, 9, "fact"),), True))
    m = Measurement(
        series=found,
        tokenizer=tokenizer,
        tokenizer_digest=digest,
        documents=documents,
        concept_table=concept_rows(),
        languages=("xx", "yy", "zz"),
        primary="xx",
        # Fewer folds than halves need: a large model's records have two.
        text_settings=TextSettings(600, folds=2),
        probes={"performance": Performance(), "lape": Lape(top_fraction=0.1)},
        model_settings=ModelSettings(),
        seed=0,
        config="seed: 0\n",
    )
    return replace(m, **changes)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_records_are_where_they_belong_and_say_what_was_done(series: Path, tmp_path: Path) -> None:
    m, run = measurement(series), tmp_path / "run"
    told: list[tuple[int, int, str]] = []
    plan = Plan({"one": Fake(), "two": Fake(2.0)}, (2, 8))
    outcome = intervene(m, plan, run, lambda *what: told.append(what))
    assert (outcome.measured, outcome.kept, dict(outcome.skipped)) == ((2, 8), (), {})
    assert told == [
        (0, 4, "step 2, one: looking"), (1, 4, "step 2, two: looking"),
        (2, 4, "step 8, one: looking"), (3, 4, "step 8, two: looking"), (4, 4, "done"),
    ]  # fmt: skip
    assert {p.parts[0] for p in (p.relative_to(run) for p in run.rglob("*"))} == {"interventions"}
    for name, value in (("one", 1.0), ("two", 2.0)):
        for step in (2, 8):
            (place,) = (run / "interventions").glob(f"{name}-*/{store.record_name(step)}")
            record = store.read_record(place)
            assert record[f"{name}/value"].tolist() == [value] * 3
            assert record.attributes["intervention"] == repr(plan.interventions[name])
            digest = record.attributes["intervention_sha256"]
            assert place == record_path(run, name, digest, step)
            assert (record.step, record.tokens) == (step, step * 1000)
            assert record.attributes["weights_sha256"]
    # The subject: folds enough for halves, no document that is there for its graded answer only.
    (subject, *_) = SUBJECTS
    assert subject.context.text.folds == FOLDS
    assert {row.fold for row in subject.context.text.rows} == set(range(FOLDS))
    assert not any(d.graded_only for d in subject.context.text.documents)
    assert subject.probe(Lape) == Lape(top_fraction=0.1)
    assert subject.probe(AblateShared) == AblateShared()  # not among the run's: as it comes
    assert [s.step for s in SUBJECTS] == [2, 2, 8, 8]


def test_what_is_done_is_not_done_again_and_other_settings_go_beside_it(
    series: Path, tmp_path: Path
) -> None:
    m, run = measurement(series), tmp_path / "run"
    intervene(m, Plan({"one": Fake()}, (2,)), run)
    before = files(run)
    outcome = intervene(m, Plan({"one": Fake()}, (2, 4)), run)
    assert (outcome.measured, outcome.kept) == ((4,), (2,))
    now = files(run)
    assert before.items() <= now.items()
    assert len(now) == 2
    intervene(m, Plan({"one": Fake(3.0), "two": Fake()}, (2,)), run)
    intervene(replace(m, seed=1), Plan({"one": Fake()}, (2,)), run)
    assert files(run).items() >= now.items()
    folders = [p.name.rpartition("-")[0] for p in (run / "interventions").iterdir()]
    assert sorted(folders) == ["one", "one", "one", "two"]
    assert len(SUBJECTS) == 5
    # A record that is lost comes back as it was, and new weights in an old folder are noticed.
    lost = next(iter(before))
    (run / lost).unlink()
    assert intervene(m, Plan({"one": Fake()}, (2, 4)), run).measured == (2,)
    assert files(run)[lost] == before[lost]
    shutil.copyfile(
        series / "step-8" / "model.safetensors", series / "step-2" / "model.safetensors"
    )
    assert intervene(m, Plan({"one": Fake()}, (2, 4)), run).measured == (2,)


def test_a_damaged_checkpoint_is_skipped_and_the_others_go_on(
    series: Path, series_folder: Path, tmp_path: Path
) -> None:
    weights = series / "step-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    m, plan = measurement(series), Plan({"one": Fake()}, (1, 2, 4))
    outcome = intervene(m, plan, tmp_path / "run")
    assert outcome.measured == (1, 4)
    assert "truncated" in outcome.skipped[2]
    shutil.copyfile(series_folder / "step-2" / "model.safetensors", weights)
    outcome = intervene(m, plan, tmp_path / "run")
    assert (outcome.measured, outcome.kept) == ((2,), (1, 4))


def test_the_corpus_is_part_of_the_settings_of_what_trains_on_it(
    series: Path, tmp_path: Path
) -> None:
    m, run = measurement(series), tmp_path / "run"
    for corpus in ("a.jsonl", "b.jsonl"):
        plan = Plan({"free": Fake(), "bound": Fake(needs_corpus=True)}, (2,), {"xx": Path(corpus)})
        intervene(m, plan, run)
    folders = sorted(p.name.rpartition("-")[0] for p in (run / "interventions").iterdir())
    assert folders == ["bound", "bound", "free"]
    assert SUBJECTS[0].corpus == {"xx": Path("a.jsonl")}


def test_what_cannot_be_done_is_refused_before_anything_is_written(
    series: Path, tmp_path: Path
) -> None:
    m, run = measurement(series), tmp_path / "run"
    able = {"able": Fake()}
    bare = replace(m, concept_table=())
    for concepts in (Fake(needs_concepts=True), Deactivate(sets=("own",))):
        with pytest.raises(UserError, match=r"=it: it rests on a concept table.*text\.pairs"):
            intervene(bare, Plan(able | {"it": concepts}, (2,)), run)
    with pytest.raises(UserError, match=r"intervention=it: it trains.*mixture\.corpus=FILE"):
        intervene(m, Plan(able | {"it": Fake(needs_corpus=True)}, (2,)), run)
    assert not run.exists()
    assert intervene(bare, Plan(able | {"it": Deactivate(controls=1)}, (2,)), run).measured == (2,)


def test_which_steps(series: Path) -> None:
    found = local_series(series)
    assert choose_steps(found, None) == (8,)
    assert choose_steps(found, "all") == (0, 1, 2, 4, 8)
    assert choose_steps(found, [4, 0, 4]) == (0, 4)
    assert choose_steps(found, 4) == (4,)
    with pytest.raises(UserError, match=r"no step 7 \(the nearest is 8; it has 5 steps from 0 to"):
        choose_steps(found, [4, 7])
    for wrong in ("some", [], ["a"], 1.5, {"a": 1}):
        with pytest.raises(UserError, match=r"^steps=.*: choose all, or a list such as steps=\[0"):
            choose_steps(found, wrong)


UNITS = {
    "deactivate": Deactivate(controls=1),
    "ablate_shared": AblateShared(controls=1),
    "steer": Steer(prompts=2, prompt_tokens=4, new_tokens=3, controls=1),
}


def test_real_records_open_in_xarray_with_dimensions_and_descriptions(
    series: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    intervene(measurement(series), Plan(UNITS, (2,)), run)
    for name, intervention in UNITS.items():
        (place,) = (run / "interventions").glob(f"{name}-*/*.h5")
        with xarray.open_dataset(place, engine="h5netcdf", group=name) as found:
            assert found["arm"].values[0] in ("none", "xx")
            assert len(set(found["arm"].values.tolist())) == found.sizes["arm"]
            described = {n: v.attrs.get("long_name") for n, v in found.data_vars.items()}
            assert all(described[n] for n in described if n not in ("fold", "language")), described
            if name != "steer":
                assert found["nll"].dims == ("arm", "document")
            else:
                assert found["distinctive_count"].dims == ("arm", "prompt", "decoded_language")
        again = store.read_record(place)
        assert again.attributes["intervention"] == repr(intervention)
        assert again.config == "seed: 0\n"


def test_the_same_run_writes_the_same_bytes(series: Path, tmp_path: Path) -> None:
    for run in ("a", "b"):
        intervene(measurement(series), Plan(UNITS, (2,)), tmp_path / run)
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize("name", KNOWN)
def test_every_intervention_composes_and_its_settings_are_all_in_its_yaml(name: str) -> None:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", ["task=intervene", f"intervention={name}"])
    ((key, made),) = find_interventions(config).items()
    assert key == name.replace("-", "_")
    assert callable(made.run)
    settings = set(type(made).__dataclass_fields__) - {"needs_concepts", "needs_corpus"}
    given = OmegaConf.to_container(config.interventions[key])
    assert isinstance(given, dict)
    assert settings == set(given) - {"_target_", "_convert_"}


Command = Any


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    series_folder: Path, text_file: Path, concept_file: Path,
) -> Command:  # fmt: skip
    """`tracker task=intervene` on the tiny series, in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        common = [
            "series=local", f"series.path={series_folder}", "text=jsonl", f"text.path={text_file}",
            f"text.pairs={concept_file}", "analysis.replicates=20", "run_dir=out", "primary=xx",
            "task=intervene",
        ]  # fmt: skip
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["tracker", *common, *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), *capsys.readouterr()

    return run


def test_the_command_changes_checkpoints_once(command: Command, tmp_path: Path) -> None:
    arguments = [
        "intervention=[deactivate,steer]", "interventions.deactivate.controls=1",
        "interventions.steer.prompts=2", "interventions.steer.prompt_tokens=4",
        "interventions.steer.new_tokens=3", "interventions.steer.controls=1",
    ]  # fmt: skip
    code, _, err = command(*arguments)
    assert code == 0, err
    assert "interventions (deactivate, steer): 1 checkpoints done, 0 kept -> out/interv" in err
    records = sorted((tmp_path / "out" / "interventions").glob("*/*.h5"))
    assert [r.name for r in records] == [store.record_name(8)] * 2
    code, _, err = command(*arguments, "steps=[4,8]")
    assert code == 0, err
    assert "1 checkpoints done, 1 kept" in err


def test_the_command_skips_with_exit_code_3(
    command: Command, series_folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(series_folder, tmp_path / "copy"))
    weights = copy / "step-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, _, err = command(
        f"series.path={copy}", "intervention=deactivate", "steps=[2,4]",
        "interventions.deactivate.controls=1",
    )  # fmt: skip
    assert code == 3, err
    assert "step 2: skipped (model.safetensors is truncated" in err
    assert "1 checkpoints done, 0 kept" in err


def test_records_of_another_configuration_are_refused(command: Command, tmp_path: Path) -> None:
    code, _, err = command("task=track", "probe=performance", "series.steps=[8]")
    assert code == 0, err
    code, _, err = command("intervention=deactivate", "probe=performance", "primary=yy")
    assert code == 2
    assert "holds records of another configuration" in err
    assert not (tmp_path / "out" / "interventions").exists()


WRONG = {
    "no intervention": ([], f"task=intervene: choose intervention={' | '.join(KNOWN)}"),
    "unknown step": (
        ["intervention=deactivate", "steps=[3]"],
        "steps: the series has no step 3 (the nearest is 2; it has 5 steps from 0 to 8)",
    ),
    "no steps": (["intervention=deactivate", "steps=some"], "steps=some: choose all, or a list"),
    "a setting": (
        ["intervention=steer", "interventions.steer.prompts=1"],
        "interventions.steer.prompts=1: choose a whole number of at least 2",
    ),
    "no such set": (
        ["intervention=deactivate", "interventions.deactivate.sets=[all]"],
        "interventions.deactivate.sets: no set 'all'; choose among specific",
    ),
    "no corpus table": (
        ["intervention=deactivate", "mixture.corpus=absent"], "cannot read the corpus table",
    ),
    "prompts too long": (
        ["intervention=steer", "interventions.steer.new_tokens=200"],
        "24 tokens and 200 more do not fit into the model's 128",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(WRONG))
def test_wrong_use_is_one_clear_line_exit_2_and_nothing_written(
    command: Command, tmp_path: Path, kind: str
) -> None:
    arguments, message = WRONG[kind]
    before = sorted(tmp_path.iterdir())
    code, out, err = command(*arguments)
    assert (code, out) == (2, ""), err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_fingerprint_notices_what_an_edit_could_leave_behind() -> None:
    model = tiny_model("gpt_neox", 40)
    seen = {fingerprint(model)}
    handle = model.gpt_neox.layers[0].register_forward_hook(lambda *_: None)
    seen.add(fingerprint(model))
    handle.remove()
    assert len(seen) == 2
    assert fingerprint(model) in seen
    weight = model.gpt_neox.layers[1].mlp.dense_h_to_4h.weight
    weight.requires_grad_(True)
    seen.add(fingerprint(model))
    weight.requires_grad_(False)[0, 0] += 1e-7
    seen.add(fingerprint(model))
    model.gpt_neox.layers[2].train()
    seen.add(fingerprint(model))
    assert len(seen) == 5

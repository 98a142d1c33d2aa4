"""`primary=auto`: measured once, then taken from the run that found it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import documents, tiny_model
from hub_server import Hub, Repo
from huggingface_hub import constants
from test_cli import Tracker, tracker  # noqa: F401  (fixtures)
from test_sweep import LANGUAGES, measurement

from checkpoints.errors import UserError
from tracker import primary
from tracker.primary import CHOICE, Choice, auto_primary
from tracker.store import RUN
from tracker.sweep import Measurement, track

pytest_plugins = ("hub_fixtures",)
WEIGHTS = r"model\.safetensors"


@pytest.fixture(scope="module")
def formed(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """Steps 0 and 1 random, 2 and 4 trained on xx: formed, and best at it."""
    folder = tmp_path_factory.mktemp("formed")
    model = tiny_model("gpt_neox", len(tokenizer), scale=1.0)
    text = [row["text"] for row in documents(per_language=24) if row["language"] == "xx"]
    rows = torch.tensor([tokenizer(t)["input_ids"][:48] for t in text])
    model.train().requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    for step in range(81):
        if step in (0, 1, 40, 80):
            place = folder / f"step-{ {0: 0, 1: 1, 40: 2, 80: 4}[step] }"
            model.save_pretrained(place)
            tokenizer.save_pretrained(place)
        optimizer.zero_grad()
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
    return folder


@pytest.fixture
def series(formed: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(formed, tmp_path / "series"))


@contextmanager
def nothing_measured() -> Iterator[None]:
    """Measuring is an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(primary, "_measured", lambda *_: pytest.fail("it was measured"))
        yield


def keep(m: Measurement, choice: Choice, run: Path) -> None:
    """Track a series as the command does, and write down what was chosen."""
    chosen = replace(m, primary=choice.primary)
    track(chosen, run / "records")
    content = {"config_sha256": chosen.digest(), CHOICE: choice.to_json()}
    (run / RUN).write_text(json.dumps(content))


def test_by_token_share_or_by_bits_per_byte(series_folder: Path, tmp_path: Path) -> None:
    series = Path(shutil.copytree(series_folder, tmp_path / "series"))
    share = Choice("xx", "70% of the tokens at the last step")
    assert auto_primary(measurement(series)) == share
    for sidecar in series.glob("*/tracker.json"):
        sidecar.unlink()
    found = auto_primary(measurement(series))
    assert found.primary in LANGUAGES
    assert "lowest bits per byte" in found.why
    assert "none is formed" in found.why
    assert found.looked_at == ()


def test_the_first_formed_checkpoint_settles_it_for_good(series: Path, tmp_path: Path) -> None:
    m = measurement(series)
    found = auto_primary(m)
    assert found.primary == "xx"
    assert found.why.endswith("at step 2, the first formed one")
    assert found.looked_at == (0, 1, 2)
    keep(m, found, tmp_path / "run")
    with nothing_measured():
        assert auto_primary(m, [tmp_path / "absent", tmp_path / "run"]) == found
        # Later checkpoints come, unformed ones are left out: the same would be found.
        shutil.copytree(series / "step-4", series / "step-8")
        grown = measurement(series)
        for steps in (grown.series.steps, [1, 2, 4], [2]):
            chosen = replace(grown, series=grown.series.take(steps))
            assert auto_primary(chosen, [tmp_path / "run"]) == found


def test_what_could_be_another_choice_is_measured(series: Path, tmp_path: Path) -> None:
    m, run = measurement(series), tmp_path / "run"
    found = auto_primary(m)
    keep(m, found, run)
    without = replace(m, series=m.series.take([0, 1, 4]))
    assert auto_primary(without, [run]).why.endswith("at step 4, the first formed one")
    for other in (replace(m, seed=1), replace(m, languages=("yy", "zz"), primary="yy")):
        with pytest.raises(pytest.fail.Exception), nothing_measured():
            auto_primary(other, [run])
    # Another model in the same folder, and one more at the beginning.
    shutil.copyfile(
        series / "step-4" / "model.safetensors", series / "step-1" / "model.safetensors"
    )
    shutil.copyfile(
        series / "step-0" / "model.safetensors", series / "step-2" / "model.safetensors"
    )
    assert auto_primary(measurement(series), [run]).why.endswith("at step 1, the first formed one")


def test_a_checkpoint_that_cannot_be_read_is_passed_over(series: Path, tmp_path: Path) -> None:
    (series / "step-1" / "model.safetensors").write_bytes(b"cut short")
    m = measurement(series)
    found = auto_primary(m)
    assert (found.primary, found.looked_at) == ("xx", (0, 1, 2))
    keep(m, found, tmp_path / "run")
    with nothing_measured():
        assert auto_primary(m, [tmp_path / "run"]) == found
    for weights in series.glob("*/model.safetensors"):
        weights.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"primary=auto: no checkpoint can be read \(model\.safetensors is trunc"
    ):
        auto_primary(measurement(series))


DAMAGED = {
    "no choice": {CHOICE: None},
    "given": {CHOICE: Choice("xx", "given").to_json()},
    "not settled": {CHOICE: Choice("xx", "lowest bits per byte").to_json()},
    "another language": {CHOICE: {"primary": "en", "why": "", "looked_at": [0, 1, 2]}},
    "steps that are none": {CHOICE: {"primary": "xx", "why": "", "looked_at": ["a"]}},
    "no steps": {CHOICE: {"primary": "xx", "why": "", "looked_at": None}},
    "other settings": {"config_sha256": "0"},
    "no settings": {"config_sha256": None},
}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", *DAMAGED])
def test_a_run_that_does_not_tell_is_ignored(formed: Path, tmp_path: Path, text: str) -> None:
    m, run = measurement(formed), tmp_path / "run"
    keep(m, Choice("xx", "lowest", (0, 1, 2)), run)
    with nothing_measured():
        auto_primary(m, [run])
    if text in DAMAGED:
        text = json.dumps(json.loads((run / RUN).read_text()) | DAMAGED[text])
    (run / RUN).write_text(text)
    with pytest.raises(pytest.fail.Exception), nothing_measured():
        auto_primary(m, [run])


@pytest.fixture
def public(hub: Hub, formed: Path, text_file: Path, concept_file: Path) -> list[str]:
    """A run on the formed series from the hub."""
    branches = {f"step{step}": formed / f"step-{step}" for step in (0, 1, 2, 4)}
    hub.serve(Repo("lab/formed", {**branches, "main": formed / "step-4"}))
    return [
        "series=hub", "series.repo=lab/formed", "text=jsonl", f"text.path={text_file}",
        f"text.pairs={concept_file}", "analysis.replicates=10", "concepts.least_positions=1",
        "probe=[performance]", "task=track",
    ]  # fmt: skip


def downloads(hub: Hub) -> int:
    """Weight files that the hub sent."""
    return len([r for r in hub.log(WEIGHTS, "GET") if r.where == "storage"])


def test_a_public_series_is_downloaded_for_it_once(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = tracker(public)
    assert done.returncode == 0, done.stderr
    assert downloads(hub) == 3 + 4  # looked at, tracked
    found = re.search(
        r"primary language xx \(lowest .* at step 2, the first formed one\)", done.stderr
    )
    assert found
    said = found[0]
    (run,) = (tmp_path / "runs" / "formed").iterdir()
    told = (run / RUN).read_text()
    hub.forget()
    assert said in tracker(public).stderr
    assert (run / RUN).read_text() == told
    assert tracker([*public, "task=analyze"]).returncode == 0
    assert downloads(hub) == 0
    assert said in tracker([*public, "run_dir=elsewhere", "series.steps=[2]"]).stderr
    assert downloads(hub) == 1
    # Its own folder tells as well, and nothing of the hub is needed.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    shutil.move(run, tmp_path / "out")
    assert said in tracker([*public, "run_dir=out"]).stderr
    assert tracker([*public, "run_dir=out", "task=remix"]).returncode == 0


def test_a_given_primary_is_not_taken_for_a_chosen_one(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    hub: Hub,
    tmp_path: Path,
) -> None:
    assert tracker([*public, "primary=xx"]).returncode == 0
    (run,) = (tmp_path / "runs" / "formed").iterdir()
    assert json.loads((run / RUN).read_text())[CHOICE]["why"] == "given"
    hub.forget()
    done = tracker(public)
    assert "4 kept" in done.stderr
    assert downloads(hub) == 3
    assert json.loads((run / RUN).read_text())[CHOICE]["looked_at"] == [0, 1, 2]


def test_a_series_that_is_not_formed_is_looked_at_again(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    hub: Hub,
) -> None:
    arguments = [*public, "series.steps=[0,1]"]
    assert "the last one, none is formed" in tracker(arguments).stderr
    hub.forget()
    assert "the last one, none is formed" in tracker(arguments).stderr
    assert downloads(hub) == 2


def test_a_damaged_run_is_said_where_it_is_the_runs_own(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    tmp_path: Path,
) -> None:
    assert tracker([*public, "run_dir=out"]).returncode == 0
    (tmp_path / "out" / RUN).write_text("{")
    for task in ("track", "analyze"):
        done = tracker([*public, "run_dir=out", f"task={task}"])
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == (
            "tracker: out/run.json: it is damaged; remove it, and task=track writes it again"
        )
    (tmp_path / "out" / RUN).unlink()
    assert "4 kept" in tracker([*public, "run_dir=out"]).stderr

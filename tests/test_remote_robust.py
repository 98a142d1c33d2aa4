"""Public series under attack: killed, interrupted, run twice at once, a hub that breaks down."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import h5py
import pytest
from hub_repos import write
from hub_server import Hub, Repo
from huggingface_hub import constants
from test_cli import ROOT, Tracker, tracker  # noqa: F401  (fixtures)

from checkpoints.download import PART
from checkpoints.errors import CheckpointError
from checkpoints.hub import Hub as Lister
from checkpoints.hub import HubFile
from checkpoints.local import check_weights
from checkpoints.remote import HubRun, hub_series
from checkpoints.series import Series
from checkpoints.shelf import KEPT, PATIENCE, BusyError, HubShelf, lacks, weight_files
from tracker import store

pytest_plugins = ("hub_fixtures",)
Made = Callable[..., Series]
Started = Callable[..., "subprocess.Popen[str]"]
WEIGHTS = r"model\.safetensors"
STEPS = [0, 2, 4, 64]
"""Of lab/run, suspects left out."""
PATIENT = 120.0
SLOW_LINE = {"HF_HUB_DOWNLOAD_TIMEOUT": "600"}
"""Environment of a client that does not give up a stalled download."""
"""Seconds after which a test gives a process up."""


@pytest.fixture
def made(hub: Hub, tmp_path: Path) -> Made:
    """Series of the local hub, kept below `tmp_path`."""

    def make(repo: str, **settings: Any) -> Series:
        return hub_series(HubRun(repo, **settings), Lister(tmp_path / "home"))

    return make


@pytest.fixture
def public(hub: Hub, text_file: Path, concept_file: Path) -> list[str]:
    """A run on the hub's series."""
    return [
        "series=hub", "series.repo=lab/run", "text=jsonl", f"text.path={text_file}",
        f"text.pairs={concept_file}", "primary=xx", "run_dir=out", "analysis.replicates=20",
        "concepts.least_positions=1", "task=track",
    ]  # fmt: skip


@pytest.fixture
def start(hub: Hub, tmp_path: Path) -> Iterator[Started]:
    """Start the command in a process of its own, with the cache `tmp_path / "hf"`."""
    running: list[subprocess.Popen[str]] = []

    def begin(arguments: list[str], **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", "from tracker.cli import main; main()", *arguments],
            cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=hub.environment(tmp_path / "hf", PYTHONPATH=str(ROOT), **more),
            # A shell's background jobs, and what they start, would not hear Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


_WHOLE: dict[str, dict[str, bytes]] = {}


@pytest.fixture
def whole(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    hub: Hub,
    tmp_path: Path,
) -> dict[str, dict[str, bytes]]:
    """Records of a run that nothing disturbed, made once; the cache is empty again."""
    if not _WHOLE:
        assert tracker([*public, "run_dir=whole"]).returncode == 0
        _WHOLE.update(records(tmp_path / "whole"))
        shutil.rmtree(tmp_path / "hf")
        hub.forget()
    return _WHOLE


def weights_of(hub: Hub, branch: str) -> str:
    """Requests for the weights of one of lab/run's checkpoints."""
    return f"{hub.commit('lab/run', branch)}/{WEIGHTS}"


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Until it holds, as long as the process runs."""
    deadline = time.monotonic() + PATIENT
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finished(process: subprocess.Popen[str]) -> str:
    """What it said, once it has ended as it should."""
    _, said = process.communicate(timeout=PATIENT)
    assert process.returncode == 0, said
    return said


def records(folder: Path) -> dict[str, dict[str, bytes]]:
    """The records of a run: everything but when the weights came and the settings in words."""
    return {p.name: _content(p) for p in (folder / "records").glob("step-*.h5")}


def _content(record: Path) -> dict[str, bytes]:
    with h5py.File(record) as file:
        found = {k: repr(v).encode() for k, v in file.attrs.items() if k not in _OF_THE_DAY}
        found |= {
            name: file[name][()].tobytes()
            if file[name].dtype != object
            else repr(file[name][()].tolist()).encode()
            for name in _datasets(file)
        }
    assert len(found) > 40
    return found


_OF_THE_DAY = {"weights_stat", "config"}


def _datasets(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(
        lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
    )
    return [name for name in names if name not in _OF_THE_DAY]


def steps_of(folder: Path) -> list[int]:
    """Steps that have a record."""
    return sorted(store.record_step(p) for p in (folder / "records").glob("step-*.h5"))


def weights_in(cache: Path) -> list[Path]:
    """Folders with weights or parts of them."""
    found = cache.glob("training-dynamics/*/*/checkpoints/*/*")
    files = {p for p in found if p.name.removesuffix(PART).endswith((".safetensors", ".bin"))}
    return sorted({path.parent for path in files})


@contextmanager
def watched(cache: Path) -> Iterator[list[int]]:
    """How many checkpoints' weights are in `cache`, again and again."""
    seen: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.002):
            seen.append(len(weights_in(cache)))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield seen
    done.set()
    thread.join()


@pytest.mark.slow
def test_killed_in_a_download_it_continues_from_the_partial_file(
    public: list[str],
    whole: dict[str, dict[str, bytes]],
    start: Started,
    hub: Hub,
    tmp_path: Path,
) -> None:
    hub.fail(weights_of(hub, "step4"), where="storage", cut=30000, hold=PATIENT)
    process = start(public)
    wait_for(lambda: steps_of(tmp_path / "out") == [0, 2], process)
    (part,) = (tmp_path / "hf").rglob(f"*{PART}")
    wait_for(lambda: part.stat().st_size == 30000, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hub.forget()
    finished(start(public))
    asked = [r for r in hub.log(WEIGHTS, "GET") if r.where == "storage"]
    assert [r.range for r in asked] == ["bytes=30000-", None]  # of step 4, of step 64
    assert records(tmp_path / "out") == whole
    assert weights_in(tmp_path / "hf") == []


@pytest.mark.slow
@pytest.mark.parametrize("folders", [("one", "two"), ("one", "one")])
def test_two_at_once_on_one_cache(
    public: list[str],
    whole: dict[str, dict[str, bytes]],
    start: Started,
    tmp_path: Path,
    folders: tuple[str, str],
) -> None:
    begun = [start([*public, f"run_dir={folder}", "task=all"]) for folder in folders]
    said = [finished(process) for process in begun]
    counted = [re.search(r"(\d+) measured, (\d+) kept, 0 skipped", text) for text in said]
    measured = [int(found[1]) for found in counted if found]
    kept = [int(found[2]) for found in counted if found]
    assert [a + b for a, b in zip(measured, kept, strict=True)] == [len(STEPS)] * 2
    if folders[0] == folders[1]:
        assert sum(measured) == len(STEPS)
    for folder in set(folders):
        assert records(tmp_path / folder) == whole
        assert (tmp_path / folder / "report.html").exists()
        assert not list((tmp_path / folder).rglob(".*unfinished"))
    assert weights_in(tmp_path / "hf") == []
    assert not list((tmp_path / "hf").rglob(f"*{PART}"))


@pytest.mark.slow
def test_two_at_once_on_one_run_share_its_checkpoints(
    public: list[str],
    whole: dict[str, dict[str, bytes]],
    start: Started,
    hub: Hub,
    tmp_path: Path,
) -> None:
    hub.fail(WEIGHTS, where="storage", delay=0.3, times=None)
    begun = [start([*public, "series.suspects=keep"]) for _ in range(2)]
    counted = [re.search(r"(\d+) measured", finished(process)) for process in begun]
    assert sum(int(found[1]) for found in counted if found) == 8
    assert steps_of(tmp_path / "out") == [0, 1, 2, 4, 8, 16, 32, 64]
    asked = Counter(r.target for r in hub.log(WEIGHTS, "GET") if r.where == "storage")
    assert len(asked) == 8
    assert set(asked.values()) == {1}
    found = records(tmp_path / "out")
    assert {name: found[name] for name in whole} == whole
    assert weights_in(tmp_path / "hf") == []


def test_what_another_process_is_at_comes_last(made: Made, hub: Hub) -> None:
    series, done = made("lab/run"), set[int]()
    visited: list[int] = []
    busy: list[int] = []
    with ExitStack() as other, closing(series.shelf) as shelf:
        other.enter_context(made("lab/run").shelf.at_hand(2))
        for step, weights in shelf.turns(series.steps, lambda step: step not in done):
            try:
                with weights:
                    visited.append(step)
                    if step not in done:
                        check_weights(series.take([step]).checkpoints[0].path)
            except BusyError:
                busy.append(step)
            if step == 64:
                done.add(2)
                other.close()
    assert (visited, busy) == ([0, 4, 64, 2], [2])
    # What the other one has done meanwhile is not downloaded again.
    assert len([r for r in hub.log(weights_of(hub, "step2"), "GET") if r.where == "storage"]) == 1


def test_what_is_not_needed_any_more_is_not_downloaded(made: Made, hub: Hub) -> None:
    series, asked = made("lab/run"), list[tuple[int, str]]()

    def needed(step: int) -> bool:
        asked.append((step, threading.current_thread().name))
        return step != 4

    with closing(series.shelf) as shelf:
        for step, weights in shelf.turns([2, 4], needed):
            with weights:
                assert (series.take([step]).checkpoints[0].path / "model.safetensors").exists() == (
                    step == 2
                )
    assert asked == [(2, "download"), (4, "download")]
    assert not hub.log(weights_of(hub, "step4"))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["a stalled download", "a busy hub", "a lock of another"])
def test_interrupted_it_ends_at_once_and_the_next_run_is_whole(
    public: list[str],
    whole: dict[str, dict[str, bytes]],
    start: Started,
    hub: Hub,
    tmp_path: Path,
    where: str,
) -> None:
    if where == "a stalled download":
        hub.fail(weights_of(hub, "step2"), where="storage", cut=30000, hold=PATIENT)
    elif where == "a busy hub":
        hub.fail(weights_of(hub, "step2"), status=503, headers={"Retry-After": "600"}, times=None)
    else:
        hub.fail(weights_of(hub, "step2"), where="storage", cut=30000, hold=PATIENT)
        other = start([*public, "run_dir=other"], **SLOW_LINE)
        wait_for(lambda: steps_of(tmp_path / "other") == [0], other)
    process = start(public, **SLOW_LINE)
    # What another process is at comes last, and is waited for.
    before = [0, 4, 64] if where == "a lock of another" else [0]
    wait_for(lambda: steps_of(tmp_path / "out") == before, process)
    wait_for(lambda: bool(hub.log(weights_of(hub, "step2"))), process)
    time.sleep(2)  # it waits by now, and does nothing else
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENT)
    assert time.monotonic() - began < PATIENT / 4
    assert process.returncode == 130, said
    assert said.splitlines()[-1].startswith("tracker: interrupted")
    assert "Traceback" not in said
    if where == "a lock of another":
        other.kill()
        other.communicate()
    hub.forget()
    finished(start(public))
    assert records(tmp_path / "out") == whole


@pytest.mark.slow
def test_never_more_than_two_checkpoints_on_the_disk(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    tmp_path: Path,
) -> None:
    with watched(tmp_path / "hf") as seen:
        assert tracker([*public, "series.suspects=keep"]).returncode == 0
    assert steps_of(tmp_path / "out") == [0, 1, 2, 4, 8, 16, 32, 64]
    assert max(seen) == 2
    assert weights_in(tmp_path / "hf") == []


def test_what_a_killed_run_left_is_cleared(made: Made) -> None:
    series = made("lab/run")
    series.shelf.close()
    checkpoint = series.take([2]).checkpoints[0]
    (checkpoint.path / "model.safetensors").write_bytes(b"whole")
    (checkpoint.path / f"model.safetensors{PART}").write_bytes(b"part")
    with series.shelf.at_hand(4):
        made("lab/run").shelf.clear([2, 4])  # another process; it leaves what is in use alone
        check_weights(series.take([4]).checkpoints[0].path)
    assert not list(checkpoint.path.glob("model.safetensors*"))


def test_a_damaged_checkpoint_is_skipped(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    tmp_path: Path,
) -> None:
    done = tracker([*public, "series.repo=lab/damaged"])
    assert done.returncode == 3
    assert "step 1: skipped (model.safetensors is truncated" in done.stderr
    assert steps_of(tmp_path / "out") == [0, 2]
    assert weights_in(tmp_path / "hf") == []


def test_wrong_content_is_skipped_and_comes_right_the_next_time(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    hub: Hub,
    tmp_path: Path,
) -> None:
    hub.fail(weights_of(hub, "step2"), where="storage", wrong=True)
    hub.fail(rf"{hub.commit('lab/run', 'step0')}/config\.json", wrong=True)
    done = tracker(public)
    assert done.returncode == 3
    assert "step 2: skipped (model.safetensors: its content is not what lab/run lists" in (
        done.stderr
    )
    assert "step 0: skipped (config.json: its content is not what lab/run lists" in done.stderr
    assert steps_of(tmp_path / "out") == [4, 64]
    assert weights_in(tmp_path / "hf") == []
    assert tracker(public).returncode == 0
    assert steps_of(tmp_path / "out") == STEPS


def test_one_wrong_shard_leaves_nothing(made: Made, hub: Hub, tmp_path: Path) -> None:
    series = made("lab/sharded")
    hub.fail(f"{hub.commit('lab/sharded', 'step2')}/model-00003", where="storage", wrong=True)
    with pytest.raises(CheckpointError, match="model-00003"), series.shelf.at_hand(2):
        pass
    assert not list(series.take([2]).checkpoints[0].path.glob("model-*"))


@pytest.mark.slow
def test_what_is_measured_counts_where_the_hub_breaks_down(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    hub: Hub,
    tmp_path: Path,
) -> None:
    hub.fail(weights_of(hub, "step4"), status=403, times=None)
    done = tracker([*public, "task=all"])
    assert done.returncode == 3
    assert f"step 4: skipped (lab/run: {hub.endpoint} answers 403 (no right to read it)" in (
        done.stderr
    )
    assert "Traceback" not in done.stderr
    assert steps_of(tmp_path / "out") == [0, 2, 64]
    assert "report: out/report.html" in done.stdout
    assert "answers 403" in (tmp_path / "out" / "report.html").read_text()
    hub.forget()
    assert tracker(public).returncode == 0
    assert steps_of(tmp_path / "out") == STEPS


def test_after_a_few_failures_no_further_checkpoint_is_tried(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    hub: Hub,
    tmp_path: Path,
) -> None:
    assert tracker([*public, "series.steps=[0]"]).returncode == 0
    hub.forget()
    hub.fail(WEIGHTS, where="hub", status=404, times=None)
    done = tracker([*public, "series.suspects=keep"])
    assert done.returncode == 3
    assert len(hub.log(WEIGHTS)) == PATIENCE
    assert "steps 8, 16, 32, 64: skipped (not tried: " in done.stderr
    assert steps_of(tmp_path / "out") == [0]
    # Not a single one, and none was there before: nothing is done, so it is no skip.
    done = tracker([*public, "run_dir=none"])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("tracker: lab/run: ")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_without_a_network_after_a_kept_run(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    public = [*public, "primary=auto"]
    assert tracker([*public, "series.keep=true"]).returncode == 0
    assert len(weights_in(tmp_path / "hf")) == len(STEPS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.forget()
    # Kept is kept, whatever a later run says of itself.
    done = tracker([*public, "run_dir=again"])
    assert done.returncode == 0, done.stderr
    assert records(tmp_path / "again") == records(tmp_path / "out")
    assert len(weights_in(tmp_path / "hf")) == len(STEPS)
    assert tracker([*public, "task=plan"]).returncode == 0
    done = tracker([*public, "series.suspects=keep", "run_dir=more"])
    assert done.returncode == 3
    assert "steps 1, 8, 16: skipped (lab/run: model.safetensors is not here, and HF_HUB" in (
        done.stderr
    )
    assert steps_of(tmp_path / "more") == STEPS
    assert hub.log() == []


@pytest.mark.slow
def test_a_tracked_run_is_analyzed_without_a_network(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    hub: Hub,
    tmp_path: Path,
) -> None:
    assert tracker(public).returncode == 0
    shutil.rmtree(tmp_path / "hf")
    hub.forget()
    hub.fail(".*", status=0, times=None)
    done = tracker([*public, "task=analyze"])
    assert done.returncode == 0, done.stderr
    assert "report: out/report.html" in done.stdout
    assert hub.log() == []


@pytest.mark.slow
def test_interventions_have_their_weights(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    hub: Hub,
    tmp_path: Path,
) -> None:
    arguments = [*public, "task=intervene", "intervention=lens", "steps=[2,64]"]
    with watched(tmp_path / "hf") as seen:
        done = tracker(arguments)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out" / "interventions").rglob("step-*.h5"))) == 2
    assert max(seen) == 2  # the next one is downloaded meanwhile
    assert weights_in(tmp_path / "hf") == []
    hub.forget()
    assert "0 checkpoints done, 2 kept" in tracker(arguments).stderr
    assert not hub.log(WEIGHTS)
    # One that is done is not downloaded ahead.
    assert "1 checkpoints done, 2 kept" in tracker([*arguments, "steps=[2,4,64]"]).stderr
    assert {r.target for r in hub.log(WEIGHTS)} == {
        r.target for r in hub.log(weights_of(hub, "step4"))
    }


def test_the_primary_language_is_found(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    tmp_path: Path,
) -> None:
    done = tracker([*public, "primary=auto"])
    assert done.returncode == 0, done.stderr
    assert "lowest bits per byte" in done.stderr
    assert steps_of(tmp_path / "out") == STEPS
    assert weights_in(tmp_path / "hf") == []


@pytest.fixture
def odd(hub: Hub, tmp_path: Path, tokenizer: Any) -> Repo:
    """Names that are no folders', files in folders beside the weights."""
    folder = tmp_path / "odd"
    write(folder, tokenizer, (10, 20))
    for step in (10, 20):
        place = folder / f"step{step}"
        (place / "onnx").mkdir()
        for name in ("onnx/model.safetensors", "model-best.safetensors", "optimizer.bin"):
            (place / name).write_bytes(b"other")
    names = {10: "feature/x-step10", 20: "feature/x step20"}
    branches = {name: folder / f"step{step}" for step, name in names.items()}
    repo = Repo("lab/odd", {**branches, "main": folder / "step20"})
    hub.serve(repo)
    return repo


def test_names_that_are_no_folders(made: Made, odd: Repo) -> None:
    series = made(odd.name, pattern=r"feature/x[- ]step(?P<step>\d+)")
    assert series.steps == [10, 20]
    assert all(c.path.parent.name == "checkpoints" for c in series.checkpoints)
    assert len({c.path for c in series.checkpoints}) == 2
    for checkpoint in series.checkpoints:
        with series.shelf.at_hand(checkpoint.step):
            (file,) = check_weights(checkpoint.path)
            assert file.name == "model.safetensors"
            names = {path.name for path in checkpoint.path.iterdir()}
            assert not names & {"onnx", "model-best.safetensors", "optimizer.bin"}


def test_a_shard_that_is_not_listed_is_said() -> None:
    names = ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"]
    listed = [HubFile(name, 1, f"sha256:{'0' * 64}") for name in names]
    assert lacks(listed) == "1 of 2 weight files"
    both = [*listed, HubFile("model-00002-of-00002.safetensors", 1, "sha256:1")]
    assert lacks(both) == ""
    assert lacks([file for file in both if "index" not in file.name]) == (
        "no model.safetensors.index.json"
    )
    assert lacks(both[1:]) == "no config.json"
    assert lacks(both[:1]).startswith("no weights")
    assert len(weight_files(both)) == 2


def test_a_long_run_is_listed_once(made: Made, hub: Hub, tmp_path: Path, tokenizer: Any) -> None:
    folder = tmp_path / "long"
    write(folder, tokenizer, (0, 1))
    places = {0: folder / "step0", **{step: folder / f"step{step}" for step in range(1, 154)}}
    for step in range(2, 154):  # commits of their own
        shutil.copytree(folder / "step1", places[step])
        (places[step] / "model.safetensors").write_bytes(f"weights of {step}".encode())
    branches = {f"step{step}": place for step, place in places.items()}
    hub.serve(Repo("lab/long", {**branches, "main": places[153]}))
    hub.forget()
    began = time.monotonic()
    series = made("lab/long")
    assert len(series.steps) == 154
    assert time.monotonic() - began < 20
    assert len(hub.log("/refs")) == 1
    assert len(hub.log("/tree/")) == 154  # a commit each; main is one of them
    assert len([r for r in hub.log("/resolve/") if "api" not in r.target]) < 10
    hub.forget()
    assert made("lab/long").steps == series.steps
    assert len(hub.log()) == 1  # what the branches are now


def test_to_keep_is_remembered(made: Made) -> None:
    series = made("lab/run", keep=True)
    with series.shelf.at_hand(2):
        pass
    place = series.take([2]).checkpoints[0].path
    assert (place / KEPT).exists()
    other = made("lab/run")
    with other.shelf.at_hand(2):
        pass
    other.shelf.clear([2])
    assert isinstance(other.shelf, HubShelf)
    check_weights(place)


def test_a_plan_downloads_nothing(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    hub: Hub,
    series_folder: Path,
    tmp_path: Path,
) -> None:
    done = tracker([*public, "task=plan", "series.repo=lab/gated", "series.gated=true"])
    assert done.returncode == 0, done.stderr
    assert f"gated: accept the terms at {hub.endpoint}/lab/gated and set HF_TOKEN" in done.stdout
    assert not hub.log("/resolve/")
    done = tracker(["series=local", f"series.path={series_folder}", "task=plan"])
    assert done.returncode == 0, done.stderr
    assert "5 checkpoints to track, steps 0, 1, 2, 4, 8" in done.stdout
    assert "weights: 0.38 MB, read from the disk" in done.stdout
    assert "trained here when it is tracked first" in tracker(["task=plan"]).stdout
    assert not (tmp_path / "runs").exists()

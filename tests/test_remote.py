"""Public series through the real client against a local hub: listed, checked, fetched, removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model
from hub_repos import SHARED_SHARD, write
from hub_server import MEMBER, Hub, Repo
from huggingface_hub import constants
from test_cli import Tracker, tracker  # noqa: F401  (fixtures)

from checkpoints.download import PART, download
from checkpoints.errors import CheckpointError, DownloadError, UserError
from checkpoints.hub import Hub as Lister
from checkpoints.local import check_weights
from checkpoints.remote import HubRun, hub_series, hub_tokenizer
from checkpoints.series import Series
from checkpoints.shelf import WEIGHTS, HubShelf, weight_files
from tracker import store
from tracker.loading import ModelSettings, load_model

pytest_plugins = ("hub_fixtures",)
Made = Callable[..., Series]


@pytest.fixture
def made(hub: Hub, tmp_path: Path) -> Made:
    """Series of the local hub, kept below `tmp_path`."""

    def make(repo: str, **settings: Any) -> Series:
        return hub_series(HubRun(repo, **settings), Lister(tmp_path / "home"))

    return make


def on_disk(series: Series) -> list[int]:
    """Steps whose weights are on the disk."""
    found = []
    for checkpoint in series.checkpoints:
        names = {path.name for path in checkpoint.path.iterdir()}
        if any(name.startswith(WEIGHTS) and not name.endswith(".json") for name in names):
            found.append(checkpoint.step)
    return found


def test_a_run_is_listed_in_order_and_suspects_are_left_out(made: Made) -> None:
    series = made("lab/run", tokens_per_step=100)
    # step0 = step1, 16 = 32, 8 = 64 = main.
    assert series.steps == [0, 2, 4, 64]
    assert [c.tokens for c in series.checkpoints] == [0, 200, 400, 6400]
    assert series.remarks == (
        "steps 0, 1: identical weights (0 kept: a first step without a learning rate changes "
        "nothing)",
        "steps 8, 64: identical weights (64 kept: equals main)",
        "steps 16, 32: identical weights (none kept)",
    )
    assert set(series.suspects) == {1, 8, 16, 32}
    assert series.name == "run"
    assert made("lab/run", suspects="keep").steps == [0, 1, 2, 4, 8, 16, 32, 64]
    assert on_disk(series) == []


def test_steps_are_chosen_as_of_any_series(made: Made) -> None:
    assert made("lab/run", steps=[2, 64]).steps == [2, 64]
    assert made("lab/run", select=(2, "log")).steps == [0, 64]
    assert made("lab/run", steps=[2, 8]).steps == [2]  # 8 is a suspect: left out, and said
    with pytest.raises(
        UserError, match="series run has no checkpoint at step 3; it has 0, 2, 4, 64"
    ):
        made("lab/run", steps=[3])
    with pytest.raises(UserError, match=r"no checkpoint is left \(4 hold another step's weights\)"):
        made("lab/run", steps=[8, 16])
    with pytest.raises(UserError, match=r"series\.tokens_per_step=0: choose at least 1"):
        made("lab/run", tokens_per_step=0)


def test_revisions_without_weights_are_said(made: Made, hub: Hub, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    hub.serve(Repo("lab/bare", {"step1": bare, "main": bare}))
    problem = r"none of its 1 revisions holds a checkpoint \(step1: no weights \(model\.safet"
    with pytest.raises(UserError, match=f"lab/bare: {problem}"):
        made("lab/bare")


def test_a_final_revision_that_is_not_there_is_said(made: Made) -> None:
    series = made("lab/run", final="step640")
    assert "steps 8, 64: identical weights (none kept)" in series.remarks
    assert any(r.startswith("no weights at step640, so no step can be") for r in series.remarks)


def test_steps_in_another_format_than_the_final_model(
    made: Made, hub: Hub, tmp_path: Path, tokenizer: Any
) -> None:
    """Branches in pickle only, `main` in both formats: early branches that serve late weights."""
    folder = tmp_path / "mixed"
    for step in (1, 2, 4):
        place = folder / f"step{step}"
        model = tiny_model("gpt_neox", len(tokenizer), seed=step)
        model.config.save_pretrained(place)
        tokenizer.save_pretrained(place)
        torch.save(model.state_dict(), place / "pytorch_model.bin")
    shutil.copytree(folder / "step4", folder / "main")
    shutil.copyfile(folder / "step4" / "pytorch_model.bin", folder / "step2" / "pytorch_model.bin")
    tiny_model("gpt_neox", len(tokenizer), seed=4).save_pretrained(folder / "main")
    hub.serve(Repo("lab/mixed", {p.name: p for p in folder.iterdir()}))
    series = made("lab/mixed")
    assert series.remarks[0] == "steps 2, 4: identical weights (4 kept: equals main)"
    assert series.steps == [1, 4]


def test_a_branch_goes_before_a_tag_of_its_name(hub: Hub, tmp_path: Path, tokenizer: Any) -> None:
    write(tmp_path / "both", tokenizer, (1, 2))
    first, second = tmp_path / "both" / "step1", tmp_path / "both" / "step2"
    hub.serve(Repo("lab/both", {"step1": first, "main": second}, {"step1": second, "v1": first}))
    refs = Lister(tmp_path / "home").refs("lab/both", "both")
    assert refs == {name: hub.commit("lab/both", name) for name in ("step1", "main", "v1")}
    assert refs["step1"] != refs["main"]


def test_a_run_over_two_repositories(made: Made, hub: Hub, tmp_path: Path, tokenizer: Any) -> None:
    """A step of both is the first one's; every checkpoint comes from its own repository."""
    folder = tmp_path / "two"
    write(folder, tokenizer, (0, 10, 20, 1, 2))
    late = {f"step{step}": folder / f"step{step}" for step in (0, 10, 20)}
    early = {f"step{step}": folder / f"step{step}" for step in (0, 1, 2)}
    hub.serve(Repo("lab/late", {**late, "main": folder / "step20"}))
    hub.serve(Repo("lab/early", {**early, "main": folder / "step2"}))
    series = made("lab/late", more_repos=["lab/early"])
    assert series.steps == [0, 1, 2, 10, 20]
    assert [c.path.parents[1].name for c in series.checkpoints] == [
        "lab--late", "lab--early", "lab--early", "lab--late", "lab--late",
    ]  # fmt: skip
    for checkpoint in series.checkpoints:
        with series.shelf.at_hand(checkpoint.step):
            load_model(checkpoint.path, ModelSettings(device="cpu"))


def test_code_comes_along_and_is_run_where_it_is_trusted(
    made: Made, hub: Hub, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    folder, ran = tmp_path / "code", tmp_path / "ran"
    tiny_model("llama", len(tokenizer)).save_pretrained(folder / "step1")
    config = json.loads((folder / "step1" / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "step1" / "config.json").write_text(json.dumps(config))
    (folder / "step1" / "own.py").write_text(
        "from pathlib import Path\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(ran)!r}).touch()\n"
        "class Config(LlamaConfig): pass\n"
        "class Model(LlamaForCausalLM): config_class = Config\n"
    )
    hub.serve(Repo("lab/code", {"step1": folder / "step1", "main": folder / "step1"}))
    series = made("lab/code")
    with series.shelf.at_hand(1):
        (checkpoint,) = series.checkpoints
        load_model(checkpoint.path, ModelSettings(device="cpu"))
        assert not ran.exists()
        load_model(checkpoint.path, ModelSettings(device="cpu", trust_remote_code=True))
        assert ran.is_file()


def test_weights_that_the_hub_keeps_by_chunks_come_in_one_piece(hub: Hub, tmp_path: Path) -> None:
    commit = hub.commit("lab/xet")
    (file,) = weight_files(Lister(tmp_path / "home").files("lab/xet", commit))
    assert download("lab/xet", commit, file, tmp_path).stat().st_size == file.size


def test_a_shard_of_the_final_model_is_found(made: Made) -> None:
    series = made("lab/sharded")
    _, shard = SHARED_SHARD["lab/sharded"]
    assert f"steps 4, 8: shared {shard} (8 kept: equals main)" in series.remarks
    assert series.steps == [0, 2, 8]


def test_checkpoints_may_be_tags(made: Made) -> None:
    series = made("lab/tags", refs="tags", suspects="keep")
    assert series.steps == [1000, 2000, 3000]
    with pytest.raises(UserError, match="lab/tags: no revision is named step1000"):
        made("lab/tags")
    with pytest.raises(UserError, match=r"series\.refs=stars: choose branches, tags, both"):
        made("lab/tags", refs="stars")


def test_weights_come_one_checkpoint_at_a_time_and_go_again(made: Made, hub: Hub) -> None:
    series = made("lab/run")
    seen = []
    steps = series.steps
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        with series.shelf.at_hand(step, following):
            (checkpoint,) = series.take([step]).checkpoints
            check_weights(checkpoint.path)
            seen.append(on_disk(series))
    assert all(step in found and len(found) <= 2 for step, found in zip(steps, seen, strict=True))
    assert on_disk(series) == []
    series.shelf.close()
    weights = hub.log(r"resolve/.*model\.safetensors", "GET")
    asked = [request for request in weights if request.where == "hub"]
    assert len(asked) == len(steps)
    with made("lab/run", keep=True).shelf.at_hand(2):
        pass
    assert on_disk(series) == [2]


def test_what_many_checkpoints_share_is_downloaded_once(made: Made, hub: Hub) -> None:
    series = made("lab/run")
    assert all((c.path / "tokenizer.json").exists() for c in series.checkpoints)
    assert len({(c.path / "tokenizer.json").stat().st_ino for c in series.checkpoints}) == 1
    count = len(hub.log("resolve"))
    assert len([r for r in hub.log(r"tokenizer\.json") if r.status == 200]) == 1
    made("lab/run")
    assert len(hub.log("resolve")) == count  # all of it is there


def test_safetensors_or_pickle_never_both(made: Made, hub: Hub) -> None:
    series = made("lab/run")
    with series.shelf.at_hand(4):
        names = {path.name for path in series.take([4]).checkpoints[0].path.iterdir()}
    assert "model.safetensors" in names
    assert "pytorch_model.bin" not in names
    pickled = made("lab/pickle")
    assert any("pickle files only" in remark for remark in pickled.remarks)
    with pickled.shelf.at_hand(0):
        (checkpoint,) = pickled.take([0]).checkpoints
        assert check_weights(checkpoint.path)[0].name == "pytorch_model.bin"


def test_the_digest_is_that_of_the_record(made: Made) -> None:
    from tracker.provenance import digest_of_files

    for repo in ("lab/run", "lab/sharded"):
        series = made(repo)
        with series.shelf.at_hand(2):
            (checkpoint,) = series.take([2]).checkpoints
            assert series.shelf.digest(2) == digest_of_files(check_weights(checkpoint.path))


def test_an_interrupted_download_goes_on(
    made: Made, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checkpoints.download.WAIT", 0.01)
    series = made("lab/run")
    shelf = series.shelf
    assert isinstance(shelf, HubShelf)
    revision = shelf.revisions[2]
    (file,) = weight_files(revision.files)
    hub.fail(r"model\.safetensors", where="storage", cut=1000)
    hub.fail(r"model\.safetensors", where="storage", status=0, times=None, skip=1)
    with pytest.raises(UserError, match="cannot be reached"):
        download(revision.repo, revision.commit, file, tmp_path / "one")
    part = tmp_path / "one" / (file.name + PART)
    have = part.stat().st_size
    assert 0 < have < file.size
    hub.forget()
    download(revision.repo, revision.commit, file, tmp_path / "one")
    assert not part.exists()
    assert (tmp_path / "one" / file.name).stat().st_size == file.size
    (request,) = [r for r in hub.log(r"model\.safetensors", "GET") if r.where == "storage"]
    assert request.range == f"bytes={have}-"


def test_a_line_that_breaks_again_and_again_is_enough(made: Made, hub: Hub) -> None:
    series = made("lab/run")
    hub.fail(r"model\.safetensors", where="storage", cut=4000, times=None)
    with series.shelf.at_hand(2):
        assert on_disk(series) == [2]


def test_wrong_content_is_refused(made: Made, hub: Hub) -> None:
    series = made("lab/run")
    hub.fail(r"model\.safetensors", where="storage", wrong=True)
    with (
        pytest.raises(CheckpointError, match="its content is not what lab/run lists"),
        series.shelf.at_hand(2),
    ):
        pass
    assert on_disk(series) == []
    with series.shelf.at_hand(2):  # the next try gets the right one
        assert on_disk(series) == [2]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_waited_for(made: Made, hub: Hub, status: int) -> None:
    hub.fail(r"/refs", status=status, headers={"Retry-After": "0"})
    hub.fail(r"model\.safetensors", status=status, headers={"Retry-After": "0"})
    series = made("lab/run", steps=[2])
    with series.shelf.at_hand(2):
        assert on_disk(series) == [2]


def test_what_the_user_has_to_do_is_said(
    made: Made, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    with pytest.raises(UserError, match="lab/absent: no such repository"):
        made("lab/absent")
    with pytest.raises(UserError, match=r"series\.repo=a/b/c: not ORG/NAME"):
        made("a/b/c")
    with pytest.raises(UserError, match=rf"gated; accept its terms at {hub.endpoint}/lab/gated"):
        made("lab/gated")
    monkeypatch.setenv("HF_TOKEN", "hf_mistyped")
    with pytest.raises(UserError, match=r"401 \(HF_TOKEN is not valid\); set another one"):
        made("lab/gated")
    monkeypatch.setenv("HF_TOKEN", MEMBER)
    assert made("lab/gated").steps == [0, 1]


def test_without_a_network_what_is_here_is_used(
    made: Made, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="not listed before, and HF_HUB_OFFLINE is set"):
        made("lab/run")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with made("lab/run", keep=True).shelf.at_hand(2):
        pass
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.forget()
    series = made("lab/run", keep=True)
    with series.shelf.at_hand(2):
        assert on_disk(series) == [2]
    lacking = pytest.raises(DownloadError, match="is not here, and HF_HUB_OFFLINE")
    with lacking, series.shelf.at_hand(4):
        pass
    assert hub.log() == []


def test_a_tokenizer_of_another_repository(hub: Hub, tmp_path: Path) -> None:
    lister = Lister(tmp_path / "home")
    folder = hub_tokenizer("lab/run@step2", lister)
    assert (folder / "tokenizer.json").exists()
    assert hub_tokenizer("lab/run", lister).name == hub.commit("lab/run", "main")
    with pytest.raises(UserError, match="lab/run has no revision step3"):
        hub_tokenizer("lab/run@step3", lister)


@pytest.fixture
def public(hub: Hub, text_file: Path, concept_file: Path) -> list[str]:
    """A run on the hub's series."""
    return [
        "series=hub", "series.repo=lab/run", "series.tokens_per_step=100", "text=jsonl",
        f"text.path={text_file}", f"text.pairs={concept_file}", "primary=xx", "run_dir=out",
        "analysis.replicates=20", "concepts.least_positions=1",
    ]  # fmt: skip


def test_a_plan_tells_what_a_series_takes(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    hub: Hub,
    tmp_path: Path,
) -> None:
    done = tracker([*public, "task=plan"])
    assert done.returncode == 0, done.stderr
    assert "run: 4 checkpoints to track, steps 0, 2, 4, 64" in done.stdout
    assert "in 4 files, a request each" in done.stdout
    assert "steps 8, 64: identical weights (64 kept: equals main)" in done.stdout
    assert "left out: steps 1, 8, 16, 32" in done.stdout
    assert not hub.log(r"model\.safetensors")
    assert not (tmp_path / "out").exists()


def test_a_public_series_from_the_command_line(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    hub: Hub,
    tmp_path: Path,
) -> None:
    done = tracker(public)
    assert done.returncode == 0, done.stderr
    records = sorted((tmp_path / "out" / "records").glob("step-*.h5"))
    assert [store.record_step(r) for r in records] == [0, 2, 4, 64]
    assert store.read_attributes(records[1])["revision"] == (
        f"step2@{hub.commit('lab/run', 'step2')}"
    )
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert set(run["suspects"]) == {"1", "8", "16", "32"}
    report = (tmp_path / "out" / "report.html").read_text()
    assert "left out as suspects: steps 1, 8, 16, 32" in report
    assert "steps 16, 32: identical weights" in report
    # Everything stands: nothing is downloaded again.
    hub.forget()
    again = tracker(public)
    assert again.returncode == 0, again.stderr
    assert not hub.log(r"model\.safetensors")

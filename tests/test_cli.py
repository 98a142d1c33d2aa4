"""The command line: exit codes, one clear line per error, resume after SIGKILL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import tiny_model, write_series

from tracker.cli import main

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Done:
    """What a run left behind."""

    returncode: int
    stdout: str
    stderr: str


Tracker = Callable[[Sequence[str]], Done]


@pytest.fixture
def tracker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Tracker:
    """Run the command in `tmp_path` as a user would, in this process."""

    def run(arguments: Sequence[str]) -> Done:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["tracker", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return Done(int(stop.value.code or 0), out, err)

    return run


@pytest.fixture
def common(series_folder: Path, text_file: Path, concept_file: Path) -> list[str]:
    """A run on the tiny series."""
    return [
        "series=local", f"series.path={series_folder}", "text=jsonl", f"text.path={text_file}",
        f"text.pairs={concept_file}", "analysis.replicates=50", "run_dir=out",
    ]  # fmt: skip


def test_a_run_from_folder_to_report(common: list[str], tracker: Tracker, tmp_path: Path) -> None:
    done = tracker(common)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("yy: ")
    assert lines[1].startswith("zz: ")
    assert "no corpus table" in lines[2]
    assert lines[-1] == "report: out/report.html"
    out = tmp_path / "out"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]  # nothing of Hydra's own
    curves = pd.read_csv(out / "curves.csv")
    assert {"loss", "bits_per_byte", "working_language_share", "lape"} <= set(curves["measure"])
    assert (out / "stages.csv").exists()
    assert (out / "figures" / "babel_tower.svg").exists()
    with h5py.File(out / "index.h5") as index:
        assert index["step"][()].tolist() == [0, 1, 2, 4, 8]
        stored = index["curves/value"][()]
    np.testing.assert_allclose(stored, curves["value"], rtol=1e-12)
    again = tracker(common)
    assert again.stdout == done.stdout
    assert "0 measured, 5 kept" in again.stderr
    with h5py.File(out / "index.h5") as index:
        np.testing.assert_array_equal(index["curves/value"][()], stored)
    (out / "report.html").unlink()  # what is gone is made again
    assert tracker(common).stdout == done.stdout
    assert (out / "report.html").exists()
    analyzed = tracker(["task=analyze", "run_dir=out", "analysis.replicates=50"])
    assert analyzed.returncode == 0, analyzed.stderr
    assert analyzed.stdout == done.stdout


def test_a_corpus_table_gives_a_mixture(
    common: list[str], tracker: Tracker, tmp_path: Path
) -> None:
    rows = [
        {"language": c, "tokens": n, "mean_tokens_per_example": 30, "path": f"{c}.jsonl"}
        for c, n in (("xx", 90000), ("yy", 400), ("zz", 100))
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = tracker([*common, "mixture.corpus=corpus.jsonl"])
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert sum(line.startswith("mixture: ") for line in said) == 3
    # Nothing splits in these models: the proposal rests on counts, and says so.
    assert any("not applicable to a mixture: no split found" in line for line in said)
    proposed = json.loads((tmp_path / "out" / "mixture.json").read_text())
    assert proposed["default"] == "epoch_cap"
    default = next(p for p in proposed["proposals"] if p["proposer"] == "epoch_cap")
    shares = {c: w["token_share"] for c, w in default["weights"].items()}
    # 16 passes over 400 unique tokens fill 6,400 of the 8,000 tokens that the run has seen.
    assert shares["yy"] == pytest.approx(0.8)
    assert shares["zz"] == pytest.approx(0.2)
    assert sum(shares.values()) == pytest.approx(1)
    exports = sorted((tmp_path / "out" / "mixture").iterdir())
    assert exports
    again = tracker(["task=analyze", "run_dir=out", "analysis.replicates=40"])
    assert again.returncode == 0, again.stderr
    assert sorted((tmp_path / "out" / "mixture").iterdir()) == exports
    refused = tracker(["task=remix", "run_dir=out", "mixture.budget=1e12"])
    assert refused.returncode == 2
    assert (tmp_path / "out" / "analysis.json").exists()  # what stands still stands
    without = tracker([*common, "mixture.corpus=short.jsonl"])
    assert without.returncode == 2
    assert "no such file" in without.stderr


WRONG = {
    "no such folder": (["series.path=absent"], "series.path=absent: no such folder"),
    "no checkpoint": (["series.path=."], "no checkpoint in it"),
    "no path": (["series.path=null"], "series=local needs series.path"),
    "unknown primary": (["primary=klingon"], "primary=klingon: not among the languages xx, yy, zz"),
    "unknown language": (["languages=[xx,klingon]"], "the text has no 'klingon'"),
    "one language": (["languages=[xx]"], "one language only (xx)"),
    "no text": (["text.path=absent"], "text.path=absent: no such file"),
    "missing field": (["text.path=missing.jsonl"], "line 1: field 'language' is missing"),
    "wrong encoding": (["text.path=latin.jsonl"], "not utf-8"),
    "empty language": (["text.path=empty.jsonl"], "every document of 'yy' is empty"),
    "not a number": (["text.window=wide"], "text.window"),
    "not a list": (["series.steps=5"], "series.steps: give a list, such as [a, b]"),
    "bad shard": (["shard=3", "shards=2"], "shard counts from 0 to shards - 1"),
    "no device": (["model.device=cuda:77"], "model.device=cuda:77: this machine has"),
    "bad probe setting": (["probes.lape.top_fraction=2"], "probes.lape.top_fraction=2: choose"),
    "not a fraction": (["probes.lape.top_fraction=abc"], "probes.lape.top_fraction=abc: choose"),
    "no performance": (["probe=[lape]"], "probe: performance is missing"),
    "no replicates": (["analysis.replicates=0"], "analysis.replicates=0: choose at least 1"),
    "corpus lacks a language": (["mixture.corpus=corpus.jsonl"], "zz"),
    "nothing tracked": (
        ["series=demo", "series.path=null", "task=analyze", "run_dir=null"],
        "nothing is tracked yet",
    ),
    "unknown task": (["task=fly"], "task=fly: choose all, track, analyze, remix"),
    "unknown proposer": (["mixture.proposer=magic"], "mixture.proposer=magic: choose one of"),
    "no corpus file": (["mixture.corpus=absent"], "mixture.corpus=absent: no such file"),
    "a budget that no caps can meet": (
        ["mixture.corpus=whole.jsonl", "mixture.budget=1e9"],
        "is more than 40 passes over",
    ),
    "contradictory shares": (
        ["mixture.corpus=whole.jsonl", "mixture.fixed={xx: 0.7, yy: 0.6}"],
        "fixed shares sum to 1.3: they must not exceed 1",
    ),
    "constraints before the built-in series is trained": (
        ["series=demo", "series.path=null", "mixture.fixed={php: 1.5}"],
        "fixed share of php is 1.5: give a fraction of 1",
    ),
    "a temperature that is none": (
        ["mixture.temperature=2"],
        "temperature exponent is 2: give a number from 0 to 1",
    ),
    "files counted in vain": (
        [
            "mixture.corpus={xx: missing.jsonl, yy: missing.jsonl, zz: missing.jsonl}",
            "mixture.budget=1e9",
        ],
        "is more than 40 passes over",
    ),
    "weight of an unknown language": (
        ["mixture.corpus=whole.jsonl", "mixture.weights={klingon: 2}"],
        "weight for klingon: not among the languages xx, yy, zz",
    ),
    "no weight at all": (
        ["mixture.corpus=whole.jsonl", "mixture.weights={yy: 0, zz: 0}"],
        "every language has weight 0",
    ),
    "unknown outcome": (
        ["mixture.corpus=whole.jsonl", "mixture.outcome=bleu"],
        "unknown outcome 'bleu': choose one of loss, accuracy",
    ),
    "scores without a column": (
        ["mixture.corpus=whole.jsonl", "mixture.scores=table.csv"],
        "table.csv, line 2: no step, language, score: every row needs step, language, score",
    ),
    "runs whose shares do not sum to one": (
        ["mixture.corpus=whole.jsonl", "mixture.runs=table.csv"],
        "table.csv, line 2: shares of xx, yy, zz sum to 0.6, not to 1",
    ),
    "unknown override": (["colour=red"], "colour: no such setting; choose analysis, concepts, "),
    "misspelt override": (["taks=plan"], "taks: no such setting; did you mean task?"),
    "misspelt setting": (
        ["probes.lape.top_fracton=0.1"],
        "no such setting; did you mean probes.lape.top_fraction",
    ),
    "unknown group option": (["text=poems"], "text=poems: there is none; choose dataset, flores"),
    "misspelt group option": (["series=pythia-410"], "there is none; did you mean pythia-410m"),
    "misspelt part": (["probe=[performnce]"], "there is none; did you mean performance"),
    "no setting": (["task"], "task: not understood (missing EQUAL at '<EOF>')"),
    "no such part": (["~probes.nope"], "'probes.nope' does not exist"),
    "nothing to analyze": (["task=analyze", "run_dir=void"], "void: no records in it"),
}


@pytest.mark.parametrize("kind", sorted(WRONG))
def test_wrong_use_is_one_clear_line_exit_2_and_nothing_written(
    common: list[str], tracker: Tracker, tmp_path: Path, kind: str
) -> None:
    arguments, message = WRONG[kind]
    (tmp_path / "missing.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "latin.jsonl").write_bytes('{"language": "xx", "text": "é"}\n'.encode("latin-1"))
    (tmp_path / "empty.jsonl").write_text(
        '{"language": "xx", "text": "dax a"}\n{"language": "yy", "text": ""}\n'
    )
    rows = [
        {"language": c, "tokens": 9, "mean_tokens_per_example": 3, "path": c} for c in ("xx", "yy")
    ]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows.append({"language": "zz", "tokens": 9, "mean_tokens_per_example": 3, "path": "zz"})
    (tmp_path / "whole.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "table.csv").write_text("run,xx,yy,zz,loss\na,0.2,0.2,0.2,3\n")
    before = sorted(p.name for p in tmp_path.iterdir())
    done = tracker([*common, *arguments])
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if kind != "files counted in vain":  # what is counted is said before it is judged
        assert len(done.stderr.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_unsupported_architecture_is_wrong_use(
    common: list[str], tracker: Tracker, tmp_path: Path, tokenizer: Any
) -> None:
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config = GPTNeoConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8,
        attention_types=[[["global"], 1]],
    )  # fmt: skip
    place = tmp_path / "neo" / "step-1"
    GPTNeoForCausalLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    done = tracker([*common, "series.path=neo", "primary=xx"])
    assert done.returncode == 2
    assert "'gpt_neo' is not supported; supported are" in done.stderr
    assert "one row in tracker/model.py ANATOMY" in done.stderr
    assert not (tmp_path / "out").exists()


def test_skipped_checkpoints_give_exit_3_and_are_listed(
    common: list[str], tracker: Tracker, series_folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(series_folder, tmp_path / "copy"))
    weights = copy / "step-2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (copy / "step-4" / "model.safetensors").unlink()
    done = tracker([*common, f"series.path={copy}"])
    assert done.returncode == 3, done.stderr
    assert "step 2: skipped (model.safetensors is truncated" in done.stderr
    assert "step 4: still being written" in done.stderr
    with h5py.File(tmp_path / "out" / "index.h5") as index:
        assert index["missing/step"][()].tolist() == [2, 4]
        assert "truncated" in index["missing/reason"].asstr()[0]
    report = (tmp_path / "out" / "report.html").read_text()
    assert "is truncated" in report


def test_records_of_another_configuration_are_never_mixed_in(
    common: list[str], tracker: Tracker, tmp_path: Path
) -> None:
    assert tracker([*common, "task=track"]).returncode == 0
    other = tracker([*common, "task=track", "seed=1"])
    assert other.returncode == 2
    assert "records of another configuration" in other.stderr


def test_help_and_cfg_work_without_a_series(tracker: Tracker, tmp_path: Path) -> None:
    assert "series" in tracker(["--help"]).stdout
    done = tracker(["--cfg", "job"])
    assert done.returncode == 0
    assert "tokens_per_language" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_steps_selection_and_bfloat16(common: list[str], tracker: Tracker, tmp_path: Path) -> None:
    arguments = [*common, "task=track", "series.select.n=3", "model.dtype=bfloat16"]
    assert tracker(arguments).returncode == 0
    records = sorted(p.name for p in (tmp_path / "out" / "records").glob("*.h5"))
    assert [int(r[5:14]) for r in records] == [0, 2, 8]
    assert tracker([*common, "task=track", "series.steps=[1]", "run_dir=one"]).returncode == 0
    assert len(list((tmp_path / "one" / "records").glob("*.h5"))) == 1


def test_starter_text_and_a_data_set(
    common: list[str], tracker: Tracker, tmp_path: Path, text_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    starter = ["text=starter", "text.path=null", "languages=[en,de,fr]", "primary=en"]
    without = [a for a in common if not a.startswith("text")]
    done = tracker([*without, *(a for a in starter if "path" not in a), "task=track"])
    assert done.returncode == 0, done.stderr
    assert "de: " in done.stderr
    data = ["text=dataset", "text.path=json", f"text.data_files={text_file}", "run_dir=data"]
    done = tracker([*without, *data, "task=track"])
    assert done.returncode == 0, done.stderr
    assert "no concept table fits" in done.stderr


@pytest.mark.slow
def test_killed_at_any_moment_it_continues_to_the_same_records(
    common: list[str], tracker: Tracker, tmp_path: Path, tokenizer: Any
) -> None:
    """SIGKILL a real run again and again, also inside the writing of a record."""
    folder = tmp_path / "series"
    write_series(folder, tokenizer, steps=tuple(range(8)))
    arguments = [*common, f"series.path={folder}", "task=track"]
    assert tracker([*arguments, "run_dir=whole"]).returncode == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # Writing is made slow in the killed runs, so that kills fall into it.
    slow = (
        "import os, time; f = os.fsync\n"
        "os.fsync = lambda h: (time.sleep(0.3), f(h))\n"
        "from tracker.cli import main; main()"
    )
    seen_leftover = 0
    for round_ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", slow, *arguments, "run_dir=killed"], cwd=tmp_path,
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        records = tmp_path / "killed" / "records"
        before = len(list(records.glob("step-*.h5")))
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if round_ % 2 and list(records.glob(".*.unfinished")):
                break
            if len(list(records.glob("step-*.h5"))) > before:
                break
            time.sleep(0.01)
        finished = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen_leftover += bool(list(records.glob(".*.unfinished")))
        for record in records.glob("step-*.h5"):
            with h5py.File(record) as file:  # what exists is complete
                assert {"performance", "neurons", "working_language"} <= set(file)
        if finished:
            break
    assert seen_leftover >= 2
    assert tracker([*arguments, "run_dir=killed"]).returncode == 0
    whole = {p.name: p.read_bytes() for p in (tmp_path / "whole" / "records").iterdir()}
    killed = {p.name: p.read_bytes() for p in (tmp_path / "killed" / "records").iterdir()}
    assert killed == whole


def test_nan_checkpoints_alone_leave_nothing_to_analyze_but_no_traceback(
    common: list[str], tracker: Tracker, tmp_path: Path, tokenizer: Any
) -> None:
    import torch

    model = tiny_model("gpt_neox", len(tokenizer))
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    place = tmp_path / "nan" / "step-1"
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    done = tracker([*common, "series.path=nan", "primary=xx"])
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "holds NaN or infinite values" in done.stderr

"""The worked examples of CONTRIBUTING.md, run as they stand there."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import LANGUAGES

from analysis import load_run
from tracker.cli import main

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = re.findall(r"^`(mine/[^`]+)`:\n\n```\w+\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^PYTHONPATH=\. tracker (.*)$", TEXT, re.MULTILINE)


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    series_folder: Path,
    text_file: Path,
    concept_file: Path,
) -> Path:
    """Every example's command in a folder with the examples' files, on the tiny series."""
    assert len(FILES) == 4
    assert len(COMMANDS) == 2
    for name, content in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    common = [
        "series=local", f"series.path={series_folder}", "text=jsonl", f"text.path={text_file}",
        f"text.pairs={concept_file}", "analysis.replicates=50", "primary=xx",
    ]  # fmt: skip
    probe, intervention = COMMANDS
    commands = [
        f"{probe} run_dir=probed",
        "probe=performance task=track run_dir=changed",
        f"{intervention} probe=performance run_dir=changed",
    ]
    for command in commands:
        monkeypatch.setattr(sys, "argv", ["tracker", *shlex.split(command), *common])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
    return tmp_path


def test_the_examples_work(run: Path) -> None:
    with h5py.File(run / "probed" / "records" / "step-000000008.h5") as file:
        norm = file["residual_norm/norm"]
        assert [d[0].name.rpartition("/")[2] for d in norm.dims] == ["language", "hidden_layer"]
        assert norm.attrs["units"] == "L2"
        assert (norm[()] > 0).all()
        last = norm[()][:, -1]
    curves = load_run(run / "probed", replicates=50).curves()
    mine = curves[(curves.measure == "residual_norm") & (curves.step == 8)]
    np.testing.assert_allclose(mine.value, last, rtol=1e-5)
    (table,) = (run / "changed" / "interventions").glob("layer_off-*.csv")
    found = pd.read_csv(table)
    assert set(found.number) == {1, 2, 3}
    assert set(found.language) == set(LANGUAGES)
    assert {"change", "control", "excess"} <= set(found.statistic)
    assert (run / "changed" / "figures" / "interventions" / "layer_off_loss_evolution.svg").exists()
    assert "Layer off: the loss under every change" in (run / "changed" / "report.html").read_text()

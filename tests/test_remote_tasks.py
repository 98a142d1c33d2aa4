"""Every task on a public series: what it downloads, and what it can do without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import documents
from hub_server import Hub
from huggingface_hub import constants
from test_cli import Tracker, tracker  # noqa: F401  (fixtures)

pytest_plugins = ("hub_fixtures",)
WEIGHTS = r"model\.safetensors"
SMALL = [
    "task=validate", "validate.tokens=8000", "validate.seeds=1", "validate.pilots=0",
    "validate.hidden_size=16", "validate.layers=1", "validate.heads=2",
    "validate.sequence_length=16", "validate.batch_size=8", "validate.arms=[natural]",
    "validate.controls=[]", "validate.workers=1",
]  # fmt: skip
DEACTIVATE = [
    "task=intervene", "intervention=deactivate", "interventions.deactivate.controls=1",
    "steps=[2,64]",
]  # fmt: skip


@pytest.fixture
def public(hub: Hub, text_file: Path, concept_file: Path, tmp_path: Path) -> list[str]:
    """A run on the hub's series, with a corpus to train on."""
    corpus = {}
    for number, language in enumerate(("xx", "yy", "zz")):
        rows = documents(per_language=150 // (1 + number), seed=number)
        texts = [{"text": row["text"]} for row in rows if row["language"] == language]
        corpus[language] = tmp_path / f"{language}.jsonl"
        corpus[language].write_text("\n".join(map(json.dumps, texts)) + "\n")
    table = ", ".join(f"{language}: {path}" for language, path in corpus.items())
    return [
        "series=hub", "series.repo=lab/run", "series.tokens_per_step=500", "text=jsonl",
        f"text.path={text_file}", f"text.pairs={concept_file}", "primary=xx",
        "text.tokens_per_language=600", "analysis.replicates=10", "concepts.least_positions=1",
        "probe=[performance,working_language,lape,vocabulary_mass]",
        f"mixture.corpus={{{table}}}", "mixture.budget=20000",
    ]  # fmt: skip


@pytest.mark.slow
def test_every_task_and_then_without_a_network(
    public: list[str],
    tracker: Tracker,  # noqa: F811
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked(*arguments: str, code: int = 0) -> Any:
        done = tracker([*public, *arguments])
        assert done.returncode == code, done.stderr
        return done

    asked("task=track")
    hub.forget()
    said = asked(*SMALL).stdout
    assert "validation: epoch_cap " in said
    assert not hub.log(WEIGHTS)
    assert "2 checkpoints done, 0 kept" in asked(*DEACTIVATE).stderr
    assert len([r for r in hub.log(WEIGHTS, "GET") if r.where == "storage"]) == 2
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.forget()
    assert asked(*SMALL).stdout == said
    for task in ("analyze", "remix"):
        lines = asked(f"task={task}").stdout.splitlines()
        assert any(line.startswith("validation: epoch_cap ") for line in lines)
        assert lines[-1].startswith("report: runs/run/")
    assert "0 checkpoints done, 2 kept" in asked(*DEACTIVATE).stderr
    assert hub.log() == []
    # One whose weights are not here is left out; nothing at all is no run.
    lacking = "lab/run: model.safetensors is not here, and HF_HUB_OFFLINE is set; unset it"
    assert f"step 4: skipped ({lacking})" in asked(*DEACTIVATE, "steps=[2,4]", code=3).stderr
    done = asked(*DEACTIVATE, "run_dir=none", "mixture.corpus=null", code=2)
    assert done.stderr == f"tracker: {lacking}\n"
    assert not (tmp_path / "none").exists()

"""Every YAML composes, and what it composes to is understood."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import conf
from tracker.config import find_probes, run_settings
from tracker.text import TextSettings

FOLDER = Path(conf.__file__).parent
OPTIONS = sorted(
    (p.parent.name, p.stem) for p in FOLDER.glob("*/*.yaml") if p.parent.name != "probe"
)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", [f"{group}={option}"])
    run_settings(config)
    assert set(TextSettings.__dataclass_fields__) <= set(config.text)
    assert "kind" in config.series


def test_every_probe_is_measured_by_default_and_its_settings_are_all_in_its_yaml() -> None:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config")
    probes = find_probes(config)
    assert set(probes) == {p.stem for p in (FOLDER / "probe").glob("*.yaml")}
    for name, probe in probes.items():
        settings = set(type(probe).__dataclass_fields__) - {"group", "needs", "needs_concepts"}
        assert settings == set(OmegaConf.to_container(config.probes[name])) - {"_target_"}


def test_presets_change_what_they_name() -> None:
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", ["experiment=smoke"])
    assert config.series.mix_steps == 4
    assert config.text.documents == 12

"""Equal weight files found from hashes: the shapes of known public cases, and brute force."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from checkpoints.integrity import Weights, equal_groups, missing_steps, suspects


def one(digest: str) -> Weights:
    return Weights({"model.safetensors": digest})


def sharded(*digests: str) -> Weights:
    names = (f"model-{i + 1:05}-of-{len(digests):05}.safetensors" for i in range(len(digests)))
    return Weights(dict(zip(names, digests, strict=True)))


def said(series: dict[int, Weights], *finals: Weights) -> list[str]:
    return [group.sentence() for group in equal_groups(series, *finals)]


def test_a_clean_series_has_no_groups() -> None:
    series = {step: one(f"w{step}") for step in (0, 1, 2, 4)}
    assert equal_groups(series) == ()
    assert equal_groups(series, one("w4")) == ()
    assert equal_groups({}, one("w4")) == ()


def test_branches_that_serve_the_final_weights() -> None:
    series = {10: one("a"), 40: one("z"), 80: one("b"), 320: one("z")}
    assert said(series, one("z")) == ["steps 40, 320: identical weights (320 kept: equals main)"]
    assert set(suspects(equal_groups(series, one("z")))) == {40}


def test_a_step_that_equals_the_final_model_and_is_not_its_last() -> None:
    series = {10: one("a"), 40: one("z"), 80: one("z"), 320: one("y")}
    assert said(series, one("z")) == [
        "steps 40, 80: identical weights (none kept: they equal main)"
    ]
    assert said({10: one("z"), 20: one("y")}, one("z")) == [
        "step 10: identical weights (none kept: it equals main)"
    ]


def test_steps_in_the_middle_of_which_none_can_be_told_to_be_right() -> None:
    series = {101: one("a"), 175: one("a"), 200: one("b"), 300: one("a"), 400: one("z")}
    assert said(series, one("z")) == ["steps 101, 175, 300: identical weights (none kept)"]
    assert set(suspects(equal_groups(series, one("z")))) == {101, 175, 300}


def test_the_first_step_of_a_warm_up_from_zero() -> None:
    series = {0: one("a"), 1: one("a"), 2: one("b")}
    (group,) = equal_groups(series)
    assert group.kept == 0
    assert group.suspects == (1,)
    assert equal_groups({0: one("a"), 1000: one("a")})[0].suspects == (0, 1000)


def test_a_first_shard_of_the_final_model() -> None:
    series = {
        40: sharded("a", "b"), 50: sharded("y", "c"), 60: sharded("d", "e"), 143: sharded("y", "z")
    }  # fmt: skip
    shard = "model-00001-of-00002.safetensors"
    assert said(series, sharded("y", "z")) == [
        f"steps 50, 143: shared {shard} (143 kept: equals main)"
    ]
    assert said(series) == [f"steps 50, 143: shared {shard} (none kept)"]
    without_last = {step: series[step] for step in (40, 50, 60)}
    assert said(without_last, sharded("y", "z")) == [
        f"step 50: shared {shard} (none kept: it equals main)"
    ]


def test_the_final_model_in_two_formats() -> None:
    """Steps in pickle, the final model read from safetensors: its pickle is compared as well."""
    finals = sharded("s", "t"), Weights({"pickle-1.bin": "y", "pickle-2.bin": "z"})
    series = {10: one("a"), 40: sharded("y", "z"), 60: sharded("y", "c"), 143: sharded("y", "z")}
    shard = "model-00001-of-00002.safetensors"
    assert said(series, *finals) == [
        "steps 40, 143: identical weights (143 kept: equals main)",
        f"steps 40, 60, 143: shared {shard} (143 kept: equals main)",
    ]
    assert set(suspects(equal_groups(series, *finals))) == {40, 60}
    assert said({10: one("a"), 40: one("b"), 143: sharded("s", "t")}, *finals) == []


def test_identical_sharded_weights_are_told_once() -> None:
    series = {
        1: sharded("a", "b"),
        2: sharded("a", "b"),
        3: sharded("b", "a"),
        4: sharded("c", "d"),
    }
    assert said(series) == ["steps 1, 2, 3: identical weights (none kept)"]


@given(
    st.dictionaries(
        st.integers(2, 12), st.lists(st.sampled_from("abcdef"), min_size=2, max_size=2), max_size=7
    ),
    st.lists(st.sampled_from("abcdef"), min_size=2, max_size=2),
)
def test_suspects_by_brute_force(drawn: dict[int, list[str]], end: list[str]) -> None:
    """A step is clean if and only if it shares no file with another one, or is the end."""
    series = {step: sharded(*files) for step, files in drawn.items()}
    final = sharded(*end)
    found = set(suspects(equal_groups(series, final)))
    last = max(series, default=0)
    for step, mine in series.items():
        shares = bool(set(mine.files.values()) & set(final.files.values())) and step != last
        for other, its in series.items():
            if other != step and set(mine.files.values()) & set(its.files.values()):
                common = set(mine.files.values()) & set(its.files.values())
                whole = mine.content == its.content
                ends = step == last and (
                    mine.content == final.content if whole else common <= set(final.files.values())
                )
                shares |= not ends
        assert (step in found) == shares, (step, drawn, end)


def test_what_a_grid_lacks() -> None:
    early = [0, 1, 2, 4, 8, 16, 512]
    assert missing_steps([*early, 1000, 2000, 3000, 5000, 6000, 9000]) == (4000, 7000, 8000)
    assert missing_steps([*early, *range(1000, 9001, 1000), 9400]) == ()
    assert missing_steps([0, 1, 2, 4, 8, 16, 32]) == ()
    assert missing_steps([]) == ()
    assert missing_steps([5]) == ()


@given(st.integers(1, 50), st.integers(8, 40), st.data())
def test_what_was_taken_from_a_grid_is_missed(grid: int, count: int, data: st.DataObject) -> None:
    inner = list(range(6, count - 1))
    taken = data.draw(st.lists(st.sampled_from(inner), max_size=2, unique=True)) if inner else []
    steps = [grid * i for i in range(1, count + 1) if i - 1 not in taken]
    assert missing_steps(steps) == tuple(sorted(grid * (i + 1) for i in taken))


def test_every_pair_of_a_group_is_equal() -> None:
    series = {s: one("ab"[s % 2]) for s in range(2, 8)}
    for group in equal_groups(series):
        assert all(series[a] == series[b] for a, b in combinations(group.steps, 2))

"""Training can be stopped anywhere; batches keep their shares and depend on the step alone."""

from __future__ import annotations

import fcntl
import math
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from checkpoints import files
from checkpoints.batches import Batch, MixedBatches, Phase, pack
from checkpoints.files import (
    ClaimedError,
    claimed,
    clear_unfinished,
    here,
    locked,
    new_file,
    new_folder,
)
from checkpoints.train import Recipe, Seen, threads, train, uses_bfloat16

STEPS = 12


def neox(dropout: float = 0.0) -> GPTNeoXForCausalLM:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        hidden_dropout=dropout,
    )
    config._attn_implementation = "eager"
    return GPTNeoXForCausalLM(config)


def mixed(seed: int = 0) -> MixedBatches:
    streams = {
        "a": np.arange(400, dtype=np.int64) % 50,
        "b": np.arange(150, dtype=np.int64)[::-1].copy() % 7,
    }
    phases = [Phase(4, {"a": 1.0}), Phase(STEPS - 4, {"a": 0.75, "b": 0.25})]
    return MixedBatches(streams, phases, batch_size=4, sequence_length=16, seed=seed)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


class InterruptedRunError(Exception):
    pass


def stop_after(step: int) -> Callable[[int, float], None]:
    def on_step(done: int, loss: float) -> None:
        if done == step:
            raise InterruptedRunError

    return on_step


def test_update_is_adamw_on_the_next_token_loss() -> None:
    """Two steps against torch's own loss and a textbook AdamW in float64 arithmetic of updates."""
    model, oracle = neox(), neox()
    recipe = Recipe(steps=2, warmup_steps=0, decay_share=0, precision="float32", clip=1e9)
    batches = mixed()
    losses: list[float] = []
    train(model, batches, recipe, on_step=lambda _, loss: losses.append(loss))
    moments = {n: (torch.zeros_like(p), torch.zeros_like(p)) for n, p in oracle.named_parameters()}
    for step in range(2):
        ids = batches(step).ids
        loss = oracle(input_ids=ids, labels=ids).loss
        assert losses[step] == pytest.approx(float(loss.detach()), abs=1e-5)
        oracle.zero_grad()
        loss.backward()
        for name, p in oracle.named_parameters():
            m, v = moments[name]
            assert p.grad is not None
            m.mul_(0.9).add_(p.grad, alpha=0.1)
            v.mul_(0.95).add_(p.grad**2, alpha=0.05)
            decay = recipe.weight_decay if p.ndim >= 2 else 0.0
            mean, square = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.95 ** (step + 1))
            update = recipe.learning_rate * mean / (square.sqrt() + 1e-8)
            p.data = p.data * (1 - recipe.learning_rate * decay) - update
    for (name, p), q in zip(oracle.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=2e-5, rtol=1e-4, msg=name)


def test_rate_warms_up_holds_and_falls_to_zero() -> None:
    recipe = Recipe(steps=100, learning_rate=1.0, warmup_steps=10, decay_share=0.2)
    assert recipe.rate(0) == pytest.approx(0.1)
    assert recipe.rate(4) == pytest.approx(0.5)
    assert [recipe.rate(s) for s in (9, 10, 50, 80)] == [1.0] * 4
    assert recipe.rate(90) == pytest.approx(0.5)
    assert recipe.rate(99) == pytest.approx(0.05)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("stops", [[1], [5], [3, 8], [12]])
def test_interrupted_run_equals_uninterrupted(
    tmp_path: Path, stops: list[int], dropout: float
) -> None:
    recipe = Recipe(steps=STEPS, warmup_steps=3)
    whole: dict[int, dict[str, torch.Tensor]] = {}
    model = neox(dropout)

    def keep(
        target: dict[int, dict[str, torch.Tensor]], of: torch.nn.Module
    ) -> Callable[..., None]:
        return lambda seen: target.__setitem__(seen.step, weights(of))

    with threads(1):
        seen = train(model, mixed(), recipe, save_at=(0, 4, 7, 12), save=keep(whole, model))
        parts: dict[int, dict[str, torch.Tensor]] = {}
        for stop in [*stops, 0]:
            again = neox(dropout)
            torch.manual_seed(stop)  # whatever happened before must not matter
            arguments = {
                "save_at": (0, 4, 7, 12),
                "save": keep(parts, again),
                "state": tmp_path / "state.pt",
                "state_every": 3,
            }
            if stop:
                with pytest.raises(InterruptedRunError):
                    train(again, mixed(), recipe, on_step=stop_after(stop), **arguments)  # type: ignore[arg-type]
            else:
                assert train(again, mixed(), recipe, **arguments) == seen  # type: ignore[arg-type]
    assert sorted(parts) == sorted(whole) == [0, 4, 7, 12]
    for step, content in whole.items():
        assert_same(parts[step], content)


def test_training_leaves_random_state_and_threads_alone() -> None:
    torch.manual_seed(5)
    model = neox(0.3)
    torch.manual_seed(5)
    before, count = torch.get_rng_state(), torch.get_num_threads()
    with threads(1):
        assert torch.get_num_threads() == 1
        train(model, mixed(), Recipe(steps=2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == count


def test_on_step_may_hold_weights() -> None:
    model = neox()
    held = model.get_parameter("gpt_neox.layers.0.mlp.dense_h_to_4h.weight")
    value = held.detach().clone()

    def restore(step: int, loss: float) -> None:
        with torch.no_grad():
            held.copy_(value)

    train(model, mixed(), Recipe(steps=3), on_step=restore)
    assert torch.equal(held, value)


def test_any_causal_lm_learns() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    losses: list[float] = []
    train(
        LlamaForCausalLM(config),
        mixed(),
        Recipe(steps=STEPS, learning_rate=1e-2, warmup_steps=0),
        on_step=lambda _, loss: losses.append(loss),
    )
    assert losses[0] == pytest.approx(math.log(50), abs=0.2)
    assert losses[-1] < losses[0] - 0.5


def test_tokens_seen_are_counted() -> None:
    batches = mixed()
    expected = Counter(c for step in range(STEPS) for c in batches(step).languages)
    seen = train(neox(), batches, Recipe(steps=STEPS))
    assert seen == Seen(STEPS, {c: 16 * n for c, n in expected.items()})
    assert seen.tokens == STEPS * 4 * 16


def test_precision() -> None:
    assert uses_bfloat16("bfloat16", "cpu")
    assert not uses_bfloat16("float32", "cpu")
    assert isinstance(uses_bfloat16("auto", "cpu"), bool)
    assert not uses_bfloat16("auto", "meta")


def test_batches_depend_on_seed_and_step_alone() -> None:
    def same(first: Batch, second: Batch) -> bool:
        return first.languages == second.languages and torch.equal(first.ids, second.ids)

    forwards = [mixed()(step) for step in range(STEPS)]
    backwards = [mixed()(step) for step in reversed(range(STEPS))][::-1]
    assert all(map(same, forwards, backwards))
    assert not all(map(same, forwards, [mixed(1)(step) for step in range(STEPS)]))
    assert all(set(b.languages) == {"a"} for b in forwards[:4])


def test_shares_hold_within_about_one_row() -> None:
    shares = {"a": 0.6, "b": 0.1, "c": 0.3}
    streams = {c: np.zeros(1000, np.int64) for c in shares}
    batches = MixedBatches(streams, [Phase(200, shares)], batch_size=5, sequence_length=10, seed=3)
    count: Counter[str] = Counter()
    for step in range(len(batches)):
        count.update(batches(step).languages)
        for c, share in shares.items():
            assert abs(count[c] - share * 5 * (step + 1)) < 4


def test_every_epoch_reads_every_row_once() -> None:
    stream = np.arange(105, dtype=np.int64)
    batches = MixedBatches(
        {"a": stream}, [Phase(18, {"a": 1.0})], batch_size=1, sequence_length=10, seed=0
    )
    starts = [int(batches(step).ids[0, 0]) for step in range(18)]
    for epoch in (starts[:9], starts[9:]):
        cuts = {s % 10 for s in epoch}
        assert len(cuts) == 1
        assert sorted(s // 10 for s in epoch) == list(range(9))
    assert starts[:9] != starts[9:]
    for step in range(18):
        ids = batches(step).ids[0]
        assert torch.equal(ids, torch.arange(int(ids[0]), int(ids[0]) + 10))


def test_plan_is_the_same_on_every_machine() -> None:
    assert [int(mixed()(s).ids[0, 0]) for s in range(5)] == [8, 32, 2, 16, 40]


def test_pack() -> None:
    assert pack([[0, 1, 2], [0], [0, 3]]).tolist() == [0, 1, 2, 0, 0, 3]


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with suppress(InterruptedRunError), new_file(target) as draft:
        draft.write_text("half")
        raise InterruptedRunError
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "old"
    with new_file(target) as draft:
        draft.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_folders_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "step-1"
    with suppress(InterruptedRunError), new_folder(target) as draft:
        (draft / "weights").write_text("half")
        raise InterruptedRunError
    assert list(tmp_path.iterdir()) == []
    with new_folder(target) as draft:
        (draft / "weights").write_text("all")
        assert not target.exists()
    assert (target / "weights").read_text() == "all"


def test_a_locked_folder_has_one_holder(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as other:
        with locked(tmp_path), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_leftovers_of_killed_writers_are_cleared(tmp_path: Path) -> None:
    """What a SIGKILL leaves: drafts under their temporary names, no target."""
    file, folder = new_file(tmp_path / "a"), new_folder(tmp_path / "b")
    file.__enter__().write_text("half")
    (folder.__enter__() / "part").write_text("half")
    nested = new_file(tmp_path / "corpus" / "c")
    nested.__enter__().write_text("half")
    (tmp_path / "kept").write_text("")
    assert len(list(tmp_path.rglob("*"))) == 6
    host = here()
    living = tmp_path / f".d.{host}.{os.getppid()}.unfinished"
    elsewhere = tmp_path / ".e.elsewhere.999999999.unfinished"
    for other in (living, elsewhere):
        other.write_text("half")
    clear_unfinished(tmp_path)
    kept = sorted(["corpus", "kept", living.name, elsewhere.name])
    assert sorted(p.name for p in tmp_path.rglob("*")) == kept


def test_a_claim_is_shared_by_those_who_say_the_same_and_leaves_nothing(tmp_path: Path) -> None:
    claim = tmp_path / "run" / "records" / ".claim"
    with claimed(claim, "mine"):
        with claimed(claim, "mine"):
            assert claim.read_text() == "mine"
            with pytest.raises(ClaimedError, match="mine"), claimed(claim, "other"):
                raise AssertionError
        with pytest.raises(ClaimedError, match="mine"), claimed(claim, "other"):
            raise AssertionError
    assert not list(tmp_path.iterdir())
    with claimed(claim, "other"):
        (claim.parent / "record").touch()
    assert [p.name for p in claim.parent.iterdir()] == ["record"]
    claim.write_text("killed")
    with claimed(claim, "mine"):
        assert claim.read_text() == "mine"


def test_a_disk_without_locks_makes_no_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(files.fcntl, "flock", none)
    with claimed(tmp_path / ".claim", "mine"), claimed(tmp_path / ".claim", "other"):
        pass

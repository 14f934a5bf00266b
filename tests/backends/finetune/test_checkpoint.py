"""The file in which an interrupted training is kept."""

import pytest
import torch

from cospipe.backends.finetune.checkpoint import Checkpoint
from cospipe.ir.errors import AdapterError, UsageError


def test_a_state_comes_back_bit_by_bit(tmp_path):
    checkpoint = Checkpoint(tmp_path / "a.checkpoint", {"n": "3"})
    assert checkpoint.load() is None
    values = torch.randn(7)
    checkpoint.save({"trained": {"0.weight": values}, "step": 4, "sums": [0.1, 2.0]})
    found = checkpoint.load()
    assert torch.equal(found["trained"]["0.weight"], values)
    assert (found["step"], found["sums"]) == (4, [0.1, 2.0])
    assert list(tmp_path.iterdir()) == [checkpoint.path]
    checkpoint.delete()
    checkpoint.delete()  # nothing is left to remove, which is fine
    assert checkpoint.load() is None


@pytest.mark.parametrize("error", [OSError("no space left"), RuntimeError("write failed"), KeyboardInterrupt()])
def test_the_earlier_file_survives_when_writing_fails(tmp_path, monkeypatch, error):
    checkpoint = Checkpoint(tmp_path / "a.checkpoint", {})
    checkpoint.save({"step": 1})

    def half(state, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else AdapterError):
        checkpoint.save({"step": 2})
    assert list(tmp_path.iterdir()) == [checkpoint.path]
    assert checkpoint.load() == {"step": 1}


def test_options_that_differ_are_listed_and_no_others(tmp_path):
    path = tmp_path / "a.checkpoint"
    Checkpoint(path, {"n": "3", "seed": "0", "old": "x"}).save({"step": 1})
    with pytest.raises(UsageError) as error:
        Checkpoint(path, {"n": "4", "seed": "0", "new": "y"}).load()
    told = str(error.value)
    for words in ("n: 3 then, 4 now", "old: x then, unknown now", "new: unknown then, y now", str(path), "--restart"):
        assert words in told
    assert "seed" not in told


def test_a_file_of_another_program_is_not_used(tmp_path):
    path = tmp_path / "a.checkpoint"
    torch.save({"format": "theirs", "options": {}, "state": {}}, path)
    with pytest.raises(UsageError, match="no checkpoint of this version"):
        Checkpoint(path, {}).load()

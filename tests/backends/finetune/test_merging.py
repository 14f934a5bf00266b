"""Weights of a base with adapters merged in, in a file."""

import finetune_models
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.fft import idctn

import cospipe
from cospipe.backends.finetune.merging import write_merged
from cospipe.ir.errors import AdapterError, CospipeError, UsageError

MODEL = "finetune_models:tied"


@pytest.fixture
def adapters(tmp_path):
    """Two adapter files, and the change each makes to the weights, computed by scipy."""
    files, changes = [], []
    for number, alpha in enumerate((2.0, 0.5)):
        made = cospipe.adapt(finetune_models.tied(), cospipe.SpectralConfig(n=12, alpha=alpha, seed=number))
        values = np.random.RandomState(number)
        found = {}
        for name, delta in made.deltas().items():
            coefficients = values.standard_normal(12).astype(np.float32)
            delta.coefficients.data = torch.from_numpy(coefficients)
            spectrum = np.zeros(delta.shape)
            spectrum[delta.rows, delta.columns] = coefficients
            found[name] = alpha * idctn(spectrum, norm="ortho")
        files.append(tmp_path / f"{number}.safetensors")
        made.save(files[-1])
        changes.append(found)
    return files, changes


def test_a_weighted_sum_is_written_for_shared_weights_too(adapters, tmp_path):
    files, changes = adapters
    steps = []
    values = write_merged(MODEL, files, [0.5, -3.0], tmp_path / "sum.safetensors", steps.append)
    base, written = finetune_models.tied().state_dict(), load_file(tmp_path / "sum.safetensors")
    assert set(written) == set(base) == {"0.weight", "2.weight"}
    expected = base["0.weight"].numpy() + 0.5 * changes[0]["0.weight"] - 3 * changes[1]["0.weight"]
    assert np.allclose(written["0.weight"], expected, atol=1e-6)
    assert np.array_equal(written["0.weight"], written["2.weight"])
    assert values["changed"] == ["0.weight", "2.weight"]
    assert values["strengths"] == [0.5, -3.0]
    assert values["file_bytes"] == (tmp_path / "sum.safetensors").stat().st_size
    assert steps[:2] == ["Loading the model", "Merging"]


def test_strength_zero_is_the_base(adapters, tmp_path):
    values = write_merged(MODEL, adapters[0][:1], [0.0], tmp_path / "same.pt")
    assert values["changed"] == []
    written, base = torch.load(tmp_path / "same.pt", weights_only=True), finetune_models.tied().state_dict()
    assert all(torch.equal(written[name], base[name]) for name in base)


def test_an_adapter_given_twice_counts_twice(adapters, tmp_path):
    files, changes = adapters
    write_merged(MODEL, [files[0], files[0]], [1.0, 1.0], tmp_path / "twice.safetensors")
    expected = finetune_models.tied()[0].weight.detach().numpy() + 2 * changes[0]["0.weight"]
    assert np.allclose(load_file(tmp_path / "twice.safetensors")["0.weight"], expected, atol=1e-6)


def test_an_adapter_is_not_overwritten_by_its_result(adapters, tmp_path):
    files, _ = adapters
    before = files[0].read_bytes()
    (tmp_path / "link.safetensors").symlink_to(files[0])
    for output in (files[0], tmp_path / "link.safetensors"):
        with pytest.raises(UsageError, match="is one of the adapters"):
            write_merged(MODEL, files, [1.0, 1.0], output)
    assert files[0].read_bytes() == before


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_an_earlier_file_survives_when_writing_or_merging_fails(adapters, tmp_path, monkeypatch, suffix):
    output = tmp_path / f"merged{suffix}"
    write_merged(MODEL, adapters[0][:1], [1.0], output)
    before, names = output.read_bytes(), sorted(tmp_path.iterdir())
    with pytest.raises(AdapterError, match="infinite"):
        write_merged(MODEL, adapters[0][:1], [1e39], output)

    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr("cospipe.backends.finetune.merging.write_tensors", full)
    with pytest.raises(CospipeError, match="could not be written: no space left"):
        write_merged(MODEL, adapters[0][:1], [2.0], output)
    assert output.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == names

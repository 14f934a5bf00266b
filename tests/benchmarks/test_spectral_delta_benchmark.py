"""The benchmark of a weight's change: what it times computes the same, and what it counts."""

import numpy as np
import scipy.fft
import spectral_delta
import torch


def test_all_ways_of_the_dct_compute_the_same_and_peft_a_fourier_spectrum():
    rows, columns = torch.tensor([0, 3, 6, 6]), torch.tensor([1, 0, 2, 4])
    values = torch.tensor([1.0, -2.0, 0.5, 3.0])
    spectrum = np.zeros((7, 5))
    spectrum[rows, columns] = values
    computed = {name: way().numpy() for name, way in spectral_delta.ways((7, 5), rows, columns, values).items()}
    np.testing.assert_allclose(computed.pop("peft"), np.fft.ifft2(spectrum).real * 150, atol=1e-4)
    for result in computed.values():
        np.testing.assert_allclose(result, scipy.fft.idctn(spectrum, norm="ortho"), atol=1e-5)


def test_a_row_has_times_and_the_faster_form():
    row = spectral_delta.time_case(32, 16, 8, rounds=3)
    assert (row["rows"], row["columns"], row["n"]) == (32, 16, 8)
    assert 0 < row["fft_min_ms"] <= row["fft_ms"]
    assert row["faster_form"] == min(("fft", "matmul"), key=lambda form: row[f"{form}_min_ms"])
    assert row["chosen_form"] == "matmul"  # 32 x 16 is far too small for an FFT's calls
    assert row["speedup_vs_peft"] == row["peft_ms"] / row["matmul_ms"]


def test_llama_has_the_papers_number_of_trainable_parameters():
    assert spectral_delta.count_llama("hybrid")["trainable_parameters"] == 64 * 700

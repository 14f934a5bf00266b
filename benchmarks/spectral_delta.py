"""What the change of a weight by n cosines costs, and how few coefficients a large model needs.

First kind of rows: the inverse transform of n random places of a matrix, all ways alternately in one process.

* ``fft_ms``, ``matmul_ms``: this project's sparse transform in its two forms; ``chosen_form`` is what the cost formula
  takes, ``faster_form`` what was faster here (``*_min_ms`` are the least times, the others medians);
* ``dense_fft_ms``, ``dense_matmul_ms``: the same spectrum scattered into a dense one, and the dense inverse DCT of it;
* ``peft_ms``: what peft's FourierFT does, scatter and ``torch.fft.ifft2(...).real``;
* ``speedup_vs_peft``, ``speedup_vs_peft_min``: peft's time divided by the chosen form's, medians and least ones.

Matrices beyond four million elements get a fifth of the rounds.

Second kind: ``trainable_parameters`` of a model given by the shapes of its linear layers alone, on the meta device: the
query and value projections of LLaMA-3.1-8B with the paper's n = 700, for each selection that looks at no values.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Annotated

import torch
import typer
from environment import JsonFile, Row, print_rows, write_rows
from torch import nn

import cospipe
from cospipe.ir.dct import cheapest_form, inverse_dct2
from cospipe.ir.sparse_dct import SparseDct
from cospipe.ir.spectral_config import SpectralConfig

CASES = ((768, 768, 1000), (384, 384, 256), (1152, 9, 100), (4096, 4096, 700))
_WARM_UP_ROUNDS = 2
_LARGE = 4_000_000
_LLAMA_LAYERS, _LLAMA_SIZE, _LLAMA_VALUES, _LLAMA_N = 32, 4096, 1024, 700


def main(
    json: JsonFile = "",
    rounds: Annotated[int, typer.Option(min=1, help="timed calls of each way")] = 25,
    threads: Annotated[int, typer.Option(min=1, help="of PyTorch")] = 2,
) -> None:
    """Time the change of a weight, and count the coefficients of LLaMA-3.1-8B.

    Example: python benchmarks/spectral_delta.py --json -
    """
    torch.set_num_threads(threads)
    timed = [time_case(*case, rounds) for case in CASES]
    counted = [count_llama(selection) for selection in ("hybrid", "random", "low")]
    if json:
        write_rows([*timed, *counted], json)
    if json != "-":
        print_rows("Change of a weight, milliseconds", timed)
        print_rows("Trainable parameters", counted)


def time_case(height: int, width: int, n: int, rounds: int) -> Row:
    """Return the times of one shape."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randperm(height * width, generator=generator)[:n]
    rows, columns = places // width, places % width
    values = torch.randn(n, generator=generator)
    times_ms = alternate(ways((height, width), rows, columns, values), rounds_for(height * width, rounds))
    medians = {name: median(measured) for name, measured in times_ms.items()}
    least = {name: min(measured) for name, measured in times_ms.items()}
    chosen = chosen_form((height, width), rows, columns)
    return {
        "rows": height,
        "columns": width,
        "n": n,
        **{f"{name}_ms": value for name, value in medians.items()},
        **{f"{name}_min_ms": value for name, value in least.items()},
        "chosen_form": chosen,
        "faster_form": min(("fft", "matmul"), key=least.__getitem__),
        "speedup_vs_peft": medians["peft"] / medians[chosen],
        "speedup_vs_peft_min": least["peft"] / least[chosen],
    }


def rounds_for(elements: int, rounds: int) -> int:
    """Return the rounds of a matrix: fewer where a call takes seconds."""
    return max(1, rounds // 5) if elements > _LARGE else rounds


def ways(
    shape: tuple[int, int], rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor
) -> dict[str, Callable[[], torch.Tensor]]:
    """Return functions that compute a change of a weight; ``peft`` another one than the rest, a Fourier spectrum's."""
    by_fft, by_matmul = SparseDct(shape, rows, columns, "fft"), SparseDct(shape, rows, columns, "matmul")

    def scattered() -> torch.Tensor:
        spectrum = torch.zeros(shape)
        spectrum[rows, columns] = values
        return spectrum

    return {
        "fft": lambda: by_fft.inverse(values),
        "matmul": lambda: by_matmul.inverse(values),
        "dense_fft": lambda: inverse_dct2(scattered(), "fft"),
        "dense_matmul": lambda: inverse_dct2(scattered(), "matmul"),
        "peft": lambda: torch.fft.ifft2(scattered()).real * 150.0,
    }


def chosen_form(shape: tuple[int, int], rows: torch.Tensor, columns: torch.Tensor) -> str:
    """Return the form that the cost formula takes for the dense transform."""
    transform = SparseDct(shape, rows, columns)
    return cheapest_form(transform.height, transform.width, len(transform.lines))


@torch.no_grad()
def alternate(functions: Mapping[str, Callable[[], torch.Tensor]], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each function's calls; in every round each is called once, in an order shuffled."""
    times_ms: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(-_WARM_UP_ROUNDS, rounds):
        for name in random.Random(number).sample(list(functions), len(functions)):
            started = time.perf_counter()
            functions[name]()
            if number >= 0:
                times_ms[name].append((time.perf_counter() - started) * 1e3)
    return times_ms


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(_LLAMA_SIZE, _LLAMA_SIZE, bias=False)
        self.v_proj = nn.Linear(_LLAMA_SIZE, _LLAMA_VALUES, bias=False)


def count_llama(selection: str) -> Row:
    """Return the trainable parameters of LLaMA-3.1-8B's query and value projections."""
    with torch.device("meta"):
        model = nn.ModuleList(_Attention() for _ in range(_LLAMA_LAYERS))
    adapters = cospipe.adapt(model, SpectralConfig(n=_LLAMA_N, selection=selection))
    trainable = sum(parameter.numel() for parameter in adapters.trainable_parameters())
    return {"model": "LLaMA-3.1-8B q, v", "n": _LLAMA_N, "selection": selection, "trainable_parameters": trainable}


if __name__ == "__main__":
    typer.run(main)

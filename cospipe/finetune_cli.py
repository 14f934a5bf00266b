"""The command ``cospipe finetune``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cospipe.console import JsonOption, err, out, parse_shapes, print_json, three_numbers
from cospipe.interruption import exit_interrupted
from cospipe.ir.errors import UsageError
from cospipe.ir.spectral_config import SpectralConfig

if TYPE_CHECKING:
    from cospipe.backends.finetune.training import Training

_ADAPTER, _TRAINING, _DATA = "The adapter", "The training", "The data"


def finetune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="package.module:factory; its first output are logits")],
    data: Annotated[
        Path, typer.Option("--data", metavar="PATH", help="a folder of images, a .csv or an .npz", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.safetensors", help="the adapter", show_default=False)
    ],
    n: Annotated[int, typer.Option("--n", help="coefficients of each weight", rich_help_panel=_ADAPTER)] = 1000,
    budget: Annotated[
        int, typer.Option(help="coefficients of all weights together, instead of --n", rich_help_panel=_ADAPTER)
    ] = 0,
    selection: Annotated[
        str, typer.Option(metavar="hybrid|random|low|gradient", help="which coefficients", rich_help_panel=_ADAPTER)
    ] = "hybrid",
    layers: Annotated[
        str, typer.Option(metavar="'*.query|*.value:500'", help="weights to adapt", rich_help_panel=_ADAPTER)
    ] = "*",
    also_train: Annotated[
        str, typer.Option(metavar="'classifier'", help="parameters to train whole", rich_help_panel=_ADAPTER)
    ] = "",
    alpha: Annotated[float, typer.Option(help="scale of the change", rich_help_panel=_ADAPTER)] = 1.0,
    distance: Annotated[
        str, typer.Option(metavar="normalized|corner|paper", help="measure of frequency", rich_help_panel=_ADAPTER)
    ] = "normalized",
    delta: Annotated[
        float, typer.Option(help="share that hybrid selection takes by energy", rich_help_panel=_ADAPTER)
    ] = 0.7,
    seed: Annotated[
        int, typer.Option(help="of random places, order and validation part", rich_help_panel=_TRAINING)
    ] = 0,
    learning_rate: Annotated[float, typer.Option(help="of AdamW", rich_help_panel=_TRAINING)] = 0.01,
    weight_decay: Annotated[float, typer.Option(help="of AdamW", rich_help_panel=_TRAINING)] = 0.0,
    epochs: Annotated[int, typer.Option(help="most passes over the data", rich_help_panel=_TRAINING)] = 5,
    batch: Annotated[int, typer.Option(help="examples of a step", rich_help_panel=_TRAINING)] = 32,
    patience: Annotated[
        int, typer.Option(help="epochs without a better one that end it", rich_help_panel=_TRAINING)
    ] = 3,
    restart: Annotated[
        bool, typer.Option("--restart", help="forget an interrupted training", rich_help_panel=_TRAINING)
    ] = False,
    validation: Annotated[
        float, typer.Option(help="share that validates, if the data name none", rich_help_panel=_DATA)
    ] = 0.1,
    input_shape: Annotated[
        str, typer.Option(metavar="1,3,224,224", help="size of images", rich_help_panel=_DATA)
    ] = "1,3,224,224",
    mean: Annotated[
        str, typer.Option(help="channel means for images, 0 to 1", rich_help_panel=_DATA)
    ] = "0.485,0.456,0.406",
    std: Annotated[
        str, typer.Option(help="channel standard deviations for images", rich_help_panel=_DATA)
    ] = "0.229,0.224,0.225",
    tokenizer: Annotated[
        str, typer.Option(metavar="DIRECTORY", help="for texts; or package.module:factory", rich_help_panel=_DATA)
    ] = "",
    max_tokens: Annotated[int, typer.Option(help="longer texts are cut off", rich_help_panel=_DATA)] = 128,
    as_json: JsonOption = False,
) -> None:
    """Train an adapter: a few coefficients of the cosine spectrum of a model's weights.

    The data are a folder with a sub-folder of images for each class, a .csv file with the columns text and label (and
    split), or an .npz file with x and y (and x_test, y_test or split). Ctrl-C keeps what was done; the same command
    continues.

    Examples
    --------
        cospipe finetune mymodels.nets:make_net --data photos -o pets.safetensors --input-shape 1,3,96,96

        cospipe finetune mymodels.text:make_bert --data reviews.csv --tokenizer models/bert -o reviews.safetensors
        --layers '*.query|*.value' --also-train classifier --learning-rate 0.005

        cospipe finetune mymodels.nets:make_net --data digits.npz -o digits.safetensors --budget 5000 --json
    """
    config = SpectralConfig(n, budget, alpha, selection, delta, distance, seed, layers, also_train)
    (shape,) = parse_shapes([input_shape]) or [[]]
    means, deviations = three_numbers("--mean", mean), three_numbers("--std", std)
    if not all(deviations):
        raise UsageError(f"--std divides, so none may be zero; it is {std}.")
    with _training_progress() as (progress, watch):
        progress("Loading PyTorch")
        from cospipe.backends.finetune.finetune import FineTuning, fine_tune
        from cospipe.backends.finetune.readers import DataOptions
        from cospipe.backends.finetune.training import TrainingOptions
        from cospipe.backends.runtime.frames import ImageOptions

        request = FineTuning(
            model,
            output,
            DataOptions(data, validation, tuple(shape), ImageOptions(means, deviations), tokenizer, max_tokens),
            config,
            TrainingOptions(learning_rate, epochs, batch, patience, weight_decay, seed),
            restart,
        )
        try:
            values = fine_tune(request, progress, watch)
        except KeyboardInterrupt:
            _tell_how_to_continue(request.checkpoint_path)
            exit_interrupted()
    if as_json:
        return print_json(values)
    out.print(_summary(values))
    if values["outputs"] > len(values["classes"]):
        more = values["outputs"] - len(values["classes"])
        out.print(f"Note: the model has {more} more output(s) than there are classes; they were trained to stay low.")


def _tell_how_to_continue(checkpoint: Path) -> None:
    kept = f"{checkpoint} keeps what was done; the same command continues from there."
    text = kept if checkpoint.exists() else "nothing was trained yet, and nothing half-written was left behind."
    err.print(f"Interrupted: {text}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _training_progress() -> Iterator[tuple[Callable[[str], None], Callable[[Training], None]]]:
    """Show steps, and the training as a bar with loss, accuracy and time left; elsewhere than on a terminal, lines."""
    if not err.is_terminal:
        yield lambda step: _line(f"{step} ..."), _EpochLines()
        return
    columns = "{task.description}", BarColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=True) as bars:
        task = bars.add_task("Starting", total=None, figures="")

        def watch(training: Training) -> None:
            epoch, steps = len(training.epochs), training.step_count
            done, total = epoch * steps + training.step, training.options.epochs * steps
            description = f"Epoch {min(epoch + 1, training.options.epochs)} of {training.options.epochs}"
            bars.update(task, description=description, completed=done, total=total, figures=_figures(training))

        yield lambda step: bars.update(task, description=step.replace("[", r"\[")), watch


def _figures(training: Training) -> str:
    accuracy = f", validation {training.epochs[-1].validation_accuracy:.1%}" if training.epochs else ""
    return f"loss {training.last_loss:.3f}{accuracy}"


def _line(text: str) -> None:
    err.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)


class _EpochLines:
    """Prints a line for each epoch that ends, and one when a training continues."""

    def __init__(self) -> None:
        self._told: int | None = None

    def __call__(self, training: Training) -> None:
        count = len(training.epochs)
        if self._told is None:
            self._told = max(count - 1, 0) if training.step == 0 else count
            if (count, training.step) != (0, 1):
                _line(f"Continuing in epoch {self._told + 1}")
        if count > self._told:
            self._told, epoch = count, training.epochs[-1]
            _line(
                f"Epoch {count} of {training.options.epochs}: loss {epoch.train_loss:.3f}, validation loss"
                f" {epoch.validation_loss:.3f}, accuracy {epoch.validation_accuracy:.1%}"
            )


def _summary(values: Mapping[str, Any]) -> Table:
    from cospipe.pictures import size

    examples, test = values["examples"], values["test_accuracy"]
    table = Table(title=f"{values['adapter']}: an adapter of {values['model']}".replace("[", r"\["), show_header=False)
    for name, shown in (
        ("classes", f"{len(values['classes'])}"),
        ("examples", ", ".join(f"{count:,} {part}" for part, count in examples.items() if count)),
        ("coefficients", f"{values['coefficients']:,}"),
        ("parameters trained whole", f"{values['trained_parameters']:,}"),
        ("epochs", f"{values['epochs']}, the best is {values['best_epoch']}"),
        ("accuracy in training", f"{values['train_accuracy']:.1%}"),
        ("accuracy in validation", f"{values['validation_accuracy']:.1%}"),
        ("accuracy in test", "no test part" if test is None else f"{test:.1%}"),
        ("time", f"{values['seconds']:.1f} s"),
        ("file", size(values["file_bytes"])),
    ):
        table.add_row(name, shown)
    return table

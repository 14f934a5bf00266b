"""``cospipe run``: frames through a bundle on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cospipe.console import JsonOption, err, out, print_json, tell, three_numbers
from cospipe.interruption import Interruption
from cospipe.ir.errors import CospipeError, UsageError
from cospipe.options import AdapterOption, BundleArgument, PublicKeyOption

if TYPE_CHECKING:
    from cospipe.backends.runtime.frame import Frame
    from cospipe.backends.runtime.frames import ImageOptions
    from cospipe.backends.runtime.runner import PipelineRunner
    from cospipe.ir.manifest import Manifest

_STANDARD_STREAM = Path("-")
_SYNTHETIC_FRAMES = 50
_NO_MEMORY = "There is not enough memory to run this bundle; close other programs, or take a plan with fewer replicas"


def run(
    bundle: BundleArgument,
    frames: Annotated[
        int | None, typer.Option(help="first N frames of the input, or N synthetic ones: 50 if not given, 0 endless")
    ] = None,
    input_files: Annotated[
        list[Path] | None, typer.Option("--input", "-i", help=".npz, .npy or image; a frame each, repeatable")
    ] = None,
    raw: Annotated[
        Path | None, typer.Option(metavar="FILE|-", help="frames as raw bytes, inputs one behind the other")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help=".npz for the results of all frames")] = None,
    raw_output: Annotated[
        Path | None, typer.Option(metavar="FILE|-", help="results as raw bytes, as they come")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="file for a trace that Perfetto and Chrome show")] = None,
    queue_depth: Annotated[int, typer.Option(help="frames that may wait before each stage")] = 1,
    adapter: AdapterOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="refuse other cores than the plan's, and end when one is lost")
    ] = False,
    fail_on_nan: Annotated[bool, typer.Option("--fail-on-nan", help="end when a stage puts out NaN")] = False,
    stall_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="end when a stage is at one frame for longer; 0 never")
    ] = 60,
    mean: Annotated[str, typer.Option(help="channel means for images, 0 to 1")] = "0.485,0.456,0.406",
    std: Annotated[str, typer.Option(help="channel standard deviations for images")] = "0.229,0.224,0.225",
    public_key: PublicKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a bundle on this machine and report period, latency and the time of each stage.

    The first Ctrl-C (or SIGTERM) takes no more frames, finishes those inside and reports; the second ends at once.

    Examples
    --------
        cospipe run build/squeezenet --frames 200

        cospipe run build/squeezenet -i cat.jpg -i dog.jpg -o results.npz

        cospipe run build/squeezenet --json

        cospipe run build/squeezenet --trace run.json

        cospipe run build/squeezenet --strict --stall-timeout 5 --frames 0

        camera | cospipe run build/squeezenet --raw - --raw-output - | show

        cospipe run build/pets --adapter cats.safetensors -i cat.jpg
    """
    from cospipe.backends.bundle import open_bundle
    from cospipe.backends.runtime.frames import ImageOptions
    from cospipe.backends.runtime.results import ResultWriter, check_results_file
    from cospipe.backends.runtime.runner import PipelineRunner
    from cospipe.backends.runtime.trace import check_trace_file, write_trace

    check_results_file(output)
    check_trace_file(trace)
    if as_json and raw_output == _STANDARD_STREAM:
        raise UsageError("--json and --raw-output - would both write to standard output; name a file for the results.")
    options = ImageOptions(three_numbers("--mean", mean), three_numbers("--std", std))
    with _memory_errors_as_sentences():
        opened = open_bundle(bundle, public_key)
        source, total = _source(opened.manifest, frames, input_files, raw, options)
        runner = PipelineRunner(
            opened,
            queue_depth,
            adapter,
            strict=strict,
            fail_on_nan=fail_on_nan,
            stall_timeout_s=stall_timeout,
            keep_trace=trace is not None,
        )
        try:
            ended_by = _run(runner, source, total, ResultWriter(output), raw_output)
        except CospipeError as error:
            _leave_stuck_threads(runner, error, as_json)
            raise
    named = {"bundle": str(bundle), "model": opened.manifest.model, "adapter": str(adapter) if adapter else None}
    if trace is not None:
        write_trace(trace, runner.statistics, {**named, "soc": opened.manifest.plan.soc})
    _report(opened.manifest, {**named, **runner.statistics.summary()}, as_json, raw_output == _STANDARD_STREAM)
    if ended_by:
        raise typer.Exit(ended_by)


def _source(
    manifest: Manifest, count: int | None, files: list[Path] | None, raw: Path | None, options: ImageOptions
) -> tuple[Iterable[Frame], int | None]:
    """Return the frames to run, and how many there are where that is known."""
    from cospipe.backends.runtime.frames import read_frames, synthetic_frames
    from cospipe.backends.runtime.raw_frames import raw_frames

    if files and raw:
        raise UsageError("Frames come from --input or from --raw, not from both.")
    if count is not None and count < 0:
        raise UsageError(f"--frames takes a number of frames, 0 for no limit, not {count}.")
    if files:
        wanted = read_frames(manifest, files, options)[: count or None]
        return wanted, len(wanted)
    if raw:
        return islice(raw_frames(manifest, raw), count or None), count or None
    wanted_count = _SYNTHETIC_FRAMES if count is None else count or None
    return synthetic_frames(manifest, wanted_count), wanted_count


def _run(
    runner: PipelineRunner, source: Iterable[Frame], total: int | None, writer: Any, raw_output: Path | None
) -> int:
    """Run the frames; return the exit code for the signal that ended it before, 0 for none."""
    from cospipe.backends.runtime.raw_frames import RawWriter

    def clean_up() -> None:
        writer.discard()
        err.show_cursor()

    _warn(runner.statistics.warnings)
    with Interruption(runner.drain, clean_up) as interruption, runner, writer, RawWriter(raw_output) as raw_writer:
        results = runner.run(source)
        if interruption.name:  # while the stages were loaded
            runner.drain()
        for result in _counted(results, total):
            writer.add(result)
            raw_writer.add(result)
    statistics = runner.statistics
    statistics.interrupted_by = interruption.name
    _warn(statistics.warnings[len(statistics.placement_warnings) :])
    return interruption.exit_code


def _counted(results: Iterator[Frame], total: int | None) -> Iterator[Frame]:
    """Yield results, and show on a terminal how many there were and how many come in a second."""
    if not err.is_terminal:
        yield from results
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
    from rich.text import Text

    class FramesPerSecond(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} frames/s" if task.speed else "", style="progress.data.speed")

    columns = "Running frames", BarColumn(), MofNCompleteColumn(), FramesPerSecond(), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=True) as progress:
        yield from progress.track(results, total=total)


def _warn(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        err.print(f"cospipe: warning: {sentence}", style="yellow", highlight=False, markup=False, soft_wrap=True)


def _report(manifest: Manifest, statistics: dict[str, Any], as_json: bool, stdout_is_taken: bool) -> None:
    if as_json:
        return print_json(statistics)
    from cospipe.pictures import run_picture

    console = err if stdout_is_taken else out
    console.print(run_picture(manifest, statistics, console.width))


@contextmanager
def _memory_errors_as_sentences() -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise CospipeError(f"{_NO_MEMORY}{f' ({error})' if str(error) else ''}.") from error


def _leave_stuck_threads(runner: PipelineRunner, error: CospipeError, as_json: bool) -> None:
    """End the process when a thread cannot be ended: it would go on computing while the runtime is taken down."""
    if not runner.has_stuck_thread:
        return
    tell(error, as_json)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)

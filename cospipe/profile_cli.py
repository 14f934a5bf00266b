"""The commands ``cospipe profile`` and ``cospipe fit``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cospipe.console import JsonOption, err, out, print_json
from cospipe.input_options import parse_input_shapes, parse_input_values
from cospipe.interruption import exit_interrupted
from cospipe.ir.errors import UsageError
from cospipe.options import ShapeOption, ValueOption

if TYPE_CHECKING:
    from cospipe.profiling import Profiled

Step = Callable[[str], None]


def profile(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="package.module:factory, .pt2 or .onnx files", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="the board's profile", show_default=False)
    ],
    soc: Annotated[str, typer.Option("--soc", metavar="NAME|FILE.toml", help="the board; see `cospipe socs`")] = "host",
    rpc: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="a board with python -m tvm.exec.rpc_server; this machine if empty")
    ] = "",
    rpc_tracker: Annotated[
        str,
        typer.Option(metavar="HOST[:PORT]", help="TVM's tracker of several equal boards, which all measure at once"),
    ] = "",
    key: Annotated[str, typer.Option(help="key of the RPC server, or of the tracker's boards")] = "",
    emulate: Annotated[
        bool, typer.Option("--emulate", help="count instructions under QEMU instead; needs no board")
    ] = False,
    cores: Annotated[
        str, typer.Option(metavar="big:1+big:4", help="core configurations to measure; all of the chip if empty")
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="undisturbed rounds to time on each")] = 30,
    again: Annotated[bool, typer.Option("--again", help="measure anew what the file holds already")] = False,
    input_shape: ShapeOption = None,
    input_value: ValueOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure every kernel of compiled networks on each core configuration of a board.

    Threads are pinned, the first rounds warm up, and medians count; clocks, governor and cores are recorded. The file
    is written after each configuration: after Ctrl-C the same command continues, and another model adds to the file.

    Examples
    --------
        cospipe profile torchvision.models:resnet50 --soc host -o build/host.profile.json

        cospipe profile torchvision.models:resnet50 torchvision.models:vgg16 --soc host --cores cpu:1 -o host.json

        cospipe profile torchvision.models:mobilenet_v2 --soc rk3588 --rpc rock5b:9090 --key rock -o rk3588.json

        cospipe profile torchvision.models:mobilenet_v2 --soc rk3588 --rpc-tracker farm:9190 --key rk3588 -o rk3588.json

        cospipe profile torchvision.models:mobilenet_v2 --soc rk3588 --emulate -o rk3588.emulated.json
    """
    shapes, values = parse_input_shapes(input_shape), parse_input_values(input_value)
    _check_machine_options(emulate, rpc, rpc_tracker)
    with _show_progress() as show:
        show(0, 1, "Loading the compiler")
        from cospipe.profiling import ProfileRequest, run_profile

        where = (rpc, key, emulate, cores, rounds, again, values, rpc_tracker)
        request = ProfileRequest(tuple(models), shapes, soc, output, *where)
        try:
            profiled = run_profile(request, show, _report_board)
        except KeyboardInterrupt:
            kept = (
                f"{output} keeps what was measured; the same command continues"
                if output.exists()
                else "nothing to keep"
            )
            err.print(f"Interrupted: {kept}.", style="yellow", markup=False, highlight=False, soft_wrap=True)
            exit_interrupted()
    if as_json:
        return print_json([one.row() for one in profiled])
    out.print(_profile_table(profiled, output))


def _check_machine_options(emulate: bool, rpc: str, rpc_tracker: str) -> None:
    if rpc and rpc_tracker:
        raise UsageError("--rpc names one board and --rpc-tracker several; give one of the two.")
    if emulate and (rpc or rpc_tracker):
        option = "--rpc" if rpc else "--rpc-tracker"
        raise UsageError(f"--emulate needs no board; leave out {option}, or measure the board without --emulate.")


def _report_board(board: str, problem: str) -> None:
    err.print(f"{board}: {problem}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _tell_how_to_continue(output: Path) -> None:
    kept = f"{output} keeps what was measured; the same command continues." if output.exists() else "nothing was kept."
    err.print(f"Interrupted; {kept}", style="yellow", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _show_progress() -> Iterator[Callable[[int, int, str], None]]:
    """Show how many measurements are done: a bar on a terminal, a line a step elsewhere."""
    if not err.is_terminal:
        yield lambda done, total, what: err.print(f"[{done}/{total}] {what} ...", style="dim", markup=False)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total, what: progress.update(task, completed=done, total=total, description=what)


def _profile_table(profiled: Sequence[Profiled], output: Path) -> Table:
    table = Table("network", "cores", header_style="bold", title=str(output))
    for title in ("layers", "sum of layers, us", "network, us", "clock, MHz", "governor", ""):
        table.add_column(title, justify="right")
    for one in profiled:
        row = one.row()
        clocks = ", ".join(f"{clock:g}" for clock in row["clock_mhz"]) or "not told"
        table.add_row(
            row["model"],
            row["cores"],
            str(row["layers"]),
            f"{row['layers_us']:,.0f}",
            f"{row['network_us']:,.0f}" + ("" if row["network_runs"] else " (disturbed)"),
            clocks,
            row["governor"] or "not told",
            "new" if row["is_new"] else "was there",
        )
    return table


def fit(
    profiles: Annotated[list[Path], typer.Argument(metavar="PROFILE...", help="files of cospipe profile")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="MODEL.json", help="the latency model", show_default=False)
    ],
    soc: Annotated[
        list[str] | None,
        typer.Option("--soc", metavar="FILE.toml", help="a board of the profiles that is not described; repeatable"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a latency model to profiles, and print how far it is off on networks it was not fitted to.

    Each network is left out once, the model is fitted to all others, and its layers and their sum are predicted. The
    model is what `--source regression --profile MODEL.json` takes.

    Examples
    --------
        cospipe fit host.json -o host.model.json

        cospipe fit rk3588.json rk3399.json -o boards.model.json
    """
    from cospipe.fitting import run_fit

    rows = run_fit(profiles, output, soc or ()).rows
    if as_json:
        return print_json({"model": str(output), "rows": rows})
    out.print(_fit_table(rows, output))


def _fit_table(rows: Sequence[dict[str, Any]], output: Path) -> Table:
    table = Table("core type", header_style="bold", title=f"{output}: error on networks that were left out")
    for title in ("threads", "networks", "layers", "layer median", "layer p90", "sum median", "sum worst"):
        table.add_column(title, justify="right")
    for row in rows:
        shares = (row[key] for key in ("layer_median_error", "layer_p90_error", "sum_median_error", "sum_worst_error"))
        counts = (str(row[key]) for key in ("threads", "networks", "layers"))
        table.add_row(
            row["core_type"], *counts, *("-" if share is None else f"{100 * share:.1f} %" for share in shares)
        )
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"

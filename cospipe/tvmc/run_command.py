"""``tvmc run``: one frame through a package, and what became of it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cospipe.ir.errors import UsageError
from cospipe.tvmc.removed_options import refuse
from cospipe.tvmc.shared_arguments import add_rpc_arguments, add_verbose_argument

if TYPE_CHECKING:
    from cospipe.backends.tvm.tvmc.inputs import FillMode
    from cospipe.backends.tvm.tvmc.result import TVMCResult
    from cospipe.ir.tensor_file import Array
    from cospipe.tvmc import TVMCPackage

_CPU = "cpu"
_GONE_DEVICES = ("cuda", "cl", "metal", "vulkan", "rocm", "micro")
_DEFAULT_PORT = 9090
_MICRO = "microTVM is gone from TVM; leave it out"
_REMOVED: Mapping[str, str] = {"--list-options": _MICRO, "--project-option": _MICRO}

log = logging.getLogger("cospipe")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to tvmc's parser."""
    parser = subparsers.add_parser("run", help="run a compiled module.", description="Run a package or a bundle.")
    parser.set_defaults(func=drive_run)
    parser.add_argument("PATH", help="path to the package that tvmc compile has written, or to a bundle.")
    parser.add_argument(
        "--device",
        choices=[_CPU, *_GONE_DEVICES],
        default=_CPU,
        metavar="cpu",
        help="target device to run the compiled module; there is only the CPU.",
    )
    parser.add_argument(
        "--fill-mode",
        choices=["zeros", "ones", "random"],
        default="random",
        help="fill the input tensors that are not in --inputs with values; random are the same ones every time."
        " Defaults to random.",
    )
    parser.add_argument("-i", "--inputs", metavar="FILE", help="path to the .npz input file, arrays by input name.")
    parser.add_argument("-o", "--outputs", metavar="FILE", help="path to the .npz output file; output_0, output_1, ...")
    _add_measuring_arguments(parser)
    parser.add_argument(
        "--print-top", metavar="N", type=int, help="print the top n values and indices of the output tensor."
    )
    add_rpc_arguments(parser)
    add_verbose_argument(parser)
    refuse(parser, _REMOVED)


def _add_measuring_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--print-time", action="store_true", help="record and print the execution time(s).")
    parser.add_argument(
        "--repeat", metavar="N", type=int, default=1, help="measure n times, with --print-time. Defaults to 1."
    )
    parser.add_argument(
        "--number",
        metavar="N",
        type=int,
        default=1,
        help="run the model n times for each measurement, with --print-time. Defaults to 1.",
    )
    parser.add_argument("--end-to-end", action="store_true", help="measure data transfers as well, with --print-time.")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="print the time of every kernel, or of every stage of a pipeline.",
    )


def drive_run(args: argparse.Namespace) -> None:
    """Run the package that the command line names, and print or write what it asks for.

    Raises
    ------
    CospipeError
        When something does not fit or fails; nothing is written then.
    """
    from cospipe.backends.tvm.tvmc.boards import parse_board
    from cospipe.backends.tvm.tvmc.inputs import read_inputs
    from cospipe.backends.tvm.tvmc.result import check_results_path

    _check_options(args)
    board = parse_board(args.rpc_tracker, args.rpc_key) if args.rpc_tracker is not None else None
    if args.outputs is not None:
        check_results_path(args.outputs)
    result = run(
        args.PATH,
        args.device,
        hostname=board.host if board else None,
        port=board.port if board else _DEFAULT_PORT,
        rpc_key=args.rpc_key,
        inputs=read_inputs(args.inputs) if args.inputs is not None else None,
        fill_mode=args.fill_mode,
        benchmark=args.print_time,
        repeat=args.repeat,
        number=args.number,
        end_to_end=args.end_to_end,
        profile=args.profile,
    )
    for text in _wanted_texts(result, args):
        print(text)
    if args.outputs is not None:
        result.save(args.outputs)


def _check_options(args: argparse.Namespace) -> None:
    if args.print_top is not None and args.print_top < 1:
        raise UsageError(f"--print-top takes a number of results, at least 1, not {args.print_top}.")
    if args.rpc_key is not None and args.rpc_tracker is None:
        raise UsageError("--rpc-key is the key of a board at a tracker; name the tracker by --rpc-tracker HOST:PORT.")
    if not args.print_time and (args.repeat, args.number, args.end_to_end) != (1, 1, False):
        log.warning("--repeat, --number and --end-to-end say how --print-time measures; without it they do nothing.")


def _wanted_texts(result: TVMCResult, args: argparse.Namespace) -> Iterator[str]:
    if args.profile:
        yield str(result.profile)
    if args.print_time:
        yield result.format_times()
    if args.print_top is not None:
        yield str(result.get_top_results(args.print_top))


def run(
    tvmc_package: TVMCPackage | str | Path,
    device: str = _CPU,
    hostname: str | None = None,
    port: int | str = _DEFAULT_PORT,
    rpc_key: str | None = None,
    inputs: Mapping[str, Array] | None = None,
    fill_mode: FillMode = "random",
    benchmark: bool = False,
    repeat: int = 10,
    number: int = 10,
    profile: bool = False,
    end_to_end: bool = False,
) -> TVMCResult:
    """Run one frame through a compiled network, here or on a board.

    Parameters
    ----------
    tvmc_package : TVMCPackage, str or Path
        What ``tvmc.compile`` returned or wrote: a package of a network or of a pipeline, or a bundle.
    device : str
        ``cpu``.
    hostname : str, optional
        Where TVM's RPC tracker runs, or without ``rpc_key`` the RPC server itself; None is this machine.
    port : int or str
        Where that listens.
    rpc_key : str, optional
        Key of the board at the tracker.
    inputs : mapping of str to array, optional
        Arrays by input name.
    fill_mode : str
        What other inputs are filled with: ``zeros``, ``ones`` or ``random``, the same numbers every time: floats
        between -1 and 1, int8 and uint8 from 0 to 127; wider integers are 0 and booleans true.
    benchmark : bool
        Whether to measure: it then runs once more to warm up, and ``repeat`` times ``number`` frames.
    repeat, number : int
        How many times are measured, and the frames that each is the mean of.
    profile : bool
        Whether to measure the time of every kernel, or of every stage of a pipeline.
    end_to_end : bool
        Whether the times hold copying of inputs and outputs.

    Returns
    -------
    TVMCResult
        Outputs, and what was measured.

    Raises
    ------
    CospipeError
        When the package or inputs do not fit, or running fails.
    """
    from cospipe.backends.tvm.tvmc.boards import Board
    from cospipe.backends.tvm.tvmc.package import open_package, remove_unpacked
    from cospipe.backends.tvm.tvmc.run import RunRequest, run_package
    from cospipe.backends.tvm.tvmc.timing import Repetitions

    if device != _CPU:
        raise UsageError(f"There is no device {device!r}: kernels are compiled for CPUs only; use the device cpu.")
    repetitions = Repetitions(repeat, number, end_to_end)
    board = Board(hostname, int(port), rpc_key) if hostname else None
    path = tvmc_package if isinstance(tvmc_package, (str, Path)) else tvmc_package.package_path
    request = RunRequest(inputs or {}, fill_mode, repetitions if benchmark else None, profile, board)
    package = open_package(path)
    try:
        return run_package(package, request)
    except KeyboardInterrupt:  # the process ends without further ado, see main
        remove_unpacked(package)
        raise

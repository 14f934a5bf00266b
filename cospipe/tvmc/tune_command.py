"""``tvmc tune``: faster kernels by search, where there are faster ones than cospipe's own."""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cospipe.interruption import Interruption
from cospipe.ir.errors import UsageError, several
from cospipe.tvmc.model_formats import format_of
from cospipe.tvmc.removed_options import refuse
from cospipe.tvmc.shared_arguments import (
    add_model_arguments,
    add_rpc_arguments,
    add_target_arguments,
    add_transform_arguments,
    add_verbose_argument,
    target_options,
)
from cospipe.tvmc.tune_report import result_table, show_search, task_table

if TYPE_CHECKING:
    from cospipe.backends.tvm.replica_target import ReplicaTarget
    from cospipe.backends.tvm.tuning.tasks import NetworkTasks
    from cospipe.backends.tvm.tuning.tune import TuningOptions, TuningResult
    from cospipe.backends.tvm.tvmc.model import LoadedModel
    from cospipe.tvmc import TVMCModel

_TUNER = "MetaSchedule is the only tuner of TVM 0.27, and always used; leave it out"
_HARDWARE = (
    "MetaSchedule asks the target for these; name the core by --target 'llvm -mcpu=...', its number of cores too"
)
_GPU = "this driver tunes for CPUs only; leave it out"
_REMOVED: Mapping[str, str] = {
    "--tuner": _TUNER,
    "--enable-autoscheduler": _TUNER,
    "--num-cores": "give it with the target: --target 'llvm -num-cores=4'",
    "--vector-unit-bytes": _HARDWARE,
    "--cache-line-bytes": _HARDWARE,
    "--max-shared-memory-per-block": _GPU,
    "--max-local-memory-per-block": _GPU,
    "--max-threads-per-block": _GPU,
    "--max-vthread-extent": _GPU,
    "--warp-size": _GPU,
    "--include-simple-tasks": "--tasks list shows what there is to tune; choose tasks by --tasks",
    "--log-estimated-latency": "the table at the end tells what each task takes; leave it out",
    "--target-host": "a CPU is its own host; leave it out",
}
_DEFAULT_PORT = 9090

log = logging.getLogger("cospipe")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to tvmc's parser."""
    parser = subparsers.add_parser("tune", help="auto-tune a model.", description="Search for faster kernels.")
    parser.set_defaults(func=drive_tune)
    add_model_arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="DIR",
        help="directory for the tuning records; one that exists goes on.",
    )
    parser.add_argument(
        "--tuning-records", metavar="DIR", help="start with these records, which are copied into --output."
    )
    _add_search_arguments(parser)
    add_target_arguments(parser)
    parser.add_argument(
        "--cores",
        metavar="SOC:CORES",
        help="tune for exactly these cores of a described chip, hikey970:big:4, as cospipe optimize compiles for them.",
    )
    add_rpc_arguments(parser)
    add_transform_arguments(parser)
    add_verbose_argument(parser)
    refuse(parser, _REMOVED)


def _add_search_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trials", type=_count, default=1000, help="kernels to build and run, over all tasks. Defaults to 1000."
    )
    parser.add_argument(
        "--early-stopping", type=_count, metavar="N", help="end a task after N trials without a faster kernel."
    )
    parser.add_argument(
        "--tasks", default="all", help="which tasks to tune: all, list to show them, or numbers and ranges 0,2|3-5|16-."
    )
    parser.add_argument(
        "--timeout", type=float, default=10, help="seconds to build or to run a kernel. Defaults to 10."
    )
    parser.add_argument("--parallel", type=_count, default=4, help="kernels that are built at once. Defaults to 4.")
    parser.add_argument("--number", type=_count, default=10, help="runs that make one time. Defaults to 10.")
    parser.add_argument("--repeat", type=_count, default=1, help="times of each kernel. Defaults to 1.")
    parser.add_argument(
        "--min-repeat-ms", type=_count, default=0, help="least milliseconds that one time takes. Defaults to 0."
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")
    return int(text)


def drive_tune(args: argparse.Namespace) -> int:
    """Tune the model that the command line names and print what that brought.

    Returns
    -------
    int
        0, or 130 when somebody interrupted it.

    Raises
    ------
    CospipeError
        When something does not fit or fails.
    """
    file = Path(args.FILE)
    if not file.is_file():
        raise UsageError(f"Input file '{args.FILE}' doesn't exist, is a broken symbolic link, or a directory.")
    _check_options(args)
    model_format = format_of(file, args.model_format)
    from cospipe.backends.tvm.tvmc.loading import load_network

    target = _target(args)
    model = load_network(file, model_format, args.input_shapes)
    if args.tasks in ("list", "help"):
        print(task_table(_tasks(model, target)))
        return 0
    options = _options(
        args.trials,
        args.early_stopping,
        args.tasks,
        args.timeout,
        args.parallel,
        args.number,
        args.repeat,
        args.min_repeat_ms,
    )
    earlier = Path(args.tuning_records) if args.tuning_records else None
    stop = threading.Event()
    boards = _boards(args.rpc_tracker, args.rpc_key, target, options)

    def end() -> None:
        stop.set()
        log.warning("Stopping when the kernels that are being measured are done; interrupt again to end at once.")

    with Interruption(end, lambda: None) as interruption, boards as measuring:
        result = _tuned(model, target, Path(args.output), options, earlier, measuring, stop.is_set)
    print(result_table(result))
    if result.was_stopped:
        print(f"Stopped; what was found is in {args.output}, and the same command goes on.")
    return interruption.exit_code


def _check_options(args: argparse.Namespace) -> None:
    problems = []
    if args.rpc_tracker is not None and args.rpc_key is None:
        problems.append("need to provide an RPC tracker key (--rpc-key) for remote tuning")
    if args.rpc_key is not None and args.rpc_tracker is None:
        problems.append("--rpc-key is the key of boards at a tracker; name the tracker by --rpc-tracker HOST:PORT")
    if args.desired_layout or args.desired_layout_ops:
        problems.append("--desired-layout: cospipe's kernels are tuned in the layout that they have; leave it out")
    if args.mixed_precision or args.mixed_precision_ops:
        problems.append("--mixed-precision: cospipe's kernels are tuned, which compute in FP32; leave it out")
    if args.cores is not None and (args.target is not None or target_options(args)):
        problems.append("--cores names cores and with them the target; leave out --target")
    for name, least in (("number", 1), ("repeat", 1), ("parallel", 1), ("timeout", 1e-3)):
        if getattr(args, name) < least:
            problems.append(f"--{name} must be more than 0")
    if problems:
        raise UsageError(several("This cannot be tuned", problems))


def _target(args: argparse.Namespace) -> ReplicaTarget:
    if args.cores is not None:
        from cospipe.backends.tvm.tvmc.cores import cores_target

        return cores_target(args.cores)
    from cospipe.backends.tvm.tvmc.targets import choose_target

    return choose_target(args.target, target_options(args))


def _network(model: LoadedModel, target: ReplicaTarget) -> Any:
    from cospipe.backends.tvm.importer import ImportedStage
    from cospipe.backends.tvm.tuning.comparing import Network

    relax = model.relax()
    if relax.is_dynamic:
        sizes = ", ".join(str(tensor) for tensor in (*relax.inputs, *relax.outputs) if tensor.is_dynamic)
        raise UsageError(
            f"Kernels are tuned for fixed sizes, but some are known only when it runs: {sizes};"
            " fix them with --input-shapes."
        )
    return Network(ImportedStage(relax.module, relax.weight_names), relax.weights, target.target, target.core)


def _tasks(model: LoadedModel, target: ReplicaTarget) -> NetworkTasks:
    from cospipe.backends.tvm.tuning.tasks import find_tasks

    network = _network(model, target)
    return find_tasks(network.imported, network.core, network.allows_winograd)


@contextmanager
def _boards(address: str | None, key: str | None, target: ReplicaTarget, options: TuningOptions) -> Iterator[Any]:
    """Open the farm of boards behind a tracker; yields what runs candidates and where networks are compared.

    Without a tracker both are None, which means this machine.
    """
    if address is None:
        yield None, None
        return
    from cospipe.backends.tvm.farm.farm import Farm
    from cospipe.backends.tvm.farm.requirement import target_requirement
    from cospipe.backends.tvm.farm.runner import FarmRunner, RunnerOptions
    from cospipe.backends.tvm.farm.tracker import Tracker, parse_address
    from cospipe.backends.tvm.tuning.boards import AnyBoard

    tracker = Tracker(*parse_address(address, _DEFAULT_PORT), key or "")
    requirement = target_requirement(target.target, target.threads)
    modules = [FarmRunner.__module__]  # imported beforehand, not in the time of the first candidates
    with Farm(tracker, requirement, _warn_of_board, modules=modules) as farm:
        timing = RunnerOptions(options.number, options.repeat, options.min_repeat_ms, options.timeout_s)
        yield FarmRunner(farm, timing), AnyBoard(farm)


def _warn_of_board(board: str, problem: str) -> None:
    log.warning("%s: %s", board, problem)


def tune(
    tvmc_model: TVMCModel,
    target: str | None,
    tuning_records: str | Path,
    *,
    prior_records: str | Path | None = None,
    hostname: str | None = None,
    port: int = _DEFAULT_PORT,
    rpc_key: str | None = None,
    trials: int = 1000,
    tasks: str = "all",
    early_stopping: int | None = None,
    timeout: float = 10,
    parallel: int = 4,
    number: int = 10,
    repeat: int = 1,
    min_repeat_ms: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> TuningResult:
    """Search for faster kernels and write records, which ``compile`` takes.

    Parameters
    ----------
    tvmc_model : TVMCModel
        The network.
    target : str or None
        As ``--target`` takes it; this machine by default.
    tuning_records : str or Path
        Directory for the records; one that exists goes on.
    prior_records : str or Path, optional
        Records to start with.
    hostname, port, rpc_key : str, int, str, optional
        Tracker and key of the boards to measure on; this machine by default.
    trials, tasks, early_stopping, timeout, parallel, number, repeat, min_repeat_ms
        As the options of ``tvmc tune``; ``timeout`` in seconds.
    stop : callable
        Is asked now and then whether to end; what was found by then is kept.

    Returns
    -------
    TuningResult
        What each task takes with cospipe's kernel and with the tuned one.

    Raises
    ------
    TVMCException
        When something does not fit or fails.
    """
    from cospipe.backends.tvm.tvmc.targets import choose_target

    if hostname is not None and rpc_key is None:
        raise UsageError("Boards at a tracker are asked for by their key; give rpc_key.")
    options = _options(trials, early_stopping, tasks, timeout, parallel, number, repeat, min_repeat_ms)
    address = None if hostname is None else f"{hostname}:{port}"
    earlier = Path(prior_records) if prior_records is not None else None
    cores = choose_target(target)
    with _boards(address, rpc_key, cores, options) as boards:
        return _tuned(tvmc_model.network, cores, Path(tuning_records), options, earlier, boards, stop)


def _options(
    trials: int,
    early_stopping: int | None,
    tasks: str,
    timeout_s: float,
    parallel: int,
    number: int,
    repeat: int,
    min_repeat_ms: int,
) -> TuningOptions:
    from cospipe.backends.tvm.tuning.tune import TuningOptions

    return TuningOptions(trials, early_stopping, tasks, timeout_s, parallel, number, repeat, min_repeat_ms)


def _tuned(
    model: LoadedModel,
    target: ReplicaTarget,
    output: Path,
    options: TuningOptions,
    earlier: Path | None,
    boards: tuple[Any, Any],
    stop: Callable[[], bool],
) -> TuningResult:
    from cospipe.backends.tvm.tuning.tune import tune as tune_network

    with show_search() as progress:
        return tune_network(
            _network(model, target),
            output,
            options,
            earlier=earlier,
            runner=boards[0],
            place=boards[1],
            stop=stop,
            progress=progress,
            tell=lambda step: log.info("%s ...", step),
        )

"""How many AArch64 instructions one inference executes: compiled by cospipe, and with ncnn.

Both run under qemu-aarch64 on one thread in FP32, and a QEMU plugin counts what is executed between two marks around
one warm inference. Neither this machine's speed nor other work on it changes the counts; where memory happens to lie
does, by about 0.01 %. Untrained networks are randomised (``models.py``) so that an error in any layer is seen.

ncnn's wheel needs an AArch64 Python: on the first run it is fetched from Debian's packages into ``build/aarch64``,
without changing the system. Fields of a row:

* ``instructions``, and how many of them are ``fma`` (fused multiply-adds, vector or scalar), ``loads``, ``stores``
  (a pair or a structure of registers is one);
* ``relative_error``: largest difference from eager PyTorch divided by the largest magnitude.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from command_line import repeat_option_names
from emulated_inference import RUNTIMES, Setting, infer, one_core
from environment import JsonFile, Row, print_rows, write_rows
from instruction_profile import profile_rows
from instruction_summary import print_report, summarise
from models import Network, load_network, model_specs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cospipe.backends.emulator.instruction_counter import Report, build_plugin
from cospipe.backends.emulator.qemu import find_emulator
from cospipe.ir.errors import CospipeError, UsageError, nearest, several

NETWORKS = ("mobilenet_v2", "squeezenet1_1", "resnet18", "resnet50", "googlenet", "alexnet", "mobilenet_v3_large")
FOLDER = Path(__file__).resolve().parent.parent / "build" / "aarch64"
LARGEST_RELATIVE_ERROR = 1e-3  # what Winograd's transforms may cost
LISTED_FUNCTIONS = 15

_LISTS = ("--models", "--runtimes")
_PACKAGES = ("ncnn", "pnnx", "torchvision")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Findings:
    """What was measured so far, and what went wrong: a network that fails does not take the others with it."""

    with_profiles: bool
    rows: list[Row] = field(default_factory=list)
    profiles: dict[str, list[Row]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@app.command()
def main(
    json: JsonFile = "",
    models: Annotated[
        list[str] | None, typer.Option(help="torchvision names, package.module:factory, five, unseen; any number")
    ] = None,
    runtimes: Annotated[list[str] | None, typer.Option(help=f"any of {', '.join(RUNTIMES)}")] = None,
    mcpu: Annotated[str, typer.Option(help="core type, as LLVM calls it")] = "cortex-a72",
    profile: Annotated[bool, typer.Option("--profile", help="list the functions that execute most")] = False,
) -> None:
    """Count the instructions of one inference.

    Example: python benchmarks/aarch64_instructions.py --models resnet18 alexnet --mcpu cortex-a72 --json counts.json
    """
    chosen = tuple(dict.fromkeys(runtimes or RUNTIMES))
    findings = Findings(profile)
    try:
        specs, setting = model_specs(models or NETWORKS), _setting(chosen, mcpu)
    except CospipeError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        _measure_all(specs, chosen, setting, findings)
    except KeyboardInterrupt:
        _print(findings)
        Console(stderr=True).print("Interrupted: above are the networks that were done; no JSON was written.")
        raise typer.Exit(130) from None
    if json:
        write_rows(findings.rows, json, packages=_PACKAGES, summary=summarise(findings.rows))
    if json != "-":
        _print(findings)
    if findings.problems:
        typer.echo(several("Not everything could be measured", findings.problems), err=True)
        raise typer.Exit(1)


def _setting(runtimes: Sequence[str], mcpu: str) -> Setting:
    if wrong := [f"{name!r}. {nearest(name, RUNTIMES)}" for name in runtimes if name not in RUNTIMES]:
        raise UsageError(several("There are no such runtimes", wrong))
    one_core(mcpu)
    emulator = find_emulator()
    return Setting(mcpu, emulator, build_plugin(FOLDER, emulator.qemu), FOLDER)


def _measure_all(specs: Sequence[str], runtimes: Sequence[str], setting: Setting, findings: Findings) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(specs) * len(runtimes))
        for spec in specs:
            name = spec.rpartition(":")[2]
            progress.update(task, description=name)
            try:
                network = load_network(spec, (), keep_weights=False)
            except CospipeError as error:
                findings.problems.append(f"{name}: {error}")
                progress.advance(task, len(runtimes))
                continue
            for runtime in runtimes:
                progress.update(task, description=f"{name} by {runtime}")
                _measure(name, network, runtime, setting, findings)
                progress.advance(task)


def _measure(name: str, network: Network, runtime: str, setting: Setting, findings: Findings) -> None:
    title = f"{name} by {runtime}"

    def look(report: Report) -> None:
        if findings.with_profiles:
            findings.profiles[title] = profile_rows(report, LISTED_FUNCTIONS)

    try:
        found = infer(runtime, network, setting, look)
    except CospipeError as error:
        findings.problems.append(f"{title}: {error}")
        return
    if not found.relative_error <= LARGEST_RELATIVE_ERROR:
        findings.problems.append(f"{title}: outputs are {found.relative_error:.1e} from eager PyTorch's; not counted.")
        return
    counts = asdict(found.report.total)
    row = {"model": name, "runtime": runtime, "mcpu": setting.mcpu, **counts, "relative_error": found.relative_error}
    findings.rows.append(row)


def _print(findings: Findings) -> None:
    for title, functions in findings.profiles.items():
        print_rows(title, functions)
    print_report(findings.rows)


if __name__ == "__main__":
    app(args=repeat_option_names(sys.argv[1:], _LISTS))

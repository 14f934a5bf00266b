"""The commands ``cospipe adapter info``, ``diff`` and ``merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cospipe.console import JsonOption, out, print_json, show_progress
from cospipe.ir.errors import UsageError

adapter_app = typer.Typer(
    name="adapter", help="Look at adapter files, compare them, merge them into weights.", no_args_is_help=True
)

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="an adapter, as cospipe finetune writes it", show_default=False)
]
_SHORT_FINGERPRINT = 8


@adapter_app.command()
def info(file: FileArgument, as_json: JsonOption = False) -> None:
    """Show what an adapter changes, by how much, and what it fits.

    Examples
    --------
        cospipe adapter info pets.safetensors

        cospipe adapter info pets.safetensors --json
    """
    from cospipe.ir.adapter_file import read_adapter
    from cospipe.ir.adapter_summary import adapter_summary

    values = adapter_summary(file, read_adapter(file))
    if as_json:
        return print_json(values)
    out.print(_weights_table(values))
    for line in _info_lines(values):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _weights_table(values: dict[str, Any]) -> Table:
    table = Table(title=escape(f"{values['file']}: an adapter of {values['base']}"), header_style="bold")
    table.add_column("weight", overflow="fold")
    for column in ("shape", "coefficients", "norm of change"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("fingerprint of the base", no_wrap=True)
    for weight in values["weights"]:
        change, short = f"{weight['change_norm']:.4g}", weight["fingerprint"][:_SHORT_FINGERPRINT]
        table.add_row(escape(weight["name"]), _shape(weight["shape"]), f"{weight['n']:,}", change, short)
    return table


def _info_lines(values: dict[str, Any]) -> list[str]:
    from cospipe.pictures import size

    each = values["bytes_per_coefficient"]
    trained = ", ".join(f"{name} {_shape(shape)}" for name, shape in values["trained"].items()) or "none"
    return [
        f"options: {', '.join(f'{key}={value}' for key, value in values['config'].items()) or 'unknown'}",
        f"classes: {', '.join(values['labels']) or 'not named'}",
        f"trained whole: {trained}",
        f"{values['coefficients']:,} coefficients in {size(values['file_bytes'])}"
        + (f", {each:.1f} bytes each (header included, parameters trained whole not)" if each else ""),
    ]


def _shape(sizes: list[int]) -> str:
    return "x".join(map(str, sizes)) or "scalar"


@adapter_app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="an adapter", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B", help="another", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Show in what two adapters differ: options, weights, places, and how far apart their changes are.

    Examples
    --------
        cospipe adapter diff pets.safetensors cats.safetensors
    """
    from cospipe.ir.adapter_file import read_adapter
    from cospipe.ir.adapter_summary import adapter_difference

    values = {"files": [str(first), str(second)], **adapter_difference(read_adapter(first), read_adapter(second))}
    if as_json:
        return print_json(values)
    out.print(_difference_table(values))
    for line in _difference_lines(values):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _difference_table(values: dict[str, Any]) -> Table:
    table = Table(title=escape(" and ".join(values["files"])), header_style="bold")
    table.add_column("weight", overflow="fold")
    for column in ("coefficients", "common places", "norms of change", "distance", "relative to A", "cosine"):
        table.add_column(column, justify="right", no_wrap=True)
    for weight in values["weights"]:
        counts = " / ".join(f"{n:,}" for n in weight["n"])
        table.add_row(escape(weight["name"]), counts, f"{weight['common_places']:,}", *_figures(weight))
    table.add_section()
    table.add_row("all", "", "", *_figures(values["whole"]), style="bold")
    return table


def _figures(values: dict[str, Any]) -> list[str]:
    norms = " / ".join(f"{norm:.4g}" for norm in values["change_norms"])
    relative, cosine = values["relative_distance"], values["cosine"]
    return [
        norms,
        f"{values['distance']:.4g}",
        "-" if relative is None else f"{relative:.1%}",
        "-" if cosine is None else f"{cosine:+.3f}",
    ]


def _difference_lines(values: dict[str, Any]) -> list[str]:
    lines = [_base_line(values)]
    lines += [f"{key}: {pair[0]} / {pair[1]}" for key, pair in values["config"].items()]
    if values["labels"]:
        lines.append(f"classes: {' / '.join(', '.join(names) or 'not named' for names in values['labels'])}")
    lines += [f"only in A: {name}" for name in values["only_in_first"]]
    lines += [f"only in B: {name}" for name in values["only_in_second"]]
    lines += [f"{name}: {_shape(pair[0])} / {_shape(pair[1])}" for name, pair in values["other_shape"].items()]
    for name, distance in values["trained"].items():
        shown = f"{distance:.1%} away" if isinstance(distance, float) else distance or "differs"
        lines.append(f"trained whole, {name}: {shown}")
    return lines


def _base_line(values: dict[str, Any]) -> str:
    if values["same_base"] is None:
        return "They have no weight in common."
    if values["same_base"]:
        return "Both were trained on the same base."
    return f"They were trained on different bases; these weights differ: {', '.join(values['other_base'])}"


@adapter_app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="one adapter or more", show_default=False)],
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="the base, package.module:factory", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help=".pt or .safetensors for the merged weights", show_default=False)
    ],
    weights: Annotated[
        str, typer.Option(metavar="0.5,0.5", help="strength of each adapter in a weighted sum; 1 for a single one")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Write the weights of a base with adapters merged in, under the names the base has for them.

    Examples
    --------
        cospipe adapter merge pets.safetensors --model mymodels.nets:make_net -o net.pt

        cospipe adapter merge a.safetensors b.safetensors --weights 0.5,0.5 --model mymodels.nets:make_net -o ab.pt
    """
    strengths = _strengths(weights, len(files))
    with show_progress() as progress:
        progress("Loading PyTorch")
        from cospipe.backends.finetune.merging import write_merged

        values = write_merged(model, files, strengths, output, progress)
    if as_json:
        return print_json(values)
    from cospipe.pictures import size

    text = f"{values['output']}: {values['tensors']} tensors, {size(values['file_bytes'])}"
    out.print(f"{text}; {len(values['changed'])} of them are changed", markup=False, highlight=False, soft_wrap=True)


def _strengths(text: str, count: int) -> list[float]:
    if not text and count == 1:
        return [1.0]
    try:
        strengths = [float(part) for part in text.split(",")]
    except ValueError:
        strengths = []
    if len(strengths) != count or not all(abs(strength) < float("inf") for strength in strengths):
        raise UsageError(f"--weights takes {count} number(s), one for each adapter, like 0.5,0.5; not {text!r}.")
    return strengths

"""Options of ``tvmc compile`` alone."""

from __future__ import annotations

import argparse

from cospipe.tvmc.pipeline_arguments import add_pipeline_arguments

_DUMPS = ("relax", "tir", "ll", "asm")
_OF_ONE_LIBRARY = {
    "output_format": "-f",
    "desired_layout": "--desired-layout",
    "desired_layout_ops": "--desired-layout-ops",
    "mixed_precision": "--mixed-precision",
    "mixed_precision_ops": "--mixed-precision-ops",
    "cross_compiler": "--cross-compiler",
    "cross_compiler_options": "--cross-compiler-options",
    "dump_code": "--dump-code",
    "pass_config": "--pass-config",
    "disabled_pass": "--disabled-pass",
    "module_name": "--module-name",
    "print_pass_times": "--print-pass-times",
    "print_ir_before": "--print-ir-before",
    "print_ir_after": "--print-ir-after",
}


def add_compile_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is written, how it is linked, which passes run and what is printed of them."""
    _add_output_arguments(parser)
    _add_pass_arguments(parser)
    parser.add_argument(
        "--tuning-records", default="", metavar="DIR", help="directory of records that tvmc tune has written."
    )
    parser.add_argument("--module-name", default="default", help="the output module name. Defaults to default.")
    add_pipeline_arguments(parser)


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", default="module.tar", help="output archive. Defaults to module.tar.")
    parser.add_argument(
        "-f",
        "--output-format",
        default="so",
        type=_output_format,
        metavar="{so,tar}",
        help="so for a shared library, tar for object files that are linked when they are loaded. Defaults to so.",
    )
    parser.add_argument(
        "--cross-compiler",
        default="",
        metavar="COMPILER",
        help="the cross compiler to generate target libraries, e.g. aarch64-linux-gnu-gcc; zig by default.",
    )
    parser.add_argument(
        "--cross-compiler-options", default="", metavar="OPTIONS", help="the options of the cross compiler."
    )
    parser.add_argument(
        "--dump-code",
        default=(),
        type=_dump_formats,
        metavar="FORMAT[,FORMAT]",
        help=f"comma separated list of formats to export beside the package: {','.join(_DUMPS)}.",
    )


def _add_pass_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-O",
        "--opt-level",
        default=3,
        type=int,
        choices=range(4),
        metavar="[0-3]",
        help="0: TVM's own kernels; 1: ours; 2: batch norms folded as well; 3: Winograd's method as well."
        " Defaults to 3.",
    )
    parser.add_argument(
        "--pass-config",
        action="append",
        metavar="NAME=VALUE",
        help="configurations to be used at compile time. This option can be provided multiple times.",
    )
    parser.add_argument(
        "--disabled-pass", default="", metavar="PASSES", help="disable specific passes, comma-separated list."
    )
    parser.add_argument("--print-pass-times", action="store_true", help="print compilation time per pass.")
    for moment in ("before", "after"):
        parser.add_argument(
            f"--print-ir-{moment}",
            default="",
            metavar="PASSES",
            help=f"print IR {moment} each of these passes, comma-separated list.",
        )


def _output_format(text: str) -> str:
    if text == "mlf":
        raise argparse.ArgumentTypeError("the Model Library Format went with microTVM; choose so or tar")
    if text not in ("so", "tar"):
        raise argparse.ArgumentTypeError(f"there is no format {text!r}; choose so or tar")
    return text


def _dump_formats(text: str) -> tuple[str, ...]:
    formats = names_of(text)
    if "relay" in formats:
        raise argparse.ArgumentTypeError("Relay is gone from TVM; relax is what takes its place")
    if unknown := [name for name in formats if name not in _DUMPS]:
        raise argparse.ArgumentTypeError(f"there is no format {', '.join(unknown)}; choose from {', '.join(_DUMPS)}")
    return formats


def names_of(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas, which may stand in brackets."""
    return tuple(name for name in (part.strip() for part in text.strip(" []").split(",")) if name)


def single_library_options(args: argparse.Namespace) -> list[str]:
    """Return the options that were given and only a package of one library can have."""
    defaults = {"output_format": "so", "module_name": "default"}
    return [
        option
        for name, option in _OF_ONE_LIBRARY.items()
        if getattr(args, name) and getattr(args, name) != defaults.get(name)
    ]

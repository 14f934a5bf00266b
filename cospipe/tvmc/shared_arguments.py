"""Options that several commands of tvmc share. Everything is told to argparse without importing TVM."""

from __future__ import annotations

import argparse
from typing import Any

from cospipe.tvmc.model_formats import FORMATS, model_format
from cospipe.tvmc.shapes import parse_shape_string

_PRECISIONS = ("float16", "float32")
_LLVM = "llvm"


def _switch(text: str) -> bool:
    known = {"0": False, "false": False, "1": True, "true": True}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 0 nor 1")
    return known[text.lower()]


LLVM_OPTIONS: dict[str, tuple[Any, str]] = {
    "mcpu": (str, "type of core, as LLVM calls it: cortex-a72"),
    "mtriple": (str, "machine to compile for: aarch64-linux-gnu"),
    "mattr": (str, "features of the core: +neon,+dotprod"),
    "num-cores": (int, "cores that share a kernel"),
    "mabi": (str, "calling convention"),
    "mfloat-abi": (str, "calling convention of floating-point numbers"),
    "opt-level": (int, "optimisation level of LLVM, 0 to 3"),
    "cl-opt": (str, "further options of LLVM"),
    "jit": (str, "just-in-time compiler of LLVM: mcjit or orcjit"),
    "vector-width": (int, "width of vectors in bits"),
    "fast-math": (_switch, "all of LLVM's fast-math flags"),
    "fast-math-nnan": (_switch, "LLVM's fast-math flag nnan"),
    "fast-math-ninf": (_switch, "LLVM's fast-math flag ninf"),
    "fast-math-nsz": (_switch, "LLVM's fast-math flag nsz"),
    "fast-math-arcp": (_switch, "LLVM's fast-math flag arcp"),
    "fast-math-contract": (_switch, "LLVM's fast-math flag contract"),
    "fast-math-reassoc": (_switch, "LLVM's fast-math flag reassoc"),
    "keys": (str, "TVM's keys of the target: cpu,arm_cpu"),
    "device": (str, "TVM's name of the device"),
    "model": (str, "name of the board, which only people read"),
    "tag": (str, "name of the target, which only people read"),
    "libs": (str, "libraries that TVM may call"),
}
"""Options of TVM 0.27's target kind llvm with their type and help; a test compares them with TVM's own list."""


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file of a network, its format and the shapes of its inputs."""
    parser.add_argument("FILE", help="path to the input model file.")
    parser.add_argument(
        "--model-format",
        type=model_format,
        metavar=f"{{{','.join(FORMATS)}}}",
        help="specify input model format; by the end of the file's name if it is not given.",
    )
    parser.add_argument(
        "--input-shapes",
        metavar="SHAPES",
        type=parse_shape_string,
        help="specify non-generic shapes for model to run, format is"
        ' "input_name:[dim1,dim2,...,dimn] input_name2:[dim1,dim2]"; -1 is a size known only when it runs.',
    )


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--target`` and an option for everything that can be said of the target kind llvm."""
    parser.add_argument("--target", help="compilation target as plain string, inline JSON or path to a JSON file.")
    group = parser.add_argument_group(f"target {_LLVM}")
    for name, (kind, text) in LLVM_OPTIONS.items():
        group.add_argument(f"--target-{_LLVM}-{name}", type=kind, metavar="VALUE", help=text)


def target_options(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return what was said in options of their own, by target kind and name: ``{"llvm": {"mcpu": "cortex-a72"}}``."""
    values = {name: getattr(args, f"target_{_LLVM}_{name.replace('-', '_')}") for name in LLVM_OPTIONS}
    given = {name: value for name, value in values.items() if value is not None}
    return {_LLVM: given} if given else {}


def add_transform_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the layout of tensors and the precision of numbers."""
    parser.add_argument(
        "--desired-layout",
        nargs="+",
        metavar="LAYOUT",
        help="change the data/kernel layout of the graph, e.g. NHWC or NHWC:OHWI; one for all operations or one for"
        " each of --desired-layout-ops.",
    )
    parser.add_argument(
        "--desired-layout-ops", nargs="+", metavar="OP", help="list of operators to be transformed with desired layout."
    )
    parser.add_argument("--mixed-precision", action="store_true", help="enable mixed precision transformation.")
    parser.add_argument(
        "--mixed-precision-ops", nargs="+", metavar="OP", help="list of operators to be converted to mixed precision."
    )
    for name in ("calculation", "acc"):
        parser.add_argument(
            f"--mixed-precision-{name}-type",
            choices=_PRECISIONS,
            default="float16",
            help=f"{'accumulator' if name == 'acc' else name} precision type. Defaults to float16.",
        )


def add_rpc_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the boards are."""
    parser.add_argument(
        "--rpc-tracker", metavar="HOST[:PORT]", help="hostname (required) and port (optional, defaults to 9090)."
    )
    parser.add_argument("--rpc-key", metavar="KEY", help="the RPC tracker key of the target device.")


def add_verbose_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``-v``, which may stand before the command as well."""
    # No default of its own: it would take the place of what was said before the command.
    parser.add_argument("-v", "--verbose", action="count", default=argparse.SUPPRESS, help="increase verbosity.")

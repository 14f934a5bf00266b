"""Options of older tvmc whose meaning is gone: refused with a sentence that says what to do instead."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

_EXECUTOR = (
    "graph and AOT executors are gone from TVM; every package runs on the Relax virtual machine, so leave it out"
)
_RUNTIME = "there is one runtime now, TVM's C++ library; leave it out, or use cospipe optimize --runner for bare boards"
_POOLS = "memory pools went with microTVM; memory is planned by the compiler, so leave it out"

COMPILE: Mapping[str, str] = {
    "--executor": _EXECUTOR,
    "--executor-graph-link-params": _EXECUTOR,
    "--executor-aot-interface-api": _EXECUTOR,
    "--executor-aot-unpacked-api": _EXECUTOR,
    "--executor-aot-link-params": _EXECUTOR,
    "--executor-aot-workspace-byte-alignment": _EXECUTOR,
    "--executor-aot-constant-byte-alignment": _EXECUTOR,
    "--use-vm": "every package runs on the Relax virtual machine; leave it out",
    "--runtime": _RUNTIME,
    "--runtime-cpp-system-lib": _RUNTIME,
    "--runtime-crt-system-lib": _RUNTIME,
    "--workspace-pools": _POOLS,
    "--workspace-pools-targets": _POOLS,
    "--workspace-pools-size-hint-bytes": _POOLS,
    "--workspace-pools-clock-frequency": _POOLS,
    "--workspace-pools-read-bandwidth": _POOLS,
    "--workspace-pools-write-bandwidth": _POOLS,
    "--workspace-pools-read-latency": _POOLS,
    "--workspace-pools-write-latency": _POOLS,
    "--workspace-pools-burst-length": _POOLS,
    "--dump-offloads": "nothing is offloaded to other code generators any more (BYOC for CPUs is gone from TVM);"
    " --dump-code relax shows what is compiled",
    "--target-host": "give the host's target as the second one of --target",
}
"""Options of ``tvmc compile``."""

COMMANDS: Mapping[str, str] = {
    "micro": "microTVM is gone from TVM; for bare Linux boards use cospipe optimize --runner",
}
"""Commands."""

OTHER_KINDS = ("cuda", "nvptx", "rocm", "opencl", "vulkan", "metal", "webgpu", "hexagon", "c", "composite")
"""Target kinds of TVM that this driver cannot compile for."""


class _Refuse(argparse.Action):
    """Refuses an option with a sentence; whatever value it has is of no interest."""

    def __init__(self, option_strings: Sequence[str], dest: str, reason: str, **_: Any) -> None:
        self._reason = reason
        super().__init__(option_strings, dest, nargs="*", default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        _namespace: argparse.Namespace,
        _values: Any,
        option_string: str | None = None,
    ) -> NoReturn:
        parser.error(f"{option_string or parser.prog} is no longer available: {self._reason}.")


def refuse(parser: argparse.ArgumentParser, removed: Mapping[str, str]) -> None:
    """Make a parser refuse options, each with a reason that ends a sentence; they are not in its help."""
    for name, reason in removed.items():
        parser.add_argument(name, action=_Refuse, dest=f"removed_{name.strip('-').replace('-', '_')}", reason=reason)


def refuse_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Make a parser refuse commands with a reason."""
    for name, reason in COMMANDS.items():
        parser = subparsers.add_parser(name, add_help=False)
        parser.add_argument("anything", nargs=argparse.REMAINDER, action=_Refuse, reason=reason)


def other_target(argv: Sequence[str]) -> str | None:
    """Return the first option for a target kind that this driver cannot compile for, ``--target-cuda-arch``."""
    prefixes = tuple(f"--target-{kind}-" for kind in OTHER_KINDS)
    return next((text.partition("=")[0] for text in argv if text.startswith(prefixes)), None)

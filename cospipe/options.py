"""Arguments and options that mean the same in every command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cospipe.ir.exploration import Limits
from cospipe.units import memory_bytes, power_mw, time_us

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="package.module:factory, .pt2 or .onnx file", show_default=False)
]
BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="a bundle directory, .zip or .tar file", show_default=False)
]
SocOption = Annotated[str, typer.Option("--soc", metavar="NAME|FILE.toml", help="the chip; see `cospipe socs`")]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="[NAME:]1,3,224,224",
        help="shape of an input, once for each; by name for .onnx only",
    ),
]
ValueOption = Annotated[
    list[str] | None,
    typer.Option("--input-value", metavar="NAME=16000", help="an input of an .onnx file that always has this value"),
]
AdapterOption = Annotated[
    Path | None, typer.Option("--adapter", metavar="FILE", help="an adapter to fold into the weights at load time")
]
PublicKeyOption = Annotated[
    Path | None,
    typer.Option("--public-key", metavar="FILE", help="refuse a bundle that is not signed with the key to this one"),
]
ObjectiveOption = Annotated[str, typer.Option("--objective", help="throughput, latency or energy")]
CoresOption = Annotated[str, typer.Option("--cores", metavar="big:4+little:2", help="cores the plan may use")]
MaxStagesOption = Annotated[int, typer.Option("--max-stages", help="most stages; 0 for no limit")]
MaxLatencyOption = Annotated[
    str, typer.Option("--max-latency", metavar="50ms", help="longest time of one frame, us, ms or s")
]
MaxPowerOption = Annotated[
    str, typer.Option("--max-power", metavar="5W", help="most power of the whole board, every stage busy; mW or W")
]
MaxMemoryOption = Annotated[str, typer.Option("--max-memory", metavar="200MB", help="most memory, kB, MB, MiB, GB")]
SourceOption = Annotated[
    str, typer.Option("--source", help="what predicts the times: analytic, regression, measured or emulated")
]
ProfileOption = Annotated[
    Path | None,
    typer.Option("--profile", metavar="FILE", help="a profile of the chip, for every source but analytic"),
]


def parse_limits(max_latency: str, max_power: str, max_memory: str) -> Limits:
    """Read the limits of the command line; an empty text is no limit.

    Raises
    ------
    UsageError
        When one is no positive amount with a unit.
    """
    return Limits(
        latency_us=time_us("--max-latency", max_latency) if max_latency else None,
        power_mw=power_mw("--max-power", max_power) if max_power else None,
        memory_bytes=memory_bytes("--max-memory", max_memory) if max_memory else None,
    )

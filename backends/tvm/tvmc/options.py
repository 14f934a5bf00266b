"""How a network is compiled: everything that is said beside the network and the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_LAYOUT_OPERATIONS = ("nn.conv2d", "nn.conv2d_transpose", "qnn.conv2d")
DEFAULT_MIXED_OPERATIONS = ("nn.conv2d", "nn.dense")
WHOLE_OPTIMISATION = 3


@dataclass(frozen=True)
class CompileOptions:
    """How to compile.

    Parameters
    ----------
    optimisation_level : int
        0: the kernels of TVM's own pipeline. 1: ours. 2: batch norms are folded into weights as well. 3: 3x3
        convolutions may be computed by Winograd's method as well.
    output_format : str
        ``so`` or ``tar``.
    cross_compiler, cross_options : str
        What links, see :func:`cospipe.backends.tvm.tvmc.linking.linker`.
    layouts : mapping of str to sequence of str, optional
        Layouts of the data and weights of operations, ``{"relax.nn.conv2d": ["NHWC", "OHWI"]}``.
    mixed_precision : str, optional
        Convolutions and products are computed in FP16; this is the type of their results, ``float16`` or ``float32``.
    module_name : str
        Goes into the package's metadata.
    tuning_records : Path, optional
        Directory of records.
    dump_formats : sequence of str
        Some of :data:`cospipe.backends.tvm.tvmc.dumps.FORMATS`.
    pass_config : mapping
        Values of TVM's pass context.
    disabled_passes, printed_before, printed_after : sequence of str
        Names of passes.
    prints_pass_times : bool
        Whether the times of passes are printed.
    """

    optimisation_level: int = WHOLE_OPTIMISATION
    output_format: str = "so"
    cross_compiler: str = ""
    cross_options: str = ""
    layouts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    mixed_precision: str | None = None
    module_name: str = "default"
    tuning_records: Path | None = None
    dump_formats: Sequence[str] = ()
    pass_config: Mapping[str, Any] = field(default_factory=dict)
    disabled_passes: Sequence[str] = ()
    printed_before: Sequence[str] = ()
    printed_after: Sequence[str] = ()
    prints_pass_times: bool = False

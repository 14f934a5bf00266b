"""``tvmc compile --pipeline``: a model over the clusters of a chip, as one package."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cospipe.backends.tvm.tvmc.package import check_package_output, write_archive

if TYPE_CHECKING:
    import torch

    from cospipe.planning import Model

log = logging.getLogger("cospipe")


def compile_pipeline(
    model: Model,
    example_inputs: tuple[torch.Tensor, ...],
    soc: str,
    output: str | Path,
    *,
    objective: str = "throughput",
    target: Mapping[str, Any] | None = None,
    winograd: bool = True,
    tuning_records: str | Path = "",
    name: str | None = None,
    progress: Callable[[str], None] = log.info,
) -> Path:
    """Compile a model into a pipeline over the clusters of a chip, and write it as a package.

    Parameters
    ----------
    model : nn.Module or ExportedProgram
        The model.
    example_inputs : tuple of Tensor
        One tensor for each input; the compiled network takes exactly these shapes and dtypes.
    soc : str
        Name of the chip, or a TOML file that describes it.
    output : str or Path
        The .tar file to write; an earlier one there is replaced.
    objective : str
        ``"throughput"``, ``"latency"`` or ``"energy"``.
    target : mapping, optional
        What the user says of the target besides: ``llvm`` alone compiles for this machine, whatever is planned for.
    winograd : bool
        Whether 3x3 convolutions may be computed by Winograd's method.
    tuning_records : str or Path
        Directory of records that ``tvmc tune`` wrote; empty for none.
    name : str, optional
        What the model is called in the package.
    progress : callable
        Is told in a few words what is done next.

    Returns
    -------
    Path
        The package.

    Raises
    ------
    UsageError
        When the chip or the objective does not exist, the target contradicts the chip, or something other than a .tar
        file lies at ``output``.
    CospipeError
        When the model cannot be compiled, see :func:`cospipe.optimize`.
    """
    from cospipe.backends.tvm.tvmc.cores import machine_for
    from cospipe.front_door import optimize
    from cospipe.ir.soc import load_soc

    check_package_output(output)
    chip = load_soc(soc)
    machine = machine_for(chip, target)

    def fill(folder: Path) -> None:
        optimize(
            model,
            example_inputs,
            soc,
            objective,
            folder,
            target="host" if machine.name != chip.name else "auto",
            winograd=winograd,
            tuning_records=tuning_records,
            name=name,
            progress=progress,
        )

    write_archive(output, fill)
    return Path(output)

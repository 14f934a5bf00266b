"""tvmc from Python: models and packages, ``load`` and ``compile``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from cospipe.backends.tvm.tvmc.compile import compile_model
from cospipe.backends.tvm.tvmc.loading import load_network
from cospipe.backends.tvm.tvmc.model import LoadedModel
from cospipe.backends.tvm.tvmc.options import WHOLE_OPTIMISATION, CompileOptions
from cospipe.backends.tvm.tvmc.package import Package, open_package
from cospipe.backends.tvm.tvmc.pass_context import parse_pass_config
from cospipe.backends.tvm.tvmc.relax_files import load_relax_file, save_relax
from cospipe.backends.tvm.tvmc.targets import choose_target
from cospipe.backends.tvm.tvmc.transforms import layouts, mixed_precision
from cospipe.ir.errors import UsageError
from cospipe.tvmc.model_formats import format_of


class TVMCModel:
    """A network that can be compiled and tuned.

    Parameters
    ----------
    network : LoadedModel, optional
        What :func:`load` has read.
    model_path : str or Path, optional
        What :meth:`save` has written.

    Raises
    ------
    UsageError
        When neither or both are given.
    """

    def __init__(self, network: LoadedModel | None = None, *, model_path: str | Path | None = None) -> None:
        if (network is None) == (model_path is None):
            raise UsageError("A TVMCModel is made of a network or of the path of a saved one; give one of them.")
        self.network: LoadedModel = load_relax_file(Path(model_path), {}) if model_path is not None else network  # type: ignore[assignment]

    @property
    def name(self) -> str:
        """What the network is called."""
        return self.network.name

    def save(self, model_path: str | Path) -> None:
        """Write the network as Relax into a .tar file.

        Raises
        ------
        CospipeError
            When it cannot be written.
        """
        save_relax(self.network, model_path)

    def summary(self, file: IO[str] | None = None) -> None:
        """Print the network as Relax."""
        print(self.network.relax().module.script(), file=file)


class TVMCPackage:
    """A compiled network.

    Parameters
    ----------
    package_path : str or Path
        What :func:`compile` has written; its files are checked.

    Raises
    ------
    CospipeError
        When it is no package or is damaged.
    """

    def __init__(self, package_path: str | Path) -> None:
        self.package_path = Path(package_path)
        self.package: Package = open_package(self.package_path)


def load(
    path: str | Path, model_format: str | None = None, shape_dict: Mapping[str, Sequence[int]] | None = None
) -> TVMCModel:
    """Read a network.

    Parameters
    ----------
    path : str or Path
        The file.
    model_format : str, optional
        ``onnx``, ``pytorch``, ``pt2`` or ``relax``; by the end of the file's name by default.
    shape_dict : mapping of str to sequence of int, optional
        Sizes of inputs by name, -1 for one that is known only when the network runs.

    Raises
    ------
    CospipeError
        When there is no such file, it holds something else, or shapes do not fit.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"Input file '{path}' doesn't exist, is a broken symbolic link, or a directory.")
    return TVMCModel(load_network(file, format_of(file, model_format), shape_dict))


def compile(
    tvmc_model: TVMCModel,
    target: str | None = None,
    opt_level: int = WHOLE_OPTIMISATION,
    tuning_records: str | Path | None = None,
    package_path: str | Path | None = None,
    cross: str | None = None,
    cross_options: str | None = None,
    output_format: str = "so",
    dump_code: Sequence[str] = (),
    disabled_pass: Sequence[str] = (),
    pass_context_configs: Sequence[str] = (),
    mod_name: str = "default",
    desired_layout: str | Sequence[str] | None = None,
    desired_layout_ops: Sequence[str] | None = None,
    use_mixed_precision: bool = False,
    mixed_precision_acc_type: str = "float16",
) -> TVMCPackage:
    """Compile a network into a package.

    Parameters
    ----------
    tvmc_model : TVMCModel
        The network.
    target : str, optional
        As ``--target``; this machine's fastest cores by default.
    opt_level : int
        0: TVM's own kernels; 1: ours; 2: batch norms folded as well; 3: Winograd's method as well.
    tuning_records : str or Path, optional
        Directory that ``tvmc tune`` has written.
    package_path : str or Path, optional
        The .tar file to write; a new temporary directory's ``module.tar`` by default, which is not removed.
    cross, cross_options : str, optional
        Cross compiler that links, and its options; zig by default.
    output_format : str
        ``so``, or ``tar`` for object files that are linked when they are loaded.
    dump_code : sequence of str
        Some of ``relax``, ``tir``, ``ll``, ``asm``: written beside the package.
    disabled_pass, pass_context_configs : sequence of str
        Names of passes; ``name=value`` for TVM's pass context.
    mod_name : str
        Goes into the package's metadata.
    desired_layout, desired_layout_ops : str or sequence of str, optional
        As ``--desired-layout`` and ``--desired-layout-ops``.
    use_mixed_precision : bool
        Whether convolutions and products are computed in FP16.
    mixed_precision_acc_type : str
        Type of their results: ``float16`` or ``float32``.

    Raises
    ------
    CospipeError
        When the target or an option is wrong, or the network cannot be compiled.
    """
    layout_list = [desired_layout] if isinstance(desired_layout, str) else desired_layout
    options = CompileOptions(
        optimisation_level=opt_level,
        output_format=output_format,
        cross_compiler=cross or "",
        cross_options=cross_options or "",
        layouts=layouts(layout_list, desired_layout_ops),
        mixed_precision=mixed_precision(use_mixed_precision, None, "float16", mixed_precision_acc_type),
        module_name=mod_name,
        tuning_records=Path(tuning_records) if tuning_records else None,
        dump_formats=tuple(dump_code),
        pass_config=parse_pass_config(pass_context_configs),
        disabled_passes=tuple(disabled_pass),
    )
    output = Path(package_path) if package_path else Path(tempfile.mkdtemp(prefix="tvmc-")) / "module.tar"
    compile_model(tvmc_model.network, choose_target(target), output, options)
    return TVMCPackage(output)

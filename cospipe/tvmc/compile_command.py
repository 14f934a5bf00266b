"""``tvmc compile``: from a model file to a package."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cospipe.ir.errors import UsageError, several
from cospipe.tvmc.compile_arguments import add_compile_arguments, names_of, single_library_options
from cospipe.tvmc.model_formats import format_of
from cospipe.tvmc.pipeline_arguments import check_pipeline_arguments
from cospipe.tvmc.removed_options import COMPILE, refuse
from cospipe.tvmc.shared_arguments import (
    add_model_arguments,
    add_target_arguments,
    add_transform_arguments,
    add_verbose_argument,
    target_options,
)

if TYPE_CHECKING:
    from cospipe.backends.tvm.replica_target import ReplicaTarget
    from cospipe.backends.tvm.tvmc.options import CompileOptions

_WHOLE_OPTIMISATION = 3
_LEAST_OF_PIPELINES = 2

log = logging.getLogger("cospipe")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to tvmc's parser."""
    parser = subparsers.add_parser("compile", help="compile a model.", description="Compile a model into a package.")
    parser.set_defaults(func=drive_compile, command_parser=parser)
    add_model_arguments(parser)
    add_target_arguments(parser)
    add_transform_arguments(parser)
    add_compile_arguments(parser)
    add_verbose_argument(parser)
    refuse(parser, COMPILE)


def drive_compile(args: argparse.Namespace) -> int:
    """Compile what the arguments say; the exit code is 0, everything else is raised.

    Raises
    ------
    CospipeError
        When the file, the target or an option is wrong, or the model cannot be compiled.
    """
    file, output = Path(args.FILE), Path(args.output)
    if not file.is_file():
        raise UsageError(f"Input file '{args.FILE}' doesn't exist, is a broken symbolic link, or a directory.")
    if output.exists() and output.samefile(file):
        raise UsageError(f"{output} is the model itself; choose another --output.")
    check_pipeline_arguments(args)
    if _is_pipeline(file, args.model_format):
        return _join(file, args)
    if args.pipeline is not None:
        return _compile_pipeline(file, args)
    return _compile_library(file, args)


def _is_pipeline(file: Path, named_format: str | None) -> bool:
    from cospipe.backends.tvm.tvmc.pipeline_file import is_pipeline_file

    return named_format is None and file.suffix == ".json" and is_pipeline_file(file)


def _join(file: Path, args: argparse.Namespace) -> int:
    from cospipe.backends.tvm.tvmc.join import join_packages

    _refuse_options_of_libraries(args, "The packages of a pipeline are joined, not compiled")
    if args.tuning_records:
        raise UsageError("The packages of a pipeline are compiled already; --tuning-records is for compiling them.")
    join_packages(file, Path(args.output), log.info)
    return 0


def _compile_pipeline(file: Path, args: argparse.Namespace) -> int:
    _refuse_options_of_libraries(args, "A pipeline is compiled as a whole")
    if args.opt_level < _LEAST_OF_PIPELINES:
        raise UsageError(f"A pipeline is compiled with -O 2 or -O 3, not with -O {args.opt_level}.")
    from cospipe.backends.tvm.tvmc.models_for_pipelines import load_for_pipeline
    from cospipe.tvmc.pipelines import compile_pipeline

    model, inputs = load_for_pipeline(file, format_of(file, args.model_format), args.input_shapes or {})
    compile_pipeline(
        model,
        inputs,
        args.pipeline,
        args.output,
        objective=args.pipeline_objective,
        target=_said_of_target(args),
        winograd=args.opt_level == _WHOLE_OPTIMISATION,
        name=file.stem,
        tuning_records=args.tuning_records,
    )
    return 0


def _refuse_options_of_libraries(args: argparse.Namespace, what: str) -> None:
    if given := single_library_options(args):
        raise UsageError(several(f"{what}; leave out what is for one library", given))


def _said_of_target(args: argparse.Namespace) -> Mapping[str, Any] | None:
    """Return the target as it was written, as one object; None when nothing was."""
    from cospipe.backends.tvm.tvmc.target_text import read_targets

    options = target_options(args).get("llvm", {})
    if args.target is None:
        return {"kind": "llvm", **options} if options else None
    targets = read_targets(args.target)
    if len(targets) > 1:
        raise UsageError(f"--target names {len(targets)} targets; the cores of a described chip need none.")
    return {"kind": targets[0].kind, **targets[0].options, **options}


def _compile_library(file: Path, args: argparse.Namespace) -> int:
    model_format = format_of(file, args.model_format)
    from cospipe.backends.tvm.tvmc.compile import compile_model
    from cospipe.backends.tvm.tvmc.loading import load_network
    from cospipe.backends.tvm.tvmc.package import check_package_output

    check_package_output(args.output)
    target = _target(args)
    options = compile_options(args)
    model = load_network(file, model_format, args.input_shapes)
    package = compile_model(model, target, args.output, options)
    log.info("Compiled %s for %d core(s) %s into %s.", model.name, target.threads, target.core_type, package.path)
    return 0


def _target(args: argparse.Namespace) -> ReplicaTarget:
    if args.cores is not None:
        from cospipe.backends.tvm.tvmc.cores import cores_target

        return cores_target(args.cores, _said_of_target(args))
    from cospipe.backends.tvm.tvmc.targets import choose_target

    return choose_target(args.target, target_options(args))


def compile_options(args: argparse.Namespace) -> CompileOptions:
    """Return how to compile from the arguments.

    Raises
    ------
    UsageError
        When a value is wrong.
    """
    from cospipe.backends.tvm.tvmc.options import CompileOptions
    from cospipe.backends.tvm.tvmc.pass_context import parse_pass_config, pass_names
    from cospipe.backends.tvm.tvmc.transforms import layouts, mixed_precision

    lists = {name: names_of(getattr(args, name)) for name in ("disabled_pass", "print_ir_before", "print_ir_after")}
    if unknown := sorted({name for names in lists.values() for name in names} - pass_names()):
        args.command_parser.error(f"no such pass: {', '.join(unknown)}; there are {', '.join(sorted(pass_names()))}")
    return CompileOptions(
        optimisation_level=args.opt_level,
        output_format=args.output_format,
        cross_compiler=args.cross_compiler,
        cross_options=args.cross_compiler_options,
        layouts=layouts(args.desired_layout, args.desired_layout_ops),
        mixed_precision=mixed_precision(
            args.mixed_precision,
            args.mixed_precision_ops,
            args.mixed_precision_calculation_type,
            args.mixed_precision_acc_type,
        ),
        module_name=args.module_name,
        tuning_records=Path(args.tuning_records) if args.tuning_records else None,
        dump_formats=args.dump_code,
        pass_config=parse_pass_config(args.pass_config or ()),
        disabled_passes=lists["disabled_pass"],
        printed_before=lists["print_ir_before"],
        printed_after=lists["print_ir_after"],
        prints_pass_times=args.print_pass_times,
    )

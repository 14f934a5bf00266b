"""Options of ``tvmc compile`` about pipelines and the cores of described chips."""

from __future__ import annotations

import argparse

from cospipe.ir.errors import UsageError
from cospipe.ir.plan import OBJECTIVES


def add_pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is compiled for the clusters of a chip: a whole pipeline, or one library."""
    parser.add_argument(
        "--pipeline",
        metavar="SOC",
        help="compile a pipeline over the clusters of a chip, hikey970 for example (see `cospipe socs`) or a TOML file,"
        " instead of one library.",
    )
    parser.add_argument(
        "--pipeline-objective",
        choices=OBJECTIVES,
        default="throughput",
        help="what the pipeline is made for. Defaults to throughput.",
    )
    parser.add_argument(
        "--cores",
        metavar="SOC:CLUSTER:NUMBER",
        help="compile one library for these cores of a chip, hikey970:big:4 for example, instead of for a --target.",
    )


def check_pipeline_arguments(args: argparse.Namespace) -> None:
    """Check that the options do not contradict each other and others of ``tvmc compile``.

    Raises
    ------
    UsageError
        When a pipeline is asked for together with something only one library can have.
    """
    if args.pipeline is None:
        if args.pipeline_objective != "throughput":
            raise UsageError("--pipeline-objective is for pipelines; name the chip with --pipeline SOC.")
        return
    if args.cores is not None:
        raise UsageError("--pipeline uses all cores of the chip; leave --cores out, which is for one library.")

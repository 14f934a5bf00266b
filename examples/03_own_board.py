"""Describe a board in a TOML file, then see what pipelines it promises; nothing is compiled.

The first call writes a draft, the description of a similar board under a new name. Edit it and call again.

Example: python examples/03_own_board.py --board my-board.toml --like rk3588 --model mobilenet_v2
"""

from __future__ import annotations

import argparse
import sys
from importlib import resources
from pathlib import Path

import torch
from torch import fx
from torchvision.models import get_model

from cospipe.ir.annotations import plan_of
from cospipe.ir.capture import capture
from cospipe.ir.errors import CospipeError
from cospipe.ir.plan import OBJECTIVES
from cospipe.ir.soc import Soc, load_soc, soc_names
from cospipe.passes import PassManager
from cospipe.passes.annotate_latency import AnnotateLatency
from cospipe.passes.annotate_layers import AnnotateLayers
from cospipe.passes.fold_batch_norm import FoldBatchNorm
from cospipe.passes.partition import Partition
from cospipe.pictures import milliseconds


def main() -> None:
    arguments = parse_arguments()
    if not arguments.board.exists():
        write_draft(arguments.board, arguments.like)
        print(f"wrote {arguments.board}, a copy of {arguments.like}: edit it and call again")
    board = load_soc(arguments.board)  # reports every mistake of the file at once
    annotated = annotate(arguments.model, arguments.board)

    print(f"{arguments.model} on {board.name}\n{'cores':24}{'objective':12}{'stages':>6}{'period':>11}{'latency':>11}")
    for cores in core_sets(board):
        for objective in OBJECTIVES:
            print(row(annotated, Partition(soc=str(arguments.board), objective=objective, cores=cores)))


def write_draft(file: Path, like: str) -> None:
    known = resources.files("cospipe.ir") / "socs" / f"{like}.toml"
    text = known.read_text(encoding="utf-8")
    file.write_text(text.replace(f'name = "{like}"', f'name = "{file.stem}"', 1), encoding="utf-8")


def annotate(model: str, board: Path) -> fx.GraphModule:
    graph_module = capture(get_model(model, weights=None), (torch.randn(1, 3, 224, 224),))
    passes = (FoldBatchNorm(), AnnotateLayers(), AnnotateLatency(soc=str(board)))
    return PassManager(passes)(graph_module).graph_module


def core_sets(board: Soc) -> list[str]:
    """Each cluster alone, then all of them."""
    names = [cluster.name for cluster in board.clusters]
    return [*names, "+".join(names)] if len(names) > 1 else names


def row(annotated: fx.GraphModule, partition: Partition) -> str:
    plan = plan_of(partition(annotated).graph_module)
    period, latency = milliseconds(plan.period_us), milliseconds(plan.latency_us)
    return f"{partition.cores:24}{plan.objective:12}{len(plan.stages):6}{period:>11}{latency:>11}"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--board", type=Path, default=Path("my-board.toml"), help="the description (default: %(default)s)"
    )
    boards = [name for name in soc_names() if name != "host"]
    parser.add_argument(
        "--like", default="rk3399", choices=boards, metavar="BOARD", help="what to copy first (default: %(default)s)"
    )
    parser.add_argument("--model", default="mobilenet_v2", help="a torchvision classifier (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except CospipeError as error:  # mistakes in the description, for example
        sys.exit(str(error))

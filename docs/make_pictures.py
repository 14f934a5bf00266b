"""Draw the pictures of the documentation again: ``python docs/make_pictures.py`` (needs the extra ``examples``)."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from rich.console import Console
from torch import nn

from cospipe.ir.annotations import plan_of
from cospipe.ir.capture import capture
from cospipe.ir.plan import PipelinePlan
from cospipe.passes import PassManager, parse_pipeline
from cospipe.pictures import plan_picture

WIDTH = 134
"""Columns of the picture: three stages side by side."""
PASSES = (
    "fold-batch-norm,annotate-layers,annotate-latency{soc=hikey970},"
    "partition{soc=hikey970,objective=throughput,max_stages=3}"
)


def main() -> None:
    """Write ``pipeline.svg`` beside this script."""
    console = Console(record=True, width=WIDTH, file=StringIO())
    console.print(plan_picture(demo_plan(), WIDTH))
    title = "EfficientNet-Lite0 on HiKey 970, at most three stages"
    picture = Path(__file__).with_name("pipeline.svg")
    console.save_svg(str(picture), title=title, unique_id="pipeline")
    print(f"wrote {picture}")


def demo_plan() -> PipelinePlan:
    """Plan the demo's network; without the seconds the search took, so that the picture stays the same."""
    graph_module = capture(demo_network(), (torch.zeros(1, 3, 224, 224),))
    plan = plan_of(PassManager(parse_pipeline(PASSES))(graph_module).graph_module)
    return plan.model_copy(update={"search": None})


def demo_network() -> nn.Module:
    """Return the network of ``cospipe demo``; a plan does not depend on the weights."""
    with redirect_stdout(StringIO()):  # the package prints what it builds
        network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    return network.eval()


if __name__ == "__main__":
    main()

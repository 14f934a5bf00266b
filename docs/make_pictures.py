"""Draw the pictures of the documentation again: ``python docs/make_pictures.py`` (needs the extra ``examples``)."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from rich.console import Console
from roofline import draw, read_measurement
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
    """Write ``pipeline.svg`` and ``roofline.svg`` beside this script."""
    for name, text in (("pipeline.svg", pipeline_picture()), ("roofline.svg", roofline_picture())):
        picture = Path(__file__).with_name(name)
        picture.write_text(text, encoding="utf-8")
        print(f"wrote {picture}")


def pipeline_picture() -> str:
    """Return the plan of the demo's network."""
    console = Console(record=True, width=WIDTH, file=StringIO())
    console.print(plan_picture(demo_plan(), WIDTH))
    title = "EfficientNet-Lite0 on HiKey 970, at most three stages"
    return console.export_svg(title=title, unique_id="pipeline")


def roofline_picture() -> str:
    """Return the kernels of ResNet-50, as ``roofline.json`` has them; docs/kernels.md says how that is measured."""
    measured = json.loads(Path(__file__).with_name("roofline.json").read_text(encoding="utf-8"))
    title = f"The kernels of ResNet-50 on one core ({measured['environment']['cpu']})"
    return draw(*read_measurement(measured, "resnet50"), title)


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

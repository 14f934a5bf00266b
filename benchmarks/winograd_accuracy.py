"""What Winograd's method costs in digits: networks full of 3x3 convolutions, compiled with it and without.

Both are compared with eager PyTorch, and with each other, relative to the largest output. Norms are randomised and
every layer matters to the output, see ``randomise`` in models.py.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from environment import JsonFile, Row, print_rows, write_rows
from models import InputSpec, Network, load_network, model_specs

import cospipe
from cospipe.backends.runtime.compare import relative_error
from cospipe.ir.tensor_file import Array

NETWORKS = ["vgg16", "vgg19_bn", "resnet34", "resnet50"]


def main(
    json: JsonFile = "",
    models: Annotated[list[str] | None, typer.Option("--model", help="torchvision name or package:factory")] = None,
    image: Annotated[str, typer.Option("--input", metavar="1x3x96x96", help="shape of the input")] = "1x3x96x96",
) -> None:
    """Measure the error of networks with Winograd's method and without, on this machine.

    Example: python benchmarks/winograd_accuracy.py --model resnet34 --input 1x3x224x224 --json -
    """
    rows = [measure(spec, InputSpec.parse(image)) for spec in model_specs(models or NETWORKS)]
    if json:
        write_rows(rows, json)
    else:
        print_rows("Error relative to the largest output", rows)


def measure(spec: str, image: InputSpec) -> Row:
    network = load_network(spec, [image], keep_weights=False)
    expected, direct = compiled_output(network, winograd=False)
    _, winograd = compiled_output(network, winograd=True)
    return {
        "model": spec.rpartition(":")[2],
        "input": "x".join(map(str, image.shape)),
        "direct": relative_error(direct, expected),
        "winograd": relative_error(winograd, expected),
        "winograd_to_direct": relative_error(winograd, direct),
    }


def compiled_output(network: Network, winograd: bool) -> tuple[Array, Array]:
    """Return what eager PyTorch and a compiled pipeline make of the network's frame."""
    with tempfile.TemporaryDirectory() as folder:
        result = cospipe.optimize(
            network.module, network.inputs, output=Path(folder) / "bundle", max_stages=1, winograd=winograd
        )
        reference = result.bundle.reference()
        frame = {spec.name: reference[spec.name] for spec in result.bundle.manifest.inputs}
        [computed] = result.run([frame]).outputs
        [output] = result.bundle.manifest.outputs
        return reference[output.name].copy(), computed[output.name]


if __name__ == "__main__":
    typer.run(main)

"""Compile a network for an AArch64 board and check its numbers here, under QEMU.

Needs QEMU and the AArch64 C and C++ libraries (Debian: qemu-user libc6-arm64-cross libstdc++6-arm64-cross).

Example: python examples/02_cross_compile.py --soc rk3588 --model squeezenet1_1
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torchvision.models import get_model

import cospipe


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(0)
    model = get_model(arguments.model, weights=None).eval()
    image = torch.randn(1, 3, arguments.size, arguments.size)

    result = cospipe.optimize(
        model, (image,), soc=arguments.soc, target="aarch64", output=arguments.output, progress=print
    )
    print(result.summary())

    # instructions are executed one by one, so this says whether the numbers are right, not how fast the board is
    verification = cospipe.verify_bundle(result.bundle, emulate=True, progress=print)
    for check in verification.checks:
        print(f"{check.part:8} {check.tensor:16} {check.relative_error:.1e} {'ok' if check.passed else 'wrong'}")
    verification.raise_if_failed()
    print(f"copy {arguments.output} to the board and call there: cospipe run {arguments.output.name}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--soc", default="hikey970", help="a board, see `cospipe socs` (default: %(default)s)")
    parser.add_argument("--model", default="squeezenet1_1", help="a torchvision classifier (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="height and width of the image (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("build/board"), help="the bundle (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except cospipe.CospipeError as error:  # QEMU is missing, there is no such board, ...
        sys.exit(str(error))

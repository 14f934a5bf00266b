"""``cospipe keygen`` and ``cospipe sign``: bundles that only run when their owner signed them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cospipe.console import JsonOption, out, print_json
from cospipe.options import BundleArgument


def keygen(
    name: Annotated[
        Path, typer.Argument(metavar="NAME", help="writes NAME.private.pem and NAME.public.pem", show_default=False)
    ],
    as_json: JsonOption = False,
) -> None:
    """Make a pair of Ed25519 keys: the private one signs bundles, the public one checks them on the board.

    Examples
    --------
        cospipe keygen keys/release
    """
    from cospipe.backends.signature import write_key_pair

    private, public = (name.with_name(f"{name.name}.{kind}.pem") for kind in ("private", "public"))
    write_key_pair(private, public)
    if as_json:
        return print_json({"private_key": str(private), "public_key": str(public)})
    out.print(f"{private}: keep it to yourself", markup=False, highlight=False)
    out.print(f"{public}: put it on the boards", markup=False, highlight=False)


def sign(
    bundle: BundleArgument,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="the private key, PEM", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Sign a bundle, so that a board can tell whose it is.

    Examples
    --------
        cospipe sign build/board --key keys/release.private.pem

        cospipe run build/board --public-key keys/release.public.pem
    """
    from cospipe.backends.signature import sign_bundle

    sign_bundle(bundle, key)
    if as_json:
        return print_json({"bundle": str(bundle), "signed": True})
    out.print(f"{bundle} is signed", markup=False, highlight=False)

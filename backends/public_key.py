"""Public keys, and checks of a bundle's signature with them; before anything else of the bundle is looked at."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from cospipe.ir.errors import BundleError, CospipeError, UsageError, first_line
from cospipe.ir.manifest import SIGNATURE_NAME

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_SIGNATURE_BYTES = 64
_RAW_KEY_BYTES = 32

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def needs_cryptography(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Say in a sentence when the package is missing: only who signs bundles installs it."""

    @wraps(function)
    def checked(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        try:
            return function(*arguments, **options)
        except ModuleNotFoundError as error:
            raise CospipeError("Signatures need another package: pip install 'cospipe[signing]'.") from error

    return checked


@needs_cryptography
def check_signature(manifest: bytes, signature_file: Path, public_key: Path, origin: str) -> None:
    """Check that the owner of a key signed a manifest.

    Parameters
    ----------
    manifest : bytes
        What the manifest's file holds.
    signature_file : Path
        File with the 64 bytes of the signature.
    public_key : Path
        PEM file of an Ed25519 key, or its 32 bytes.
    origin : str
        Names the bundle in errors.

    Raises
    ------
    UsageError
        When the key cannot be read.
    BundleError
        When there is no signature, or it is another's or of another manifest.
    """
    from cryptography.exceptions import InvalidSignature

    key = _read_public_key(public_key)
    if signature_file.is_symlink() or not signature_file.is_file():
        raise BundleError(f"{origin} is not signed: it has no {SIGNATURE_NAME}. It will not be run.")
    with signature_file.open("rb") as stream:
        signature = stream.read(_SIGNATURE_BYTES + 1)
    if len(signature) != _SIGNATURE_BYTES:
        raise BundleError(f"{origin} was damaged: {SIGNATURE_NAME} does not hold {_SIGNATURE_BYTES} bytes.")
    try:
        key.verify(signature, manifest)
    except InvalidSignature as error:
        raise BundleError(
            f"{origin} was altered, or not signed with the key that belongs to {public_key}. It will not be run."
        ) from error


def _read_public_key(file: Path) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        content = file.read_bytes()
        key = (
            Ed25519PublicKey.from_public_bytes(content)
            if len(content) == _RAW_KEY_BYTES
            else load_pem_public_key(content)
        )
    except OSError as error:
        raise UsageError(f"The public key {file} cannot be read: {first_line(error)}.") from error
    except Exception as error:  # cryptography has an error for each kind of wrong content
        raise UsageError(f"{file} is neither the PEM file of a public key nor its 32 bytes.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{file} is a public key, but not of Ed25519.")
    return key

"""Signatures of bundles: Ed25519 over the bytes of the manifest, which holds the SHA-256 of every other file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cospipe.backends.bundle import open_bundle
from cospipe.backends.bundle_archive import put_signature
from cospipe.backends.public_key import needs_cryptography
from cospipe.ir.errors import CospipeError, UsageError, first_line
from cospipe.ir.manifest import MANIFEST_NAME, SIGNATURE_NAME

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def sign_bundle(path: str | Path, private_key: str | Path) -> None:
    """Sign a bundle; an earlier signature is replaced.

    Parameters
    ----------
    path : str or Path
        A bundle directory, .zip file or .tar file.
    private_key : str or Path
        PEM file of an Ed25519 key, as :func:`write_key_pair` or ``openssl genpkey -algorithm ed25519`` writes it.

    Raises
    ------
    UsageError
        When there is no such bundle or key.
    BundleError
        When the bundle is damaged; nothing is signed then.
    """
    key = _read_private_key(Path(private_key))
    bundle = open_bundle(path)
    signature = key.sign((bundle.folder / MANIFEST_NAME).read_bytes())
    try:
        if bundle.path.is_dir():
            _write_beside_manifest(bundle.path, signature)
        else:
            put_signature(bundle.path, bundle.manifest.files, signature)
    except OSError as error:
        raise CospipeError(
            f"The signature of {path} could not be written ({first_line(error)}); nothing was changed."
        ) from error


def _write_beside_manifest(folder: Path, signature: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder) as scratch:
        new = Path(scratch) / SIGNATURE_NAME
        new.write_bytes(signature)
        os.replace(new, folder / SIGNATURE_NAME)


@needs_cryptography
def _read_private_key(file: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise UsageError(f"The private key {file} cannot be read: {first_line(error)}.") from error
    except TypeError as error:
        raise UsageError(f"The private key {file} is encrypted; decrypt it first, with: openssl pkey.") from error
    except Exception as error:
        raise UsageError(f"{file} is not the PEM file of a private key; make one with: cospipe keygen.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{file} is a private key, but not for Ed25519; make one with: cospipe keygen.")
    return key


@needs_cryptography
def write_key_pair(private_file: Path, public_file: Path) -> None:
    """Write a new pair of Ed25519 keys as PEM files; only the owner may read the private one.

    Raises
    ------
    UsageError
        When one of the files exists; keys are never overwritten.
    CospipeError
        When they cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if existing := [str(file) for file in (private_file, public_file) if file.exists() or file.is_symlink()]:
        raise UsageError(f"Keys are not overwritten, choose another name: there is {' and '.join(existing)} already.")
    try:
        private_file.parent.mkdir(parents=True, exist_ok=True)
        _write_new(private_file, private, 0o600)
        try:
            _write_new(public_file, public, 0o644)
        except OSError:
            private_file.unlink()
            raise
    except OSError as error:
        raise CospipeError(f"The keys could not be written to {private_file.parent}: {first_line(error)}.") from error


def _write_new(file: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)

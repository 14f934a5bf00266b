"""Signatures of bundles: right ones open, all others are refused before the manifest is even parsed."""

import io
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from cospipe.backends.bundle import open_bundle, replace_weights
from cospipe.backends.signature import sign_bundle, write_key_pair
from cospipe.ir.errors import BundleError, CospipeError, UsageError


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two pairs of keys: (private, public) by name."""
    folder = tmp_path_factory.mktemp("keys")
    pairs = {name: (folder / f"{name}.private.pem", folder / f"{name}.public.pem") for name in ("mine", "other")}
    for pair in pairs.values():
        write_key_pair(*pair)
    return pairs


@pytest.fixture(params=["directory", "zip", "tar"])
def signed(request, compiled, keys, tmp_path):
    """Path of a signed bundle."""
    if request.param == "tar":
        path = Path(shutil.make_archive(str(tmp_path / "bundle"), "tar", compiled.bundle.folder))
    else:
        path = tmp_path / ("bundle.zip" if request.param == "zip" else "bundle")
        replace_weights(compiled.bundle, {}, compiled.bundle.reference(), path)
    sign_bundle(path, keys["mine"][0])
    return path


def set_file(path, name, content):
    """Replace a file of a bundle; None removes it."""
    if path.is_dir():
        (path / name).unlink()
        return None if content is None else (path / name).write_bytes(content)
    members = {member: data for member, data in members_of(path).items() if member != name}
    members |= {} if content is None else {name: content}
    if path.suffix == ".tar":
        with tarfile.open(path, "w") as archive:
            for member, data in members.items():
                header = tarfile.TarInfo(member)
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))
        return None
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return None


def get_file(path, name):
    if path.is_dir():
        return (path / name).read_bytes()
    return members_of(path)[name]


def members_of(path):
    """Return the content of every file in an archive."""
    if path.suffix == ".tar":
        with tarfile.open(path) as archive:
            files = [member for member in archive if member.isfile()]
            return {member.name.removeprefix("./"): archive.extractfile(member).read() for member in files}
    with zipfile.ZipFile(path) as archive:
        return {member: archive.read(member) for member in archive.namelist()}


def test_a_signed_bundle_opens_with_its_key_and_without(signed, keys):
    assert open_bundle(signed, keys["mine"][1]).manifest == open_bundle(signed).manifest
    assert len(get_file(signed, "manifest.sig")) == 64


def test_openssl_agrees(compiled, tmp_path, keys):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing (Debian: apt-get install openssl)")
    folder = shutil.copytree(compiled.bundle.folder, tmp_path / "bundle")
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    sign_bundle(folder, private)
    assert open_bundle(folder, public).manifest == compiled.bundle.manifest
    check = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", folder / "manifest.json"]
    done = subprocess.run([*check, "-sigfile", folder / "manifest.sig"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_32_bytes_of_a_key_will_do(signed, keys, tmp_path):
    key = load_pem_public_key(keys["mine"][1].read_bytes())
    (tmp_path / "raw").write_bytes(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    open_bundle(signed, tmp_path / "raw")


def test_another_key_is_refused(signed, keys):
    with pytest.raises(BundleError, match="was altered, or not signed with the key"):
        open_bundle(signed, keys["other"][1])


def test_an_unsigned_bundle_is_refused(signed, keys):
    set_file(signed, "manifest.sig", None)
    with pytest.raises(BundleError, match="is not signed"):
        open_bundle(signed, keys["mine"][1])
    open_bundle(signed)


@pytest.mark.parametrize("length", [0, 63, 65, 1 << 20])
def test_a_signature_of_another_length_is_refused(signed, keys, length):
    set_file(signed, "manifest.sig", bytes(length))
    with pytest.raises(BundleError, match=r"manifest\.sig does not hold 64 bytes"):
        open_bundle(signed, keys["mine"][1])


@pytest.mark.parametrize("bit", [0, 100, 511])
def test_an_altered_signature_is_refused(signed, keys, bit):
    signature = bytearray(get_file(signed, "manifest.sig"))
    signature[bit // 8] ^= 1 << bit % 8
    set_file(signed, "manifest.sig", bytes(signature))
    with pytest.raises(BundleError, match="was altered, or not signed"):
        open_bundle(signed, keys["mine"][1])


def test_an_altered_manifest_is_refused_before_it_is_parsed(signed, keys):
    set_file(signed, "manifest.json", b"this is no JSON")
    with pytest.raises(BundleError, match="was altered, or not signed"):
        open_bundle(signed, keys["mine"][1])
    set_file(signed, "manifest.json", get_file(signed, "manifest.json") + b" ")
    with pytest.raises(BundleError, match="was altered, or not signed"):
        open_bundle(signed, keys["mine"][1])


def test_an_altered_file_is_refused_though_the_manifest_is_signed(signed, keys):
    data = bytearray(get_file(signed, "reference.safetensors"))
    data[-1] ^= 1
    set_file(signed, "reference.safetensors", bytes(data))
    with pytest.raises(BundleError, match=r"reference\.safetensors was altered"):
        open_bundle(signed, keys["mine"][1])


def test_a_linked_signature_is_refused(compiled, keys, tmp_path):
    folder = shutil.copytree(compiled.bundle.folder, tmp_path / "bundle")
    sign_bundle(folder, keys["mine"][0])
    (folder / "manifest.sig").rename(tmp_path / "elsewhere")
    (folder / "manifest.sig").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is not signed"):
        open_bundle(folder, keys["mine"][1])


def test_signing_again_replaces_the_signature_and_nothing_else(signed, keys):
    before = open_bundle(signed)
    sign_bundle(signed, keys["other"][0])
    assert open_bundle(signed, keys["other"][1]).manifest == before.manifest
    with pytest.raises(BundleError):
        open_bundle(signed, keys["mine"][1])


def test_a_damaged_bundle_is_not_signed(compiled, keys, tmp_path):
    folder = shutil.copytree(compiled.bundle.folder, tmp_path / "bundle")
    (folder / "reference.safetensors").write_bytes(b"other")
    with pytest.raises(BundleError, match="will not be run"):
        sign_bundle(folder, keys["mine"][0])
    assert not (folder / "manifest.sig").exists()


def test_other_weights_are_not_signed(signed, keys, tmp_path):
    opened = open_bundle(signed)
    replace_weights(opened, {}, opened.reference(), tmp_path / "new")
    with pytest.raises(BundleError, match="is not signed"):
        open_bundle(tmp_path / "new", keys["mine"][1])


def test_signed_zips_keep_the_modes_of_their_members(compiled, keys, tmp_path):
    archive = tmp_path / "bundle.zip"
    with zipfile.ZipFile(archive, "w") as members:
        for file in compiled.bundle.folder.iterdir():
            info = zipfile.ZipInfo(file.name)
            info.external_attr = 0o755 << 16
            members.writestr(info, file.read_bytes())
    sign_bundle(archive, keys["mine"][0])
    with zipfile.ZipFile(archive) as members:
        modes = {info.filename: info.external_attr >> 16 for info in members.infolist()}
    assert {mode for name, mode in modes.items() if name != "manifest.sig"} == {0o755}
    open_bundle(archive, keys["mine"][1])


def test_a_private_key_is_for_its_owner_only(keys):
    private, public = keys["mine"]
    assert private.stat().st_mode & 0o777 == 0o600
    assert public.read_text().startswith("-----BEGIN PUBLIC KEY-----")


def test_keys_are_not_overwritten(keys, tmp_path):
    before = [file.read_bytes() for file in keys["mine"]]
    with pytest.raises(UsageError, match="Keys are not overwritten"):
        write_key_pair(*keys["mine"])
    assert [file.read_bytes() for file in keys["mine"]] == before
    with pytest.raises(UsageError, match="not overwritten"):
        write_key_pair(tmp_path / "new.pem", keys["mine"][1])
    assert not (tmp_path / "new.pem").exists()


def test_half_a_pair_is_not_left_behind(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CospipeError, match="could not be written"):
        write_key_pair(tmp_path / "private.pem", tmp_path / "file" / "public.pem")
    assert not (tmp_path / "private.pem").exists()


def elliptic():
    return ec.generate_private_key(ec.SECP256R1())


def encrypted():
    method = BestAvailableEncryption(b"password")
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, method)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not the PEM file of a private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "is not the PEM file of a private key"),
        (elliptic().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "but not for Ed25519"),
        (encrypted(), "is encrypted"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_private_key_gets_a_sentence(compiled, tmp_path, content, words):
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match=words):
        sign_bundle(compiled.bundle.path, tmp_path / "key")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "neither the PEM file of a public key nor its 32 bytes"),
        (bytes(33), "neither the PEM file of a public key nor its 32 bytes"),
        (elliptic().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "but not of Ed25519"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_public_key_gets_a_sentence(compiled, tmp_path, content, words):
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match=words):
        open_bundle(compiled.bundle.path, tmp_path / "key")

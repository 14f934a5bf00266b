"""``cospipe keygen``, ``sign`` and ``--public-key``, as a user would type them."""

import json
import shutil
import subprocess
import sys

import pytest

from cospipe.backends.bundle import open_bundle


@pytest.fixture(scope="module")
def folder(compiled, tmp_path_factory):
    """A directory with a pair of keys and a signed bundle."""
    folder = tmp_path_factory.mktemp("signing")
    shutil.copytree(compiled.bundle.folder, folder / "bundle")
    for arguments in (["keygen", "keys/release"], ["sign", "bundle", "--key", "keys/release.private.pem"]):
        done = cospipe(*arguments, folder=folder)
        assert done.returncode == 0, done.stderr
    return folder


def cospipe(*arguments, folder):
    command = [sys.executable, "-m", "cospipe.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_new_key_signs_a_bundle_that_opens_with_it(folder):
    open_bundle(folder / "bundle", folder / "keys" / "release.public.pem")
    assert (folder / "keys" / "release.private.pem").stat().st_mode & 0o777 == 0o600


def test_verify_takes_the_public_key(folder):
    done = cospipe("verify", "bundle", "--public-key", "keys/release.public.pem", "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"]
    assert cospipe("keygen", "keys/other", folder=folder).returncode == 0
    done = cospipe("verify", "bundle", "--public-key", "keys/other.public.pem", folder=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not signed with the key" in done.stderr


def test_keys_are_not_overwritten(folder):
    done = cospipe("keygen", "keys/release", folder=folder)
    assert done.returncode == 2
    assert "Keys are not overwritten" in done.stderr


def test_json_names_the_files(folder):
    done = cospipe("keygen", "keys/third", "--json", folder=folder)
    assert json.loads(done.stdout) == {"private_key": "keys/third.private.pem", "public_key": "keys/third.public.pem"}
    done = cospipe("sign", "bundle", "--key", "keys/release.private.pem", "--json", folder=folder)
    assert json.loads(done.stdout) == {"bundle": "bundle", "signed": True}


def test_a_key_that_is_not_there_is_wrong_usage(folder):
    done = cospipe("sign", "bundle", "--key", "nothing.pem", folder=folder)
    assert done.returncode == 2
    assert "nothing.pem cannot be read" in done.stderr

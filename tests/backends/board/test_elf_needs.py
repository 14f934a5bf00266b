"""What programs and libraries need: compared with what they were built of, and with readelf."""

import re
import shutil
import subprocess

import pytest

from cospipe.backends.board.build import PROGRAM
from cospipe.backends.board.directory import check_runs_on_board, directory_needs, newest_needs
from cospipe.backends.board.elf_needs import newest_versions, provided_versions, read_needs
from cospipe.backends.board.options import RunnerOptions
from cospipe.backends.board.sysroot import find_library
from cospipe.backends.tvm.link import link_shared_library, zig, zig_target
from cospipe.ir.errors import BoardError, UsageError

SOURCE = """
int lost(void);
int fcntl64(int, int, ...);  /* of glibc 2.28 */
int getrandom(void*, unsigned long, unsigned);  /* of glibc 2.25 */
int random_number(void) { int n = 0; getrandom(&n, sizeof n, 0); return CALL; }
"""


def library(path, architecture="aarch64", glibc="2.28", call="0", *options):
    """Compile a library that needs functions of certain versions of glibc."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.with_suffix(".c")
    source.write_text(SOURCE)
    command = zig("cc", "-target", zig_target(architecture, glibc), "-shared", f"-DCALL={call}", *options)
    subprocess.run([*command, str(source), "-o", str(path)], check=True)
    source.unlink()
    return path


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A library that needs glibc 2.25."""
    return library(tmp_path_factory.mktemp("old") / "old.so")


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """A library that needs glibc 2.28."""
    return library(tmp_path_factory.mktemp("new") / "new.so", call="fcntl64(0, 0)")


@pytest.fixture
def board(old, tmp_path):
    """A directory of which everything runs with glibc 2.25."""
    shutil.copy(old, tmp_path / "stage0.so")
    return tmp_path


def test_needs_are_what_was_called(old, new):
    assert read_needs(old).architecture == "aarch64"
    assert "libc.so.6" in read_needs(old).libraries
    assert read_needs(old).versions["libc.so.6", "GLIBC"] == (2, 25)
    assert read_needs(new).versions["libc.so.6", "GLIBC"] == (2, 28)


def test_readelf_agrees(new):
    if shutil.which("readelf") is None:
        pytest.skip("readelf is missing (Debian: apt-get install binutils)")
    text = subprocess.run(["readelf", "--version-info", "--dynamic", new], capture_output=True, text=True).stdout
    names = re.findall(r"Name: (GLIBC_[0-9.]+)", text)
    assert newest_needs([read_needs(new)])["GLIBC"] == newest_versions(names)["GLIBC"]
    assert re.findall(r"\(NEEDED\) .*\[(.*)\]", text) == list(read_needs(new).libraries)


def test_versions_are_numbers():
    names = ["GLIBC_2.9", "GLIBC_2.17", "GLIBC_PRIVATE", "GLIBCXX_3.4.30", "GLIBCXX_3.4.9", "CXXABI_TM_1", "OTHER"]
    assert newest_versions(names) == {"GLIBC": (2, 17), "GLIBCXX": (3, 4, 30)}


@pytest.mark.parametrize("content", [b"", b"text", b"\x7fELF and no more"])
def test_what_is_no_library_is_told(tmp_path, content):
    (tmp_path / "stage0.so").write_bytes(content)
    with pytest.raises(BoardError, match=r"stage0\.so is neither a program nor a library"):
        read_needs(tmp_path / "stage0.so")
    with pytest.raises(BoardError, match=r"stage0\.so is neither a program nor a library"):
        provided_versions(tmp_path / "stage0.so")


def test_a_board_that_has_all_of_it_passes(board):
    check_runs_on_board(board, "aarch64", RunnerOptions(glibc="2.25"))
    assert set(directory_needs(board)) == {"stage0.so"}


def test_everything_that_would_not_run_is_listed(board, new):
    shutil.copy(new, board / "new.so")
    library(board / "lib" / "other.so", architecture="x86_64")
    library(board / "lib" / "liblost.so", "aarch64", "2.28", "0", "-Drandom_number=lost", "-Wl,-soname,liblost.so")
    library(board / "needy.so", "aarch64", "2.28", "lost()", str(board / "lib" / "liblost.so"))
    (board / "lib" / "liblost.so").unlink()
    with pytest.raises(BoardError) as error:
        check_runs_on_board(board, "aarch64", RunnerOptions(glibc="2.27"))
    lines = str(error.value).splitlines()
    assert lines[0] == "This directory would not run on the board:"
    assert "  - lib/other.so is for x86_64, the board is aarch64" in lines
    assert "  - new.so needs glibc 2.28, newer than 2.27 (--glibc)" in lines
    assert "  - needy.so needs liblost.so, which is neither in the directory nor part of every Linux" in lines
    assert not any("stage0.so" in line for line in lines)


def test_a_program_of_a_newer_cross_compiler_is_told_with_what_to_do(board, new):
    shutil.copy(new, board / PROGRAM)
    with pytest.raises(BoardError, match=r"cospipe-run needs glibc 2\.28, .*\bsh links with its own"):
        check_runs_on_board(board, "aarch64", RunnerOptions("2.27", cross_compiler="sh"))  # any program that exists


def sysroot_with(folder, source, name="libc.so.6", where="lib"):
    """Make a sysroot whose C library defines certain versions."""
    (folder / where).mkdir(parents=True, exist_ok=True)
    versions = folder / "versions"
    versions.write_text("".join(f"GLIBC_{version} {{ f{i}; }};\n" for i, version in enumerate(source)))
    code = folder / "code.c"
    code.write_text("".join(f"int f{i}(void) {{ return {i}; }}\n" for i in range(len(source))))
    link_shared_library([str(code), f"-Wl,--version-script={versions}", "-nostdlib"], folder / where / name, "aarch64")
    shutil.copy(folder / where / name, folder / where / "ld-linux-aarch64.so.1")
    return folder


@pytest.mark.parametrize("where", ["lib", "lib64", "usr/lib/aarch64-linux-gnu"])
def test_a_sysroot_with_all_of_it_passes(board, new, tmp_path_factory, where):
    sysroot = sysroot_with(tmp_path_factory.mktemp("sysroot"), ["2.17", "2.28"], where=where)
    shutil.copy(new, board / "new.so")
    assert provided_versions(sysroot / where / "libc.so.6") == {"GLIBC": (2, 28)}
    check_runs_on_board(board, "aarch64", RunnerOptions("2.28", sysroot))


def test_an_older_sysroot_is_told(board, new, tmp_path_factory):
    sysroot = sysroot_with(tmp_path_factory.mktemp("sysroot"), ["2.17", "2.27"])
    check_runs_on_board(board, "aarch64", RunnerOptions("2.28", sysroot))
    shutil.copy(new, board / "new.so")
    with pytest.raises(BoardError, match=r"new\.so needs GLIBC_2\.28 of libc\.so\.6, .* has 2\.27"):
        check_runs_on_board(board, "aarch64", RunnerOptions("2.28", sysroot))


def test_a_library_that_the_sysroot_lacks_is_told(board, tmp_path_factory):
    with pytest.raises(BoardError, match=r"libc\.so\.6 is missing in"):
        check_runs_on_board(board, "aarch64", RunnerOptions("2.28", tmp_path_factory.mktemp("empty")))


def test_absolute_links_of_a_sysroot_stay_in_it(tmp_path):
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libc.so.6").symlink_to("/usr/lib/libc-2.31.so")
    (tmp_path / "lib/loop.so").symlink_to("loop.so")
    assert find_library(tmp_path, "libc.so.6", "aarch64") is None
    (tmp_path / "usr/lib/libc-2.31.so").touch()
    assert find_library(tmp_path, "libc.so.6", "aarch64") == tmp_path / "usr/lib/libc-2.31.so"
    assert find_library(tmp_path, "loop.so", "aarch64") is None


@pytest.mark.parametrize("version", ["", "new", "3.1", "2.28.1", "2.28; rm"])
def test_what_is_no_version_of_glibc_is_told(version):
    with pytest.raises(UsageError, match=r"is no version of glibc; write it as 2\.28"):
        RunnerOptions(version)


def test_a_sysroot_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UsageError, match="nowhere is no directory"):
        RunnerOptions(sysroot=tmp_path / "nowhere")

"""``tvmc run`` on this machine: inputs, outputs, times and profiles of a package of one library."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from library_packages import write_library_package

from cospipe.backends.runtime.compare import relative_error
from cospipe.tvmc.main import _main

NAMES = ["image", "offset"]


@pytest.fixture(scope="module")
def package(small_network, small_inputs, tmp_path_factory):
    return write_library_package(small_network, small_inputs, NAMES, tmp_path_factory.mktemp("package") / "small.tar")


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory):
    """A network whose first size is known only when it runs: a sum of its input and twice that input."""
    from dynamic_package import write_dynamic_package

    return write_dynamic_package(tmp_path_factory.mktemp("dynamic") / "dynamic.tar")


@pytest.fixture
def inputs_file(small_inputs, tmp_path):
    file = tmp_path / "in.npz"
    np.savez(file, **{name: value.numpy() for name, value in zip(NAMES, small_inputs, strict=True)})
    return file


def run(*arguments):
    return _main(["run", *map(str, arguments)])


def failure(capsys, *arguments):
    """Return the sentence of a run that fails."""
    assert run(*arguments) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    return captured.err


def test_outputs_are_those_of_pytorch(package, small_network, small_inputs, inputs_file, tmp_path, capsys):
    assert run(package, "-i", inputs_file, "-o", tmp_path / "out.npz") == 0
    assert capsys.readouterr().out == ""
    with np.load(tmp_path / "out.npz") as outputs:
        assert list(outputs) == ["output_0", "output_1"]
        for result, expected in zip(outputs.values(), small_network(*small_inputs), strict=True):
            assert relative_error(result, expected.detach().numpy()) < 1e-5


def test_suffix_of_outputs_is_added_as_numpy_does(package, tmp_path):
    assert run(package, "-o", tmp_path / "predictions") == 0
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.npz"]


def test_random_inputs_are_the_same_every_time(package, tmp_path):
    for name in "ab":
        run(package, "--outputs", tmp_path / f"{name}.npz")
    with np.load(tmp_path / "a.npz") as first, np.load(tmp_path / "b.npz") as second:
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_inputs_that_are_not_given_are_filled(package, small_network, small_inputs, tmp_path):
    np.savez(tmp_path / "in.npz", image=small_inputs[0].numpy())
    run(package, "-i", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--fill-mode", "ones")
    expected = small_network(small_inputs[0], torch.ones(1, 5))[0].detach().numpy()
    with np.load(tmp_path / "out.npz") as outputs:
        assert relative_error(outputs["output_0"], expected) < 1e-5


def test_print_top_shows_indices_and_values(package, small_network, small_inputs, inputs_file, capsys):
    assert run(package, "-i", inputs_file, "--print-top", 3) == 0
    indices, values = _rows(capsys.readouterr().out)
    expected = small_network(*small_inputs)[0][0].detach().numpy()
    assert indices == list(np.argsort(-expected)[:3])
    assert np.allclose(values, np.sort(expected)[::-1][:3], rtol=1e-4)


def _rows(text):
    return [[float(number) for number in row.split()] for row in text.replace("[", " ").split("]")[:2]]


def test_times_are_printed_as_a_table(package, capsys):
    assert run(package, "--print-time", "--repeat", 3, "--number", 2, "--end-to-end") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Execution time summary:"
    mean, median, longest, shortest, _ = map(float, lines[2].split())
    assert 0 < shortest <= min(mean, median) <= max(mean, median) <= longest


def test_profile_shows_every_kernel_once(package, capsys):
    from cospipe.backends.tvm.tvmc.package import open_package

    assert run(package, "--profile") == 0
    titles, _, *rows, _, total = capsys.readouterr().out.splitlines()
    assert titles.split() == ["Time", "(us)", "Share", "Calls", "Kind", "Kernel", "Nodes"]
    kernels = open_package(package).metadata.kernels
    assert len(rows) == 1 + len({kernel.name for kernel in kernels})  # and what the virtual machine does beside them
    for kernel in kernels:
        _, _, _, calls, kind, name, *_ = next(row for row in rows if f" {kernel.name} " in row).split()
        assert (int(calls), kind, name) == (sum(k.name == name for k in kernels), kernel.kind, kernel.name)
    assert any(row.rstrip().endswith("linear, add_1") for row in rows)
    assert total.split()[-1] == "Total"


def test_sizes_that_nobody_knows_must_be_given(dynamic, tmp_path, capsys):
    assert "x (?x4 float32) has sizes that are not known" in failure(capsys, dynamic)
    for rows in (3, 5):
        array = np.arange(4 * rows, dtype="float32").reshape(rows, 4)
        np.savez(tmp_path / "in.npz", x=array)
        assert run(dynamic, "-i", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--print-time") == 0
        with np.load(tmp_path / "out.npz") as outputs:
            assert np.array_equal(outputs["output_0"], 3 * array)


def test_inputs_that_contradict_each_other_are_told(tmp_path, capsys):
    from dynamic_package import write_dynamic_package

    package = write_dynamic_package(tmp_path / "two.tar", inputs=2)
    np.savez(tmp_path / "in.npz", x=np.ones((3, 4), "float32"), y=np.ones((2, 4), "float32"))
    assert "could not be run" in failure(capsys, package, "-i", tmp_path / "in.npz")


def test_every_input_that_does_not_fit_is_told(package, tmp_path, capsys):
    np.savez(tmp_path / "in.npz", image=np.zeros((1, 3, 8, 8), "float32"), offset=np.zeros((1, 5), "int64"), mask=1)
    told = failure(capsys, package, "-i", tmp_path / "in.npz", "-o", tmp_path / "out.npz")
    assert "'mask' is no input of it; its inputs are image (1x3x16x16 float32), offset (1x5 float32)" in told
    assert "image is 1x3x8x8 float32, expected image (1x3x16x16 float32)" in told
    assert "offset is 1x5 int64, expected offset (1x5 float32)" in told
    assert not (tmp_path / "out.npz").exists()


def test_double_precision_is_converted_as_tvmc_does(package, inputs_file, tmp_path, caplog):
    with np.load(inputs_file) as arrays:
        np.savez(tmp_path / "double.npz", **{name: array.astype("float64") for name, array in arrays.items()})
    run(package, "-i", inputs_file, "-o", tmp_path / "single_out.npz")
    assert not caplog.records
    assert run(package, "-i", tmp_path / "double.npz", "-o", tmp_path / "double_out.npz") == 0
    assert "The input image was converted from float64 to float32." in caplog.messages
    with np.load(tmp_path / "single_out.npz") as single, np.load(tmp_path / "double_out.npz") as double:
        assert np.array_equal(single["output_0"], double["output_0"])


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_files_of_inputs_that_cannot_be_read(package, content, tmp_path, capsys):
    file = tmp_path / "in.npz"
    if content is not None:
        file.write_bytes(content)
    if content and content.startswith(b"PK"):  # an archive without any array: everything is filled
        assert run(package, "-i", file) == 0
    else:
        assert str(file) in failure(capsys, package, "-i", file)


def test_arrays_of_objects_are_refused(package, tmp_path, capsys):
    np.savez(tmp_path / "in.npz", image=np.array([{"a": 1}], dtype=object))
    assert "cannot be read" in failure(capsys, package, "-i", tmp_path / "in.npz")


def test_outputs_that_cannot_be_written(package, tmp_path, capsys):
    assert "does not exist" in failure(capsys, package, "-o", tmp_path / "nowhere" / "out.npz")
    (tmp_path / "folder.npz").mkdir()
    assert "is a directory" in failure(capsys, package, "-o", tmp_path / "folder.npz")
    assert "File name too long" in failure(capsys, package, "-o", tmp_path / ("x" * 300))
    assert "no name" in failure(capsys, package, "-o", "")
    assert [file.name for file in tmp_path.iterdir()] == ["folder.npz"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--device", "cuda"], "There is no device 'cuda'"),
        (["--print-top", "0"], "--print-top takes"),
        (["--print-time", "--repeat", "0"], "--repeat must be at least 1, not 0"),
        (["--number", "-3"], "--number must be at least 1, not -3"),
        (["--rpc-key", "pi"], "--rpc-key is the key of a board at a tracker"),
        (["--rpc-tracker", "host:x"], "'host:x' is no address; write HOST or HOST:PORT"),
    ],
)
def test_options_without_sense_are_refused(package, arguments, sentence, capsys):
    assert sentence in failure(capsys, package, *arguments)


@pytest.mark.parametrize("arguments", [["--list-options"], ["--project-option", "a=1"], ["--device", "tpu"], ["-x"]])
def test_usage_errors(package, arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        run(package, *arguments)
    assert ended.value.code == 2
    assert ": error: " in capsys.readouterr().err


def test_measuring_options_alone_do_nothing_and_say_so(package, caplog):
    assert run(package, "--number", 5) == 0
    assert "without it they do nothing" in caplog.text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "aarch64"}, "it was compiled for aarch64, this machine is x86_64"),
        ({"tvm_version": "0.18.0"}, "it was compiled with TVM 0.18.0, installed is"),
    ],
)
def test_packages_for_something_else_are_refused(package, changes, sentence, tmp_path, capsys):
    import platform

    from library_packages import with_metadata

    if changes.get("architecture") == platform.machine():
        pytest.skip("this machine is an aarch64 one")
    assert sentence in failure(capsys, with_metadata(package, tmp_path / "other.tar", **changes))


def test_interface_of_python(package, small_inputs, small_network):
    from cospipe import tvmc

    inputs = {name: value.numpy() for name, value in zip(NAMES, small_inputs, strict=True)}
    result = tvmc.run(package, "cpu", inputs=inputs, benchmark=True, repeat=2, number=1)
    assert len(result.times.results) == 2
    expected = small_network(*small_inputs)[0].detach().numpy()
    assert relative_error(result.outputs["output_0"], expected) < 1e-5
    assert result.get_top_results(2)[0].tolist() == np.argsort(-expected[0])[:2].tolist()


def test_neither_torch_nor_tvm_is_imported(package):
    code = (
        "import sys; from cospipe.tvmc.run_command import run\n"
        "run(sys.argv[1], benchmark=True)\n"
        "assert not {'torch', 'tvm', 'networkx'} & set(sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code, str(package)], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr

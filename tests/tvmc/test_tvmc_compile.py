"""``tvmc compile`` for this machine: every format and option, against eager PyTorch."""

import logging
import tarfile

import numpy as np
import onnx
import pytest
import torch
from tvmc_models import ThreeKinds, example_image, tvmc, write_onnx

from cospipe.backends.runtime.stage import StageExecutable, as_tensor, to_numpy
from cospipe.backends.tvm.tvmc.package import open_package
from cospipe.backends.tvm.tvmc.package_metadata import PackagedTensor

SHAPE = (1, 3, 17, 20)


@pytest.fixture(scope="module")
def network():
    return ThreeKinds().eval()


@pytest.fixture(scope="module")
def models(network, tmp_path_factory):
    """The same network in a file of each format."""
    folder, image = tmp_path_factory.mktemp("models"), example_image(*SHAPE)
    write_onnx(network, (image,), folder / "net.onnx", input_names=["image"], output_names=["scores"])
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    names = {"input_names": ["image"], "output_names": ["scores"]}
    write_onnx(network, (image,), folder / "open.onnx", dynamic_shapes=(sizes,), **names)
    torch.export.save(torch.export.export(network, (image,)), folder / "net.pt2")
    torch.jit.trace(network, image).save(folder / "script.pth")
    torch.save(network.state_dict(), folder / "weights.pth")
    return folder


@pytest.fixture(scope="module")
def expected(network):
    with torch.no_grad():
        return network(example_image(*SHAPE)).numpy()


def compiled(model, output, *arguments):
    assert tvmc("compile", model, "-o", output, *arguments) == 0
    return open_package(output)


def computed(package, image):
    """Run a package of one library with the runtime that bundles have."""
    files, name = package.stage_files(), package.metadata.inputs[0].name
    stage = StageExecutable(files, package.shared_library(), package.weights)
    results = stage.call({name: as_tensor(image.numpy())})
    return to_numpy(results, [package.metadata.outputs[0].name])[package.metadata.outputs[0].name].copy()


@pytest.mark.parametrize(
    ("file", "arguments", "name"),
    [
        ("net.onnx", (), "image"),
        ("open.onnx", ("--input-shapes", "image:[1,3,17,20]"), "image"),
        ("net.pt2", ("-f", "tar"), "image"),
        ("script.pth", ("--input-shapes", "photo:[1,3,17,20]", "-O", "1"), "photo"),
    ],
)
def test_our_kernels_compute_what_pytorch_computes(models, expected, tmp_path, file, arguments, name):
    package = compiled(models / file, tmp_path / "net.tar", *arguments)
    assert (package.metadata.imported_by, package.metadata.kernels_by) == ("cospipe", "cospipe")
    assert package.metadata.inputs == (PackagedTensor(name=name, shape=SHAPE, dtype="float32"),)
    assert {kernel.kind for kernel in package.metadata.kernels} >= {"convolution", "depthwise"}
    np.testing.assert_allclose(computed(package, example_image(*SHAPE)), expected, atol=1e-5)


def test_outputs_are_called_as_the_file_calls_them(models, tmp_path):
    assert compiled(models / "net.onnx", tmp_path / "net.tar").metadata.outputs[0].name == "scores"


@pytest.mark.parametrize(
    ("arguments", "tolerance"),
    [(("-O", "0"), 1e-5), (("--desired-layout", "NHWC"), 1e-5), (("--mixed-precision",), 2e-2)],
)
def test_generic_kernels_are_used_where_ours_cannot_and_that_is_said(
    models, expected, tmp_path, arguments, tolerance, caplog
):
    model = models / "net.onnx"
    assert tvmc("compile", "-o", tmp_path / "net.tar", model, *arguments) == 0
    package = open_package(tmp_path / "net.tar")
    assert package.metadata.kernels_by == "tvm"
    assert "TVM's generic kernels are used, which are slow" in caplog.text
    np.testing.assert_allclose(computed(package, example_image(*SHAPE)), expected, atol=tolerance)


def test_the_layout_the_network_has_changes_nothing(models, tmp_path):
    package = compiled(models / "net.onnx", tmp_path / "net.tar", "--desired-layout", "NCHW")
    assert package.metadata.kernels_by == "cospipe"


def test_sizes_that_are_known_only_when_it_runs(models, network, tmp_path, caplog):
    shapes = ("--input-shapes", "image:[-1,3,-1,20]")
    package = compiled(models / "open.onnx", tmp_path / "net.tar", *shapes)
    assert package.metadata.inputs[0].shape == (-1, 3, -1, 20)
    assert "--input-shapes can fix them" in caplog.text
    for shape in ((1, 3, 17, 20), (2, 3, 9, 20)):
        image = example_image(*shape)
        np.savez(tmp_path / "in.npz", image=image.numpy())
        assert tvmc("run", tmp_path / "net.tar", "-i", tmp_path / "in.npz", "-o", tmp_path / "out.npz") == 0
        with torch.no_grad():
            wanted = network(image).numpy()
        np.testing.assert_allclose(np.load(tmp_path / "out.npz")["output_0"], wanted, atol=1e-5)


def test_open_sizes_that_nobody_gives(models, tmp_path, capsys):
    assert tvmc("compile", models / "open.onnx", "-o", tmp_path / "net.tar") == 4
    told = capsys.readouterr().err
    assert '--input-shapes "image:[1,3,' in told
    assert "sizes that are known only when it runs" in told
    assert not (tmp_path / "net.tar").exists()


def test_an_operation_that_we_lack_is_read_by_tvm_with_our_kernels(tmp_path, monkeypatch, caplog, models, expected):
    """Without the rule for Relu our importer cannot read the network, TVM's can."""
    from cospipe.backends.onnx import table

    without = {name: rule for name, rule in table.OPERATIONS.items() if "Relu" not in str(name)}
    monkeypatch.setattr(table, "OPERATIONS", without)
    package = compiled(models / "net.onnx", tmp_path / "net.tar")
    assert (package.metadata.imported_by, package.metadata.kernels_by) == ("tvm", "cospipe")
    assert "Relu" in caplog.text
    np.testing.assert_allclose(computed(package, example_image(*SHAPE)), expected, atol=1e-5)


def test_what_nobody_can_read_is_told_with_all_reasons(tmp_path, capsys):
    node = onnx.helper.make_node("NoSuchOperation", ["x"], ["y"], domain="house")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("house", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), tmp_path / "net.onnx")
    assert tvmc("compile", tmp_path / "net.onnx") == 4
    assert "NoSuchOperation" in capsys.readouterr().err


def test_sizes_that_a_network_does_not_take(tmp_path, capsys):
    halves = [onnx.helper.make_node("MaxPool", ["x"], ["half"], kernel_shape=[2, 2], strides=[2, 2])]
    halves += [onnx.helper.make_node("Resize", ["half", "", "two"], ["whole"])]
    node = onnx.helper.make_node("Concat", ["x", "whole"], ["y"], axis=1)
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, "height", 8]), ("y", None))
    ]
    two = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "two")
    graph = onnx.helper.make_graph([*halves, node], "g", values[:1], values[1:], [two])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]), tmp_path / "net.onnx")
    assert tvmc("compile", tmp_path / "net.onnx", "--input-shapes", "x:[1,3,7,8]") == 4
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "net.onnx with the inputs x 1x3x7x8:" in printed.err
    assert "Concat" in printed.err


@pytest.mark.parametrize(
    ("file", "arguments", "sentence"),
    [
        ("weights.pth", (), "holds weights or a pickled module"),
        ("script.pth", (), "TorchScript, which does not know the shapes"),
        ("net.pt2", ("--input-shapes", "image:[2,3,17,20]"), "was exported with 1x3x17x20"),
        ("net.pt2", ("--input-shapes", "imag:[1,3,17,20]"), "Did you mean image"),
        ("net.onnx", ("--input-shapes", "imag:[1,3,17,20]"), "Did you mean image"),
        ("net.onnx", ("--tuning-records", "nowhere"), "There is no directory of tuning records nowhere"),
        ("net.onnx", ("--cross-compiler", "no-such-gcc"), "no-such-gcc cannot be started"),
        ("net.onnx", ("--cross-compiler", "false"), "The cross compiler false failed"),
        ("net.onnx", ("--cross-compiler-options=-O2",), "options of a --cross-compiler"),
        ("net.onnx", ("-f", "tar", "--cross-compiler", "gcc"), "are not linked"),
    ],
)
def test_mistakes_leave_nothing_behind(models, tmp_path, file, arguments, sentence, capsys):
    assert tvmc("compile", models / file, "-o", tmp_path / "net.tar", *arguments) == 4
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_dumps_lie_beside_the_package(models, tmp_path):
    compiled(models / "net.onnx", tmp_path / "net.tar", "--dump-code", "relax,tir,ll,asm")
    texts = {name: (tmp_path / f"net.tar.{name}").read_text() for name in ("relax", "tir", "ll", "asm")}
    assert "R.nn.conv2d" in texts["relax"]
    assert "T.prim_func" in texts["tir"]
    assert "define " in texts["ll"]
    assert ".text" in texts["asm"]


def test_passes_are_timed_and_printed(models, tmp_path, capsys):
    compiled(models / "net.onnx", tmp_path / "net.tar", "--print-pass-times", "--print-ir-after", "[LegalizeOps]")
    printed = capsys.readouterr()
    assert "FuseTIR" in printed.out
    assert "LegalizeOps" in printed.out + printed.err


def test_a_pass_can_be_disabled(models, tmp_path):
    package = compiled(models / "net.onnx", tmp_path / "net.tar", "-O", "1", "--disabled-pass", "FuseOperators")
    assert not any(kernel.name.startswith("fused") for kernel in package.metadata.kernels)


def test_the_package_is_the_same_every_time(models, tmp_path):
    for name in ("one.tar", "two.tar"):
        compiled(models / "net.onnx", tmp_path / name)
    with tarfile.open(tmp_path / "one.tar") as archive:
        assert archive.getnames() == ["lib.so", "metadata.json", "weights.safetensors"]
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_python_interface(models, expected, tmp_path):
    from cospipe import tvmc as interface

    model = interface.load(models / "net.onnx")
    package = interface.compile(model, "llvm -num-cores=1", package_path=tmp_path / "net.tar")
    assert package.package.metadata.threads == 1
    np.testing.assert_allclose(computed(package.package, example_image(*SHAPE)), expected, atol=1e-5)
    with pytest.raises(interface.TVMCException, match="no output format 'mlf'"):
        interface.compile(model, output_format="mlf")
    with pytest.raises(interface.TVMCException, match="doesn't exist"):
        interface.load(models / "none.onnx")


@pytest.fixture(autouse=True)
def _logs_are_seen(caplog):
    caplog.set_level(logging.WARNING, logger="cospipe")

"""The cases of the command line that the tvmc of TVM 0.18 was tested with, and what is refused."""

import importlib.metadata
import subprocess
import sys

import pytest
from tvmc_models import tvmc

from cospipe.tvmc.removed_options import COMPILE


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no network")
    return path


def test_no_command_prints_help_and_ends_with_1(capsys):
    assert tvmc() == 1
    printed = capsys.readouterr()
    assert "usage: tvmc" in printed.err
    assert printed.out == ""


def test_version_is_that_of_tvm(capsys):
    assert tvmc("--version") == 0
    assert capsys.readouterr().out.startswith(importlib.metadata.version("apache-tvm"))


def test_help_lists_the_commands_without_importing_tvm_or_torch():
    code = (
        "import sys; from cospipe.tvmc.main import _main\n"
        "try: _main(['compile', '--help'])\n"
        "except SystemExit: print(sorted({'tvm', 'torch', 'onnx'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--cross-compiler" in finished.stdout
    assert finished.stdout.rstrip().endswith("[]")


def test_module_can_be_run():
    finished = subprocess.run([sys.executable, "-m", "cospipe.tvmc"], capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert "compile" in finished.stderr


def test_missing_file(tmp_path, capsys):
    assert tvmc("compile", tmp_path / "none.onnx") == 4
    assert "doesn't exist, is a broken symbolic link, or a directory" in capsys.readouterr().err


def test_broken_link(tmp_path, capsys):
    link = tmp_path / "link.onnx"
    link.symlink_to(tmp_path / "nowhere")
    assert tvmc("compile", link) == 4
    assert "broken symbolic link" in capsys.readouterr().err


def test_directory(tmp_path, capsys):
    assert tvmc("compile", tmp_path) == 4
    assert "directory" in capsys.readouterr().err


def test_name_that_is_too_long(capsys):
    assert tvmc("compile", "x" * 300 + ".onnx") == 4
    assert "Error: " in capsys.readouterr().err


def test_file_that_is_no_network(model, capsys):
    assert tvmc("compile", model) == 4
    assert "is not an ONNX file" in capsys.readouterr().err


@pytest.mark.parametrize("shapes", ["data", "data:1,3", "data:[1,a]", "data:[1] data:[2]", ""])
def test_bad_shape(model, shapes, capsys):
    assert tvmc("compile", "--input-shapes", shapes, model) == 2
    assert "--input-shapes" in capsys.readouterr().err


def test_unknown_option(model, capsys):
    assert tvmc("compile", "--targets", "llvm", "--no-such-option", model) == 2
    assert "usage: tvmc" in capsys.readouterr().err


def test_unknown_command(capsys):
    assert tvmc("compil") == 2
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize("option", sorted(COMPILE))
def test_removed_options_name_what_to_do(model, option, capsys):
    assert tvmc("compile", model, option, "value") == 2
    assert f"{option} is no longer available: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-f", "mlf"], "choose so or tar"),
        (["-f", "zip"], "choose so or tar"),
        (["--dump-code", "relay"], "relax is what takes its place"),
        (["--dump-code", "asm,c"], "choose from relax, tir, ll, asm"),
        (["--model-format", "keres"], "choose from onnx, pytorch, pt2, relax"),
        (["-O", "4"], "invalid choice"),
        (["--target-cuda-arch=sm_70"], "CPUs only"),
        (["--disabled-pass", "NoSuchPass"], "FoldConstant"),
        (["--print-ir-before", "[FuseTIR, NoSuchPass]"], "no such pass: NoSuchPass"),
        (["--mixed-precision-acc-type", "int8"], "invalid choice"),
    ],
)
def test_wrong_values_are_usage_errors(model, arguments, sentence, capsys):
    assert tvmc("compile", model, *arguments) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--target", "cuda"], "CPUs only"),
        (["--target", "lvm"], "Did you mean llvm?"),
        (["--pass-config", "tirx.noalias"], "name=value"),
        (["--pass-config", "tirx.noalia=1"], "Did you mean tirx.noalias"),
        (["--pass-config", "tirx.noalias=2"], "takes 0 or 1"),
        (["--desired-layout", "NHW"], "is no layout of nn.conv2d"),
        (["--desired-layout-ops", "nn.conv2d"], "--desired-layout is wanted"),
        (["--mixed-precision", "--mixed-precision-ops", "nn.relu"], "cannot be chosen"),
        (["--pipeline-objective", "latency"], "--pipeline SOC"),
        (["--pipeline", "hikey970", "-f", "tar", "--dump-code", "ll"], "  - -f\n  - --dump-code"),
        (["--pipeline", "hikey970", "-O", "0"], "not with -O 0"),
    ],
)
def test_what_makes_no_sense_is_told_in_a_sentence(model, arguments, sentence, capsys):
    assert tvmc("compile", model, *arguments) == 4
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(("name", "tool"), [("m.h5", "tf2onnx"), ("m.tflite", "tf2onnx"), ("m.pdmodel", "paddle2onnx")])
def test_formats_without_front_end_end_with_5(tmp_path, name, tool, capsys):
    (tmp_path / name).touch()
    assert tvmc("compile", tmp_path / name) == 5
    assert tool in capsys.readouterr().err


def test_missing_package_ends_with_5(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cospipe.backends.tvm.tvmc.onnx_files", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "cospipe.backends.tvm.tvmc.onnx_files")
    assert tvmc("compile", model) == 5
    assert "pip install 'cospipe[onnx]'" in capsys.readouterr().err


def test_suffix_that_says_nothing(tmp_path, capsys):
    (tmp_path / "model.bin").touch()
    assert tvmc("compile", tmp_path / "model.bin") == 4
    assert "please specify --model-format" in capsys.readouterr().err


def test_abbreviations(model, capsys):
    assert tvmc("compile", "--inp", "data:[1", model) == 2
    assert "argument --input-shapes" in capsys.readouterr().err


def test_removed_command(capsys):
    assert tvmc("micro", "build") == 2
    assert "microTVM is gone" in capsys.readouterr().err


def test_model_is_not_overwritten(model, capsys):
    assert tvmc("compile", model, "-o", model) == 4
    assert "is the model itself" in capsys.readouterr().err
    assert model.read_bytes() == b"no network"


def test_foreign_file_is_not_overwritten(model, tmp_path, capsys):
    other = tmp_path / "thesis.txt"
    other.write_text("years of work")
    assert tvmc("compile", model, "-o", other) == 4
    assert "will not be overwritten" in capsys.readouterr().err
    assert other.read_text() == "years of work"


def test_options_with_typing_mistakes(capsys):
    assert tvmc("run", "module.tar", "--print-tme") == 2
    assert "--print-tme. Did you mean --print-time" in capsys.readouterr().err

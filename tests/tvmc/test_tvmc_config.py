"""``--config``: which file is found, what takes precedence, what is refused."""

import json

import pytest
from tvmc_models import tvmc

from cospipe.ir.errors import UsageError
from cospipe.tvmc.config import CONFIGS_VARIABLE, apply_config, option_defaults, read_config
from cospipe.tvmc.main import _parsers


def _arguments(values, *argv):
    parser, commands = _parsers()
    apply_config(commands, argv[0], values)
    return parser.parse_args(argv)


def test_targets_become_options_of_their_kind():
    values = {"targets": [{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "num-cores": 4}], "desired-layout": "NHWC"}
    assert option_defaults(values) == {
        "target": "llvm",
        "target_llvm_mtriple": "aarch64-linux-gnu",
        "target_llvm_num_cores": 4,
        "desired_layout": "NHWC",
    }


def test_values_have_the_types_of_their_options():
    values = {
        "targets": [{"kind": "llvm", "mattr": ["+neon", "+crc"], "num-cores": 4}],
        "input-shapes": "data:[1,3]",
        "desired-layout": "NHWC",
        "pass-config": {"tirx.noalias": 1},
        "opt-level": 2,
        "mixed-precision": True,
        "repeat": 3,
    }
    args = _arguments(values, "compile", "model.onnx")
    assert (args.target_llvm_mattr, args.target_llvm_num_cores) == ("+neon,+crc", 4)
    assert args.input_shapes == {"data": (1, 3)}
    assert args.desired_layout == ["NHWC"]
    assert args.pass_config == ["tirx.noalias=1"]
    assert (args.opt_level, args.mixed_precision) == (2, True)


def test_command_line_takes_precedence():
    args = _arguments({"output": "configured.tar", "opt-level": 1}, "compile", "-O", "2", "model.onnx")
    assert (args.output, args.opt_level) == ("configured.tar", 2)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"outpt": "a.tar"}, "'outpt'. Did you mean output"),
        ({"opt-level": 7}, "'opt_level' cannot be 7"),
        ({"opt-level": "fast"}, "'opt_level' cannot be 'fast'"),
        ({"mixed-precision": "yes"}, "must be true or false"),
        ({"input-shapes": "data"}, "is no input shape"),
        ({"use-vm": True}, "no longer available|there is no option"),
        ({"targets": "llvm"}, '"targets" in a configuration must be a list'),
    ],
)
def test_mistakes(values, sentence):
    with pytest.raises(UsageError, match=sentence):
        _arguments(values, "compile", "model.onnx")


def test_file_by_path_and_by_name(tmp_path, monkeypatch):
    (tmp_path / "boards").mkdir()
    file = tmp_path / "boards" / "rk3588.json"
    file.write_text(json.dumps({"output": "board.tar"}))
    monkeypatch.delenv(CONFIGS_VARIABLE, raising=False)
    assert read_config(str(file)) == {"output": "board.tar"}
    assert read_config(str(file.with_suffix(""))) == {"output": "board.tar"}
    assert read_config("default") == {}
    with pytest.raises(UsageError, match="rk3588"):
        read_config("rk3588")
    monkeypatch.setenv(CONFIGS_VARIABLE, str(tmp_path))
    assert read_config("rk3588") == {"output": "board.tar"}


def test_default_configuration_is_used_by_itself(tmp_path, monkeypatch, capsys):
    (tmp_path / "default.json").write_text('{"target": "cuda"}')
    (tmp_path / "model.onnx").touch()
    monkeypatch.setenv(CONFIGS_VARIABLE, str(tmp_path))
    assert tvmc("compile", tmp_path / "model.onnx") == 4
    assert "CPUs only" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1', '{"a": 1, "a": 2}'])
def test_files_that_hold_no_configuration(tmp_path, content, capsys):
    file = tmp_path / "bad.json"
    file.write_text(content)
    assert tvmc("--config", file, "compile", "model.onnx") == 4
    assert "bad.json" in capsys.readouterr().err

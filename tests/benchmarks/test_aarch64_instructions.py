"""Counting a whole inference: the command line, the summary, ncnn's files, and cospipe's side under QEMU."""

import json
from types import SimpleNamespace

import aarch64_instructions
import numpy as np
import pytest
import torch
from emulated_inference import Setting, infer, one_core
from instruction_summary import ratios, summarise
from models import Network
from ncnn_network import convert, fill_once, read_outputs, write_inputs
from torch import nn
from typer.testing import CliRunner

from cospipe.backends.emulator.instruction_counter import Counts, Report
from cospipe.ir.errors import EmulatorError, UsageError
from cospipe.ir.soc import load_soc


def row(model, runtime, instructions):
    return {"model": model, "runtime": runtime, "mcpu": "cortex-a72", "instructions": instructions}


ROWS = [
    row("a", "cospipe", 50),
    row("a", "ncnn", 100),
    row("b", "ncnn", 7),
    row("c", "cospipe", 8),
    row("c", "ncnn", 1),
]


def test_only_models_that_both_ran_are_compared():
    assert ratios(ROWS) == {"a": 0.5, "c": 8.0}
    assert summarise(ROWS) == {"models_compared": 2, "cospipe_vs_ncnn": 2.0, "highest_cospipe_vs_ncnn": 8.0}


def test_nothing_to_compare_is_no_figure():
    assert summarise(ROWS[2:3]) == {"models_compared": 0, "cospipe_vs_ncnn": None, "highest_cospipe_vs_ncnn": None}


@pytest.mark.parametrize("mcpu", ["cortex-a53", "cortex-a55", "cortex-a72", "cortex-a73", "cortex-a76"])
def test_a_core_type_is_found_on_a_described_chip(mcpu):
    soc, cores = one_core(mcpu)
    cluster, number = cores.split(":")
    assert (soc.architecture, number) == ("aarch64", "1")
    assert load_soc(soc.name).cluster(cluster).core_type == mcpu


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mcpu", "cortex-a15"], "no described aarch64 chip has a core 'cortex-a15'"),
        (["--runtimes", "ncn"], "'ncn'. did you mean ncnn?"),
        (["--models", "resnet81"], "has no 'resnet81'"),
    ],
)
def test_mistakes_are_told_before_any_work(arguments, message, monkeypatch):
    monkeypatch.setattr(aarch64_instructions, "infer", pytest.fail)
    result = CliRunner().invoke(aarch64_instructions.app, arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split()).lower()


@pytest.fixture
def measured(monkeypatch):
    """The command line with inferences that are made up; the network ``fails`` does, ``differs`` computes nonsense."""

    def load(spec, *_, **__):
        return spec

    def made_up(runtime, network, setting, look):
        if network == "fails" and runtime == "cospipe":
            raise EmulatorError("the emulator broke down.")
        report = SimpleNamespace(total=Counts(1000 if runtime == "ncnn" else 500, 400, 80, 20))
        return SimpleNamespace(report=report, relative_error=0.5 if network == "differs" else 1e-6)

    monkeypatch.setattr(aarch64_instructions, "_setting", lambda runtimes, mcpu: SimpleNamespace(mcpu=mcpu))
    monkeypatch.setattr(aarch64_instructions, "model_specs", list)
    monkeypatch.setattr(aarch64_instructions, "load_network", load)
    monkeypatch.setattr(aarch64_instructions, "infer", made_up)
    return lambda *arguments: CliRunner().invoke(aarch64_instructions.app, list(arguments))


def test_rows_and_summary_are_written(measured, tmp_path):
    file = tmp_path / "counts.json"
    result = measured("--models", "net", "--json", str(file), "--mcpu", "cortex-a53")
    assert result.exit_code == 0, result.output
    written = json.loads(file.read_text())
    counts = {"fma": 400, "loads": 80, "stores": 20, "relative_error": 1e-6}
    assert written["rows"] == [
        {"model": "net", "runtime": "cospipe", "mcpu": "cortex-a53", "instructions": 500, **counts},
        {"model": "net", "runtime": "ncnn", "mcpu": "cortex-a53", "instructions": 1000, **counts},
    ]
    assert written["summary"]["cospipe_vs_ncnn"] == 0.5


def test_a_network_that_fails_does_not_take_the_others_with_it(measured, tmp_path):
    file = tmp_path / "counts.json"
    result = measured("--models", "fails", "--models", "differs", "--models", "net", "--json", str(file))
    assert result.exit_code == 1
    assert "fails by cospipe: the emulator broke down." in result.output
    assert "differs by ncnn: outputs are 5.0e-01 from eager PyTorch's; not counted." in result.output
    rows = json.loads(file.read_text())["rows"]
    assert [(r["model"], r["runtime"]) for r in rows] == [("fails", "ncnn"), ("net", "cospipe"), ("net", "ncnn")]


def test_an_interruption_shows_what_was_done_and_writes_nothing(measured, tmp_path, monkeypatch):
    made_up = aarch64_instructions.infer

    def interrupted(runtime, network, *rest):
        if network == "slow":
            raise KeyboardInterrupt
        return made_up(runtime, network, *rest)

    monkeypatch.setattr(aarch64_instructions, "infer", interrupted)
    result = measured("--models", "quick", "--models", "slow", "--json", str(tmp_path / "counts.json"))
    assert result.exit_code == 130
    assert "quick" in result.output
    assert "Interrupted" in result.output
    assert not list(tmp_path.iterdir())


def test_inputs_of_ncnn_have_no_batch_dimension(tmp_path):
    image, tokens = torch.randn(1, 2, 3), torch.tensor([[5, 6, 7, 8]])
    write_inputs((image, tokens), tmp_path)
    assert json.loads((tmp_path / "inputs.json").read_text()) == {"in0": ["f", [2, 3]], "in1": ["i", [4]]}
    assert np.array_equal(np.fromfile(tmp_path / "in0", np.float32), image.flatten().numpy())
    assert np.fromfile(tmp_path / "in1", np.int32).tolist() == [5, 6, 7, 8]


def test_outputs_of_ncnn_are_read_in_order(tmp_path):
    for index in range(11):
        np.array([index], np.float32).tofile(tmp_path / f"out{index}")
    assert [array.item() for array in read_outputs(tmp_path)] == list(range(11))


def test_what_ncnn_cannot_take_is_told(tmp_path):
    wrong = Network(nn.Identity(), (torch.zeros(2, 3), torch.zeros(1, 3, dtype=torch.float64)))
    with pytest.raises(UsageError, match=r"float32 \(2, 3\), torch.float64 \(1, 3\)"):
        convert(wrong, tmp_path)


def test_a_network_is_converted_once_for_each_set_of_weights(tmp_path):
    pytest.importorskip("pnnx")
    inputs = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)
    first, second = (Network(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), inputs) for _ in range(2))
    folder = convert(first, tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == ["net.ncnn.bin", "net.ncnn.param"]
    weights = first.module.state_dict()["0.weight"].numpy().tobytes()
    assert weights in (folder / "net.ncnn.bin").read_bytes()  # in FP32
    written = (folder / "net.ncnn.bin").stat().st_mtime_ns
    assert convert(first, tmp_path) == folder != convert(second, tmp_path)
    assert (folder / "net.ncnn.bin").stat().st_mtime_ns == written


def test_an_interrupted_step_leaves_nothing(tmp_path):
    def interrupted(scratch):
        (scratch / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_once(tmp_path / "folder", interrupted)
    assert not list(tmp_path.iterdir())


@pytest.mark.emulated
def test_the_warm_inference_of_a_compiled_network_is_counted(emulator, plugin, tmp_path):
    """A multiply-add instruction does four of the network's at most; nothing here lets it do with fewer of them."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1)).eval()
    inputs = (torch.randn(1, 8, 12, 12, generator=generator),)
    macs = (8 * 16 + 16 * 16) * 12 * 12
    setting = Setting("cortex-a72", emulator, plugin, tmp_path)
    seen: list[Report] = []
    found = infer("cospipe", Network(network, inputs), setting, seen.append)
    assert found.relative_error < 1e-5
    assert macs / 4 <= found.report.total.fma <= macs
    assert found.report.total.fma < found.report.total.instructions < 100 * macs
    assert min(found.report.total.loads, found.report.total.stores) > 0
    assert seen == [found.report]

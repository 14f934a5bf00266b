"""What ``cospipe socs NAME`` prints of power, contention and accelerators."""

from io import StringIO

from rich.console import Console

from cospipe.ir.soc import load_soc
from cospipe.pictures import soc_table


def lines_of(name: str) -> list[str]:
    console = Console(file=StringIO(), width=200, no_color=True)
    console.print(soc_table(load_soc(name)))
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_measured_and_estimated_values_are_told_apart():
    measured, guessed = lines_of("rk3399"), lines_of("rk3588")
    assert "contention: 0.15" in measured
    assert "contention: ~0.055" in guessed
    assert "spread_cost: 0.26" in measured
    # a default that another chip's measurement stands behind is a guess, too
    assert "spread_cost: ~0.26" in guessed
    assert any(line.startswith("│ core_power_mw │ 280.0 386.0") for line in measured)
    assert any(line.startswith("│ core_power_mw │ ~227.0 310.0") for line in guessed)


def test_accelerators_show_their_rates_or_that_none_are_known():
    (gpu, npu) = [line for line in lines_of("hikey970") if line.startswith(("gpu:", "npu:"))]
    assert gpu.startswith("gpu: Mali-G72 MP12, gflops 82.0,")
    assert gpu.endswith("power_mw ~2700.0")
    assert "depthwise_gflops ~1.0" in npu
    assert "gpu: Adreno 630 (its speed is not known, so no plan uses it)" in lines_of("sd845")


def test_unknown_values_are_dashes():
    lines = lines_of("host")
    assert "idle_power_mw: -" in lines
    assert any(line.startswith("│ core_power_mw │ -") for line in lines)

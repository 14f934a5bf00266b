"""Predictions of measured pipelines and co-executions, on small tables whose answers are worked out by hand."""

from pathlib import Path

import pytest
from measured_pipelines import BLOCKS, KERNELS, PIPELINES, pipeline_rows, read_pipelines
from measured_tables import number, read_table
from mobile_socs import TABLE, co_execution_rows, read_co_executions
from whole_runs import EVALUATIONS, whole_run_rows

from cospipe.ir.errors import UsageError
from cospipe.ir.soc import load_soc

BOARD = load_soc("rk3399").model_copy(
    update={"contention": 0.2, "hand_over_us": 500.0, "hand_over_gb_per_s": 1.0, "idle_power_mw": 3000.0}
)


def write(folder: Path, name: str, *lines: str) -> None:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def blocks_of(network: str, big_ms: list[float], little_ms: list[float]) -> list[str]:
    """Blocks at the highest clock, and at a lower one twice as slow."""
    lines = []
    for component, times_ms, clocks in (("B", big_ms, (1800, 900)), ("L", little_ms, (1400, 700))):
        for slower, clock in enumerate(clocks, start=1):
            lines.append(f"{network},{component},{clock},,0,in,{4 * slower}")
            lines += [f"{network},{component},{clock},,{i},task,{t * slower}" for i, t in enumerate(times_ms)]
    return lines


def kernels_of(network: str, names: list[str], big_ms: list[float], little_ms: list[float]) -> list[str]:
    return [
        f"lwga,{network},{component},{clock},{index},{name},{time_ms},50x10x10"
        for component, clock, times_ms in (("B", 1800, big_ms), ("L", 1400, little_ms))
        for index, (name, time_ms) in enumerate(zip(names, times_ms, strict=True))
    ]


@pytest.fixture
def tables(tmp_path):
    """AlexNet in two blocks, GoogLeNet in two blocks of three parts."""
    write(
        tmp_path,
        BLOCKS,
        "network,component,freq_mhz,host_freq_mhz,block,metric,time_ms",
        *blocks_of("Alex", [10, 6], [20, 12]),
        *blocks_of("Google", [30, 6], [60, 12]),
    )
    names = ["conv1/7x7_s2", "conv2/3x3", "inception_3a/1x1"]
    write(
        tmp_path,
        KERNELS,
        "set,network,component,freq_mhz,block,name,time_ms,out_shape",
        *kernels_of("alexnet", ["conv1", "conv2"], [9, 5], [19, 11]),
        *kernels_of("googlenet", names, [10, 8, 6], [20, 16, 12]),
    )
    write(
        tmp_path,
        PIPELINES,
        "network,period_ms,latency_ms,board_power_mw,blocks",
        "AlexNet,18,30,8000,BL",
        "GoogLeNet,26.4,40,8000,BBL",
    )
    return tmp_path


def test_a_pipeline_takes_its_longest_stage_alone_and_contention(tables):
    alexnet, googlenet = read_pipelines(tables, BOARD)
    # 4 ms for the frame and 10 on the big cores; 0.5 ms and 20 kB at 1 GB/s to hand over, 12 on the little ones
    assert alexnet.source == "blocks"
    assert alexnet.stages_ms == pytest.approx([14, 12.52])
    assert alexnet.contention == pytest.approx(18 / 14 - 1)
    # three letters are none of the two blocks, so kernels count: 4 + 10 + 8, and 0.52 + 12
    assert googlenet.source == "kernels"
    assert googlenet.stages_ms == pytest.approx([22, 12.52])
    assert googlenet.contention == pytest.approx(0.2)


def test_each_pipeline_is_predicted_from_the_description_and_from_the_others(tables):
    rows = pipeline_rows(read_pipelines(tables, BOARD), BOARD)
    found = {(row["network"], row["contention_from"]): row for row in rows}
    assert found["AlexNet", "description"]["predicted_period_ms"] == pytest.approx(1.2 * 14)
    assert found["AlexNet", "description"]["error"] == pytest.approx(1.2 * 14 / 18 - 1)
    assert found["AlexNet", "description"]["latency_error"] == pytest.approx(1.2 * 26.52 / 30 - 1)
    # GoogLeNet alone says 0.2, AlexNet alone 18 / 14 - 1
    assert found["AlexNet", "other pipelines"]["predicted_period_ms"] == pytest.approx(1.2 * 14)
    assert found["GoogLeNet", "other pipelines"]["predicted_period_ms"] == pytest.approx(22 * 18 / 14)


def test_power_counts_a_cluster_for_as_long_as_it_is_busy(tables):
    (row, *_) = pipeline_rows(read_pipelines(tables, BOARD), BOARD)
    big, little = BOARD.clusters
    busy_mw = 2 * big.core_power_mw[-1] + 4 * little.core_power_mw[-1] * 12.52 / 14
    assert row["power_error"] == pytest.approx((3000 + busy_mw) / 8000 - 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("AlexNet,18", "LeNet,18", "parts of 'LeNet' are not known; known are alexnet"),
        ("BBL", "BBBBL", "GoogLeNet has 5 letters, but 2 measured blocks and 3 known parts"),
        ("AlexNet,18", "AlexNet,-18", "period_ms must be a positive number"),
        ("AlexNet,18", "AlexNet,fast", "period_ms must be a positive number"),
        ("blocks\n", "cuts\n", "has no column 'blocks'"),
    ],
)
def test_mistakes_in_the_pipelines_are_told(tables, old, new, message):
    text = (tables / PIPELINES).read_text()
    assert old in text
    (tables / PIPELINES).write_text(text.replace(old, new))
    with pytest.raises(UsageError, match=message):
        read_pipelines(tables, BOARD)


def test_a_missing_table_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.csv' cannot be read.*--data"):
        read_table(tmp_path, "nothing.csv", ["a"])


@pytest.mark.parametrize("text", ["", "nan", "inf", "0", "-3", "x"])
def test_only_positive_numbers_are_numbers(text):
    with pytest.raises(UsageError, match="t: a must be a positive number"):
        number({"a": text}, "a", "t")


@pytest.fixture
def co_executions(tmp_path):
    write(
        tmp_path,
        TABLE,
        "table,soc,network,component,imgs_per_s",
        "I,Kirin970,A,A53x4@1.8,10",
        "I,Kirin970,A,A73x4@2.36,20",
        "I,Kirin970,A,G72,30",
        "I,Kirin970,A,NPU,",
        "I,Kirin970,B,A53x4@1.8,1",
        "I,Kirin970,B,A73x4@2.36,2",
        "II,Kirin970,A,coexec A53+A73+G72,50",
        "II,Kirin970,B,coexec A53+A73,2.5",
    )
    return tmp_path


def test_rates_add_up_less_contention(co_executions):
    first, second = read_co_executions(co_executions)
    # 60 alone, 50 together: 0.2 for two further components; 3 alone, 2.5 together: 0.2 for one
    assert (first.contention, second.contention) == pytest.approx((0.1, 0.2))
    rows = co_execution_rows([first, second])
    found = {(row["network"], row["contention_from"]): row["predicted_images_per_s"] for row in rows}
    own = load_soc("hikey970").contention
    assert found["A", "description"] == pytest.approx(60 / (1 + 2 * own))
    assert found["A", "other networks"] == pytest.approx(60 / 1.4)
    assert found["B", "other networks"] == pytest.approx(3 / 1.1)
    (mean,) = [r for r in rows if r["table"] is None and r["contention_from"] == "other networks"]
    assert mean["error"] == pytest.approx(((1 - 60 / 1.4 / 50) + (3 / 1.1 / 2.5 - 1)) / 2)


def test_a_component_without_a_rate_is_told(co_executions):
    path = co_executions / TABLE
    path.write_text(path.read_text() + "III,Kirin970,A,coexec A53+NPU,20\n")
    with pytest.raises(UsageError, match="table III runs A of Kirin970 on NPU, whose rate alone"):
        read_co_executions(co_executions)


def test_whole_runs_are_the_sum_of_their_blocks(tables):
    write(
        tables,
        EVALUATIONS,
        "board,graph,order,freq,task_time",
        "rk3399pro,Alex,BL,{{max}},20",
        "rk3399pro,Alex,BL,\"(('max',),)\",24",
        "rk3399pro,Alex,BB,\"(('min',),)\",40",
        'rk3399pro,Alex,BB,"((0,), (7,))",40',
        "rk3399pro,Alex,GB,{{max}},40",
        "a311d,Alex,BB,{{max}},40",
    )
    mixed, slow, summary = whole_run_rows(tables, BOARD)
    assert (mixed["order"], mixed["runs"], mixed["measured_ms"]) == ("BL", 2, 22)
    assert mixed["predicted_ms"] == pytest.approx(10 + 0.5 + 12)
    assert slow["predicted_ms"] == pytest.approx(20 + 12)
    assert summary["error"] == pytest.approx((0.5 / 22 + 0.2) / 2)

"""The parts of ``tvmc run`` that need no compiled network: filled inputs, tables, top results, addresses."""

import threading

import numpy as np
import pytest
from tvm.runtime.module import BenchmarkResult

from cospipe.backends.tvm.own_thread import in_own_thread
from cospipe.backends.tvm.tvmc.boards import Board, parse_board
from cospipe.backends.tvm.tvmc.inputs import complete_inputs
from cospipe.backends.tvm.tvmc.package_metadata import PackagedTensor
from cospipe.backends.tvm.tvmc.result import TVMCResult
from cospipe.backends.tvm.tvmc.run_sessions import LocalSession
from cospipe.backends.tvm.tvmc.text_table import text_table
from cospipe.backends.tvm.tvmc.timing import ExecutionTimes, Repetitions
from cospipe.ir.errors import UsageError


def tensor(dtype, shape=(20, 30), name="x"):
    return PackagedTensor(name=name, shape=shape, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool"])
@pytest.mark.parametrize(("mode", "value"), [("zeros", 0), ("ones", 1)])
def test_constant_fill(dtype, mode, value):
    filled = complete_inputs([tensor(dtype)], {}, mode)["x"]
    assert (filled.dtype, filled.shape) == (np.dtype(dtype), (20, 30))
    assert (filled == value).all()


@pytest.mark.parametrize(
    ("dtype", "least", "most", "different"),
    [
        ("float32", -1, 1, 500),
        ("float16", -1, 1, 100),
        ("int8", 0, 127, 100),
        ("uint8", 0, 127, 100),
        ("int64", 0, 0, 1),
        ("bool", True, True, 1),
    ],
)
def test_random_fill(dtype, least, most, different):
    filled = complete_inputs([tensor(dtype)], {}, "random")["x"]
    assert filled.dtype == np.dtype(dtype)
    assert least <= filled.min()
    assert filled.max() <= most
    assert len(np.unique(filled)) >= different


def test_two_random_inputs_differ():
    filled = complete_inputs([tensor("float32"), tensor("float32", name="y")], {}, "random")
    assert list(filled) == ["x", "y"]
    assert not np.array_equal(filled["x"], filled["y"])


def test_scalars_are_filled():
    assert complete_inputs([tensor("float32", ())], {}, "ones")["x"].shape == ()


def test_integers_are_not_converted():
    with pytest.raises(UsageError, match="x is 2 int64, expected x"):
        complete_inputs([tensor("int32", (2,))], {"x": np.array([1, 2])}, "zeros")


@pytest.mark.parametrize(("size", "fits"), [((2, 7), True), ((9, 7), True), ((2, 6), False), ((7,), False)])
def test_sizes_that_are_not_known_take_any(size, fits):
    array = np.zeros(size, "float32")
    inputs = [tensor("float32", (-1, 7))]
    if fits:
        assert complete_inputs(inputs, {"x": array}, "zeros")["x"] is array
        return
    with pytest.raises(UsageError, match="expected x"):
        complete_inputs(inputs, {"x": array}, "zeros")


def test_any_number_of_dimensions_fits_an_unknown_one():
    array = np.zeros((1, 2, 3), "float32")
    assert complete_inputs([tensor("float32", None)], {"x": array}, "zeros")["x"] is array


def test_fill_mode_with_a_typing_mistake():
    with pytest.raises(UsageError, match="Did you mean zeros"):
        complete_inputs([tensor("float32")], {}, "zeroes")


def test_table_of_times_is_that_of_tvm():
    times_s = (0.0123, 0.0456, 0.00789)
    assert str(ExecutionTimes(times_s)) == str(BenchmarkResult(times_s))


def test_times_that_were_not_measured():
    with pytest.raises(UsageError, match="benchmark=True"):
        TVMCResult({}).format_times()


class CountingMachine:
    """Notes what a virtual machine is asked for."""

    def __init__(self):
        self.asked = []

    def get_function(self, name):
        return lambda *_: self.asked.append(name) or 0


def test_measuring_warms_up_once():
    machine = CountingMachine()
    times_s = LocalSession().times_s(machine, [], Repetitions(3, 4))
    assert len(times_s) == 3
    assert machine.asked == ["invoke_stateful"] * (1 + 3 * 4)


def test_measuring_end_to_end_sets_inputs_each_time():
    machine = CountingMachine()
    LocalSession().times_s(machine, [], Repetitions(2, 1, end_to_end=True))
    assert machine.asked == ["set_input", "invoke_stateful", "get_output_arity"] * 3


@pytest.mark.parametrize("shape", [(1, 40), (3, 40), (1, 4, 10), (40,), (2, 8, 5, 1)])
def test_top_results(shape):
    output = np.random.default_rng(3).permutation(np.prod(shape)).reshape(shape).astype("float32")
    first = output[0].ravel() if output.ndim > 1 else output
    indices, values = TVMCResult({"output_0": output}).get_top_results(4)
    assert values.tolist() == sorted(first.tolist(), reverse=True)[:4]
    assert [first[int(index)] for index in indices] == values.tolist()


def test_top_results_of_matrices_are_those_of_tvmc():
    output = np.random.default_rng(4).normal(size=(2, 9))
    expected = np.array([output.argsort()[0][-5:][::-1], np.sort(output)[0][-5:][::-1]])
    assert np.array_equal(TVMCResult({"output_0": output}).get_top_results(5), expected)


@pytest.mark.parametrize(("output", "count"), [(np.float32(2), 1), (np.zeros((1, 3)), 3), (np.zeros((0, 4)), 0)])
def test_fewer_results_than_wanted(output, count):
    assert TVMCResult({"output_0": np.asarray(output)}).get_top_results(5).shape == (2, count)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("pi", "pi", 9090),
        ("pi:9190", "pi", 9190),
        ("10.0.0.1:1", "10.0.0.1", 1),
        ("//pi:9190", "pi", 9190),
        ("[::1]:9190", "::1", 9190),
        ("[::1]", "::1", 9090),
    ],
)
def test_addresses(text, host, port):
    assert parse_board(text, "key") == Board(host, port, "key")


@pytest.mark.parametrize("text", ["", ":9190", "pi:", "pi:port", "pi:0", "pi:65536", "pi:-1"])
def test_addresses_that_are_none(text):
    with pytest.raises(UsageError, match="write HOST or HOST:PORT"):
        parse_board(text, None)


def test_thread_passes_on_results_and_errors():
    assert in_own_thread(lambda: 5, "five") == 5
    with pytest.raises(ZeroDivisionError):
        in_own_thread(lambda: 1 // 0, "none")
    with pytest.raises(TimeoutError):
        in_own_thread(threading.Event().wait, "waits", 0.01)


def test_table_is_aligned():
    table = text_table([["Name", "Time"], ["a", "10.0"], ["long", "1.5"], ["Total", "11.5"]], [1], has_total=True)
    assert table.splitlines() == [
        "Name   Time",
        "-----------",
        "a      10.0",
        "long    1.5",
        "-----------",
        "Total  11.5",
    ]

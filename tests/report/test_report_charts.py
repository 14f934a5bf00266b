"""What the charts are made of: kernels, lanes, stages, and the files that are written."""

import json
import re
import sys

import pytest
from exploration_example import example, example_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from cospipe.ir.errors import CospipeError, UsageError
from cospipe.ir.exploration import Exploration, Limits
from cospipe.ir.latency import LatencyPrediction, LatencySource
from cospipe.ir.layer import LayerDescriptor, LayerKind
from cospipe.ir.plan import CoreConfiguration, PipelinePlan, Replica, StagePlan
from cospipe.ir.simulator import Conditions, simulate
from cospipe.ir.soc import load_soc
from cospipe.prediction import LayerPrediction, Prediction
from cospipe.report import write_report
from cospipe.report.axes import Scale, logarithmic
from cospipe.report.colours import cluster_colours
from cospipe.report.front_chart import front_chart, without_energy
from cospipe.report.kernels import Kernel, kernels_of
from cospipe.report.label_places import CHARACTER_PX, LINE_PX, MARKER_PX, label_places
from cospipe.report.network_chart import lanes_of, network_chart
from cospipe.report.page import limits_text
from cospipe.report.roofline_chart import roofline_chart
from cospipe.report.time_chart import RESULTS, time_chart


def layer(name, reads=(), time_us=10.0, fused_into=None):
    size = LayerDescriptor(LayerKind.CONV, 1, 1, 1, 1000, 100, 20, 50, fused_into=fused_into)
    return LayerPrediction(name, f"module.{name}", size, {"big:1": predicted(time_us)}, tuple(reads))


def predicted(time_us):
    return LatencyPrediction(time_us, LatencySource.ANALYTIC)


def plan_of(*stages):
    planned = tuple(
        StagePlan(
            name=f"stage{i}",
            replicas=(Replica(cores=(CoreConfiguration("big", 1),), compute_us=10),),
            nodes=nodes,
            hand_over_us=0,
            hand_over_bytes=0,
        )
        for i, nodes in enumerate(stages)
    )
    return PipelinePlan(soc="test", objective="throughput", stages=planned)


def test_a_kernel_is_a_layer_with_what_is_fused_into_it():
    layers = (layer("conv"), layer("relu", ["conv"], 2.0, "conv"), layer("add", ["relu"], 1.0, "relu"))
    prediction = Prediction("test", "analytic", (*layers, layer("pool", ["add"])))
    conv, pool = kernels_of(prediction, plan_of(("conv", "relu", "add"), ("pool",)))
    assert (conv.name, conv.fused, conv.stage, conv.macs) == ("conv", ("relu", "add"), 0, 3000)
    assert conv.moved_bytes == (100 + 20 + 50) + 2 * (100 + 20)  # what is fused writes nothing of its own
    assert conv.latency_us == {"big:1": 13.0}
    assert (pool.reads, pool.stage) == (("conv",), 1)


def test_views_are_seen_through():
    layers = (
        layer("conv"),
        layer("view", ["conv"], 0.0),
        layer("flatten", ["view"], 0.0),
        layer("linear", ["flatten"]),
    )
    kernels = kernels_of(Prediction("test", "analytic", layers), plan_of(("conv", "view", "flatten", "linear")))
    assert [(kernel.name, kernel.reads) for kernel in kernels] == [("conv", ()), ("linear", ("conv",))]


def test_kernels_run_stage_by_stage():
    layers = tuple(layer(name) for name in "abcd")
    kernels = kernels_of(Prediction("test", "analytic", layers), plan_of(("a", "c"), ("b", "d")))
    assert [kernel.name for kernel in kernels] == ["a", "c", "b", "d"]


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 25))
    reads = [draw(st.sets(st.integers(0, i - 1), max_size=min(i, 4))) if i else set() for i in range(count)]
    return [
        Kernel(f"k{i}", "", "conv", (), 0, 1, 1, {}, tuple(f"k{j}" for j in sorted(r))) for i, r in enumerate(reads)
    ]


@settings(deadline=None)
@given(graphs())
def test_no_tensor_runs_through_another_kernel(kernels):
    lanes = lanes_of(kernels)
    number = {kernel.name: i for i, kernel in enumerate(kernels)}
    for kernel in kernels:
        for read in kernel.reads:
            between = kernels[number[read] + 1 : number[kernel.name]]
            assert all(lanes[other.name] != lanes[read] for other in between)


def test_a_chain_stays_in_one_lane():
    kernels = [Kernel(f"k{i}", "", "conv", (), 0, 1, 1, {}, (f"k{i - 1}",) if i else ()) for i in range(9)]
    assert set(lanes_of(kernels).values()) == {0}


def test_the_time_chart_shows_the_simulated_run():
    exploration, _, _ = example()
    run = simulate(exploration.chosen, Conditions(frames=40))
    figure = time_chart(exploration.chosen, run)
    for position in range(len(exploration.chosen.stages)):
        bars = figure.data[position]
        expected = [work for work in run.timeline if work.stage == position][: len(bars.x)]
        assert list(bars.base) == pytest.approx([work.start_us / 1e3 for work in expected])
        assert list(bars.x) == pytest.approx([(work.end_us - work.start_us) / 1e3 for work in expected])
    results = figure.data[-1]
    assert results.name == RESULTS
    assert list(results.x) == pytest.approx([time_us / 1e3 for time_us in run.left_us[: len(results.x)]])


def test_roofline_points_are_operations_over_time():
    exploration, prediction, soc = example()
    figure = roofline_chart(kernels_of(prediction, exploration.chosen), soc)
    layers = {item.node: item for item in prediction.layers}
    points = [
        (name, y)
        for trace in figure.data
        if trace.mode == "markers"
        for name, y in zip(trace.text, trace.y, strict=True)
    ]
    big = points[: len(points) // 2]
    for name, gflops in big:
        assert gflops == pytest.approx(2 * layers[name].layer.macs / layers[name].latency_us["big:4"] / 1e3)
    peaks = [max(trace.y) for trace in figure.data if trace.mode == "lines"]
    assert peaks[0] == pytest.approx(soc.clusters[0].peak_gflops_per_core * 4)
    assert peaks[1] == pytest.approx(soc.clusters[0].peak_gflops_per_core)


def test_the_front_is_coloured_by_energy_only_where_it_is_known():
    exploration, _, _ = example()
    assert front_chart(exploration).data[1].marker.color == tuple(o.plan.energy_mj for o in exploration.front)
    unknown = tuple(
        o.model_copy(update={"plan": o.plan.model_copy(update={"energy_mj": None})}) for o in exploration.front
    )
    figure = front_chart(exploration.model_copy(update={"front": unknown}))
    assert isinstance(figure.data[1].marker.color, str)


def test_the_edge_of_the_front_leaves_out_what_only_energy_justifies():
    exploration, _, _ = example()
    fast, slow = exploration.chosen, exploration.kinds[1].plan
    worse = slow.model_copy(update={"contention": 2.0, "energy_mj": 0.1})
    assert without_energy([worse, slow, fast]) == [fast, slow]


def test_logarithmic_ticks_enclose_the_values():
    ticks = logarithmic([3, 170])["tickvals"]
    assert ticks == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
    assert logarithmic([1e-3, 1e4])["tickvals"][0] == pytest.approx(1e-3)


def test_every_configuration_has_a_colour_and_clusters_differ():
    names = [f"{cluster}:{cores}" for cluster in ("a", "b", "c", "d", "e") for cores in range(1, 9)]
    colours = cluster_colours(names)
    assert set(colours) == set(names)
    assert len({colours[f"{cluster}:8"] for cluster in "abcd"}) == 4


def test_limits_in_words():
    assert limits_text(Limits()) == ""
    limits = Limits(latency_us=50_000, power_mw=2500, memory_bytes=2_000_000)
    assert limits_text(limits) == "latency at most 50.0 ms, power at most 2.5 W, memory at most 2.0 MB"


# Files ---------------------------------------------------------------------------------------------------------------


def test_the_exploration_lies_beside_the_page(tmp_path):
    exploration, prediction, soc = example()
    page = write_report(tmp_path / "new" / "folder", exploration, prediction, soc)
    assert page == tmp_path / "new" / "folder" / "index.html"
    assert sorted(file.name for file in page.parent.iterdir()) == ["exploration.json", "index.html"]
    text = (page.parent / "exploration.json").read_text(encoding="utf-8")
    assert Exploration.model_validate_json(text) == exploration


def test_plotly_is_inside_once_and_nothing_is_loaded(tmp_path):
    text = write_report(tmp_path, *example()).read_text(encoding="utf-8")
    assert text.count("plotly.js v") == 1
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)=\"(?!data:)", text)


def test_the_data_of_the_charts_cannot_end_their_script(tmp_path):
    text = write_report(tmp_path, *example(model="</script>")).read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="charts">(.*?)</script>', text, re.DOTALL)
    assert set(json.loads(data[1])) == {"network", "time", "front", "layers", "roofline"}


def test_a_report_replaces_an_earlier_one(tmp_path):
    write_report(tmp_path, *example(model="first"))
    text = write_report(tmp_path, *example(model="second")).read_text(encoding="utf-8")
    assert "second on rk3588" in text
    assert "first on rk3588" not in text


def test_a_failure_leaves_the_earlier_report(tmp_path, monkeypatch):
    page = write_report(tmp_path, *example(model="first"))
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(UsageError, match=r"cannot be written to .*: No space left on device"):
        write_report(tmp_path, *example(model="second"))
    assert "first on rk3588" in page.read_text(encoding="utf-8")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        write_report(tmp_path / "file", *example())


def test_without_plotly_the_report_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(CospipeError, match=r"pip install 'cospipe\[report\]'"):
        write_report(tmp_path, *example())
    assert list(tmp_path.iterdir()) == []


def test_a_plan_with_nothing_to_compare_with(tmp_path):
    exploration, prediction, soc = example()
    update = {"kinds": (), "baselines": (), "front": (), "reasons": ()}
    plan = exploration.chosen.model_copy(
        update={"energy_mj": None, "power_mw": None, "memory_bytes": None, "search": None}
    )
    page = write_report(tmp_path, exploration.model_copy(update={**update, "chosen": plan}), prediction, soc)
    assert page.stat().st_size > 4_000_000


def test_one_layer_on_one_core(tmp_path):
    soc = load_soc("raspberry-pi-4")
    name = soc.clusters[0].name
    times = {str(cores): predicted(5.0) for cores in soc.configurations()}
    size = LayerDescriptor(LayerKind.SOFTMAX, 10, 0, 0, 0, 40, 0, 40)
    prediction = Prediction(soc.name, "analytic", (LayerPrediction("softmax", "", size, times),))
    plan = example_plan(prediction, soc, [(1, [f"{name}:1"])])
    exploration = Exploration(
        model="one",
        soc=soc.name,
        objective="latency",
        limits=Limits(),
        chosen=plan,
        kinds=(),
        baselines=(),
        front=(),
        reasons=("It is alone.",),
    )
    assert write_report(tmp_path, exploration, prediction, soc).is_file()
    assert len(network_chart(kernels_of(prediction, plan), plan).data) == 1


# Labels --------------------------------------------------------------------------------------------------------------


def test_scales_place_values_between_their_ends():
    near, far = Scale((10, 30)), Scale((1, 1000))
    assert (near.is_logarithmic, far.is_logarithmic) == (False, True)
    assert near.place(30) == pytest.approx(1 / 1.12)
    assert far.place(10) - far.place(1) == pytest.approx(far.place(100) - far.place(10))
    assert Scale((0.0,)).ends == (0.0, 1.0)


POINTS = st.lists(st.tuples(st.floats(0, 900), st.floats(0, 300)), min_size=1, max_size=12)


@settings(deadline=None)
@given(POINTS)
def test_labels_cover_neither_each_other_nor_points(points):
    texts = [f"label {i}" for i in range(len(points))]
    boxes = []
    for (x, y), text, side in zip(points, texts, label_places(points, texts, points, (900, 300)), strict=True):
        if not side:
            continue
        width, (vertical, horizontal) = len(text) * CHARACTER_PX, side.split()
        left = {"left": x - MARKER_PX - width, "right": x + MARKER_PX, "center": x - width / 2}[horizontal]
        bottom = {"top": y - MARKER_PX, "middle": y + LINE_PX / 2, "bottom": y + MARKER_PX + LINE_PX}[vertical]
        boxes.append((left, bottom - LINE_PX, left + width, bottom))
    for i, a in enumerate(boxes):
        assert a[0] >= -1e-6
        assert a[2] <= 900 + 1e-6
        assert not any(a[0] + 1e-6 < x < a[2] - 1e-6 and a[1] + 1e-6 < y < a[3] - 1e-6 for x, y in points)
        others = boxes[i + 1 :]
        assert not any(
            min(a[2], b[2]) - max(a[0], b[0]) > 1e-6 and min(a[3], b[3]) - max(a[1], b[1]) > 1e-6 for b in others
        )


def test_a_lonely_label_is_above_its_point():
    assert label_places([(100, 100)], ["alone"], [(100, 100)], (200, 200)) == ["top center"]

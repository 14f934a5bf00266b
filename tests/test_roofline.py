"""The roofline picture of docs/: places and sizes of its dots, and that it shows what was measured."""

import json
from math import log10
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from roofline import Axis, Dot, Roofs, draw, radius, read_measurement

DOCS = Path(__file__).parents[1] / "docs"
MEASURED = json.loads((DOCS / "roofline.json").read_text(encoding="utf-8"))
ROOFS = Roofs(100.0, {"L2": 80.0, "memory": 10.0})
SVG = "{http://www.w3.org/2000/svg}"


def dots_of(picture):
    circles = ElementTree.fromstring(picture).iter(f"{SVG}circle")
    return [circle for circle in circles if circle.find(f"{SVG}title") is not None]


def test_values_lie_on_a_logarithmic_axis():
    axis = Axis(1, 1024, 0, 1000)
    assert [axis.at(value) for value in (1, 32, 1024)] == [0, 500, 1000]
    assert axis.at(10) == pytest.approx(1000 * log10(10) / log10(1024), abs=0.1)
    assert list(Axis(0.5, 4, 0, 1).marks()) == [0.5, 1, 2, 4]


@given(st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=6))
def test_axis_holds_all_values(values):
    axis = Axis.around(values, 0, 100)
    assert all(0 <= axis.at(value) <= 100 for value in values)


def test_area_stands_for_time():
    assert radius(400, 1600) == pytest.approx(radius(1600, 1600) / 2)
    assert radius(1, 1e6) > 0


def test_dot_at_a_ridge_lies_on_the_peak_line():
    picture = draw([Dot("k<1>", "pointwise convolution", 100 / 80, 100.0, 50)], ROOFS, "A & B")
    (circle,) = dots_of(picture)
    lines = [line for line in ElementTree.fromstring(picture).iter(f"{SVG}line") if line.get("stroke-width") == "2"]
    peak, *bandwidths = lines
    assert circle.get("cy") == peak.get("y1") == peak.get("y2")
    assert circle.get("cx") == peak.get("x1") == bandwidths[0].get("x2")
    assert len(bandwidths) == 2
    assert "k<1>" in circle.findtext(f"{SVG}title")


def test_bandwidth_beside_the_picture_has_no_line():
    picture = draw([Dot("k", "kind", 8.0, 50.0, 50)], Roofs(100.0, {"L1": 1000.0}), "T")
    lines = [line for line in ElementTree.fromstring(picture).iter(f"{SVG}line") if line.get("stroke-width") == "2"]
    assert len(lines) == 1


def test_dots_of_the_measurement():
    rows = [row for row in MEASURED["rows"] if row["network"] == "resnet50" and row["threads"] == 1 and row["macs"]]
    dots, roofs = read_measurement(MEASURED, "resnet50")
    assert len(dots) == len(rows) > 50
    for dot, row in zip(dots, rows, strict=True):
        moved = row["input_bytes"] + row["weight_bytes"] + row["output_bytes"]
        assert dot.flop_per_byte * moved == pytest.approx(2 * row["macs"])
        assert dot.gflops == pytest.approx(2e-3 * row["macs"] / row["time_us"], rel=0.01, abs=0.01)
    assert roofs.peak_gflops > 0
    assert "memory" in roofs.gb_per_s


def test_picture_in_the_docs_shows_the_measurement_in_the_docs():
    pictured = (DOCS / "roofline.svg").read_text(encoding="utf-8")
    dots, roofs = read_measurement(MEASURED, "resnet50")
    title = ElementTree.fromstring(pictured).findtext(f"{SVG}text")
    assert pictured == draw(dots, roofs, title)

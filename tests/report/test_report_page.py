"""The report in a real browser: every chart is drawn, nothing is loaded, both colour schemes can be read."""

import re

import pytest
from exploration_example import example

from cospipe.report import write_report

CHARTS = ("network", "time", "front", "layers", "roofline")
SECTIONS = ("plan", "reasons", "network", "time", "comparison", "front", "layers", "roofline", "sources")
HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"> & <b>bold</b>"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found():
    return example()


@pytest.fixture(scope="module")
def report(found, tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("report"), *found)


def luminance(colour):
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    """Contrast of two colours as WCAG 2 has it; 4.5 is enough for texts."""
    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def style(page, selector, name):
    return page.eval_on_selector(selector, f"element => getComputedStyle(element).{name}")


def test_every_chart_is_drawn_and_nothing_is_loaded_or_wrong(open_page, report):
    opened = open_page(report, charts=CHARTS)
    assert opened.complaints == []
    assert opened.requests == [report.absolute().as_uri()]
    for chart in CHARTS:
        assert opened.count(f"#chart-{chart} svg.main-svg") > 0
        assert opened.page.locator(f"#chart-{chart}").bounding_box()["height"] > 150


def test_charts_show_every_kernel_frame_and_plan(open_page, report, found):
    exploration, prediction, soc = found
    opened = open_page(report, charts=CHARTS)
    kernels = sum(layer.layer.fused_into is None for layer in prediction.layers)
    assert opened.count("#chart-network .points path.point") == kernels
    assert opened.count("#chart-layers .point path") == kernels * len(soc.clusters)
    products = sum(layer.layer.macs > 0 for layer in prediction.layers)
    assert opened.count("#chart-roofline .points path.point") == products * len(soc.clusters)
    stages = len(exploration.chosen.stages)
    frames = opened.count("#chart-time .points path.point")
    assert opened.count("#chart-time .bars .point path") == frames * stages
    plans = 1 + len(exploration.kinds) + len(exploration.baselines) + len(exploration.front)
    assert opened.count("#chart-front .points path.point") == plans


def test_cuts_are_drawn_where_the_plan_has_them(open_page, report, found):
    opened = open_page(report, charts=["network"])
    cuts = [text for text in opened.page.locator("#chart-network text").all_text_contents() if text.startswith("cut: ")]
    assert len(cuts) == len(found[0].chosen.stages) - 1


def test_sections_are_named_for_those_who_do_not_see(open_page, report):
    page = open_page(report, charts=CHARTS).page
    for section in SECTIONS:
        assert page.locator(f"section#{section}").get_attribute("aria-labelledby") == f"{section}-title"
        assert page.locator(f"#{section}-title").inner_text()
    for chart in CHARTS:
        assert page.locator(f"div[role=figure]:has(#chart-{chart})").get_attribute("aria-label")
    assert page.locator("table caption").count() == page.locator("table").count() > 3


def test_tables_show_what_cannot_run_and_the_limits(open_page, report, found):
    exploration = found[0]
    text = open_page(report).page.locator("#comparison").inner_text()
    for option in (*exploration.kinds, *exploration.baselines):
        assert option.name in text
    assert "cannot run: the runtime has no kernels over several clusters" in text
    assert "exceeds the limit of 50.00 ms for the latency" in text


def test_reasons_and_sources_are_told(open_page, report, found):
    exploration, prediction, soc = found
    page = open_page(report).page
    assert page.locator("#reasons li").all_inner_texts() == list(exploration.reasons)
    sources = page.locator("#sources").inner_text()
    assert prediction.source in sources
    assert "7.0%" in sources
    assert all(source in sources for source in soc.sources)


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_texts_can_be_read(open_page, report, colours):
    page = open_page(report, colours, CHARTS).page
    card = style(page, "section", "backgroundColor")
    assert (luminance(card) < 0.1) == (colours == "dark")
    for selector in ("h2", "td", "th", ".note", ".figures dt", "tr.unable td"):
        assert contrast(style(page, selector, "color"), card) >= 4.5, selector
    assert contrast(style(page, "#chart-layers .xtick text", "fill"), card) >= 4.5
    assert contrast(style(page, "#chart-time .ytick text", "fill"), card) >= 4.5


def test_the_button_changes_the_colours(open_page, report):
    page = open_page(report, "light", CHARTS).page
    before = style(page, "#chart-layers .xtick text", "fill")
    page.click("#theme")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    assert luminance(style(page, "body", "backgroundColor")) < 0.1
    assert style(page, "#chart-layers .xtick text", "fill") != before


def test_names_of_models_are_only_text(open_page, tmp_path):
    report = write_report(tmp_path, *example(model=HOSTILE))
    opened = open_page(report, charts=CHARTS)
    assert opened.page.locator("h1").inner_text() == f"{HOSTILE} on rk3588"
    assert opened.page.title().startswith("</script>")
    assert opened.count("img") == 0
    assert opened.complaints == []


def test_three_hundred_layers(open_page, tmp_path):
    report = write_report(tmp_path, *example(layers=300))
    opened = open_page(report, charts=CHARTS)
    assert opened.complaints == []
    assert opened.count("#chart-network .points path.point") == 300
    # wide charts scroll in their own frame, the page does not
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.page.locator("#chart-layers").bounding_box()["width"] > 4000


@pytest.mark.parametrize("width", [400, 1900])
def test_narrow_and_wide_windows(open_page, report, width):
    page = open_page(report, charts=CHARTS).page
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

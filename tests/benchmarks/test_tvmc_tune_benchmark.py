from tvmc_tune import ALONE, ONNX_RUNTIME, OURS, TOGETHER, networks_slower_together


def rows(network, ours, alone, together):
    times = {OURS: ours, ALONE: alone, TOGETHER: together, ONNX_RUNTIME: 0.1}
    return [{"network": network, "way": way, "median_ms": median_ms} for way, median_ms in times.items()]


def test_a_network_counts_as_slower_when_one_of_both_alone_beats_them_together():
    measured = [
        *rows("good", ours=4.0, alone=9.0, together=3.5),
        *rows("within noise", ours=4.0, alone=9.0, together=4.05),
        *rows("slower than ours", ours=4.0, alone=9.0, together=4.2),
        *rows("slower than MetaSchedule", ours=9.0, alone=4.0, together=5.0),
    ]
    assert networks_slower_together(measured) == ["slower than ours", "slower than MetaSchedule"]

"""What a stage may occupy."""

from cospipe.ir.plan import CoreConfiguration
from cospipe.passes.stage_options import Components, Families, Placement, StageOption, stage_options

PLAIN = Families.none()


def texts(options):
    return {"|".join(f"{count}x{'+'.join(map(str, p.cores))}:{p.sharing}" for p, count in o.replicas) for o in options}


def test_a_plain_pipeline_has_some_cores_of_one_cluster():
    found = stage_options(Components({"big": 2, "little": 1}, {"gpu": None}), PLAIN)
    assert texts(found) == {"1xbig:1:equal", "1xbig:2:equal", "1xlittle:1:equal"}


def test_replicas_are_equal_in_each_cluster_and_fit():
    found = stage_options(Components({"big": 2, "little": 1}), Families(equal_spread=False, spread_by_speed=False))
    several = {text for text in texts(found) if "|" in text or text.startswith("2x")}
    assert several == {"2xbig:1:equal", "1xbig:1:equal|1xlittle:1:equal", "2xbig:1:equal|1xlittle:1:equal"} | {
        "1xbig:2:equal|1xlittle:1:equal"
    }


def test_kernels_spread_over_every_choice_of_cores_of_several_clusters():
    found = stage_options(Components({"big": 2, "little": 1}), Families(replicas=False))
    spread = [placement for option in found for placement, _ in option.replicas if placement.is_spread]
    assert {tuple(map(str, placement.cores)) for placement in spread} == {("big:1", "little:1"), ("big:2", "little:1")}
    assert {placement.sharing for placement in spread} == {"equal", "by-speed"}


def test_accelerators_take_a_core_of_their_host_and_run_frames_beside_the_cores():
    found = stage_options(Components({"big": 1}, {"gpu": "big"}), Families())
    assert texts(found) == {"1xbig:1:equal", "1xgpu:1:equal"}  # the only core drives the GPU
    found = stage_options(Components({"big": 2}, {"gpu": "big"}), Families())
    beside = [option for option in found if option.whole_network]
    assert [option.clusters for option in beside] == [{"big", "gpu"}]
    assert beside[0].demand({"gpu": "big"}) == {"big": 2, "gpu": 1}


def test_an_option_counts_its_replicas():
    one = Placement((CoreConfiguration("big", 2),))
    option = StageOption(((one, 2),))
    assert (option.replica_count, option.demand({})) == (2, {"big": 4})

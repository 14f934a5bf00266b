"""Verification: right numbers pass, wrong ones are named with their stage."""

import copy
import json
import os
from dataclasses import replace

import pytest
import torch

import cospipe
from cospipe.backends.bundle import open_bundle, replace_weights
from cospipe.backends.runtime.stage import StageExecutable
from cospipe.backends.tvm import stage_build
from cospipe.backends.verify import verify_bundle
from cospipe.ir.errors import AdapterError, BundleError, StageError, UsageError, VerificationError
from cospipe.ir.tensor_file import map_tensors, write_tensors


def test_a_fresh_bundle_passes(compiled):
    result = verify_bundle(compiled.bundle)
    result.raise_if_failed()
    assert {check.part for check in result.checks} == {s.name for s in compiled.plan.stages} | {"whole"}
    assert all(check.relative_error <= 1e-4 for check in result.checks)


def test_changed_weights_are_found_in_their_stage(compiled, tmp_path):
    stage = compiled.bundle.manifest.stages[-1]
    doubled = {name: array * 2 for name, array in map_tensors(compiled.bundle.file(stage.weights)).items()}
    altered = replace_weights(compiled.bundle, doubled, compiled.bundle.reference(), tmp_path / "altered")
    result = verify_bundle(altered)
    assert not result.passed
    with pytest.raises(VerificationError, match=stage.name):
        result.raise_if_failed()


def test_hand_overs_are_followed_through_the_whole(compiled, tmp_path):
    """A stage that is right alone still shows in the whole what an earlier one got wrong."""
    first, last = compiled.bundle.manifest.stages[0], compiled.bundle.manifest.stages[-1]
    doubled = {name: array * 2 for name, array in map_tensors(compiled.bundle.file(first.weights)).items()}
    altered = replace_weights(compiled.bundle, doubled, compiled.bundle.reference(), tmp_path / "altered")
    passed = {part: all(c.passed for c in checks) for part, checks in by_part(verify_bundle(altered)).items()}
    assert not passed[first.name]
    assert passed[last.name]
    assert not passed["whole"]


def by_part(verification):
    parts = {}
    for check in verification.checks:
        parts.setdefault(check.part, []).append(check)
    return parts


def test_the_summary_is_json_and_says_how(compiled):
    summary = verify_bundle(compiled.bundle).summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["passed"] is True
    assert summary["how"] == "on this machine"
    assert {"part", "tensor", "relative_error", "tolerance", "passed"} == set(summary["checks"][0])


def test_progress_names_every_stage(compiled):
    told = []
    verify_bundle(compiled.bundle, progress=told.append)
    assert told == [f"Checking {stage.name} on this machine" for stage in compiled.plan.stages]


def test_a_bundle_of_another_architecture_is_not_run(compiled):
    other = "aarch64" if compiled.bundle.manifest.architecture == "x86_64" else "x86_64"
    manifest = compiled.bundle.manifest.model_copy(update={"architecture": other})
    with pytest.raises(BundleError, match=rf"compiled for {other}(.|\n)*--emulate"):
        verify_bundle(replace(compiled.bundle, manifest=manifest))


def test_only_aarch64_is_emulated(compiled):
    manifest = compiled.bundle.manifest.model_copy(update={"architecture": "x86_64"})
    with pytest.raises(UsageError, match="Only AArch64 bundles are emulated"):
        verify_bundle(replace(compiled.bundle, manifest=manifest), emulate=True)


def test_a_stage_that_fails_is_named(compiled, monkeypatch):
    def fail(self, values):
        raise ValueError("the roof fell in")

    monkeypatch.setattr(StageExecutable, "call", fail)
    with pytest.raises(StageError, match="stage0 failed: the roof fell in") as error:
        verify_bundle(compiled.bundle)
    assert error.value.stage == "stage0"


def test_the_callers_thread_stays_where_it_was(compiled):
    before = os.sched_getaffinity(0)
    verify_bundle(compiled.bundle)
    assert os.sched_getaffinity(0) == before


def test_wrong_numbers_are_not_written_over_a_good_bundle(small_network, small_inputs, tmp_path, monkeypatch):
    good = cospipe.optimize(small_network, small_inputs, soc="host", output=tmp_path / "bundle").bundle

    def doubled(path, tensors):
        write_tensors(path, {name: array * 2 for name, array in tensors.items()})

    monkeypatch.setattr(stage_build, "write_tensors", doubled)
    with pytest.raises(VerificationError, match="whole"):
        cospipe.optimize(small_network, small_inputs, soc="host", output=tmp_path / "bundle")
    assert open_bundle(tmp_path / "bundle").manifest == good.manifest


@pytest.mark.parametrize("name", ["conv", "whole"])
def test_an_adapter_folded_in_at_load_is_compared_with_the_adapted_model(adaptable, small_network, adapters, name):
    reference = cospipe.adapter_reference(adaptable.bundle, small_network, adapters[name])
    verify_bundle(adaptable.bundle, adapter=adapters[name], reference=reference).raise_if_failed()
    assert not verify_bundle(adaptable.bundle, reference=reference).passed  # the base computes something else


@pytest.mark.emulated
@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv", "whole"])
def test_aarch64_code_folds_adapters_in(adaptable_board, small_network, adapters, emulator, name):
    verify_bundle(adaptable_board.bundle, emulate=True).raise_if_failed()
    reference = cospipe.adapter_reference(adaptable_board.bundle, small_network, adapters[name])
    result = verify_bundle(adaptable_board.bundle, emulate=True, adapter=adapters[name], reference=reference)
    result.raise_if_failed()
    streams = {f"stream {when} the adapter" for when in ("before", "with", "after")}
    assert {check.part for check in result.checks} == {"stage0", "stage1", "stage2", "whole", *streams}
    assert not verify_bundle(adaptable_board.bundle, emulate=True, reference=reference).passed


def test_an_adapter_needs_its_own_reference(adaptable, adapters):
    with pytest.raises(UsageError, match="give its reference values"):
        verify_bundle(adaptable.bundle, adapter=adapters["conv"])


def test_an_adapter_of_another_base_has_no_reference(adaptable, small_network, adapters):
    other = copy.deepcopy(small_network)
    with torch.no_grad():
        other.middle[0].weight.mul_(2)
    with pytest.raises(AdapterError, match=r"middle\.0\.weight has other values"):
        cospipe.adapter_reference(adaptable.bundle, other, adapters["conv"])

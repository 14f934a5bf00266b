"""Verification: right numbers pass, wrong ones are named with their stage."""

import pytest

from cospipe.backends.bundle import replace_weights
from cospipe.backends.runtime.weights import map_tensors
from cospipe.backends.verify import verify_bundle
from cospipe.ir.errors import VerificationError


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

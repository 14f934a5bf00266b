"""The onnx package's own tests of single operations: right numbers, or the right sentence that refuses."""

from fnmatch import fnmatch

import onnx
import pytest
from node_tests import LAST_OPSET, NodeTest, node_tests_by_operation

from cospipe.ir.errors import UnsupportedModelError

NUMBERS = {
    getattr(onnx.TensorProto, name)
    for name in ("BFLOAT16", "BOOL", "DOUBLE", "FLOAT", "FLOAT16", "INT8", "INT16", "INT32", "INT64", "UINT8")
}
"""Element types that can be compiled; a test with others (strings, sequences, 4 bits, ...) must be refused."""

REFUSED_OPERATIONS = {
    "Bernoulli",  # random numbers
    "DeformConv",  # needs a gather for each output
    "ImageDecoder",  # decodes JPEG, PNG, ...
    "MelWeightMatrix",
    "NegativeLogLikelihoodLoss",  # for training
    "NonMaxSuppression",  # the shape of its result depends on the data
    "OptionalGetElement",
    "OptionalHasElement",
    "RandomUniformLike",
    "SoftmaxCrossEntropyLoss",  # for training
    "SplitToSequence",
    "TfIdfVectorizer",
    "Upsample",  # of opset 9; such files are converted first
}
"""Those without a rule."""

REFUSED_TESTS = {
    "test_batchnorm_*_training_mode": "training mode",
    "test_training_dropout_*": "training_mode",
    "test_training_dropout": "training_mode",
    "test_if_seq": "SequenceConstruct",
    "test_roialign_mode_max": "mode 'max'",  # the test wants the largest product of a pixel and its weight
    "test_scan_sum": "opset 8",
}
ACCEPTED_TESTS = ("test_training_dropout_zero_ratio*", "test_if")
"""Which patterns above do not mean."""

DIFFERENT = {
    "test_resize_downsample_scales_cubic_align_corners",
    "test_resize_downsample_scales_linear_align_corners",
}
"""The test takes the length of an axis as size times scale, not rounded, so that corners are not aligned; ONNX Runtime
and PyTorch align them, and so do we (test_onnx_resize.py)."""

INITIALS = sorted({schema.name[0] for schema in onnx.defs.get_all_schemas() if schema.domain == ""})


@pytest.mark.parametrize("initial", INITIALS)
def test_operations_with_this_initial(initial: str) -> None:
    tests = [test for name, tests in node_tests_by_operation().items() if name[0] == initial for test in tests]
    assert tests
    problems = [problem for test in tests if test.name not in DIFFERENT and (problem := problem_of(test))]
    assert not problems, "\n".join(problems)


def problem_of(test: NodeTest) -> str | None:
    """Return what is wrong with the outcome of a test."""
    sentence = sentence_expected(test)
    try:
        if sentence is None:
            test.check()
        else:
            with pytest.raises(UnsupportedModelError, match=sentence):
                test.check()
    except (Exception, pytest.fail.Exception) as error:
        return f"{test.name}: {type(error).__name__}: {error}"
    return None


def sentence_expected(test: NodeTest) -> str | None:
    """Return a part of the sentence that refuses this test; None when it must give the right numbers."""
    if any(node.op_type in REFUSED_OPERATIONS for node in test.case.model.graph.node):
        return "there is no rule for this operation"
    if not any(fnmatch(test.name, accepted) for accepted in ACCEPTED_TESTS):
        for pattern, sentence in REFUSED_TESTS.items():
            if fnmatch(test.name, pattern):
                return sentence
    values = (*test.case.model.graph.input, *test.case.model.graph.output)
    are_numbers = all(value.type.tensor_type.elem_type in NUMBERS for value in values)
    return None if are_numbers else "is not supported|no rule"


def test_a_newer_operation_is_left_out() -> None:
    assert not onnx.defs.has("Attention", LAST_OPSET)
    assert "Attention" not in node_tests_by_operation()

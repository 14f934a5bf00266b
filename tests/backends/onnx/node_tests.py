"""The tests of single operations that come with the onnx package, as models our importer can be asked to take.

They are written for the newest opset; a model with a newer one than the importer knows is taken as if it were of the
last that it knows, and operations which that opset lacks are left out. Inputs which an operation must know when it is
compiled (shapes, axes, sizes) are made constants. Many tests come twice, the second time with the operation written in
simpler ones; these are tests of the simpler ones.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import torch
from onnx import defs, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase

from cospipe.backends.onnx.importer import import_model

LAST_OPSET = 22

KNOWN_WHEN_COMPILED: Mapping[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "Compress": (1,),
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "DFT": (1, 2),
    "Dropout": (1, 2),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "If": (0,),
    "Loop": (0, 1),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "NonZero": (0,),
    "OneHot": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "ReduceL1": (1,),
    "ReduceL2": (1,),
    "ReduceLogSum": (1,),
    "ReduceLogSumExp": (1,),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceProd": (1,),
    "ReduceSum": (1,),
    "ReduceSumSquare": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unique": (0,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Positions of the inputs of an operation that are given as constants."""


@dataclass(frozen=True)
class NodeTest:
    """A model with its inputs and the outputs it must give.

    ``operation`` is the one that is tested; ``known`` names the inputs that are made constants.
    """

    name: str
    operation: str
    known: frozenset[str]
    case: TestCase

    def check(self) -> None:
        """Import the model, run it, and check number, shapes, types and values of the results."""
        given, expected = self.case.data_sets[0]
        model, inputs = with_constants(self.case.model, given, self.known)
        network = import_model(model)
        with torch.no_grad():
            outputs = network(*(tensor_of(value) for value in inputs))
        assert len(outputs) == len(expected)
        for ours, theirs in zip(outputs, expected, strict=True):
            tolerance = max(self.case.atol, 1e-6)
            torch.testing.assert_close(ours, tensor_of(theirs), rtol=self.case.rtol, atol=tolerance, equal_nan=True)


def tensor_of(value: np.ndarray | onnx.TensorProto) -> torch.Tensor:
    """Return a tensor of one of the suite's values; bfloat16 is no type of numpy's."""
    array = np.array(numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def with_constants(
    model: onnx.ModelProto, inputs: Sequence[np.ndarray], known: Container[str]
) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """Return the model with some inputs as constants, in an opset we know; and the inputs left over."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = min(entry.version, LAST_OPSET)
    values = dict(zip([declared.name for declared in model.graph.input], inputs, strict=True))
    for name in [name for name in values if name in known]:
        model.graph.initializer.append(_proto(values.pop(name), name))
    kept = [declared for declared in model.graph.input if declared.name in values]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model, list(values.values())


def _proto(value: np.ndarray | onnx.TensorProto, name: str) -> onnx.TensorProto:
    array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    return numpy_helper.from_array(array, name)


@cache
def node_tests_by_operation() -> Mapping[str, list[NodeTest]]:
    """Return all tests of ONNX's own operations, by operation."""
    cases = _cases()
    nodes = {case.name: case.model.graph.node[0] for case in cases if "_expanded" not in case.name}
    grouped: dict[str, list[NodeTest]] = defaultdict(list)
    for case in cases:
        node = nodes[case.name.split("_expanded")[0]]
        positions = KNOWN_WHEN_COMPILED.get(node.op_type, ())
        known = frozenset(node.input[position] for position in positions if position < len(node.input))
        if _is_known(node.op_type):
            grouped[node.op_type].append(NodeTest(case.name, node.op_type, known, case))
    return grouped


def _is_known(operation: str) -> bool:
    try:
        defs.get_schema(operation, LAST_OPSET)
    except defs.SchemaError:
        return False
    return True


def _cases() -> list[TestCase]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cases: list[TestCase] = collect_testcases(None)
    return [case for case in cases if all(entry.domain == "" for entry in case.model.opset_import)]

"""A simpler ONNX graph that computes the same, by the onnxslim package."""

from __future__ import annotations

import logging

import onnx
import onnxslim

from cospipe.backends.onnx.input_shapes import graph_inputs
from cospipe.ir.errors import first_line

_log = logging.getLogger(__name__)

_WORSE_HERE = ["FusionGemm"]
"""A product of more than two dimensions would become Reshape, Gemm, Reshape; it is one linear layer here."""


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with constants folded, known shapes used, and a bias in every convolution that is followed by one.

    What the simplifier cannot do stays as it is: when it fails, the model is returned unchanged, with a warning in the
    log.

    Parameters
    ----------
    model : onnx.ModelProto
        With fixed input shapes. It is left as it is.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        simpler: onnx.ModelProto = onnxslim.slim(copy, skip_fusion_patterns=_WORSE_HERE)
    except Exception as error:  # any of its own or of onnx's shape inference; it is only an improvement
        _log.warning("onnxslim fails and the graph stays as it is: %s", first_line(error))
        return model
    # an input that nobody reads is still one of the network
    del simpler.graph.input[:]
    simpler.graph.input.extend(graph_inputs(model.graph))
    return simpler

from dataclasses import dataclass, field

import numpy as np
import onnxruntime
import pytest
import torch
from wheel_models import file_of_wheel

from cospipe.backends.onnx.load import load_onnx
from cospipe.backends.tvm.importer import check_supported
from cospipe.ir.capture import capture

MAGIKA, NUDENET, SILERO = "magika==1.0.3", "nudenet==3.4.2", "silero-vad==6.2.3"
RAPIDOCR, OLD_RAPIDOCR = "rapidocr==3.10.0", "rapidocr_onnxruntime==1.4.4"
SPEECH = {"input": (1, 576)}


@dataclass(frozen=True)
class RealFile:
    """A file of a wheel, the shapes its inputs get, and those inputs that always have the same value."""

    wheel: str
    member: str
    shapes: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)


FILES = [
    RealFile(MAGIKA, "magika/models/standard_v3_3/model.onnx"),
    RealFile(NUDENET, "nudenet/320n.onnx", {"images": (1, 3, 320, 320)}),
    RealFile(RAPIDOCR, "rapidocr/models/PP-OCRv6_det_small.onnx", {"x": (1, 3, 96, 160)}),
    RealFile(RAPIDOCR, "rapidocr/models/PP-OCRv6_rec_small.onnx", {"x": (1, 3, 48, 320)}),
    RealFile(RAPIDOCR, "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", {"x": (1, 3, 48, 192)}),
    RealFile(OLD_RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 96, 160)}),
    RealFile(OLD_RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 320)}),
    RealFile(SILERO, "silero_vad/data/silero_vad.onnx", {**SPEECH, "state": (2, 1, 128)}, {"sr": 16000}),
    RealFile(SILERO, "silero_vad/data/silero_vad_16k_op15.onnx", SPEECH, {"sr": 16000}),
    RealFile(SILERO, "silero_vad/data/silero_vad_16k_sequence.onnx", {"input": (4, 576)}),
    RealFile(SILERO, "silero_vad/data/silero_vad_half.onnx", SPEECH),
    RealFile(SILERO, "silero_vad/data/silero_vad_op18_ifless.onnx", SPEECH, {"sr": 16000}),
    RealFile(SILERO, "silero_vad/data/silero_vad_openvino_16k.onnx"),
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.member.rpartition("/")[2])
def test_import_agrees_with_onnx_runtime(file):
    path = file_of_wheel(file.wheel, file.member)
    network, inputs = load_onnx(path, file.shapes, file.values)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    tensors = iter(inputs)
    arrays = {
        declared.name: np.array(file.values[declared.name]) if declared.name in file.values else next(tensors).numpy()
        for declared in session.get_inputs()
    }
    with torch.no_grad():
        results = network(*inputs)
    for result, expected in zip(results, session.run(None, arrays), strict=True):
        # an absolute error is enough where probabilities are small: ONNX Runtime's sigmoid is off by 1e-7
        tolerance = 1e-4 * np.abs(expected).max() + 3e-7
        np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("file", [FILES[1], FILES[3], FILES[7]], ids=lambda file: file.member.rpartition("/")[2])
def test_every_operation_can_be_compiled(file):
    network, inputs = load_onnx(file_of_wheel(file.wheel, file.member), file.shapes, file.values)
    check_supported(capture(network, inputs))

"""LSTM, GRU and RNN with everything they can have, compared with ONNX Runtime."""

import numpy as np
import pytest
from single_nodes import check_like_onnxruntime, model_of

from cospipe.backends.onnx.importer import import_model
from cospipe.ir.errors import UnsupportedModelError

RANDOM = np.random.default_rng(0)
STEPS, BATCH, WIDTH, HIDDEN = 4, 3, 2, 5
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_LENGTHS, _STATE, _CELL, _PEEPHOLES = 4, 5, 6, 7

ACTIVATIONS = {
    "RNN": (["ThresholdedRelu"], [0.3], []),
    "GRU": (["HardSigmoid", "LeakyRelu"], [0.3, 0.1], [0.4]),
    "LSTM": (["HardSigmoid", "Elu", "Softsign"], [0.3, 0.7], [0.4]),
}


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def check(operation: str, direction: str, more_inputs: dict[int, np.ndarray], **attributes: object) -> None:
    count, gates = 2 if direction == "bidirectional" else 1, GATES[operation]
    inputs: list[np.ndarray | None] = [floats(STEPS, BATCH, WIDTH), floats(count, gates * HIDDEN, WIDTH)]
    inputs += [floats(count, gates * HIDDEN, HIDDEN), floats(count, 2 * gates * HIDDEN), None, None]
    inputs += [None, None] if operation == "LSTM" else []
    for position, value in more_inputs.items():
        inputs[position] = value
    attributes = {"hidden_size": HIDDEN, "direction": direction, **attributes}
    check_like_onnxruntime(operation, attributes, inputs, (1, 2, 3), outputs=3 if operation == "LSTM" else 2, opset=14)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("operation", GATES)
def test_directions_with_first_states_and_lengths(operation: str, direction: str) -> None:
    count = 2 if direction == "bidirectional" else 1
    states = {_STATE: floats(count, BATCH, HIDDEN)}
    if operation == "LSTM":
        states[_CELL] = floats(count, BATCH, HIDDEN)
    check(operation, direction, states)
    check(operation, direction, {_LENGTHS: np.array([4, 2, 1], np.int32)})


@pytest.mark.parametrize("operation", GATES)
def test_clipping_and_other_activations(operation: str) -> None:
    check(operation, "forward", {}, clip=0.5)
    names, alphas, betas = (values * 2 for values in ACTIVATIONS[operation])
    numbers = {"activation_alpha": alphas, **({"activation_beta": betas} if betas else {})}
    check(operation, "bidirectional", {}, activations=names, **numbers)


def test_what_only_one_kind_has() -> None:
    check("GRU", "forward", {}, linear_before_reset=1)
    check("LSTM", "forward", {_PEEPHOLES: floats(1, 3 * HIDDEN)})


def test_an_unknown_activation_is_refused() -> None:
    inputs = [floats(STEPS, BATCH, WIDTH), floats(1, HIDDEN, WIDTH), floats(1, HIDDEN, HIDDEN)]
    model = model_of("RNN", {"hidden_size": HIDDEN, "activations": ["Sine"]}, inputs, outputs=2)
    with pytest.raises(UnsupportedModelError, match="the activation 'Sine'"):
        import_model(model)

"""``explore``: every way to run a model on a chip, weighed against each other; nothing is compiled."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from cospipe.ir.exploration import Exploration, Limits
from cospipe.ir.soc import load_soc
from cospipe.passes.explore import Question
from cospipe.passes.explore import explore as explore_graph
from cospipe.prediction import Prediction, predicted_graph, prediction_of

log = logging.getLogger("cospipe")


def explore(
    model: nn.Module | ExportedProgram,
    example_inputs: tuple[torch.Tensor, ...] | torch.Tensor,
    soc: str | Path = "host",
    objective: str = "throughput",
    limits: Limits | None = None,
    cores: str = "",
    max_stages: int = 0,
    source: str = "analytic",
    profile: str | Path = "",
    name: str = "",
    progress: Callable[[str], None] = log.info,
) -> tuple[Exploration, Prediction]:
    """Explore how a model can run on a chip.

    Parameters
    ----------
    model : nn.Module or ExportedProgram
        The model. Adapters on it are merged.
    example_inputs : tuple of Tensor
        One tensor for each input.
    soc : str or Path
        Name of an SoC, ``"host"``, or a TOML file.
    objective : str
        ``"throughput"``, ``"latency"`` or ``"energy"``.
    limits : Limits, optional
        What the chosen plan keeps to.
    cores : str
        Cores that may be used, ``"big:4+little:2"``; the whole chip when empty.
    max_stages : int
        Most stages; 0 for no limit but the cores.
    source, profile
        Where predicted times come from, see :func:`cospipe.ir.latency_models.latency_model`.
    name : str
        What the model is called; its class when empty.
    progress : callable
        Is told in a few words what is done next.

    Returns
    -------
    Exploration, Prediction
        What was found, and the predicted times it was found with.

    Raises
    ------
    UsageError, SocError
        When an argument is wrong, or the SoC does not exist.
    CaptureError
        When the model cannot be captured.
    PlanError
        When no plan keeps to the limits; the message says which binds.
    """
    chip = load_soc(soc)
    graph_module = predicted_graph(model, example_inputs, soc, source, profile, progress)
    question = Question(chip, objective, limits or Limits(), cores, max_stages)
    found = explore_graph(graph_module.graph, question, name or type(model).__name__, progress)
    return found, prediction_of(graph_module, chip.name)

"""``cospipe optimize --emit tvmc``: stages as ONNX files, and the tvmc commands that make a pipeline of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cospipe.ir.errors import UsageError, nearest

if TYPE_CHECKING:
    import torch

    from cospipe.backends.tvm.tvmc.pipeline_file import PipelineFile
    from cospipe.planning import Model

FORMS = ("bundle", "tvmc")


def check_form(form: str) -> None:
    """Check what ``--emit`` says.

    Raises
    ------
    UsageError
        When there is no such form.
    """
    if form not in FORMS:
        raise UsageError(f"There is no output form {form!r} for --emit. {nearest(form, FORMS)}")


def emit_stages(
    model: Model, inputs: tuple[torch.Tensor, ...], output: Path, options: Mapping[str, Any]
) -> PipelineFile:
    """Plan a pipeline and write its stages and the script; ``options`` are those of :func:`cospipe.optimize`.

    Raises
    ------
    CospipeError
        When there is no plan, or a stage cannot be written; see :func:`cospipe.backends.tvm.tvmc.emit.emit_pipeline`.
    """
    from cospipe.backends.tvm.tvmc.emit import check_can_emit, emit_pipeline
    from cospipe.planning import plan_pipeline

    check_can_emit(output, options["runner"])
    request = plan_pipeline(model, inputs, **options)
    return emit_pipeline(request, str(options["soc"]), output, options["progress"])

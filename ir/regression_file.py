"""Files of fitted latency regressions: the measured layers themselves; the same rows always give the same model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cospipe.ir.errors import UsageError, several
from cospipe.ir.latency import LatencySource
from cospipe.ir.layer import LayerDescriptor
from cospipe.ir.measured_latency import board_problems
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import MeasuredLayer, Profile, read_profile
from cospipe.ir.regression_latency import RegressionLatencyModel, fit_regression
from cospipe.ir.soc import Soc

FORMAT: Final = "cospipe latency regression"

Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FittedLayer(_Part):
    """One row that a model was fitted to."""

    network: str
    layer: LayerDescriptor
    core_type: str
    configuration: str
    time_us: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class HeldOutError(_Part):
    """The median relative error on layers of networks that were held out."""

    core_type: str
    cores: Annotated[int, Field(ge=1)]
    error: Share


class RegressionFile(_Part):
    """A fitted model: what it was fitted to, and how far it was off on networks that were held out."""

    format: Literal["cospipe latency regression"] = FORMAT
    version: Literal[1] = 1
    socs: tuple[str, ...]
    """Boards that were measured."""
    kernel_library: str
    rows: tuple[FittedLayer, ...] = Field(min_length=1)
    errors: tuple[HeldOutError, ...] = ()


def write_regression(model: RegressionLatencyModel, path: str | Path, socs: Sequence[str] = ()) -> None:
    """Write a model; the file is there whole or not at all.

    Parameters
    ----------
    model : RegressionLatencyModel
        The fitted model.
    path : str or Path
        Where to.
    socs : sequence of str
        Names of the boards that were measured; the model's own when not given.
    """
    own = (model.soc.name,) if model.soc is not None else ()
    content = RegressionFile(
        socs=tuple(socs) or own,
        kernel_library=model.kernel_library,
        rows=tuple(
            FittedLayer(
                network=row.network,
                layer=row.layer,
                core_type=row.core_type,
                configuration=str(row.configuration),
                time_us=row.time_us,
            )
            for row in model.rows
        ),
        errors=tuple(
            HeldOutError(core_type=core_type, cores=cores, error=error)
            for (core_type, cores), error in model.errors.items()
        ),
    )
    scratch = Path(f"{path}.new")
    scratch.write_text(content.model_dump_json(exclude_defaults=False), encoding="utf-8")
    os.replace(scratch, path)


def read_regression(path: str | Path, soc: Soc | None = None) -> RegressionLatencyModel:
    """Read a model that :func:`write_regression` wrote, and fit it anew to its rows.

    Raises
    ------
    UsageError
        When there is no such file, it is no regression (every mistake is listed), or it is of other boards.
    """
    content = _parse(Path(path), _read_json(Path(path)))
    if soc is not None and content.socs and soc.name not in content.socs:
        raise UsageError(f"{path} was fitted to layers measured on {', '.join(content.socs)}, not on {soc.name}.")
    rows = [
        MeasuredLayer(row.network, row.layer, row.core_type, CoreConfiguration.parse(row.configuration), row.time_us)
        for row in content.rows
    ]
    model = fit_regression(rows, soc, content.kernel_library, check=False)
    model.errors.update({(row.core_type, row.cores): row.error for row in content.errors})
    return model


def regression_model(soc: Soc, path: str | Path) -> RegressionLatencyModel:
    """Return the regression for a chip from a saved model, or fitted to a profile of it.

    Raises
    ------
    UsageError
        When no file is named, or it cannot be read, is of another board, or lacks core types of this one.
    """
    if not str(path):
        raise UsageError(
            "The latency source 'regression' needs measured layers: name a profile or a fitted model with --profile."
        )
    is_fitted = isinstance(content := _read_json(Path(path)), dict) and content.get("format") == FORMAT
    model = read_regression(path, soc) if is_fitted else _from_profile(read_profile(path), soc, path)
    measured = {core_type for core_type, _ in model.fits}
    missing = [f"{cluster.name} ({cluster.core_type})" for cluster in soc.clusters if cluster.core_type not in measured]
    if missing:
        raise UsageError(
            f"{path} has too few layers measured on these clusters of {soc.name}: {', '.join(missing)}. Profile more "
            "networks on them."
        )
    return model


def _from_profile(profile: Profile, soc: Soc, path: str | Path) -> RegressionLatencyModel:
    if problems := board_problems(profile, soc, LatencySource(profile.source)):
        raise UsageError(several(f"{path} is a profile of something else", problems))
    return fit_regression(list(profile.layers()), soc, profile.kernel_library)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The latency model {str(path)!r} cannot be read: {error}.") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is neither a profile nor a fitted latency model: {error}.") from error


def _parse(path: Path, content: Any) -> RegressionFile:
    try:
        return RegressionFile.model_validate(content)
    except ValidationError as error:
        mistakes = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise UsageError(several(f"{path} is not a latency regression this version reads", mistakes)) from error

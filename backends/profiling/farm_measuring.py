"""Measuring networks on whichever board of a farm is free."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import replace
from pathlib import Path

from cospipe.backends.profiling import machine
from cospipe.backends.profiling.measuring import (
    Measurement,
    configuration_profile,
    prepare_measurement,
    time_network,
)
from cospipe.backends.profiling.networks import PreparedNetwork
from cospipe.backends.tvm.farm.farm import Farm, Report
from cospipe.backends.tvm.farm.job import Done
from cospipe.backends.tvm.farm.requirement import soc_requirement
from cospipe.backends.tvm.farm.tracker import Tracker, parse_address
from cospipe.ir.errors import RemoteError, UsageError, several
from cospipe.ir.plan import CoreConfiguration
from cospipe.ir.profile import ConfigurationProfile
from cospipe.ir.soc import Soc

LONGEST_MEASUREMENT_S = 900.0
"""A network that takes ten seconds on a board is still measured in thirty rounds."""


def farm_of(soc: Soc, configurations: Sequence[CoreConfiguration], address: str, key: str, report: Report) -> Farm:
    """Open the farm of a tracker's boards that stand for a chip.

    Raises
    ------
    UsageError
        When the address has another form than ``HOST[:PORT]``, or there is no key.
    RemoteError
        When there is no tracker, or it knows no board of this key.
    """
    host, port = parse_address(address)
    if not key:
        raise UsageError("A tracker hands out boards by key; name that of your boards with --key.")
    requirement = soc_requirement(soc, configurations)
    return Farm(Tracker(host, port, key), requirement, report, modules=[time_network.__module__, machine.__name__])


def measure_on_farm(
    network: PreparedNetwork,
    soc: Soc,
    configurations: Sequence[CoreConfiguration],
    farm: Farm,
    rounds: int,
    progress: Callable[[str], None] = lambda _step: None,
) -> Iterator[tuple[CoreConfiguration, ConfigurationProfile]]:
    """Compile a network for core configurations one after the other, and time each on a free board meanwhile.

    Parameters
    ----------
    network, soc, rounds
        As :func:`~cospipe.backends.profiling.measuring.measure` takes them.
    configurations : sequence of CoreConfiguration
        Which cores.
    farm : Farm
        Where they are.
    progress : callable
        Is told in a few words what is done next.

    Yields
    ------
    tuple of CoreConfiguration and ConfigurationProfile
        What was measured, as soon as it was.

    Raises
    ------
    LoweringError
        When the network cannot be compiled.
    RemoteError
        At the end, when some configurations could not be measured; all are listed.
    """
    problems = []
    with tempfile.TemporaryDirectory(prefix="cospipe-profile-") as folder:
        waiting: dict[Future[Done], tuple[CoreConfiguration, Measurement]] = {}
        for configuration in configurations:
            progress(f"{network.name} on {configuration}: compiling")
            measurement = prepare_measurement(network, soc, configuration, Path(folder), rounds)
            arguments = (time_network, (measurement,), measurement.cpu_ids)
            waiting[farm.submit(measurement.title, LONGEST_MEASUREMENT_S, *arguments)] = configuration, measurement
        for future in as_completed(waiting):
            configuration, measurement = waiting[future]
            if (error := future.exception()) is not None:
                problems.append(str(error))
                continue
            done = future.result()
            progress(f"{network.name} on {configuration}: measured on {done.board}")
            measured = replace(done.value, board=done.board)
            yield configuration, configuration_profile(network, measurement, measured)
    if problems:
        raise RemoteError(several("Not everything was measured; what was is kept", problems))

"""Discrete-event simulation of a pipeline: queues, jitter and contention, which the closed form leaves out."""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cospipe.ir.errors import UsageError, several
from cospipe.ir.plan import PipelinePlan
from cospipe.ir.simulation import ReplicaUse, Simulation, StageUse, Work

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Conditions:
    """What a simulated run is like.

    Parameters
    ----------
    frames : int
        How many frames go through the pipeline.
    queue_depth : int
        Frames that may wait before each stage, as in the runner.
    interval_us : float or None
        Mean time between two arrivals; None when a next frame is always there.
    arrival_jitter : float
        Coefficient of variation of the times between arrivals, gamma-distributed; 1 is a Poisson process.
    jitter : float
        Coefficient of variation of the service times, gamma-distributed around the plan's.
    contention : float or None
        How much longer everything takes for each further component that is busy at that moment, as a share (see
        ``Soc.contention``); None for what the plan's own factor says.
    seed : int
        Of the random numbers; the same frame has the same luck at a stage whatever the other conditions are.

    Raises
    ------
    UsageError
        Naming every value that makes no sense.
    """

    frames: int = 400
    queue_depth: int = 1
    interval_us: float | None = None
    arrival_jitter: float = 0.0
    jitter: float = 0.0
    contention: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be a whole number of at least 1, not {value}"
            for name, value in (("frames", self.frames), ("queue_depth", self.queue_depth))
            if value < 1
        ]
        amounts = {"arrival_jitter": self.arrival_jitter, "jitter": self.jitter, "contention": self.contention}
        problems += [
            f"{name} must be a number of at least 0, not {value}"
            for name, value in amounts.items()
            if value is not None and not (math.isfinite(value) and value >= 0)
        ]
        if self.interval_us is not None and not (math.isfinite(self.interval_us) and self.interval_us > 0):
            problems.append(f"interval_us must be a positive number of microseconds, not {self.interval_us}")
        if problems:
            raise UsageError(several("The pipeline cannot be simulated like this", problems))


def simulate(plan: PipelinePlan, conditions: Conditions | None = None) -> Simulation:
    """Run frames through a plan as the runner would, in simulated time.

    * Before each stage is a queue of ``queue_depth`` frames. Each replica of the stage takes the next frame from it
      as soon as it is free; of several free ones, that which has been free the longest.
    * A replica is busy for the hand-over and the computing. Then it puts the frame into the next queue, or is blocked
      until there is room, like a thread in ``Queue.put``.
    * Results leave in the order of the frames: one that is early waits for those before it.
    * While n clusters and accelerators are busy, all of them work 1 + contention x (n - 1) times slower than alone.

    The latency of a frame counts from when the first queue accepts it, or from its arrival when there is an interval.

    Parameters
    ----------
    plan : PipelinePlan
        Its stages, with the times of their replicas alone on the chip.
    conditions : Conditions, optional
        Frames, queues, arrivals, jitter and contention.
    """
    conditions = conditions or Conditions()
    run = _Run(plan, conditions)
    run.until_empty()
    return run.result()


def contention_of(plan: PipelinePlan) -> float:
    """Return what each further busy component adds to all times, as a share, by the plan's own factor.

    The closed form takes every component of the plan as always busy: factor = 1 + share x (components - 1).
    """
    others = len({cluster for stage in plan.stages for cluster in stage.clusters}) - 1
    return (plan.contention - 1) / others if others else 0.0


@dataclass
class _Server:
    """A replica at work: its frame, and since when it has been busy, blocked or free."""

    stage: int
    replica: int
    service_us: float
    clusters: tuple[str, ...]
    frame: int | None = None
    is_blocked: bool = False
    since_us: float = 0.0
    busy_us: float = 0.0
    blocked_us: float = 0.0


class _Queue:
    """A bounded queue that knows how many frames waited in it, on average over time and at most."""

    def __init__(self, depth: int) -> None:
        self.frames: deque[int] = deque()
        self.depth = depth
        self.most = 0
        self.frame_us = 0.0

    @property
    def has_room(self) -> bool:
        return len(self.frames) < self.depth

    def pass_time(self, elapsed_us: float) -> None:
        if elapsed_us > 0:
            self.frame_us += len(self.frames) * elapsed_us
            self.most = max(self.most, len(self.frames))


class _Run:
    """State of a simulation.

    All services are slowed by one common factor, so each ends at a fixed point of a common *work* clock, which runs
    slower than time while several components are busy.
    """

    def __init__(self, plan: PipelinePlan, conditions: Conditions) -> None:
        self.plan, self.conditions = plan, conditions
        self.contention = contention_of(plan) if conditions.contention is None else conditions.contention
        random = np.random.default_rng(conditions.seed)
        self.luck = _gamma(random, conditions.jitter, (conditions.frames, len(plan.stages)))
        gaps_us = _gamma(random, conditions.arrival_jitter, (conditions.frames,)) * (conditions.interval_us or 0.0)
        self.arrives_us = np.cumsum(gaps_us) - gaps_us[0]
        self.queues = [_Queue(conditions.queue_depth) for _ in plan.stages]
        self.servers = [
            [
                _Server(i, k, stage.hand_over_us + replica.compute_us, tuple({c.cluster for c in replica.cores}))
                for k, replica in enumerate(stage.replicas)
            ]
            for i, stage in enumerate(plan.stages)
        ]
        self.now_us = self.work_us = 0.0
        self.accepted = self.arrived = 0
        self.busy_clusters = Counter[str]()
        self.ends: list[tuple[float, int, int, int]] = []
        self.entered_us = np.zeros(conditions.frames)
        self.done_us = np.zeros(conditions.frames)
        self.timeline: list[Work] = []

    def until_empty(self) -> None:
        """Let one thing after another happen until every frame is through."""
        self._arrive()
        while self.ends or self.accepted < self.conditions.frames:
            self._advance()
            self._arrive()
            while self.ends and self.ends[0][0] <= self.work_us:
                _, _, stage, replica = heapq.heappop(self.ends)
                self._finish(self.servers[stage][replica])
            self._settle()

    def _arrive(self) -> None:
        while self.arrived < self.conditions.frames and self.arrives_us[self.arrived] <= self.now_us:
            self.arrived += 1
        self._settle()

    def _advance(self) -> None:
        """Go to the next end of a service or the next arrival."""
        slowness = 1 + self.contention * max(len(+self.busy_clusters) - 1, 0)
        until_end_us = (self.ends[0][0] - self.work_us) * slowness if self.ends else math.inf
        is_waiting = self.arrived < self.conditions.frames
        until_arrival_us = self.arrives_us[self.arrived] - self.now_us if is_waiting else math.inf
        for queue in self.queues:
            queue.pass_time(min(until_end_us, until_arrival_us))
        if until_end_us <= until_arrival_us:
            self.now_us += until_end_us
            self.work_us = self.ends[0][0]
        else:
            self.now_us = float(self.arrives_us[self.arrived])
            self.work_us += until_arrival_us / slowness

    def _finish(self, server: _Server) -> None:
        assert server.frame is not None
        self.busy_clusters.subtract(server.clusters)
        self.timeline.append(Work(server.stage, server.replica, server.frame, server.since_us, self.now_us))
        server.busy_us += self.now_us - server.since_us
        server.is_blocked, server.since_us = True, self.now_us

    def _settle(self) -> None:
        """Move frames on, from the last stage to the first, until nothing can move."""
        while any(self._move(stage) for stage in reversed(range(len(self.servers)))):
            pass

    def _move(self, stage: int) -> bool:
        """Let one stage give away what it has finished and take what it can; say whether something moved."""
        blocked = [server for server in self.servers[stage] if server.is_blocked]
        given = [self._give(server) for server in sorted(blocked, key=lambda server: (server.since_us, server.frame))]
        if stage == 0:
            self._accept()
        queue, taken = self.queues[stage], False
        free = [server for server in self.servers[stage] if server.frame is None]
        for server in sorted(free, key=lambda server: server.since_us):
            if queue.frames:
                self._start(server, queue.frames.popleft())
                taken = True
        return any(given) or taken

    def _accept(self) -> None:
        while self.accepted < self.arrived and self.queues[0].has_room:
            has_interval = self.conditions.interval_us is not None
            self.entered_us[self.accepted] = self.arrives_us[self.accepted] if has_interval else self.now_us
            self.queues[0].frames.append(self.accepted)
            self.accepted += 1

    def _start(self, server: _Server, frame: int) -> None:
        server.frame, server.since_us = frame, self.now_us
        self.busy_clusters.update(server.clusters)
        end_us = self.work_us + server.service_us * float(self.luck[frame, server.stage])
        heapq.heappush(self.ends, (end_us, frame, server.stage, server.replica))

    def _give(self, server: _Server) -> bool:
        assert server.frame is not None
        is_last = server.stage == len(self.queues) - 1
        if not is_last and not self.queues[server.stage + 1].has_room:
            return False
        if is_last:
            self.done_us[server.frame] = self.now_us
        else:
            self.queues[server.stage + 1].frames.append(server.frame)
        server.blocked_us += self.now_us - server.since_us
        server.frame, server.is_blocked, server.since_us = None, False, self.now_us
        return True

    def result(self) -> Simulation:
        total_us = self.now_us
        return Simulation(
            entered_us=tuple(self.entered_us.tolist()),
            left_us=tuple(np.maximum.accumulate(self.done_us).tolist()),
            stages=tuple(
                StageUse(
                    name=stage.name,
                    replicas=tuple(_use(server, total_us) for server in servers),
                    mean_waiting=_share(queue.frame_us, total_us),
                    most_waiting=queue.most,
                )
                for stage, servers, queue in zip(self.plan.stages, self.servers, self.queues, strict=True)
            ),
            timeline=tuple(sorted(self.timeline, key=lambda work: (work.start_us, work.stage, work.replica))),
        )


def _use(server: _Server, total_us: float) -> ReplicaUse:
    return ReplicaUse(busy=_share(server.busy_us, total_us), blocked=_share(server.blocked_us, total_us))


def _share(part_us: float, total_us: float) -> float:
    return part_us / total_us if total_us else 0.0


def _gamma(random: np.random.Generator, variation: float, shape: tuple[int, ...]) -> _Floats:
    """Return factors of mean 1 and this coefficient of variation."""
    if not variation:
        return np.ones(shape)
    return random.gamma(variation**-2, variation**2, shape)

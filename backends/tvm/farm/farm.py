"""Boards behind TVM's tracker, as many at once as are free: every job is done once, whatever boards do meanwhile.

One thread asks the tracker for boards as long as jobs wait; each board that it gives is served by a thread, and spoken
to by a process of its own. A board is probed before its first job and after each failure. See docs/board-farm.md.
"""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from typing import Any

from cospipe.backends.tvm.farm.board import Board, slow_boards
from cospipe.backends.tvm.farm.board_session import Work, probe, run_on_board, tvm_version_here
from cospipe.backends.tvm.farm.job import Done, Job, JobQueue
from cospipe.backends.tvm.farm.requirement import BoardFacts, BoardRequirement, board_problems, usable_cores
from cospipe.backends.tvm.farm.session_process import ProcessEndedError, SessionProcess
from cospipe.backends.tvm.farm.tracker import Offer, Tracker
from cospipe.backends.tvm.kernel_clock import build_clock
from cospipe.ir.errors import RemoteError, first_line, several

Report = Callable[[str, str], None]
"""Is told of a board and what is wrong with it."""

_WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class FarmOptions:
    """When a farm loses patience.

    Parameters
    ----------
    slowdown : float
        A board is left out when it takes this many times as long as boards of its key do, or as it did at first.
    failures : int
        A board is left out after so many failures in succession.
    patience_s : float
        Jobs fail when no board was busy with them or became free for so many seconds.
    grace_s : float
        How much longer than its job a connection may take before its board counts as hung, in seconds.
    """

    slowdown: float = 1.5
    failures: int = 2
    patience_s: float = 120.0
    grace_s: float = 30.0


class Farm:
    """All boards of one key, for jobs of one kind.

    Parameters
    ----------
    tracker : Tracker
        Knows the boards.
    requirement : BoardRequirement
        What they must be.
    report : callable
        Is told of every board that fails or is left out, and why; called from several threads.
    options : FarmOptions
        When it loses patience.
    modules : sequence of str
        What jobs import; imported before the first one, so that it does not count as a job's time.

    Raises
    ------
    RemoteError
        When there is no tracker, or it knows no board of this key.
    LoweringError
        When what is sent to boards cannot be compiled.
    """

    def __init__(
        self,
        tracker: Tracker,
        requirement: BoardRequirement,
        report: Report = lambda _board, _problem: None,
        options: FarmOptions | None = None,
        modules: Sequence[str] = (),
    ) -> None:
        addresses = tracker.boards()
        if not addresses:
            raise RemoteError(
                f"The tracker at {tracker.address} knows no board with the key {tracker.key!r}; start a server on each:"
                f" python -m tvm.exec.rpc_server --tracker {tracker.address} --key {tracker.key}"
            )
        self._tracker, self.requirement, self._report = tracker, requirement, report
        self.options = options or FarmOptions()
        self._folder = tempfile.TemporaryDirectory(prefix="cospipe-farm-")
        self._clock = build_clock(Path(self._folder.name), requirement.architecture)
        self._changed = Condition()
        self._busy, self._last_sign_s, self._closed = 0, time.monotonic(), False
        self._queue = JobQueue()
        self._modules = tuple(modules)
        self._boards = {address: self._new_board(address) for address in addresses}
        for board in self._boards.values():
            self._make_ready(board)
        self._dispatcher = Thread(target=self._dispatch, daemon=True, name="farm")
        self._dispatcher.start()

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything; jobs that are not done fail."""
        with self._changed:
            self._closed = True
            self._queue.fail_all("the farm was closed.")
            processes = [board.process for board in self._boards.values()]
            self._changed.notify_all()
        for process in processes:
            process.close()
        self._dispatcher.join()
        self._folder.cleanup()

    def submit(
        self, name: str, timeout_s: float, work: Work, arguments: Sequence[Any], cpu_ids: Sequence[int] = ()
    ) -> Future[Done]:
        """Let a function run on any board.

        Parameters
        ----------
        name : str
            What errors call the job.
        timeout_s : float
            How long it may take, in seconds.
        work : callable
            A function of a module; it gets a :class:`RemoteSession`, its :class:`KernelClock`, and the arguments.
        arguments : sequence
            They and the result are pickled.
        cpu_ids : sequence of int
            Cores that its kernels share; those of the requirement when empty.

        Returns
        -------
        Future of Done
            Fails with a :class:`RemoteError` when the job failed twice, or no board is left.
        """
        job = Job(name, timeout_s, work, tuple(arguments), tuple(cpu_ids))
        with self._changed:
            if self._closed:
                raise RemoteError("The farm was closed; open it again.")
            if not self._queue.is_waiting and not self._busy:
                self._last_sign_s = time.monotonic()
            self._queue.add(job)
            self._changed.notify_all()
        return job.future

    def boards_in_use(self) -> int:
        """Return how many boards the tracker knows that are not left out."""
        return len(self._boards_left())

    def left_out(self) -> dict[str, str]:
        """Return the boards that get no more work, each with the reason."""
        with self._changed:
            return {board.address: board.left_out for board in self._boards.values() if board.left_out}

    def _dispatch(self) -> None:
        try:
            while self._has_work():
                self._use_next_offer()
        finally:
            self._tracker.withdraw()
            with self._changed:
                self._queue.fail_all("the farm stopped.")

    def _use_next_offer(self) -> None:
        try:
            offer = self._tracker.wait_for_offer(_WAIT_SECONDS)
            if offer is None:
                self._check_that_boards_are_left()
            else:
                self._take(offer)
        except RemoteError as error:  # the tracker may come back; its boards then connect again
            self._tracker.withdraw()
            self._lose_patience(str(error).rstrip("."))
            time.sleep(_WAIT_SECONDS)

    def _has_work(self) -> bool:
        """Wait for jobs; False when there will be none any more."""
        with self._changed:
            if not self._queue.is_waiting and not self._closed:
                self._tracker.withdraw()
            self._changed.wait_for(lambda: self._queue.is_waiting or self._closed)
            return not self._closed

    def _boards_left(self) -> frozenset[str]:
        """Return the boards that the tracker lists and that are not left out; report those that it lists no more."""
        listed = self._tracker.boards()
        with self._changed:
            for board in self._boards.values():
                is_gone = board.address not in listed
                if is_gone and not board.is_gone and not board.left_out:
                    self._report(board.address, "the tracker lists it no more; it gets work again when it is back")
                if is_gone:
                    board.facts = None
                board.is_gone = is_gone
        return listed - self.left_out().keys()

    def _check_that_boards_are_left(self) -> None:
        left = sorted(self._boards_left())
        if left:
            self._lose_patience(f"none of {', '.join(left)} became free for {self.options.patience_s:g} s")
        else:
            self._give_up(f"no board is left at the tracker {self._tracker.address}")

    def _lose_patience(self, why: str) -> None:
        with self._changed:
            waited_s = time.monotonic() - self._last_sign_s
        if waited_s >= self.options.patience_s:
            self._give_up(why)

    def _give_up(self, why: str) -> None:
        """Fail all jobs that wait, unless some board is still busy with one."""
        with self._changed:
            gone = [
                f"{board.address}: the tracker lists it no more" for board in self._boards.values() if board.is_gone
            ]
            reasons = [f"{address}: {reason}" for address, reason in self.left_out().items()] + gone
            if not self._busy:
                self._queue.fail_all(several(why, reasons) if reasons else f"{why}.")

    def _take(self, offer: Offer) -> None:
        """Use a board that the tracker gave; what is not used offers itself again after some seconds."""
        others = self._boards_left() - {offer.board}
        with self._changed:
            if offer.board not in self._boards:
                board = self._boards[offer.board] = self._new_board(offer.board)
                Thread(target=self._make_ready, args=(board,), daemon=True).start()
            board = self._boards[offer.board]
            if board.left_out or not board.is_ready or self._closed:
                return
            self._last_sign_s = time.monotonic()
            serve: Callable[[], None] = lambda: self._probe(board, offer)  # noqa: E731
            if board.facts is not None:
                job = self._queue.take(board.address, is_alone=not others)
                if job is None:
                    return
                serve = lambda: self._run(board, offer, job)  # noqa: E731
            self._busy += 1
        Thread(target=self._serve, args=(serve,), daemon=True, name=f"farm-{board.address}").start()

    def _new_board(self, address: str) -> Board:
        return Board(address, SessionProcess(self._modules))

    def _make_ready(self, board: Board) -> None:
        """Start a board's process before a connection is offered, because an offer is good for a few seconds only."""
        try:
            board.process.wait_until_ready()
            board.is_ready = True
        except RemoteError as error:
            self._leave_out(board, str(error))

    def _serve(self, serve: Callable[[], None]) -> None:
        try:
            serve()
        finally:
            with self._changed:
                self._busy -= 1
                self._last_sign_s = time.monotonic()
                self._changed.notify_all()

    def _probe(self, board: Board, offer: Offer) -> None:
        cores = sorted(self.requirement.core_types)[:1]
        timeout_s = self.options.grace_s
        try:
            facts = self._call(board, offer, timeout_s, cores, probe, ())
        except RemoteError as error:
            # a board that did not even answer this will not do any job
            self._leave_out(board, f"it could not be probed: {error}")
            return
        self._judge(board, facts)

    def _judge(self, board: Board, facts: BoardFacts) -> None:
        problems = board_problems(facts, self.requirement, tvm_version_here())
        with self._changed:
            board.facts = facts
            board.first_reference_us = board.first_reference_us or facts.reference_us
            board.cpu_ids = usable_cores(facts, self.requirement)
        if problems:
            self._leave_out(board, "; ".join(problems))
            return
        with self._changed:
            known = [b for b in self._boards.values() if not b.left_out]
            slow = slow_boards(known, self.options.slowdown)
        for address, problem in slow.items():
            self._leave_out(self._boards[address], problem)

    def _run(self, board: Board, offer: Offer, job: Job) -> None:
        try:
            value = self._call(board, offer, job.timeout_s, job.cpu_ids or board.cpu_ids, job.work, job.arguments)
        except RemoteError as error:
            self._failed(board, job, error)
            return
        except Exception as error:
            job.fail(RemoteError(f"{job.name} cannot be sent to a process of its own: {first_line(error)}."))
            return
        with self._changed:
            board.failures = 0
        job.finish(Done(value, board.name))

    def _call(
        self, board: Board, offer: Offer, timeout_s: float, cpu_ids: Sequence[int], work: Work, arguments: Sequence[Any]
    ) -> Any:
        with board.lock:
            whole = (offer, timeout_s, self._clock, tuple(cpu_ids), pickle.dumps((work, tuple(arguments))))
            return board.process.call(run_on_board, whole, timeout_s + self.options.grace_s)

    def _failed(self, board: Board, job: Job, error: RemoteError) -> None:
        with self._changed:
            if self._closed:
                job.fail(RemoteError(f"{job.name} was not done: the farm was closed."))
                return
            board.failures += 1
            board.facts = None
            is_at_fault = self._queue.put_back(job, board.address, str(error))
            if is_at_fault:
                for address, _ in job.failures:
                    self._boards[address].failures = 0
        self._report(board.address, f"{job.name} failed: {error}")
        if isinstance(error, ProcessEndedError):
            self._leave_out(board, str(error))
        elif board.failures >= self.options.failures:
            self._leave_out(board, f"{board.failures} jobs in succession failed, the last one with: {error}")

    def _leave_out(self, board: Board, reason: str) -> None:
        with self._changed:
            if board.left_out or self._closed:
                return
            board.left_out = reason
        self._report(board.address, f"left out: {reason}")

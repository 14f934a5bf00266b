"""Which board gets a job, and who is to blame when it fails."""

import pytest

from cospipe.backends.tvm.farm.job import Done, Job, JobQueue, NoBoardLeftError
from cospipe.ir.errors import RemoteError


def jobs(*names):
    made = [Job(name, 1.0, print, ()) for name in names]
    queue = JobQueue()
    for job in made:
        queue.add(job)
    return queue, made


def test_the_oldest_goes_first_but_not_to_a_board_that_it_failed_on():
    queue, (first, second) = jobs("first", "second")
    assert queue.take("a", is_alone=False) is first
    assert not queue.put_back(first, "a", "lost")
    assert queue.take("a", is_alone=False) is second
    assert queue.take("a", is_alone=False) is None
    assert queue.take("b", is_alone=False) is first


def test_the_only_board_tries_again():
    queue, (job,) = jobs("job")
    queue.take("a", is_alone=True)
    queue.put_back(job, "a", "lost")
    assert queue.take("a", is_alone=True) is job


def test_two_failures_are_the_fault_of_the_job():
    queue, (job,) = jobs("job")
    queue.take("a", is_alone=False)
    assert not queue.put_back(job, "a", "one thing")
    queue.take("b", is_alone=False)
    assert queue.put_back(job, "b", "another")
    assert not queue.is_waiting
    with pytest.raises(RemoteError, match=r"(?s)job failed on every board.*a: one thing.*b: another"):
        job.future.result(timeout=0)


def test_all_that_wait_are_given_up():
    queue, waiting = jobs("first", "second")
    queue.fail_all("no board is left.")
    for job in waiting:
        with pytest.raises(NoBoardLeftError, match=f"{job.name} was not done: no board is left"):
            job.future.result(timeout=0)


def test_a_result_that_nobody_wants_is_dropped():
    _, (job,) = jobs("job")
    job.future.cancel()
    job.finish(Done(1, "a"))
    assert job.future.cancelled()

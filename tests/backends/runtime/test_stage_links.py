"""A queue with room for a few: it keeps the order, makes fast writers wait, and closing it ends every wait."""

import threading
import time
from math import inf

import pytest

from cospipe.backends.runtime.link import Link


def in_thread(work):
    results = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    return thread, results


def test_items_come_out_in_order():
    link = Link(inf)
    assert all(link.put(number) for number in range(100))
    assert [link.get() for _ in range(100)] == list(range(100))


def test_whoever_brings_one_too_many_waits_until_one_is_taken():
    link = Link(2)
    assert link.put("a")
    assert link.put("b")
    thread, results = in_thread(lambda: link.put("c"))
    thread.join(0.1)
    assert thread.is_alive()
    assert link.get() == "a"
    thread.join(5)
    assert results == [True]
    assert [link.get(), link.get()] == ["b", "c"]


@pytest.mark.parametrize("wait", [lambda link: link.put("b"), lambda link: (link.get(), link.get())[1]])
def test_closing_ends_a_wait(wait):
    link = Link(1)
    link.put("a")
    thread, results = in_thread(lambda: wait(link))
    time.sleep(0.05)
    link.close()
    thread.join(5)
    assert not thread.is_alive()
    assert not results[0]


def test_a_closed_link_takes_and_gives_nothing():
    link = Link(3)
    link.put("a")
    link.close()
    assert link.put("b") is False
    assert link.get() is None


def test_several_readers_and_writers_lose_nothing():
    link, taken = Link(3), []
    writers = [threading.Thread(target=lambda n=n: [link.put((n, i)) for i in range(500)]) for n in range(3)]
    readers = [in_thread(lambda: [taken.append(item) for item in iter(link.get, None)])[0] for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    while len(taken) < 1500:
        time.sleep(0.01)
    link.close()
    for reader in readers:
        reader.join(5)
    assert sorted(taken) == [(n, i) for n in range(3) for i in range(500)]


def test_whoever_takes_an_item_is_told_how_many_wait_behind_it():
    link = Link(inf)
    for number in range(3):
        link.put(number)
    assert [link.take() for _ in range(3)] == [(0, 2), (1, 1), (2, 0)]
    assert len(link) == 0
    assert not link.is_closed
    link.close()
    assert link.is_closed
    assert link.take() is None

"""Jobs for boards: functions of a module, as a farm wants them."""

import time


def note(session, clock, folder, number, seconds=0.0):
    """Keep a board busy for some time; write down where this job started, and that it was done."""
    with open(folder / "started", "a") as lines:
        lines.write(f"{session.address}\n")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        clock.reference_us()
    with open(folder / "done", "a") as lines:
        lines.write(f"{number}\n")
    return number


def fail(_session, _clock):
    """Fail on every board."""
    raise ValueError("this never works.")


def cores(_session, clock):
    """Return the cores that the serving thread may use."""
    status = clock.read("/proc/thread-self/status")
    return next(line.split()[1] for line in status.splitlines() if line.startswith("Cpus_allowed_list"))

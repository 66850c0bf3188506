"""Other programs' work makes the machine busy; our own, children with it, does not."""

import subprocess
import sys
import time
from multiprocessing import get_context

from node.household.activity import OwnerActivity

BURN = "import time; end = time.monotonic() + {s}\nwhile time.monotonic() < end: pass"


def burn(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def look_on(connection) -> None:
    """In a process of its own: whoever burns beside it is somebody else to it."""
    activity = OwnerActivity()
    begun = time.monotonic()
    activity.quiet_s(begun)
    connection.send("looking")
    connection.recv()
    # as if no time had passed but what was burnt: the share of it is then beyond every limit
    connection.send(activity.quiet_s(begun + 0.05))
    burn(0.3)
    connection.send(activity.quiet_s(begun + 1000.0))


def test_what_others_take_counts_and_our_own_does_not():
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=look_on, args=(theirs,))
    process.start()
    assert ours.recv() == "looking"
    subprocess.run([sys.executable, "-c", BURN.format(s=0.5)], check=True)
    ours.send("done")
    assert ours.recv() == 0.0
    # the machine was quiet for the rest of a very long while, whatever that process itself did
    assert ours.recv() > 900.0
    process.join(10)
    assert process.exitcode == 0

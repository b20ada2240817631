"""Removes what a testbed made once its owner has closed it or is no more, however it ended: `watchdog.start`.

Run by path, in a session of its own, with the namespaces' names as arguments; its standard input is a pipe that the
owner alone holds open. It imports nothing of Distredge, so that it is up at once.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time

PATIENCE_S = 10.0
"""For processes inside to end by themselves: they have their own end of a pipe."""


def main() -> None:
    """Waits for the end of standard input, then removes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 65536):
        pass
    names = sys.argv[1:]
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s and any(_pids(name) for name in names):
        time.sleep(0.05)
    for name in names:
        for pid in _pids(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _pids(name: str) -> list[int]:
    found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    own = os.getpid()
    return [int(pid) for pid in found.stdout.split() if int(pid) != own] if found.returncode == 0 else []


if __name__ == "__main__":
    main()

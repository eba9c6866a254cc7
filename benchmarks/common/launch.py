"""Become a command that is killed when the process that asked for it ends: python -S launch.py PARENT COMMAND …

It imports little and starts in milliseconds, for commands are timed.
"""

import ctypes
import os
import signal
import sys

if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):  # it ended before it could be told to take this one along
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])

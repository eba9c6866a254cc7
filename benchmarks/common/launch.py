"""Become a command that is killed when the process that asked for it ends: python -S launch.py COMMAND …

It imports little and starts in milliseconds, for commands are timed.
"""

import ctypes
import os
import signal
import sys

parent = os.getppid()
if sys.platform == "linux":
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
os.execvp(sys.argv[1], sys.argv[1:])

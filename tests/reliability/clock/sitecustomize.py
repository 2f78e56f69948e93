"""A wall clock that can be moved under a running process: put this folder on PYTHONPATH of the process.

`time.time` is moved by the number of seconds in the file that CLOCK_OFFSET_FILE names. Monotonic clocks, which timeouts
and backoff go by, do not jump on a real machine either.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_real = time.time
_file = Path(os.environ["CLOCK_OFFSET_FILE"])


def _moved() -> float:
    return _real() + float(_file.read_text() or 0)


time.time = _moved

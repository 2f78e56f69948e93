"""Another name server for outputs: put this folder on PYTHONPATH of the process.

`TEST_NAMESERVER` is its address, as `ip:port`. Only root could write another /etc/resolv.conf.
"""

from __future__ import annotations

import os

from auditpipeline.dataplane.outputs import cares

cares.NAMESERVERS = [os.environ["TEST_NAMESERVER"]]

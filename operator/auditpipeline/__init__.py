"""Dynamic auditing for every Kubernetes cluster."""

from importlib.metadata import version

__version__ = version("auditpipeline")

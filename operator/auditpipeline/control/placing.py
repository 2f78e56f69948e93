"""Where a pipeline's receivers live. Pure.

Their claims hold events that were acknowledged, and a claim cannot be moved. So receivers that are already in the
operator's own namespace, where earlier releases made them, stay there, whatever the operator's settings say; new ones
go into the namespace of receivers. What decides is what is there, owned by this AuditPipeline's UID: nothing has to be
remembered, and a restart changes nothing.
"""

from __future__ import annotations

from auditpipeline.control.seen import Seen
from auditpipeline.control.settings import Settings
from auditpipeline.core.spec import Pipeline


def namespace_of(pipeline: Pipeline, settings: Settings, seen: Seen) -> str:
    """The namespace of a pipeline's children. `seen` has to know what is in the operator's own namespace."""
    target = pipeline.spec.target_namespace
    if target:
        return target
    return settings.namespace if _lives_in(settings.namespace, pipeline, seen) else settings.home


def _lives_in(namespace: str, pipeline: Pipeline, seen: Seen) -> bool:
    meta = pipeline.metadata
    return any(key[1] == namespace and entry.owner == meta.uid for key, entry in seen.of(meta.name).items())


def not_served(namespace: str, settings: Settings) -> str:
    """What the status says of a namespace that the operator was not given."""
    mend = _mend(namespace, settings)
    if namespace == settings.namespace:
        return (
            f"namespace {namespace} is the operator's own, where it changes no receivers: {mend}. "
            "Receivers that are there already go on, and their certificate is not renewed"
        )
    return f"the operator does not serve namespace {namespace}: {mend}"


def not_granted(namespace: str, settings: Settings) -> str:
    """What gives the operator the permissions that it lacks in a namespace."""
    return f"{_mend(namespace, settings)}, or grant it otherwise"


def _mend(namespace: str, settings: Settings) -> str:
    if namespace == settings.home:
        return f"install the chart's permissions for {namespace} (its value receivers.namespace)"
    if namespace == settings.namespace:
        return "set receivers.legacy of the chart to true, or move the pipeline (docs/operations.md)"
    return f"add {namespace} to targetNamespaces of the chart"

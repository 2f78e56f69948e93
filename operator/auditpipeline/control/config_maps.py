"""ConfigMaps of the operator's own. No watch shows them: the API server is asked each time."""

from __future__ import annotations

from typing import Any

from auditpipeline.control.desired import Manifest
from auditpipeline.control.ownership import ABSENT, Whose, taken, whose
from auditpipeline.control.resources import CONFIG_MAPS
from auditpipeline.control.world import World


async def publish(world: World, manifest: Manifest) -> bool:
    """Have the cluster hold a ConfigMap; True if it had to be written. NameTaken if it is somebody else's, Conflict if
    it was changed meanwhile."""
    meta = manifest["metadata"]
    stored = await world.kube.get(CONFIG_MAPS, meta["name"], meta["namespace"])
    if stored and whose(manifest, stored) is not Whose.OURS:
        raise taken(manifest)
    if stored and _holds(stored, manifest):
        return False
    # Checked by the API server with the write: nobody else's object can have come between (`world.ensure`).
    condition = {"uid": stored["metadata"]["uid"]} if stored else {"resourceVersion": ABSENT}
    await world.kube.apply(CONFIG_MAPS, {**manifest, "metadata": {**meta, **condition}})
    return True


def _holds(stored: dict[str, Any], wanted: Manifest) -> bool:
    labels = stored["metadata"].get("labels") or {}
    return bool(stored.get("data") == wanted["data"] and wanted["metadata"]["labels"].items() <= labels.items())

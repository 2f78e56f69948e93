"""What Kubernetes serves by itself: resources and subresources by API group, and which have no namespace.

For hints only: what is not in these tables may still exist (a newer Kubernetes, a CRD, an aggregated API server).
Source: the discovery of kube-apiserver 1.20 to 1.36 with every API group switched on, and metrics-server.
"""

from __future__ import annotations

_TABLE = """
: bindings componentstatuses configmaps endpoints events limitranges namespaces/finalize,status nodes/proxy,status
: persistentvolumeclaims/status persistentvolumes/status podtemplates replicationcontrollers/scale,status
: pods/attach,binding,ephemeralcontainers,eviction,exec,log,portforward,proxy,resize,status
: resourcequotas/status secrets serviceaccounts/token services/proxy,status
admissionregistration.k8s.io: mutatingwebhookconfigurations validatingadmissionpolicies/status
admissionregistration.k8s.io: validatingadmissionpolicybindings validatingwebhookconfigurations
admissionregistration.k8s.io: mutatingadmissionpolicies mutatingadmissionpolicybindings
apiextensions.k8s.io: customresourcedefinitions/status
apiregistration.k8s.io: apiservices/status
apps: controllerrevisions daemonsets/status deployments/scale,status replicasets/scale,status statefulsets/scale,status
auditpipeline.dev: auditpipelines/status
auditregistration.k8s.io: auditsinks
authentication.k8s.io: selfsubjectreviews tokenreviews
authorization.k8s.io: localsubjectaccessreviews selfsubjectaccessreviews selfsubjectrulesreviews subjectaccessreviews
autoscaling: horizontalpodautoscalers/status
batch: cronjobs/status jobs/status
certificates.k8s.io: certificatesigningrequests/approval,status clustertrustbundles podcertificaterequests/status
coordination.k8s.io: leases leasecandidates
discovery.k8s.io: endpointslices
events.k8s.io: events
extensions: daemonsets/status deployments/rollback,scale,status ingresses/status networkpolicies podsecuritypolicies
extensions: replicasets/scale,status
flowcontrol.apiserver.k8s.io: flowschemas/status prioritylevelconfigurations/status
internal.apiserver.k8s.io: storageversions/status
metrics.k8s.io: nodes pods
networking.k8s.io: ingressclasses ingresses/status ipaddresses networkpolicies servicecidrs/status
node.k8s.io: runtimeclasses
policy: poddisruptionbudgets/status podsecuritypolicies
rbac.authorization.k8s.io: clusterrolebindings clusterroles rolebindings roles
resource.k8s.io: deviceclasses devicetaintrules resourceclaims/binding,driver,status resourceclaimtemplates
resource.k8s.io: resourceslices
scheduling.k8s.io: priorityclasses workloads
settings.k8s.io: podpresets
storage.k8s.io: csidrivers csinodes csistoragecapacities storageclasses volumeattachments/status volumeattributesclasses
storagemigration.k8s.io: storageversionmigrations/status
"""

_CLUSTER_SCOPED = """
componentstatuses nodes persistentvolumes mutatingwebhookconfigurations validatingadmissionpolicies
validatingadmissionpolicybindings validatingwebhookconfigurations customresourcedefinitions apiservices auditsinks
auditpipelines selfsubjectreviews tokenreviews selfsubjectaccessreviews selfsubjectrulesreviews subjectaccessreviews
certificatesigningrequests flowschemas prioritylevelconfigurations ingressclasses runtimeclasses clusterrolebindings
clusterroles priorityclasses csidrivers csinodes storageclasses volumeattachments volumeattributesclasses
podsecuritypolicies
"""
CLUSTER_SCOPED = frozenset(_CLUSTER_SCOPED.split())

SHORT_NAMES = {
    "cm": "configmaps",
    "cs": "componentstatuses",
    "ep": "endpoints",
    "ev": "events",
    "limits": "limitranges",
    "no": "nodes",
    "ns": "namespaces",
    "pv": "persistentvolumes",
    "pvc": "persistentvolumeclaims",
    "po": "pods",
    "quota": "resourcequotas",
    "rc": "replicationcontrollers",
    "rs": "replicasets",
    "sa": "serviceaccounts",
    "svc": "services",
    "crd": "customresourcedefinitions",
    "crds": "customresourcedefinitions",
    "deploy": "deployments",
    "ds": "daemonsets",
    "sts": "statefulsets",
    "hpa": "horizontalpodautoscalers",
    "cj": "cronjobs",
    "csr": "certificatesigningrequests",
    "ing": "ingresses",
    "netpol": "networkpolicies",
    "pdb": "poddisruptionbudgets",
    "pc": "priorityclasses",
    "sc": "storageclasses",
}


def _parse(table: str) -> dict[str, dict[str, frozenset[str]]]:
    groups: dict[str, dict[str, frozenset[str]]] = {}
    for line in table.strip().splitlines():
        group, _, words = line.partition(":")
        for word in words.split():
            resource, _, subresources = word.partition("/")
            groups.setdefault(group, {})[resource] = frozenset(subresources.split(",")) - {""}
    return groups


GROUPS = _parse(_TABLE)
SUBRESOURCES = frozenset(sub for resources in GROUPS.values() for subs in resources.values() for sub in subs)
_OLD = ("extensions", "metrics.k8s.io", "events.k8s.io")


def groups_of(resource: str) -> list[str]:
    """The groups that serve a resource of that name, today's before those that are gone or serve a copy."""
    return sorted((group for group, known in GROUPS.items() if resource in known), key=lambda group: group in _OLD)


def group_of(resource: str) -> str:
    """The group that kubectl takes for the resource; the core group where it is not built in."""
    return next(iter(groups_of(resource)), "")

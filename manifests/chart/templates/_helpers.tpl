{{/*
Names are fixed and do not depend on the release: AuditPipelines and AuditSinks belong to the whole cluster, so there is
one installation in it, and the controller knows the gateway by its name.
*/}}
{{- define "auditpipeline.operator" -}}auditpipeline-operator{{- end }}
{{- define "auditpipeline.gateway" -}}auditpipeline-gateway{{- end }}

{{/* Labels of every object; the argument is a list of the root and the component's name. */}}
{{- define "auditpipeline.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/part-of: auditpipeline
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_") }}
{{- end }}

{{- define "auditpipeline.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Every namespace that webhook Pods may be in, as a JSON list. */}}
{{- define "auditpipeline.namespaces" -}}
{{- $namespaces := prepend .Values.targetNamespaces .Values.receivers.namespace -}}
{{- if include "auditpipeline.legacy" . -}}
{{- $namespaces = append $namespaces .Release.Namespace -}}
{{- end -}}
{{- $namespaces | uniq | toJson -}}
{{- end }}

{{/* Whether webhook Pods of an earlier release are looked after in the release's own namespace: "true" or "". */}}
{{- define "auditpipeline.legacy" -}}
{{- $wanted := toString .Values.receivers.legacy -}}
{{- if eq $wanted "true" -}}
true
{{- else if eq $wanted "auto" -}}
{{- range (lookup "apps/v1" "StatefulSet" .Release.Namespace "").items -}}
{{- if eq (dig "metadata" "labels" "app.kubernetes.io/name" "" .) "auditpipeline-receiver" }}true{{ end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
Whether the operator may annotate the Pods of a namespace, so that kubelet refreshes their Secrets at once; the argument is
a list of the root and the namespace. Whoever may patch Pods may give them another image, so that it takes a policy that
bounds what of them changes, or a namespace of Pods without any privilege.
*/}}
{{- define "auditpipeline.mayAnnotate" -}}
{{- $root := index . 0 -}}
{{- $apart := and (eq (index . 1) $root.Values.receivers.namespace) (ne (index . 1) $root.Release.Namespace) -}}
{{- if or $apart (include "auditpipeline.admissionPolicy" $root) -}}
true
{{- end -}}
{{- end }}

{{/*
Whether the AuditSink CRD is ours to install: "true" or "". By version and not by what the API serves, since after the
first install the API serves our own CRD and `auto` would take it away at the next upgrade.
*/}}
{{- define "auditpipeline.auditSinkCRD" -}}
{{- $wanted := toString .Values.crds.auditSink -}}
{{- if or (eq $wanted "true") (and (eq $wanted "auto") (semverCompare ">=1.19-0" .Capabilities.KubeVersion.Version)) -}}
true
{{- end -}}
{{- end }}

{{/* Whether the admission policies are installed: "true" or "". */}}
{{- define "auditpipeline.admissionPolicy" -}}
{{- $wanted := toString .Values.admissionPolicy.enabled -}}
{{- if or (eq $wanted "true") (and (eq $wanted "auto") (semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version)) -}}
true
{{- end -}}
{{- end }}

{{/*
Whether pipelines and AuditSinks may opt out of redaction: "allow" or "refuse". The admission policies ask who does it, so that
the operator need not; without them redaction.allowOptOut decides.
*/}}
{{- define "auditpipeline.optOut" -}}
{{- if or (include "auditpipeline.admissionPolicy" .) (.Values.redaction).allowOptOut -}}
allow
{{- else -}}
refuse
{{- end -}}
{{- end }}

{{/* Where Events of cluster-scoped objects are written: events.k8s.io/v1 came with 1.19, and the namespace changed. */}}
{{- define "auditpipeline.eventsNamespace" -}}
{{- semverCompare ">=1.19-0" .Capabilities.KubeVersion.Version | ternary "default" "kube-system" -}}
{{- end }}

{{/* The Pod's and the container's part of Pod Security "restricted". */}}
{{- define "auditpipeline.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "auditpipeline.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/*
What a gateway's Pod is, whichever kind makes it. Its place: null stands for the kind's own default, and what is given, an
empty map or list too, for itself.
*/}}
{{- define "auditpipeline.gatewayPlace" -}}
{{- $gateway := .Values.gateway -}}
{{- $onNodes := eq $gateway.kind "DaemonSet" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $gateway.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- $selector := $gateway.nodeSelector }}
{{- if and (kindIs "invalid" $selector) $onNodes }}
{{- $selector = dict "node-role.kubernetes.io/control-plane" "" }}
{{- end }}
{{- with $selector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := $gateway.tolerations }}
{{- if and (kindIs "invalid" $tolerations) $onNodes }}
{{- $tolerations = list (dict "operator" "Exists") }}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The container but for its name, image, ports and mounts. */}}
{{- define "auditpipeline.gatewayContainer" -}}
args: [serve, --config, /etc/auditpipeline/config/config.json]
# Before the controller has written the configuration nothing answers: that is waiting, not failing.
startupProbe:
  httpGet: {path: /healthz, port: ops, scheme: HTTPS}
  periodSeconds: 5
  failureThreshold: 120
readinessProbe:
  httpGet: {path: /readyz, port: ops, scheme: HTTPS}
  periodSeconds: 5
  timeoutSeconds: 5
livenessProbe:
  httpGet: {path: /healthz, port: ops, scheme: HTTPS}
  periodSeconds: 20
  timeoutSeconds: 5
  failureThreshold: 6
resources:
  {{- toYaml .Values.gateway.resources | nindent 2 }}
securityContext:
  {{- include "auditpipeline.podSecurity" . | nindent 2 }}
  {{- include "auditpipeline.containerSecurity" . | nindent 2 }}
{{- end }}

{{/*
The volumes that the controller fills. The configuration is in one Secret, and goes on in others if that is full: all of
their names are here from the beginning, so that none of them restarts a Pod.
*/}}
{{- define "auditpipeline.gatewaySecrets" -}}
- name: config
  projected:
    sources:
    - secret: {name: auditpipeline-gateway-config, optional: true}
    {{- range $number := untilStep 1 32 1 }}
    - secret: {name: auditpipeline-gateway-config-{{ $number }}, optional: true}
    {{- end }}
- name: tls
  secret: {secretName: auditpipeline-gateway-tls, optional: true}
{{- end }}

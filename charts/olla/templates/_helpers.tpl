{{/* Names are fixed: one operator serves a cluster, and its certificate carries the Service's name. */}}
{{- define "olla.selector" -}}
app.kubernetes.io/name: olla-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "olla.labels" -}}
{{ include "olla.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: olla
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* What --gateway-defaults takes, as JSON. */}}
{{- define "olla.gatewayDefaults" -}}
{{- $defaults := dict "spec" .Values.gateways.defaults "allowImage" .Values.gateways.allowImage }}
{{- $_ := set $defaults "imagePullPolicy" .Values.dataPlane.image.pullPolicy }}
{{- $_ := set $defaults "imagePullSecrets" .Values.dataPlane.image.pullSecrets }}
{{- with .Values.gateways.metricsFrom }}
{{- $_ := set $defaults "metricsFrom" . }}
{{- end }}
{{- toJson $defaults }}
{{- end }}

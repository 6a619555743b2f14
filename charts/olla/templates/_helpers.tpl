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

{{/* The reference of an image: of .image (repository, tag, digest) below the registry of all. */}}
{{- define "olla.image" -}}
{{- $registry := .root.Values.image.registry -}}
{{- if not $registry -}}
{{- fail "image.registry: required, the registry that holds the images; build and push them with `deploy/images/build --registry REGISTRY --push`, then use --set image.registry=REGISTRY" -}}
{{- end -}}
{{- if or (contains "://" $registry) (hasSuffix "/" $registry) -}}
{{- fail (printf "image.registry: %q must be a host with an optional path, without scheme and trailing slash" $registry) -}}
{{- end -}}
{{- $name := printf "%s/%s" $registry .image.repository -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{- define "olla.operatorImage" -}}
{{- include "olla.image" (dict "root" . "image" .Values.image) -}}
{{- end }}

{{- define "olla.dataPlaneImage" -}}
{{- include "olla.image" (dict "root" . "image" .Values.dataPlane.image) -}}
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

{{- /* What --injection-defaults takes, as JSON. */}}
{{- define "olla.injectionDefaults" -}}
{{- $defaults := dict "resources" .Values.injection.resources }}
{{- $_ := set $defaults "imagePullPolicy" .Values.dataPlane.image.pullPolicy }}
{{- $_ := set $defaults "imagePullSecrets" .Values.dataPlane.image.pullSecrets }}
{{- toJson $defaults }}
{{- end }}

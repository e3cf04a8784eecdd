{{/* The server's name, and how all other names begin: RELEASE, or RELEASE-vault if that does not have it. */}}
{{- define "vault.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "vault.injector" -}}
{{ include "vault.fullname" . }}-agent-injector
{{- end -}}

{{/* What the server's Services and StatefulSet know its pods by. */}}
{{- define "vault.serverSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
component: server
{{- end -}}

{{/* And the injector's. Its name is also how the webhook leaves the injector's own pods out. */}}
{{- define "vault.injectorSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-agent-injector
app.kubernetes.io/instance: {{ .Release.Name }}
component: webhook
{{- end -}}

{{- define "vault.labels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "vault.serverLabels" -}}
{{ include "vault.serverSelector" . }}
{{ include "vault.labels" . }}
{{- end -}}

{{- define "vault.injectorLabels" -}}
{{ include "vault.injectorSelector" . }}
{{ include "vault.labels" . }}
{{- end -}}

{{/* No container can become more than it is. */}}
{{- define "vault.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

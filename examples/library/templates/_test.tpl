{{/* What `helm test` runs: the Service answers. */}}
{{- define "library.test" -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "library.fullname" . }}-test
  labels:
    app.kubernetes.io/managed-by: {{ .Release.Service }}
    helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  securityContext:
    {{- include "library.podSecurity" . | nindent 4 }}
  containers:
    - name: test
      image: {{ .Values.toolsImage }}
      command: [wget, -qO-, "http://{{ include "library.fullname" . }}:{{ .Values.service.port }}/healthz"]
      securityContext:
        {{- include "library.containerSecurity" . | nindent 8 }}
{{- end -}}

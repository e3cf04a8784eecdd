{{/* A Service without an address of its own. It gives each pod a name: POD.SERVICE */}}
{{- define "library.headless" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "library.fullname" . }}-headless
  labels:
    {{- include "library.labels" . | nindent 4 }}
spec:
  clusterIP: None
  selector:
    {{- include "library.selectorLabels" . | nindent 4 }}
  ports:
    - name: http
      port: {{ .Values.containerPort }}
      targetPort: http
{{- end -}}

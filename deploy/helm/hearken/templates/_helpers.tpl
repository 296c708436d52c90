{{- define "hearken.labels" -}}
app.kubernetes.io/name: hearken
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The variables of every process. */}}
{{- define "hearken.environment" -}}
envFrom:
  - secretRef: {name: {{ .Values.secret }}}
  - configMapRef: {name: {{ .Release.Name }}-hearken}
{{- end -}}

{{/* Nothing may be written but the shared volume, by the trainer, and /tmp. */}}
{{- define "hearken.security" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

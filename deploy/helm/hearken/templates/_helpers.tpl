{{- define "hearken.labels" -}}
app.kubernetes.io/name: hearken
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Environment of a process: the settings, the database URL, and the other secrets that it needs or may have. */}}
{{- define "hearken.environment" -}}
envFrom:
  - configMapRef: {name: {{ .root.Release.Name }}-hearken}
env:
  {{- range prepend .needs "HEARKEN_DATABASE_URL" }}
  - {name: {{ . }}, valueFrom: {secretKeyRef: {name: {{ $.root.Values.secret }}, key: {{ . }}}}}
  {{- end }}
  {{- range .takes }}
  - {name: {{ . }}, valueFrom: {secretKeyRef: {name: {{ $.root.Values.secret }}, key: {{ . }}, optional: true}}}
  {{- end }}
{{- end -}}

{{- define "hearken.unprivileged" -}}
runAsNonRoot: true
runAsUser: 10001
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Only /tmp is writable, and the shared volume for the trainer. */}}
{{- define "hearken.security" -}}
securityContext:
  readOnlyRootFilesystem: true
  {{- include "hearken.unprivileged" . | nindent 2 }}
{{- end -}}

{{/* Waits until the trainer has put the base model there, which it does by renaming a folder that is whole. */}}
{{- define "hearken.base" -}}
- name: base
  image: {{ .image }}
  command:
    - sh
    - -c
    - >-
      trap exit TERM; [ -f /data/base/config.json ] || echo "Waiting for the base model";
      until [ -f /data/base/config.json ]; do sleep 2; done
  {{- include "hearken.security" . | nindent 2 }}
  volumeMounts:
    - {name: data, mountPath: /data, readOnly: true}
{{- end -}}

{{/* Adapter slots of vLLM: one more where the trainer samples on it. */}}
{{- define "hearken.adapters" -}}
{{ add .Values.vllm.maxAdapters (ternary 0 1 (eq (get .Values.settings "TRAINER__RL__SAMPLER") "in_process")) }}
{{- end -}}

{{/* Changes with the settings, which processes read when they start: so their pods are replaced. */}}
{{- define "hearken.settings" -}}
{{ include (print .Template.BasePath "/settings.yaml") . | sha256sum }}
{{- end -}}

{{/* Resources with so many GPUs beside the limits that are given. */}}
{{- define "hearken.resources" -}}
{{- $gpus := ternary (dict "limits" (dict "nvidia.com/gpu" .gpus)) (dict) (gt (int .gpus) 0) -}}
{{ merge $gpus .resources | toYaml }}
{{- end -}}

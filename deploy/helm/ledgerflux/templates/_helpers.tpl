{{- define "ledgerflux.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels that never change: (dict "root" . "part" "gateway") */}}
{{- define "ledgerflux.selector" -}}
app.kubernetes.io/name: ledgerflux
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "ledgerflux.labels" -}}
{{ include "ledgerflux.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "ledgerflux.account" -}}
{{- if .Values.serviceAccount.name }}{{ .Values.serviceAccount.name }}{{ else if .Values.serviceAccount.create }}{{ include "ledgerflux.name" . }}{{ else }}default{{ end }}
{{- end }}

{{- define "ledgerflux.natsUrls" -}}
{{- if .Values.nats.enabled }}nats://{{ .Release.Name }}-nats:4222{{ else }}{{ required "nats.urls: say where NATS is, or set nats.enabled" .Values.nats.urls }}{{ end }}
{{- end }}

{{- define "ledgerflux.temporalAddress" -}}
{{- if .Values.temporal.enabled }}{{ .Release.Name }}-temporal:7233{{ else }}{{ required "temporal.address: say where Temporal is, or set temporal.enabled" .Values.temporal.address }}{{ end }}
{{- end }}

{{/* The pod of every service: (dict "root" . "part" "gateway" "module" "workers.gateway" …), with
     "env", "ports" and "probes" where they are not those of a worker. */}}
{{- define "ledgerflux.pod" -}}
{{- $root := .root }}
metadata:
  labels:
    {{- include "ledgerflux.labels" . | nindent 4 }}
  annotations:
    checksum/settings: {{ include (print $root.Template.BasePath "/configmap.yaml") $root | sha256sum }}
spec:
  serviceAccountName: {{ include "ledgerflux.account" $root }}
  automountServiceAccountToken: false
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets: {{ toYaml . | nindent 4 }}
  {{- end }}
  terminationGracePeriodSeconds: {{ .grace | default 30 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile: { type: RuntimeDefault }
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "ledgerflux.selector" . | nindent 10 }}
  {{- with $root.Values.nodeSelector }}
  nodeSelector: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.tolerations }}
  tolerations: {{ toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .part }}
      image: {{ .image | default (printf "%s:%s" $root.Values.image.repository ($root.Values.image.tag | default $root.Chart.AppVersion)) }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [python, -m, {{ .module }}]
      envFrom:
        - configMapRef: { name: {{ include "ledgerflux.name" $root }} }
        {{- with $root.Values.global.existingSecret }}
        - secretRef: { name: {{ . }} }
        {{- end }}
      {{- with .env }}
      env: {{ toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - { name: metrics, containerPort: 9100 }
        {{- if .http }}
        - { name: http, containerPort: 8000 }
        {{- end }}
      {{- if .http }}
      startupProbe:
        httpGet: { path: /healthz, port: http }
        periodSeconds: 2
        failureThreshold: 60
      readinessProbe:
        httpGet: { path: /readyz, port: http }
        periodSeconds: 3
        timeoutSeconds: 3
      livenessProbe:
        httpGet: { path: /healthz, port: http }
        periodSeconds: 10
        timeoutSeconds: 5
      lifecycle:
        preStop:
          exec: { command: [sleep, {{ $root.Values.gateway.preStopSeconds | quote }}] }
      {{- else }}
      startupProbe:
        httpGet: { path: /healthz, port: metrics }
        periodSeconds: 2
        failureThreshold: 60
      readinessProbe:
        httpGet: { path: /healthz, port: metrics }
        periodSeconds: 5
        timeoutSeconds: 3
      livenessProbe:
        httpGet: { path: /healthz, port: metrics }
        periodSeconds: 10
        timeoutSeconds: 5
      {{- end }}
      resources: {{ toYaml .resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: { drop: [ALL] }
      volumeMounts:
        - { name: tmp, mountPath: /tmp }
        {{- range $name, $tls := $root.Values.tls }}
        {{- if $tls.secretName }}
        - { name: tls-{{ $name }}, mountPath: /etc/ledgerflux/tls/{{ $name }}, readOnly: true }
        {{- end }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: { sizeLimit: 256Mi }
    {{- range $name, $tls := $root.Values.tls }}
    {{- if $tls.secretName }}
    - name: tls-{{ $name }}
      secret: { secretName: {{ $tls.secretName }}, defaultMode: 0440 }
    {{- end }}
    {{- end }}
{{- end }}

{{- define "ledgerflux.gatewayPod" -}}
{{- $gateway := .Values.gateway }}
{{- $env := list (dict "name" "GATEWAY_DRAIN_S" "value" (toString $gateway.drainSeconds)) }}
{{- include "ledgerflux.pod" (dict "root" . "part" "gateway" "module" "workers.gateway" "http" true "env" $env "resources" $gateway.resources "grace" (add $gateway.preStopSeconds $gateway.drainSeconds 20)) }}
{{- end }}

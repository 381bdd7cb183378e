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

{{/* Ends with a sentence where values cannot work, or would be ignored. */}}
{{- define "ledgerflux.refusals" -}}
{{- $names := .Files.Get "files/settings.json" | fromJson }}
{{- range $name, $_ := .Values.settings }}
{{- if has $name $names.secrets }}
{{- fail (printf "settings.%s: it is a credential; put it into the Secret that global.existingSecret names" $name) }}
{{- else if hasKey $names.elsewhere $name }}
{{- fail (printf "settings.%s: %s" $name (index $names.elsewhere $name)) }}
{{- else if not (has $name $names.settings) }}
{{- fail (printf "settings.%s: there is no such setting; models/settings.py has them all" $name) }}
{{- end }}
{{- end }}
{{- range $server, $address := dict "nats" "urls" "temporal" "address" }}
{{- if and (index $.Values $server).enabled (index $.Values $server $address) }}
{{- fail (printf "%s.%s: the chart's own server would be used instead; set %s.enabled=false, or leave this out" $server $address $server) }}
{{- end }}
{{- end }}
{{- range $server, $tls := .Values.tls }}
{{- if and $tls.secretName (index $.Values $server).enabled }}
{{- fail (printf "tls.%s.secretName: the chart's own server has no TLS, so nothing could connect; use your own with %s.enabled=false" $server $server) }}
{{- end }}
{{- end }}
{{- with .Values.workers.candidate }}
{{- if and .enabled (not .image) }}
{{- fail "workers.candidate.image: name the build that is to be judged; without it this release would judge itself" }}
{{- end }}
{{- end }}
{{- if and .Values.gateway.rollout.enabled (not .Values.podMonitor.enabled) }}
{{- fail "gateway.rollout.enabled: metrics judge a rollout, and nobody gathers them; set podMonitor.enabled (it needs the Prometheus Operator)" }}
{{- end }}
{{- end }}

{{/* The pod of every service: (dict "root" . "part" "gateway" "module" "workers.gateway" …), with
     "env" of its own, and "http" where it serves subscribers. A Job's has a "command" and no probes. */}}
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
  {{- if .command }}
  restartPolicy: Never
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
      {{- if .command }}
      command: {{ toYaml .command | nindent 8 }}
      {{- else }}
      command: [python, -m, {{ .module }}]
      {{- end }}
      envFrom:
        - configMapRef: { name: {{ include "ledgerflux.name" $root }} }
        {{- with $root.Values.global.existingSecret }}
        - secretRef: { name: {{ . }} }
        {{- end }}
      {{- with .env }}
      env: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- if not .command }}
      ports:
        - { name: metrics, containerPort: 9100 }
        {{- if .http }}
        - { name: http, containerPort: 8000 }
        {{- end }}
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
      {{- else if not .command }}
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

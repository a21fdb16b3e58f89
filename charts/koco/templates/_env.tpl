{{/* The environment of the roles: how values reach the operator. Secrets come from secretKeyRef or files, never as arguments. */}}

{{- define "koco.env.common" -}}
- name: KOCO_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: KOCO_IDENTITY
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: KOCO_LOG
  value: {{ .Values.log.level | quote }}
- name: KOCO_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
- name: KOCO_HEALTH_ADDR
  value: {{ printf "%s:8080" .Values.bindAddress | quote }}
{{- with .Values.tracing.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- include "koco.env.watchNamespaces" . }}
{{- end }}

{{/* For those who read jobs. */}}
{{- define "koco.env.watchNamespaces" }}
{{- with .Values.watchNamespaces }}
- name: KOCO_WATCH_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- end }}

{{/* What those need who create pods. */}}
{{- define "koco.env.pods" -}}
- name: KOCO_RUNNER_IMAGE
  value: {{ include "koco.runnerImage" . | quote }}
- name: KOCO_RUNNER_IMAGE_PULL_POLICY
  value: {{ default .Values.image.pullPolicy .Values.runner.imagePullPolicy | quote }}
{{- with .Values.runner.imagePullSecrets }}
- name: KOCO_RUNNER_IMAGE_PULL_SECRETS
  value: {{ $names := list }}{{ range . }}{{ $names = append $names .name }}{{ end }}{{ join "," $names | quote }}
{{- end }}
- name: KOCO_RUNNER_RESOURCES
  value: {{ toJson .Values.runner.resources | quote }}
- name: KOCO_RUNNER_SECURITY_CONTEXT
  value: {{ toJson .Values.runner.securityContext | quote }}
- name: KOCO_GATEWAY_URL
  value: {{ printf "https://%s-gateway.%s.svc:8443" (include "koco.fullname" .) .Release.Namespace | quote }}
{{- end }}

{{- define "koco.env.controller" -}}
{{ include "koco.env.pods" . }}
{{- with .Values.temporal.taskQueue }}
- name: KOCO_TASK_QUEUE
  value: {{ . | quote }}
{{- end }}
- name: KODO_EXECUTION_MODE
  value: {{ lower .Values.executionMode | quote }}
- name: KOCO_LEADER_ELECT
  value: "true"
- name: KOCO_CONCURRENCY
  value: {{ int .Values.controller.concurrency | quote }}
{{- with .Values.defaults.retryPolicy }}
- name: KOCO_DEFAULT_MAXIMUM_ATTEMPTS
  value: {{ int .maximumAttempts | quote }}
- name: KOCO_DEFAULT_INITIAL_INTERVAL
  value: {{ .initialInterval | quote }}
- name: KOCO_DEFAULT_BACKOFF_COEFFICIENT
  value: {{ .backoffCoefficient | quote }}
- name: KOCO_DEFAULT_MAXIMUM_INTERVAL
  value: {{ .maximumInterval | quote }}
{{- end }}
{{- with .Values.defaults.timeouts }}
- name: KOCO_DEFAULT_HEARTBEAT_TIMEOUT
  value: {{ .heartbeat | quote }}
{{- with .execution }}
- name: KOCO_DEFAULT_EXECUTION_TIMEOUT
  value: {{ . | quote }}
{{- end }}
- name: KOCO_DEFAULT_PENDING_TIMEOUT
  value: {{ .pending | quote }}
{{- end }}
{{- with .Values.limits }}
- name: KOCO_MAXIMUM_INPUTS_BYTES
  value: {{ int .maximumInputsBytes | quote }}
- name: KOCO_MINIMUM_HEARTBEAT_TIMEOUT
  value: {{ .minimumHeartbeatTimeout | quote }}
{{- end }}
{{- if .Values.server.enabled }}
- name: KOCO_ARCHIVE_PATIENCE
  value: {{ .Values.server.patience | quote }}
{{- end }}
{{- if .Values.agents.networkPolicy.enabled }}
- name: KOCO_AGENT_NETWORK_POLICY
  value: {{ include "koco.agentNetworkPolicy" . | fromYaml | toJson | quote }}
{{- end }}
{{- end }}

{{- define "koco.env.worker" -}}
{{ include "koco.env.pods" . }}
{{- with .Values.temporal.taskQueue }}
- name: KOCO_TASK_QUEUE
  value: {{ . | quote }}
{{- end }}
{{- with .Values.worker }}
- name: KOCO_WORKER_ACTIVITY_SLOTS
  value: {{ int .activitySlots | quote }}
- name: KOCO_WORKER_WORKFLOW_SLOTS
  value: {{ int .workflowSlots | quote }}
- name: KOCO_WORKER_LOCAL_ACTIVITY_SLOTS
  value: {{ int .localActivitySlots | quote }}
- name: KOCO_WORKER_CACHED_WORKFLOWS
  value: {{ int .cachedWorkflows | quote }}
{{- end }}
{{- end }}

{{- define "koco.env.gateway" -}}
- name: KOCO_GATEWAY_ADDR
  value: {{ printf "%s:8443" .Values.bindAddress | quote }}
- name: KOCO_GATEWAY_TLS_SECRET
  value: {{ include "koco.gatewayTlsSecret" . | quote }}
{{- if .Values.server.enabled }}
- name: KOCO_SERVER_URL
  value: {{ printf "https://%s-server.%s.svc:8445" (include "koco.fullname" .) .Release.Namespace | quote }}
- name: KOCO_SERVER_TOKEN_FILE
  value: /var/run/secrets/koco/server/token
{{- end }}
{{- with .Values.tracing.agentsEndpoint }}
- name: KOCO_AGENT_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "koco.env.server" -}}
- name: KOCO_SERVER_ADDR
  value: {{ printf "%s:8445" .Values.bindAddress | quote }}
- name: KOCO_SERVER_TLS_SECRET
  value: {{ include "koco.serverTlsSecret" . | quote }}
{{- with .Values.temporal.encryption.origins }}
- name: KOCO_SERVER_CODEC_ORIGINS
  value: {{ join "," . | quote }}
{{- end }}
- name: KOCO_SERVER_GATEWAYS
  value: {{ printf "system:serviceaccount:%s:%s" .Release.Namespace (include "koco.serviceAccount" (dict "root" . "role" "gateway")) | quote }}
{{- with .Values.server }}
{{- if eq .store.type "sqlite" }}
- name: KOCO_SERVER_DATA
  value: /var/lib/koco
{{- else }}
- name: KOCO_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .store.postgresql.urlSecret }}
      key: {{ .store.postgresql.urlSecretKey }}
{{- end }}
- name: KOCO_RETAIN_EVENTS
  value: {{ .retention.events | quote }}
- name: KOCO_RETAIN_EXECUTIONS
  value: {{ .retention.executions | quote }}
{{- if not (kindIs "invalid" .retention.maxBytes) }}
- name: KOCO_RETAIN_BYTES
  value: {{ int64 .retention.maxBytes | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* The Temporal SDK's own environment configuration. */}}
{{- define "koco.env.temporal" -}}
{{- with .Values.temporal }}
- name: TEMPORAL_ADDRESS
  value: {{ .address | quote }}
- name: TEMPORAL_NAMESPACE
  value: {{ .namespace | quote }}
{{- with .apiKey }}
{{- if .secretName }}
- name: TEMPORAL_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .secretName }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- if .tls.enabled }}
- name: TEMPORAL_TLS
  value: "true"
{{- with .tls.serverName }}
- name: TEMPORAL_TLS_SERVER_NAME
  value: {{ . | quote }}
{{- end }}
{{- if .tls.caSecret }}
- name: TEMPORAL_TLS_SERVER_CA_CERT_PATH
  value: /etc/koco/temporal-ca/ca.crt
{{- end }}
{{- if .tls.clientCertSecret }}
- name: TEMPORAL_TLS_CLIENT_CERT_PATH
  value: /etc/koco/temporal-client/tls.crt
- name: TEMPORAL_TLS_CLIENT_KEY_PATH
  value: /etc/koco/temporal-client/tls.key
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The keys of what Temporal gets. */}}
{{- define "koco.env.encryption" -}}
{{- with .Values.temporal.encryption }}
- name: KOCO_PAYLOAD_KEYS
  value: /etc/koco/payload-keys
- name: KOCO_PAYLOAD_KEY
  value: {{ required "temporal.encryption.key: the id of the key that encrypts" .key | quote }}
{{- end }}
{{- end }}

{{/* All of a role's environment. Takes (dict "root" $ "role" "controller"). */}}
{{- define "koco.env" -}}
{{- $ours := include "koco.env.common" .root }}
{{- $ours = printf "%s\n%s" $ours (include (printf "koco.env.%s" .role) .root) }}
{{- if and .root.Values.temporal.address (ne .role "server") }}
{{- $ours = printf "%s\n%s" $ours (include "koco.env.temporal" .root | trim) }}
{{- end }}
{{- if and .root.Values.temporal.address .root.Values.temporal.encryption.secretName }}
{{- $ours = printf "%s\n%s" $ours (include "koco.env.encryption" .root | trim) }}
{{- end }}
{{- $ours }}
{{- $names := list }}
{{- range fromYamlArray $ours }}
{{- $names = append $names .name }}
{{- end }}
{{- with concat .root.Values.extraEnv (index .root.Values .role).extraEnv }}
{{- range . }}
{{- if has .name $names }}
{{- fail (printf "extraEnv: %s is set by the chart already, or twice" .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{ toYaml . }}
{{- end }}
{{- end }}

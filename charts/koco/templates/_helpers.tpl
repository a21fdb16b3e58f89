{{/* Names, labels, and the checks that a schema can't do. Those for a role take (dict "root" $ "role" "controller"). */}}

{{- define "koco.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "koco.fullname" -}}
{{- $name := include "koco.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "koco.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "koco.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: koco
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of what stays when koco is uninstalled, so that it can be told apart without Helm, too. */}}
{{- define "koco.apiLabels" -}}
{{ include "koco.labels" . }}
app.kubernetes.io/component: api
{{- end }}

{{/* Labels of an object of one role. */}}
{{- define "koco.roleLabels" -}}
{{ include "koco.labels" .root }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{/* What a role's pods are selected by: never changes, a Deployment's selector can't. */}}
{{- define "koco.selector" -}}
app.kubernetes.io/name: {{ include "koco.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{/* The security context of a container of koco's. */}}
{{- define "koco.restricted" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end }}

{{/* Where a role's pods may run, and with what they get their image: fields of a pod's spec. Takes (dict "root" $ "role" "controller"). */}}
{{- define "koco.placement" -}}
{{- $v := .root.Values }}
{{- $r := index $v .role }}
{{- with $v.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with coalesce $r.priorityClassName $v.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with coalesce $r.nodeSelector $v.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with coalesce $r.tolerations $v.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The roles that are installed, as {"list": [...]}. */}}
{{- define "koco.roles" -}}
{{- $roles := list "controller" "gateway" }}
{{- if .Values.temporal.address }}
{{- $roles = append $roles "worker" }}
{{- end }}
{{- if .Values.server.enabled }}
{{- $roles = append $roles "server" }}
{{- end }}
{{- dict "list" $roles | toJson }}
{{- end }}

{{- define "koco.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The image that the runner is copied from. */}}
{{- define "koco.runnerImage" -}}
{{- default (include "koco.image" .) .Values.runner.image }}
{{- end }}

{{/* The same without its tag and digest. */}}
{{- define "koco.runnerRepository" -}}
{{- regexReplaceAll ":[^:/]*$" (include "koco.runnerImage" . | regexFind "^[^@]*") "" }}
{{- end }}

{{- define "koco.serviceAccount" -}}
{{- $sa := (index .root.Values .role).serviceAccount }}
{{- default (printf "%s-%s" (include "koco.fullname" .root) .role) $sa.name }}
{{- end }}

{{/* The Secret with a role's certificate that somebody else issues; empty if the role does. Takes (dict "root" $ "role" "gateway"). */}}
{{- define "koco.givenTlsSecret" -}}
{{- with (index .root.Values .role).tls }}
{{- if .certManager.enabled }}{{ include "koco.fullname" $.root }}-{{ $.role }}-cert{{ else }}{{ .existingSecret }}{{ end }}
{{- end }}
{{- end }}

{{/* Where the gateway's certificate is. */}}
{{- define "koco.gatewayTlsSecret" -}}
{{- default "koco-gateway-tls" (include "koco.givenTlsSecret" (dict "root" . "role" "gateway")) }}
{{- end }}

{{/* Where the server's certificate is. */}}
{{- define "koco.serverTlsSecret" -}}
{{- default "koco-server-tls" (include "koco.givenTlsSecret" (dict "root" . "role" "server")) }}
{{- end }}

{{/* The certificate of a role that cert-manager issues, if it does. Takes (dict "root" $ "role" "gateway"). */}}
{{- define "koco.certificate" -}}
{{- with (index .root.Values .role).tls.certManager }}
{{- if .enabled }}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{ include "koco.fullname" $.root }}-{{ $.role }}
  namespace: {{ $.root.Release.Namespace }}
  labels:
    {{- include "koco.roleLabels" $ | nindent 4 }}
spec:
  secretName: {{ include "koco.givenTlsSecret" $ }}
  # The name that clients expect, wherever they reach it.
  dnsNames: [koco-{{ $.role }}]
  usages: [server auth]
  privateKey:
    algorithm: ECDSA
    encoding: PKCS8
    rotationPolicy: Always
  issuerRef:
    {{- toYaml .issuerRef | nindent 4 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Values that are right by themselves, but not together. */}}
{{- define "koco.validate" -}}
{{- $t := .Values.temporal }}
{{- if and (eq .Values.executionMode "Temporal") (not $t.address) }}
{{- fail "executionMode is Temporal, but temporal.address is empty: set temporal.address to host:port of Temporal's frontend, or executionMode to Direct" }}
{{- end }}
{{- if and $t.apiKey.secretName (not $t.tls.enabled) }}
{{- fail "temporal.apiKey.secretName is set, but temporal.tls.enabled is false: the key would cross the network in the clear" }}
{{- end }}
{{- if and (or $t.tls.caSecret $t.tls.clientCertSecret $t.tls.serverName) (not $t.tls.enabled) }}
{{- fail "temporal.tls.caSecret, clientCertSecret or serverName is set, but temporal.tls.enabled is false" }}
{{- end }}
{{- range list "kube-system" .Release.Namespace }}
{{- if has . $.Values.watchNamespaces }}
{{- fail (printf "watchNamespaces: AgentJobs are not served in %s: who may create them there could use the accounts of the cluster's or the operator's own pods" .) }}
{{- end }}
{{- end }}
{{- range $role := list "gateway" "server" }}
{{- with (index $.Values $role).tls }}
{{- if and .certManager.enabled .existingSecret }}
{{- fail (printf "%s.tls.certManager.enabled is true, but %s.tls.existingSecret is set, too: either or" $role $role) }}
{{- end }}
{{- if and .certManager.enabled (not .certManager.issuerRef.name) }}
{{- fail (printf "%s.tls.certManager.enabled is true, but %s.tls.certManager.issuerRef.name is empty: name an issuer" $role $role) }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.server }}
{{- if and .enabled (eq .store.type "sqlite") .strategy }}
{{- fail "server.strategy is set, but server.store.type is sqlite, which one process at a time can use: the strategy is Recreate" }}
{{- end }}
{{- if and .enabled (eq .store.type "sqlite") (kindIs "invalid" .replicas) }}
{{- fail "server.replicas is null, but server.store.type is sqlite, which one process at a time can use: use postgresql" }}
{{- end }}
{{- if and .enabled (eq .store.type "sqlite") (gt (int .replicas) 1) }}
{{- fail "server.replicas is more than 1, but server.store.type is sqlite, which one process at a time can use: use postgresql" }}
{{- end }}
{{- if and .enabled (eq .store.type "postgresql") (not .store.postgresql.urlSecret) }}
{{- fail "server.store.type is postgresql, but server.store.postgresql.urlSecret is empty: name a Secret with the database's URL" }}
{{- end }}
{{- end }}
{{- range $role := list "controller" "worker" "gateway" "server" }}
{{- $sa := (index $.Values $role).serviceAccount }}
{{- if and (not $sa.create) (not $sa.name) }}
{{- fail (printf "%s.serviceAccount.create is false, but %s.serviceAccount.name is empty: the namespace's default account must not get the operator's rights" $role $role) }}
{{- end }}
{{- end }}
{{- end }}

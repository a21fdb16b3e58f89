{{/* The Deployment of a role; all have the same shape. Takes (dict "root" $ "role" "controller" "command" "controller"
     "grace" 30). */}}
{{- define "koco.deployment" -}}
{{- $ := .root }}
{{- $v := $.Values }}
{{- $r := index $v .role }}
{{- $selector := include "koco.selector" . | fromYaml }}
{{- $tls := and $v.temporal.address $v.temporal.tls.enabled (ne .role "server") }}
{{- $ca := and $tls $v.temporal.tls.caSecret }}
{{- $client := and $tls $v.temporal.tls.clientCertSecret }}
{{- $data := and (eq .role "server") (eq $v.server.store.type "sqlite") }}
{{- $events := and (eq .role "gateway") $v.server.enabled }}
{{- $keys := and $v.temporal.address $v.temporal.encryption.secretName }}
{{- include "koco.validate" $ }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "koco.fullname" $ }}-{{ .role }}
  namespace: {{ $.Release.Namespace }}
  labels:
    {{- include "koco.roleLabels" . | nindent 4 }}
spec:
  {{- if not (kindIs "invalid" $r.replicas) }}
  replicas: {{ int $r.replicas }}
  {{- end }}
  strategy:
    {{- if $data }}
    # One process at a time has the volume.
    type: Recreate
    {{- else }}
    {{- /* With the API server's defaults: if it sets rollingUpdate by itself, that stays when the type becomes Recreate, which
         the API server then refuses. `merge` would take a 0 for a value that is not set. */}}
    {{- $own := $r.strategy | default dict }}
    {{- $rolling := $own.rollingUpdate | default dict }}
    {{- $type := $own.type | default "RollingUpdate" }}
    type: {{ $type }}
    {{- if eq $type "RollingUpdate" }}
    rollingUpdate:
      maxSurge: {{ hasKey $rolling "maxSurge" | ternary $rolling.maxSurge "25%" }}
      maxUnavailable: {{ hasKey $rolling "maxUnavailable" | ternary $rolling.maxUnavailable "25%" }}
    {{- end }}
    {{- end }}
  selector:
    matchLabels:
      {{- include "koco.selector" . | nindent 6 }}
  template:
    metadata:
      annotations:
        kubectl.kubernetes.io/default-container: koco
        {{- with mustMerge (dict) $r.podAnnotations $v.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      labels:
        {{- include "koco.selector" . | nindent 8 }}
        app.kubernetes.io/part-of: koco
        {{- with mustMerge (dict) $r.podLabels $v.podLabels $v.commonLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "koco.serviceAccount" . }}
      automountServiceAccountToken: true
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ .grace }}
      securityContext:
        {{- toYaml $v.podSecurityContext | nindent 8 }}
      {{- with include "koco.placement" . | trim }}
      {{- . | nindent 6 }}
      {{- end }}
      affinity:
        {{- with coalesce $r.affinity $v.affinity }}
        {{- toYaml . | nindent 8 }}
        {{- else }}
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
            - weight: 100
              podAffinityTerm:
                topologyKey: kubernetes.io/hostname
                labelSelector:
                  matchLabels:
                    {{- include "koco.selector" . | nindent 20 }}
        {{- end }}
      {{- with coalesce $r.topologySpreadConstraints $v.topologySpreadConstraints }}
      {{- $own := dict "labelSelector" (dict "matchLabels" $selector) }}
      topologySpreadConstraints:
        {{- range . }}
        - {{- mustMerge (deepCopy .) $own | toYaml | nindent 10 }}
        {{- end }}
      {{- end }}
      containers:
        - name: koco
          image: {{ include "koco.image" $ | quote }}
          imagePullPolicy: {{ $v.image.pullPolicy }}
          args: [{{ .command }}]
          env:
            {{- include "koco.env" . | nindent 12 }}
          ports:
            {{- if eq .role "gateway" }}
            - name: gateway
              containerPort: 8443
            {{- end }}
            {{- if eq .role "server" }}
            - name: server
              containerPort: 8445
            {{- end }}
            - name: health
              containerPort: 8080
          livenessProbe:
            httpGet:
              path: /healthz
              port: health
            initialDelaySeconds: 5
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet:
              path: /readyz
              port: health
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: 3
          securityContext:
            {{- include "koco.restricted" . | nindent 12 }}
          {{- with $r.resources }}
          resources:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- $mounts := concat $v.extraVolumeMounts $r.extraVolumeMounts }}
          {{- if or $data $ca $client $events $keys $mounts }}
          volumeMounts:
            {{- if $data }}
            - name: data
              mountPath: /var/lib/koco
            {{- end }}
            {{- if $ca }}
            - name: temporal-ca
              mountPath: /etc/koco/temporal-ca
              readOnly: true
            {{- end }}
            {{- if $client }}
            - name: temporal-client
              mountPath: /etc/koco/temporal-client
              readOnly: true
            {{- end }}
            {{- if $events }}
            - name: server-token
              mountPath: /var/run/secrets/koco/server
              readOnly: true
            {{- end }}
            {{- if $keys }}
            - name: payload-keys
              mountPath: /etc/koco/payload-keys
              readOnly: true
            {{- end }}
            {{- with $mounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- end }}
      {{- $volumes := concat $v.extraVolumes $r.extraVolumes }}
      {{- if or $data $ca $client $events $keys $volumes }}
      volumes:
        {{- if $data }}
        - name: data
          persistentVolumeClaim:
            claimName: {{ default (printf "%s-server" (include "koco.fullname" $)) $v.server.store.sqlite.existingClaim }}
        {{- end }}
        {{- with $v.temporal.tls }}
        {{- if $ca }}
        - name: temporal-ca
          secret:
            secretName: {{ .caSecret }}
            defaultMode: 0440
            items:
              - key: {{ .caSecretKey }}
                path: ca.crt
        {{- end }}
        {{- if $client }}
        - name: temporal-client
          secret:
            secretName: {{ .clientCertSecret }}
            defaultMode: 0440
            items:
              - key: tls.crt
                path: tls.crt
              - key: tls.key
                path: tls.key
        {{- end }}
        {{- end }}
        {{- if $keys }}
        - name: payload-keys
          secret:
            secretName: {{ $v.temporal.encryption.secretName }}
            defaultMode: 0440
        {{- end }}
        {{- if $events }}
        # With it the gateway is known to the server, and to nothing else.
        - name: server-token
          projected:
            sources:
              - serviceAccountToken:
                  audience: koco
                  path: token
        {{- end }}
        {{- with $volumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
{{- end }}

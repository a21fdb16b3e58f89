{{/* The spec of the NetworkPolicy that the controller keeps for agents' pods. It adds the API server's addresses to both `except`. */}}
{{- define "koco.agentNetworkPolicy" -}}
{{- $blocked := .Values.agents.networkPolicy.blockedRanges }}
{{- $host := regexReplaceAll ":[0-9]*$" .Values.temporal.address "" | trimPrefix "[" | trimSuffix "]" }}
{{- if regexMatch "^[0-9]+(\\.[0-9]+){3}$" $host }}
{{- $blocked = append $blocked (printf "%s/32" $host) }}
{{- else if contains ":" $host }}
{{- $blocked = append $blocked (printf "%s/128" $host) }}
{{- end }}
{{- $v4 := list }}
{{- $v6 := list }}
{{- range uniq $blocked }}
{{- if contains ":" . }}
{{- $v6 = append $v6 . }}
{{- else }}
{{- $v4 = append $v4 . }}
{{- end }}
{{- end }}
podSelector:
  matchLabels:
    app.kubernetes.io/component: agent-runner
policyTypes: [Ingress, Egress]
ingress: []
egress:
  - ports:
      - {port: 53, protocol: UDP}
      - {port: 53, protocol: TCP}
  - to:
      - namespaceSelector:
          matchLabels:
            kubernetes.io/metadata.name: {{ .Release.Namespace }}
        podSelector:
          matchLabels:
            {{- include "koco.selector" (dict "root" . "role" "gateway") | nindent 12 }}
    ports:
      - {port: 8443, protocol: TCP}
  - to:
      - ipBlock:
          cidr: 0.0.0.0/0
          except: {{ toJson $v4 }}
      - ipBlock:
          cidr: "::/0"
          except: {{ toJson $v6 }}
  {{- with .Values.agents.networkPolicy.egress }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

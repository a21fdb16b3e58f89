{{/* Who may do what. Each rule says why; no wildcards. "jobs" holds in the watched namespaces, "cluster" everywhere, "own" in the
     release's namespace. */}}

{{- define "koco.rules.controller.jobs" -}}
# Reads the jobs; sets the finalizer that cancels a deleted job's workflow; deletes jobs whose time to live is over.
- apiGroups: [kodosumi.io]
  resources: [agentjobs]
  verbs: [get, list, watch, patch, delete]
# Writes what it knows to status.
- apiGroups: [kodosumi.io]
  resources: [agentjobs/status]
  verbs: [patch]
# Makes the job the owner of its pods; the API server asks for this where blockOwnerDeletion is protected.
- apiGroups: [kodosumi.io]
  resources: [agentjobs/finalizers]
  verbs: [update]
# Creates the pods of Direct jobs, sees how pods end, and removes those that nobody needs any more.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
# Tells people about each transition; patch counts a repeated event instead of adding another.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- define "koco.rules.controller.cluster" -}}
# The UID of kube-system is the cluster's identity: it keeps two clusters' workflows apart in one Temporal namespace.
- apiGroups: [""]
  resources: [namespaces]
  resourceNames: [kube-system]
  verbs: [get]
{{- end }}

{{- define "koco.rules.controller.own" -}}
# Takes, renews and gives back the leader's lease.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [koco-controller]
  verbs: [get, update]
# Creates the lease at the first start; a create can't be limited to a name.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
# Hands the gateway's certificate authority to the runners of Direct jobs.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [koco-gateway-ca]
  verbs: [get]
{{- end }}

{{- define "koco.rules.worker.jobs" -}}
# Reads a job anew before each pod that it creates for it.
- apiGroups: [kodosumi.io]
  resources: [agentjobs]
  verbs: [get]
# Writes the claim (which runner is the job's) and the commands for it.
- apiGroups: [kodosumi.io]
  resources: [agentjobs/status]
  verbs: [patch]
# Makes the job the owner of its pods; the API server asks for this where blockOwnerDeletion is protected.
- apiGroups: [kodosumi.io]
  resources: [agentjobs/finalizers]
  verbs: [update]
# Creates the pods of Temporal jobs, and removes those of earlier attempts once it has seen their containers end.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, create, delete]
{{- end }}

{{- define "koco.rules.worker.cluster" -}}
{{- end }}

{{- define "koco.rules.worker.own" -}}
# Hands the gateway's certificate authority to the runners of Temporal jobs.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [koco-gateway-ca]
  verbs: [get]
{{- end }}

{{- define "koco.rules.gateway.jobs" -}}
# Gives a runner its job, and watches for commands to pass on.
- apiGroups: [kodosumi.io]
  resources: [agentjobs]
  verbs: [get, list, watch]
# Writes what runners report: their state and their outcome.
- apiGroups: [kodosumi.io]
  resources: [agentjobs/status]
  verbs: [patch]
{{- end }}

{{- define "koco.rules.gateway.cluster" -}}
# Asks the API server which pod a runner's token belongs to.
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
{{- end }}

{{- define "koco.rules.gateway.own" -}}
{{- if .Values.gateway.tls.existingSecret -}}
# Reads the certificate that it was given.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ include "koco.gatewayTlsSecret" . }}]
  verbs: [get]
{{- else -}}
# Keeps its certificate and authority, so that all gateways and every restart share them.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ include "koco.gatewayTlsSecret" . }}]
  verbs: [get, update]
{{- end }}
# Publishes its certificate authority for those who create pods.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [koco-gateway-ca]
  verbs: [get, update]
{{- end }}

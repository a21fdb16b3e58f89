{{/* Who may do what. Each rule says why; no wildcards. "jobs" holds in the watched namespaces, "cluster" everywhere, "own" in the
     release's namespace. */}}

{{- define "koco.rules.crds" -}}
# Sees whether the resources' definitions are those of this release, and works only then.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [agentjobs.kodosumi.io, agentruns.kodosumi.io, agenttemplates.kodosumi.io]
  verbs: [get]
{{- end }}

{{- define "koco.rules.controller.jobs" -}}
# Reads the jobs; sets the finalizer that cancels a deleted job's workflow, and answers requests to repair; fills jobs from their templates; deletes
# jobs whose time to live is over.
- apiGroups: [kodosumi.io]
  resources: [agentjobs]
  verbs: [get, list, watch, update, patch, delete]
# Fills jobs from their templates, once: the policy agentjobs.kodosumi.io asks for this. There is no such subresource.
- apiGroups: [kodosumi.io]
  resources: [agentjobs/template]
  verbs: [update]
# Reads the template of a job that names one, and sees when a missing one comes.
- apiGroups: [kodosumi.io]
  resources: [agenttemplates]
  verbs: [get, list, watch]
# Writes what it knows to status. Nobody else does.
- apiGroups: [kodosumi.io]
  resources: [agentjobs/status]
  verbs: [update]
# Makes the job the owner of its runs; the API server asks for this where blockOwnerDeletion is protected.
- apiGroups: [kodosumi.io]
  resources: [agentjobs/finalizers]
  verbs: [update]
# Creates the runs of Direct jobs, writes commands to them, and deletes old ones beyond the history limit, and those without a job on request.
- apiGroups: [kodosumi.io]
  resources: [agentruns]
  verbs: [get, list, watch, create, update, delete]
# Records how a run ended, where the kubelet shows it or koco itself ends it.
- apiGroups: [kodosumi.io]
  resources: [agentruns/status]
  verbs: [update]
# Makes the run the owner of its pod; the API server asks for this where blockOwnerDeletion is protected.
- apiGroups: [kodosumi.io]
  resources: [agentruns/finalizers]
  verbs: [update]
# Creates the pods of Direct jobs, watches pods, and deletes those no longer needed.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
# Tells people about each transition; patch counts a repeated event instead of adding another.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- if .Values.agents.networkPolicy.enabled }}
# Keeps the policy of agents' pods; to apply one that isn't there is a create, too, which can't be limited to a name.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create]
# Undoes changes of it.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  resourceNames: [koco-agents]
  verbs: [patch]
{{- end }}
{{- end }}

{{- define "koco.rules.controller.cluster" -}}
# Sees whether the node of a run whose runner is lost is lost, too: that is a disruption. Never by list or watch.
- apiGroups: [""]
  resources: [nodes]
  verbs: [get]
{{ include "koco.rules.crds" . }}
# The UID of kube-system is the cluster's identity: it keeps two clusters' workflows apart in one Temporal namespace.
- apiGroups: [""]
  resources: [namespaces]
  resourceNames: [kube-system]
  verbs: [get]
{{- if .Values.agents.networkPolicy.enabled }}
# The API server's addresses, which agents' pods are not to reach.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  resourceNames: [kubernetes]
  verbs: [get]
{{- end }}
{{- end }}

{{- define "koco.rules.controller.own" -}}
# Acquires, renews and releases the leader's lease.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [koco-controller]
  verbs: [get, update]
# Creates the lease at the first start; a create can't be limited to a name.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
# Passes the gateway's certificate authority to the runners of Direct jobs; watches it, so that a new one is used immediately.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [koco-gateway-ca]
  verbs: [get, list, watch]
{{- end }}

{{- define "koco.rules.worker.jobs" -}}
# Reads a job anew before each run that it creates for it.
- apiGroups: [kodosumi.io]
  resources: [agentjobs]
  verbs: [get]
# Makes the job the owner of its runs; the API server asks for this where blockOwnerDeletion is protected.
- apiGroups: [kodosumi.io]
  resources: [agentjobs/finalizers]
  verbs: [update]
# Creates the runs of Temporal jobs, and writes start grants and commands to them; lists a job's after a reset in Temporal.
- apiGroups: [kodosumi.io]
  resources: [agentruns]
  verbs: [get, list, create, update]
# Records how a run ended, from the kubelet or if its runner is unresponsive.
- apiGroups: [kodosumi.io]
  resources: [agentruns/status]
  verbs: [update]
# Makes the run the owner of its pod; the API server asks for this where blockOwnerDeletion is protected.
- apiGroups: [kodosumi.io]
  resources: [agentruns/finalizers]
  verbs: [update]
# Creates the pods of Temporal jobs, and deletes that of the previous run; by name, never by list.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, create, delete]
{{- end }}

{{- define "koco.rules.worker.cluster" -}}
# Sees whether the node of a run whose runner is lost is lost, too: that is a disruption. Never by list or watch.
- apiGroups: [""]
  resources: [nodes]
  verbs: [get]
{{ include "koco.rules.crds" . }}
# The UID of kube-system is the cluster's identity: it keeps two clusters' workflows apart in one Temporal namespace.
- apiGroups: [""]
  resources: [namespaces]
  resourceNames: [kube-system]
  verbs: [get]
{{- end }}

{{- define "koco.rules.worker.own" -}}
# Passes the gateway's certificate authority to the runners of Temporal jobs; watches it, so that a new one is used immediately.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [koco-gateway-ca]
  verbs: [get, list, watch]
{{- end }}

{{- define "koco.rules.gateway.jobs" -}}
# Gives a runner that registers its job's inputs. It neither lists nor writes jobs.
- apiGroups: [kodosumi.io]
  resources: [agentjobs]
  verbs: [get]
# Knows which pod is a run's, and watches for grants and commands to pass on. It never writes a run's spec.
- apiGroups: [kodosumi.io]
  resources: [agentruns]
  verbs: [get, list, watch]
# Writes what runners report: that they are there, what they have carried out, and how their agent ended.
- apiGroups: [kodosumi.io]
  resources: [agentruns/status]
  verbs: [update]
{{- end }}

{{- define "koco.rules.gateway.cluster" -}}
{{ include "koco.rules.crds" . }}
# Asks the API server which pod a runner's token belongs to.
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
{{- end }}

{{- define "koco.rules.gateway.own" -}}
{{- if include "koco.givenTlsSecret" (dict "root" . "role" "gateway") -}}
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
{{- if .Values.server.enabled }}
# Reads the server's certificate authority, to send it agents' events.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [koco-server-ca]
  verbs: [get]
{{- end }}
# Renews its mark in the gateways' lease, by which each knows which others are gone.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [koco-gateways]
  verbs: [get, update]
# Creates that lease at the first start; a create can't be limited to a name.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
{{- end }}

{{- define "koco.rules.server.jobs" -}}
# Follows the jobs to archive what becomes of them; patch says on one that has ended that it is archived.
- apiGroups: [kodosumi.io]
  resources: [agentjobs]
  verbs: [get, list, watch, patch]
# Follows their runs, to archive how each ended.
- apiGroups: [kodosumi.io]
  resources: [agentruns]
  verbs: [list, watch]
{{- end }}

{{- define "koco.rules.server.cluster" -}}
{{ include "koco.rules.crds" . }}
# Asks the API server who sends a request.
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
# Asks the API server what they may read.
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
# Tells a namespace from one of that name before it, by its UID; that of kube-system is the cluster's identity.
- apiGroups: [""]
  resources: [namespaces]
  {{- with .Values.watchNamespaces }}
  resourceNames: [kube-system, {{ join ", " . }}]
  {{- end }}
  verbs: [get]
{{- end }}

{{- define "koco.rules.server.own" -}}
{{- if include "koco.givenTlsSecret" (dict "root" . "role" "server") -}}
# Reads the certificate that it was given.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ include "koco.serverTlsSecret" . }}]
  verbs: [get]
{{- else -}}
# Keeps its certificate authority, so that all servers and every restart share it.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ include "koco.serverTlsSecret" . }}]
  verbs: [get, update]
{{- end }}
# Publishes its certificate authority for its clients.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [koco-server-ca]
  verbs: [get, update]
{{- end }}

{{- define "koco.rules.archive-reader" -}}
# What the server asks for before it shows what is in the archive. There is no such subresource.
- apiGroups: [kodosumi.io]
  resources: [agentjobs/events]
  verbs: [get]
{{- end }}

{{- define "koco.rules.archive-access" -}}
# The certificate authority that the server's certificate is checked against.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [koco-server-ca]
  verbs: [get]
# Which of the server's pods are ready.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list]
# The way to them; the pods' names change, so it leads to each pod of this namespace.
- apiGroups: [""]
  resources: [pods/portforward]
  verbs: [get, create]
{{- end }}

// Package gitops reads AgentJobs, as the controller writes them, with the libraries of those who read them: kstatus
// (Kubernetes' own and Flux's copy, which Helm uses, too), the Lua interpreter of Argo CD, and the CEL of Flux. The jobs
// are written by a test of the controller, the checks are those of deploy/gitops.
package gitops

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	fluxstatus "github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	luajson "layeh.com/gopher-json"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/yaml"
)

const (
	inProgress = "InProgress"
	current    = "Current"
	failed     = "Failed"
)

// What each job is: for kstatus and for a Kustomization that waits for its end, for one that waits for its start, and for
// Argo CD.
var jobs = map[string]struct{ ended, started, health string }{
	"created":                     {inProgress, inProgress, "Progressing"},
	"submitted":                   {inProgress, inProgress, "Progressing"},
	"starting":                    {inProgress, inProgress, "Progressing"},
	"waiting-for-a-node":          {inProgress, inProgress, "Progressing"},
	"held-back-by-a-gate":         {inProgress, inProgress, "Progressing"},
	"running":                     {inProgress, current, "Progressing"},
	"unresponsive":                {inProgress, current, "Progressing"},
	"pausing":                     {inProgress, current, "Progressing"},
	"not-pausable":                {inProgress, current, "Progressing"},
	"resuming":                    {inProgress, current, "Progressing"},
	"resumed-and-not-seen":        {inProgress, inProgress, "Progressing"},
	"retrying":                    {inProgress, current, "Progressing"},
	"cancelling":                  {inProgress, current, "Progressing"},
	"temporal-resuming":           {inProgress, current, "Progressing"},
	"temporal-unavailable":        {inProgress, current, "Progressing"},
	"succeeded":                   {current, current, "Healthy"},
	"cancelled":                   {current, current, "Healthy"},
	"paused":                      {current, current, "Suspended"},
	"paused-before-its-start":     {current, current, "Suspended"},
	"paused-without-a-node":       {current, current, "Suspended"},
	"temporal-paused-by-the-spec": {current, current, "Suspended"},
	"temporal-paused-by-a-signal": {current, current, "Suspended"},
	"failed":                      {failed, failed, "Degraded"},
	"without-its-image":           {failed, failed, "Degraded"},
	"without-a-node":              {failed, failed, "Degraded"},
	"without-a-node-for-longer-than-its-time": {failed, failed, "Degraded"},
	"retrying-behind-a-pod-that-does-not-end": {failed, failed, "Degraded"},
	"temporal-not-configured":                 {failed, failed, "Degraded"},
}

// each calls test for each job in ./jobs, of which each is in the table and the other way round.
func each(t *testing.T, test func(t *testing.T, name string, job *unstructured.Unstructured)) {
	files, err := filepath.Glob("jobs/*.json")
	if err != nil || len(files) != len(jobs) {
		t.Fatalf("%d jobs in ./jobs, %d in the table: %v", len(files), len(jobs), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		if _, known := jobs[name]; !known {
			t.Errorf("%s is not in the table", name)
		}
		job := &unstructured.Unstructured{}
		if err := job.UnmarshalJSON(read(t, file)); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { test(t, name, job) })
	}
}

func read(t *testing.T, path ...string) []byte {
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestKstatus(t *testing.T) {
	each(t, func(t *testing.T, name string, job *unstructured.Unstructured) {
		theirs, err := status.Compute(job)
		if err != nil {
			t.Fatal(err)
		}
		flux, err := fluxstatus.Compute(job)
		if err != nil {
			t.Fatal(err)
		}
		for _, is := range []string{theirs.Status.String(), flux.Status.String()} {
			if is != jobs[name].ended {
				t.Errorf("%s, not %s: %s", is, jobs[name].ended, theirs.Message)
			}
		}
	})
}

// evaluate runs a script as Argo CD does, with no library but those for tables and modules, and decodes what it returns.
func evaluate(t *testing.T, script string, job *unstructured.Unstructured, into any) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
	} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := job.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	object, err := luajson.Decode(state, text)
	if err != nil {
		t.Fatal(err)
	}
	state.SetGlobal("obj", object)
	if err := state.DoString(script); err != nil {
		t.Fatal(err)
	}
	answer, err := luajson.Encode(state.Get(-1))
	if err != nil {
		t.Fatal(err)
	}
	if string(answer) == "[]" { // Lua has one empty table for both.
		return
	}
	if err := json.Unmarshal(answer, into); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
}

// customization is what Argo CD's ConfigMap says of AgentJobs.
func customization(t *testing.T, what string) string {
	var settings struct{ Data map[string]string }
	if err := yaml.Unmarshal(read(t, "../../deploy/gitops/argocd-cm.yaml"), &settings); err != nil {
		t.Fatal(err)
	}
	return settings.Data["resource.customizations."+what+".kodosumi.io_AgentJob"]
}

// Argo Workflows reads a condition as a selector of labels, whose keys are places in the object.
func TestArgoWorkflows(t *testing.T) {
	var workflow struct {
		Spec struct {
			Templates []struct {
				Resource *struct{ SuccessCondition, FailureCondition string }
			}
		}
	}
	first, _, _ := bytes.Cut(read(t, "../../deploy/gitops/argo-workflow.yaml"), []byte("\n---\n"))
	if err := yaml.Unmarshal(first, &workflow); err != nil {
		t.Fatal(err)
	}
	is := func(t *testing.T, condition, phase string) bool {
		selector, err := labels.Parse(condition)
		if err != nil {
			t.Fatal(err)
		}
		return selector.Matches(labels.Set{"status.phase": phase})
	}
	judged := 0
	for _, template := range workflow.Spec.Templates {
		if template.Resource == nil {
			continue
		}
		each(t, func(t *testing.T, name string, job *unstructured.Unstructured) {
			phase, _, _ := unstructured.NestedString(job.Object, "status", "phase")
			succeeded, failed := phase == "Succeeded", phase == "Failed" || phase == "Cancelled"
			if is(t, template.Resource.SuccessCondition, phase) != succeeded || is(t, template.Resource.FailureCondition, phase) != failed {
				t.Errorf("%s is judged otherwise", phase)
			}
		})
		judged++
	}
	if judged != 1 {
		t.Fatalf("%d templates have conditions", judged)
	}
}

func TestArgoCD(t *testing.T) {
	script := customization(t, "health")
	each(t, func(t *testing.T, name string, job *unstructured.Unstructured) {
		var is struct{ Status, Message string }
		if evaluate(t, script, job, &is); is.Status != jobs[name].health || is.Message == "" {
			t.Errorf("%s (%s), not %s", is.Status, is.Message, jobs[name].health)
		}
	})
}

func TestArgoCDActions(t *testing.T) {
	var actions struct {
		Discovery   string `json:"discovery.lua"`
		Definitions []struct {
			Name   string
			Action string `json:"action.lua"`
		}
	}
	if err := yaml.Unmarshal([]byte(customization(t, "actions")), &actions); err != nil {
		t.Fatal(err)
	}
	states := map[string]string{"pause": "Paused", "resume": "Running", "cancel": "Cancelled"}
	if len(actions.Definitions) != len(states) {
		t.Fatalf("%v", actions.Definitions)
	}
	each(t, func(t *testing.T, name string, job *unstructured.Unstructured) {
		desired, _, _ := unstructured.NestedString(job.Object, "spec", "desiredState")
		want := map[string]bool{"pause": desired == "Running", "resume": desired == "Paused", "cancel": desired != "Cancelled"}
		if phase, _, _ := unstructured.NestedString(job.Object, "status", "phase"); phase == "Succeeded" || phase == "Failed" {
			want = nil
		}
		offered := map[string]any{}
		evaluate(t, actions.Discovery, job, &offered)
		for _, action := range actions.Definitions {
			if _, is := offered[action.Name]; is != want[action.Name] {
				t.Errorf("%s is offered: %t", action.Name, is)
			}
			var after struct{ Spec struct{ DesiredState string } }
			if evaluate(t, action.Action, job, &after); after.Spec.DesiredState != states[action.Name] {
				t.Errorf("%s: %v", action.Name, after)
			}
		}
	})
}

func TestArgoCDOffersNothingForAJobThatTemporalHasCancelled(t *testing.T) {
	var actions struct {
		Discovery string `json:"discovery.lua"`
	}
	if err := yaml.Unmarshal([]byte(customization(t, "actions")), &actions); err != nil {
		t.Fatal(err)
	}
	job := &unstructured.Unstructured{}
	if err := job.UnmarshalJSON(read(t, "jobs", "cancelled.json")); err != nil {
		t.Fatal(err)
	}
	if err := unstructured.SetNestedField(job.Object, "Running", "spec", "desiredState"); err != nil {
		t.Fatal(err)
	}
	offered := map[string]any{}
	if evaluate(t, actions.Discovery, job, &offered); len(offered) != 0 {
		t.Errorf("%v", offered)
	}
}

func TestFlux(t *testing.T) {
	documents := bytes.Split(read(t, "../../deploy/gitops/flux-kustomization.yaml"), []byte("\n---\n"))
	evaluators := map[string]*cel.StatusEvaluator{}
	for _, document := range documents {
		var kustomization struct {
			Metadata struct{ Name string }
			Spec     struct{ HealthCheckExprs []kustomize.CustomHealthCheck }
		}
		if err := yaml.Unmarshal(document, &kustomization); err != nil {
			t.Fatal(err)
		}
		checks := kustomization.Spec.HealthCheckExprs
		if len(checks) != 1 || checks[0].APIVersion != "kodosumi.io/v1alpha1" || checks[0].Kind != "AgentJob" {
			t.Fatalf("%v", checks)
		}
		evaluator, err := cel.NewStatusEvaluator(&checks[0].HealthCheckExpressions)
		if err != nil {
			t.Fatal(err)
		}
		evaluators[kustomization.Metadata.Name] = evaluator
	}
	each(t, func(t *testing.T, name string, job *unstructured.Unstructured) {
		for kustomization, want := range map[string]string{
			"agents-have-ended": jobs[name].ended, "agents-have-started": jobs[name].started,
		} {
			is, err := evaluators[kustomization].Evaluate(context.Background(), job)
			if err != nil {
				t.Fatal(err)
			}
			if is.Status.String() != want {
				t.Errorf("%s: %s, not %s", kustomization, is.Status, want)
			}
		}
	})
}

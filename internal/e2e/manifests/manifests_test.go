// Package manifests checks what examples/storefront/deploy holds against the types of those who will read it.
package manifests

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/coreos/go-systemd/v22/unit"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

const deploy = "../../../examples/storefront/deploy"

// object is a document of a manifest file, strictly decoded into its type.
type object struct {
	kind, name string
	value      any
}

// The part of KEDA's types (keda.sh/v1alpha1) that the manifests may use. KEDA's own module would bring a Kubernetes
// client with it.
type (
	scaledObject struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			ScaleTargetRef                   struct{ Name string }
			MinReplicaCount, MaxReplicaCount *int32
			PollingInterval, CooldownPeriod  *int32
			Fallback                         *struct{ FailureThreshold, Replicas int32 }
			Triggers                         []struct {
				Type, Name        string
				MetricType        autoscalingv2.MetricTargetType
				Metadata          map[string]string
				AuthenticationRef *struct{ Name, Kind string }
			}
		}
	}
	triggerAuthentication struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct {
			SecretTargetRef []struct{ Parameter, Name, Key string }
		}
	}
)

var types = map[string]func() any{
	"apps/v1 Deployment":                     func() any { return new(appsv1.Deployment) },
	"v1 Service":                             func() any { return new(corev1.Service) },
	"policy/v1 PodDisruptionBudget":          func() any { return new(policyv1.PodDisruptionBudget) },
	"autoscaling/v2 HorizontalPodAutoscaler": func() any { return new(autoscalingv2.HorizontalPodAutoscaler) },
	"keda.sh/v1alpha1 ScaledObject":          func() any { return new(scaledObject) },
	"keda.sh/v1alpha1 TriggerAuthentication": func() any { return new(triggerAuthentication) },
}

func decode(t *testing.T, file string) []object {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(deploy, "kubernetes", file))
	if err != nil {
		t.Fatal(err)
	}
	var objects []object
	for docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content))); ; {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		var head struct {
			metav1.TypeMeta   `json:",inline"`
			metav1.ObjectMeta `json:"metadata"`
		}
		if err := yaml.Unmarshal(doc, &head); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		typ := types[head.APIVersion+" "+head.Kind]
		if typ == nil {
			t.Fatalf("%s: unknown kind %s %s", file, head.APIVersion, head.Kind)
		}
		value := typ()
		if err := yaml.UnmarshalStrict(doc, value); err != nil {
			t.Errorf("%s: %s %s: %v", file, head.Kind, head.Name, err)
		}
		objects = append(objects, object{head.Kind, head.Name, value})
	}
}

func find[T any](t *testing.T, objects []object) T {
	t.Helper()
	for _, o := range objects {
		if v, ok := o.value.(T); ok {
			return v
		}
	}
	var zero T
	t.Fatalf("no %T", zero)
	return zero
}

func TestKubernetesManifests(t *testing.T) {
	objects := decode(t, "storefront.yaml")
	d := find[*appsv1.Deployment](t, objects)
	labels := d.Spec.Template.Labels
	for _, o := range objects {
		var selector map[string]string
		switch v := o.value.(type) {
		case *corev1.Service:
			selector = v.Spec.Selector
		case *policyv1.PodDisruptionBudget:
			selector = v.Spec.Selector.MatchLabels
		case *appsv1.Deployment:
			selector = v.Spec.Selector.MatchLabels
		}
		for k, v := range selector {
			if labels[k] != v {
				t.Errorf("%s %s selects %s=%s, the pods have %q", o.kind, o.name, k, v, labels[k])
			}
		}
	}

	pod := d.Spec.Template.Spec
	c := pod.Containers[0]
	var ports []string
	for _, p := range c.Ports {
		ports = append(ports, p.Name)
	}
	for name, probe := range map[string]*corev1.Probe{"/startupz": c.StartupProbe, "/readyz": c.ReadinessProbe, "/livez": c.LivenessProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != name || !slices.Contains(ports, probe.HTTPGet.Port.String()) {
			t.Errorf("the probe of %s is %+v", name, probe)
		}
	}
	// Pre-stop 5 s, drain 20 s, close 5 s.
	if g := pod.TerminationGracePeriodSeconds; g == nil || *g < 30 {
		t.Errorf("terminationGracePeriodSeconds cuts the drain short")
	}
	if s := c.SecurityContext; !*pod.SecurityContext.RunAsNonRoot || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation {
		t.Errorf("security contexts: %+v %+v", pod.SecurityContext, s)
	}
	if c.Lifecycle != nil {
		t.Error("a preStop hook adds to the delay that the process makes itself")
	}

	hpa := find[*autoscalingv2.HorizontalPodAutoscaler](t, decode(t, "hpa.yaml"))
	keda := decode(t, "keda.yaml")
	so := find[*scaledObject](t, keda)
	if hpa.Spec.ScaleTargetRef.Name != d.Name || so.Spec.ScaleTargetRef.Name != d.Name {
		t.Error("an autoscaler scales something else")
	}
	auth := find[*triggerAuthentication](t, keda)
	for _, trigger := range so.Spec.Triggers {
		if ref := trigger.AuthenticationRef; ref != nil && ref.Name != auth.Name {
			t.Errorf("trigger %s refers to %s", trigger.Name, ref.Name)
		}
	}
}

func TestCompose(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{filepath.Join(deploy, "compose.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"primary", "replica", "redis", "load", "storefront"} {
		if _, err := project.GetService(name); err != nil {
			t.Error(err)
		}
	}
	for _, s := range project.Services {
		for _, v := range s.Volumes {
			if v.Type == "bind" {
				if _, err := os.Stat(v.Source); err != nil {
					t.Errorf("%s mounts what is not there: %v", s.Name, err)
				}
			}
		}
	}
}

func TestUnit(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(deploy, "systemd", "storefront.service"))
	if err != nil {
		t.Fatal(err)
	}
	options, err := unit.DeserializeOptions(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"Type": "notify", "KillMode": "mixed", "NotifyAccess": "main"}
	for _, o := range options {
		if v, ok := want[o.Name]; ok && o.Value != v {
			t.Errorf("%s=%s, want %s", o.Name, o.Value, v)
		}
		delete(want, o.Name)
		if o.Name == "SystemCallFilter" && !strings.Contains(o.Value, "@resources") {
			t.Error("the filter kills the offload lanes, which call setpriority")
		}
	}
	if len(want) > 0 {
		t.Errorf("the unit lacks %v", want)
	}
}

package main

import (
	"encoding/base64"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
)

var defaults = Defaults{Address: "http://vault:8200", AuthPath: "auth/kubernetes", Image: "vault:1"}

// pod has these annotations, and a container as the API server has it when it asks.
func pod(annotations map[string]string) Pod {
	var pod Pod
	pod.Metadata.Annotations = annotations
	pod.Spec.Volumes = []json.RawMessage{json.RawMessage(`{"name":"kube-api-access-x"}`)}
	pod.Spec.Containers = []Container{{
		Name:         "app",
		VolumeMounts: []Mount{{Name: "kube-api-access-x", MountPath: identity, ReadOnly: true}},
	}}
	return pod
}

func asks(more ...string) map[string]string {
	annotations := map[string]string{prefix + "agent-inject": "true", prefix + "role": "app"}
	for i := 0; i < len(more); i += 2 {
		annotations[prefix+more[i]] = more[i+1]
	}
	return annotations
}

func inject(t *testing.T, pod Pod) *Injected {
	t.Helper()
	injected, err := Inject(pod, defaults)
	if err != nil || injected == nil {
		t.Fatalf("no agent: %v", err)
	}
	return injected
}

// added are the values that a patch adds at a path.
func added(t *testing.T, injected *Injected, path string) string {
	t.Helper()
	var found []any
	for _, operation := range injected.Patch {
		if operation.Op == "add" && operation.Path == path {
			found = append(found, operation.Value)
		}
	}
	text, err := json.Marshal(found)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestPodsThatDoNotAskAreLeftAlone(t *testing.T) {
	for name, annotations := range map[string]map[string]string{
		"no annotations":   nil,
		"says no":          {prefix + "agent-inject": "false", prefix + "role": "app"},
		"has an agent":     asks("agent-inject-status", "injected"),
		"only has a role":  {prefix + "role": "app"},
		"somebody else's ": {"example.com/agent-inject": "true"},
	} {
		if injected, err := Inject(pod(annotations), defaults); injected != nil || err != nil {
			t.Errorf("%s: %v, %v", name, injected, err)
		}
	}
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	automount := pod(asks())
	automount.Spec.Containers[0].VolumeMounts = nil
	for message, wrong := range map[string]Pod{
		`agent-inject is "perhaps", neither true nor false`: pod(map[string]string{prefix + "agent-inject": "perhaps"}),
		"role is missing":                                       pod(map[string]string{prefix + "agent-inject": "true"}),
		`agent-run-as-user is "vault", no number`:               pod(asks("agent-run-as-user", "vault")),
		`agent-pre-populate is "first", neither true nor false`: pod(asks("agent-pre-populate", "first")),
		"automountServiceAccountToken must not be false":        automount,
	} {
		if _, err := Inject(wrong, defaults); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%q is not %q", err, message)
		}
	}
}

func TestAgentsComeWithTheirVolumesAndTheAppSeesTheSecrets(t *testing.T) {
	injected := inject(t, pod(asks("agent-inject-secret-db", "internal/data/db")))
	for path, part := range map[string]string{
		"/spec/volumes/-":                   `"name":"vault-secrets"`,
		"/spec/containers/0/volumeMounts/-": `[{"name":"vault-secrets","mountPath":"/vault/secrets"}]`,
		"/spec/initContainers":              `"name":"vault-agent-init"`,
		"/spec/containers/-":                `"name":"vault-agent"`,
		"/metadata/annotations/vault.hashicorp.com~1agent-inject-status": `["injected"]`,
	} {
		if text := added(t, injected, path); !strings.Contains(text, part) {
			t.Errorf("%s at %s is not in %s", part, path, text)
		}
	}
	if len(injected.Warnings) != 0 {
		t.Errorf("%v", injected.Warnings)
	}
}

func TestOneAgentIsEnoughForThoseWhoSaySo(t *testing.T) {
	first := inject(t, pod(asks("agent-pre-populate-only", "true")))
	if text := added(t, first, "/spec/containers/-"); text != "null" {
		t.Errorf("%s", text)
	}
	beside := inject(t, pod(asks("agent-pre-populate", "false")))
	if text := added(t, beside, "/spec/initContainers"); text != "null" {
		t.Errorf("%s", text)
	}
}

func TestTheAgentIsToldWhatToWrite(t *testing.T) {
	wishes, err := ReadWishes(asks(
		"agent-inject-secret-db", "internal/data/db", "agent-inject-template-db", "{{ 1 }}", "agent-inject-file-db", "db.txt",
		"template-static-secret-render-interval", "2s"), defaults)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(config(wishes, true))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		`"contents":"{{ 1 }}","destination":"/vault/secrets/db.txt"`, `"role":"app"`, `"static_secret_render_interval":"2s"`,
		`"exit_after_auth":true`, `"address":"http://vault:8200"`,
	} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%s is not in %s", part, text)
		}
	}
}

func TestAnAgentWithoutSecretsHasNoTemplates(t *testing.T) {
	wishes, err := ReadWishes(asks(), defaults)
	if err != nil {
		t.Fatal(err)
	}
	if templates, ok := config(wishes, false)["template"]; ok {
		t.Errorf("%v", templates)
	}
}

func TestUnknownAnnotationsAreWarnedOf(t *testing.T) {
	injected := inject(t, pod(asks("agent-cache-enable", "true")))
	if len(injected.Warnings) != 1 || !strings.Contains(injected.Warnings[0], "agent-cache-enable") {
		t.Errorf("%v", injected.Warnings)
	}
}

func TestAReviewIsAnsweredInItsOwnVersion(t *testing.T) {
	asked := review{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview", Request: &request{UID: "7", Object: pod(asks())}}
	body, err := json.Marshal(asked)
	if err != nil {
		t.Fatal(err)
	}
	answer := httptest.NewRecorder()
	Reviewer{defaults}.ServeHTTP(answer, httptest.NewRequest("POST", "/mutate", strings.NewReader(string(body))))
	var said struct {
		APIVersion, Kind string
		Response         struct {
			UID, PatchType, Patch string
			Allowed               bool
		}
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &said); err != nil {
		t.Fatalf("%s: %s", err, answer.Body)
	}
	got := said.Response
	if said.APIVersion != asked.APIVersion || got.UID != "7" || !got.Allowed || got.PatchType != "JSONPatch" {
		t.Errorf("%s", answer.Body)
	}
	patch, err := base64.StdEncoding.DecodeString(got.Patch)
	if err != nil || !strings.HasPrefix(string(patch), `[{"op":"add"`) {
		t.Errorf("%s, %v", patch, err)
	}
}

func TestAConnectionGetsACertificateThatTheAuthorityHasSigned(t *testing.T) {
	authority, err := NewAuthority([]string{"injector.default.svc"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := authority.Certificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Leaf.VerifyHostname("injector.default.svc"); err != nil {
		t.Error(err)
	}
	if err := first.Leaf.CheckSignatureFrom(authority.certificate); err != nil {
		t.Error(err)
	}
	if second, _ := authority.Certificate(nil); second != first {
		t.Error("another certificate, though the first is good")
	}
}

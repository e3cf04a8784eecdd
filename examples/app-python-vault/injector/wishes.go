package main

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

const prefix = "vault.hashicorp.com/"

// The annotation that says whether an agent is there already.
const injectStatus = prefix + "agent-inject-status"

// Defaults are what pods need not say.
type Defaults struct {
	Address, AuthPath, Image string
}

// Wishes are what a pod says, in its annotations, about its agent.
type Wishes struct {
	Role, Address, AuthPath, Image, LogLevel string
	// An agent that ends when the secrets are there, before the app begins, and one that keeps them up to date.
	First, Beside   bool
	SkipVerify      bool
	User, Group     int64
	Requests, Limit map[string]string
	// How often secrets without a lease are read again; Vault's agent has a default.
	RenderInterval string
	Secrets        []Secret
	// Annotations with Vault's prefix that mean nothing here.
	Unknown []string
}

// Secret is a file that the agent writes.
type Secret struct {
	Name, Path, Template, File string
}

// WantsAgent is whether a pod with these annotations wants an agent, and has none.
func WantsAgent(annotations map[string]string) (bool, error) {
	said, ok := annotations[prefix+"agent-inject"]
	if !ok || annotations[injectStatus] == "injected" {
		return false, nil
	}
	wants, err := strconv.ParseBool(said)
	if err != nil {
		return false, fmt.Errorf("the annotation %sagent-inject is %q, neither true nor false", prefix, said)
	}
	return wants, nil
}

// ReadWishes reads a pod's annotations.
func ReadWishes(annotations map[string]string, defaults Defaults) (Wishes, error) {
	reader := &reader{annotations: annotations, read: map[string]bool{"agent-inject": true, "agent-inject-status": true}}
	wishes := Wishes{
		Role:           reader.text("role", ""),
		Address:        reader.text("service", defaults.Address),
		AuthPath:       reader.text("auth-path", defaults.AuthPath),
		Image:          reader.text("agent-image", defaults.Image),
		LogLevel:       reader.text("log-level", "info"),
		First:          reader.flag("agent-pre-populate", true),
		Beside:         !reader.flag("agent-pre-populate-only", false),
		SkipVerify:     reader.flag("tls-skip-verify", false),
		User:           reader.number("agent-run-as-user", 100),
		Group:          reader.number("agent-run-as-group", 1000),
		Requests:       reader.resources("agent-requests-", "250m", "64Mi"),
		Limit:          reader.resources("agent-limits-", "500m", "128Mi"),
		RenderInterval: reader.text("template-static-secret-render-interval", ""),
	}
	wishes.Secrets = reader.secrets()
	if reader.err == nil && wishes.Role == "" {
		reader.err = fmt.Errorf("the annotation %srole is missing: as whom shall the agent log in?", prefix)
	}
	wishes.Unknown = reader.unread()
	return wishes, reader.err
}

// reader reads annotations, and notes which it has read, and the first that is wrong.
type reader struct {
	annotations map[string]string
	read        map[string]bool
	err         error
}

func (r *reader) text(name, otherwise string) string {
	r.read[name] = true
	if value := r.annotations[prefix+name]; value != "" {
		return value
	}
	return otherwise
}

func (r *reader) flag(name string, otherwise bool) bool {
	value, err := strconv.ParseBool(r.text(name, strconv.FormatBool(otherwise)))
	r.note(name, "neither true nor false", err)
	return value
}

func (r *reader) number(name string, otherwise int64) int64 {
	value, err := strconv.ParseInt(r.text(name, strconv.FormatInt(otherwise, 10)), 10, 64)
	r.note(name, "no number", err)
	return value
}

func (r *reader) note(name, wrong string, err error) {
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("the annotation %s%s is %q, %s", prefix, name, r.annotations[prefix+name], wrong)
	}
}

func (r *reader) resources(kind, cpu, memory string) map[string]string {
	return map[string]string{"cpu": r.text(kind+"cpu", cpu), "memory": r.text(kind+"mem", memory)}
}

// secrets are in the order of their names, so that the same pod always gets the same agent.
func (r *reader) secrets() []Secret {
	var secrets []Secret
	for _, key := range slices.Sorted(maps.Keys(r.annotations)) {
		name, ok := strings.CutPrefix(key, prefix+"agent-inject-secret-")
		if !ok {
			continue
		}
		secret := Secret{
			Name: name,
			Path: r.text("agent-inject-secret-"+name, ""),
			File: path.Join(secretsDir, r.text("agent-inject-file-"+name, name)),
		}
		secret.Template = r.text("agent-inject-template-"+name, allOf(secret.Path))
		secrets = append(secrets, secret)
	}
	return secrets
}

// allOf is a template for all that a secret has, one a line.
func allOf(path string) string {
	return fmt.Sprintf("{{ with secret %q }}{{ range $key, $value := .Data }}{{ $key }}: {{ $value }}\n{{ end }}{{ end }}", path)
}

func (r *reader) unread() []string {
	var unread []string
	for _, key := range slices.Sorted(maps.Keys(r.annotations)) {
		if name, ok := strings.CutPrefix(key, prefix); ok && !r.read[name] {
			unread = append(unread, key)
		}
	}
	return unread
}

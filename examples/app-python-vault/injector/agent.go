package main

import "encoding/json"

const (
	homeDir    = "/home/vault"
	secretsDir = "/vault/secrets"
	// The shell is there for the configuration, which comes as text in the environment.
	command = "echo ${VAULT_CONFIG?} | base64 -d > " + homeDir + "/config.json && " +
		"exec vault agent -config=" + homeDir + "/config.json"
)

var secretsMount = Mount{Name: "vault-secrets", MountPath: secretsDir}

// Container is a container of a pod: what this reads of one, and all that it writes into one.
type Container struct {
	Name            string         `json:"name"`
	Image           string         `json:"image,omitempty"`
	Command         []string       `json:"command,omitempty"`
	Args            []string       `json:"args,omitempty"`
	Env             []Variable     `json:"env,omitempty"`
	Resources       map[string]any `json:"resources,omitempty"`
	SecurityContext map[string]any `json:"securityContext,omitempty"`
	VolumeMounts    []Mount        `json:"volumeMounts,omitempty"`
}

// Variable is one of a container's environment.
type Variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Mount is where a container has a volume.
type Mount struct {
	Name      string `json:"name"`
	MountPath string `json:"mountPath"`
	ReadOnly  bool   `json:"readOnly,omitempty"`
}

// volumes are what the agents need, in memory: a home for each, and what they give the app.
func volumes(wishes Wishes) []any {
	var volumes []any
	inMemory := func(name string) {
		volumes = append(volumes, map[string]any{"name": name, "emptyDir": map[string]string{"medium": "Memory"}})
	}
	if wishes.First {
		inMemory(home("vault-agent-init"))
	}
	if wishes.Beside {
		inMemory(home("vault-agent"))
	}
	inMemory(secretsMount.Name)
	return volumes
}

func home(agent string) string {
	if agent == "vault-agent-init" {
		return "home-init"
	}
	return "home-sidecar"
}

func agent(name string, wishes Wishes, token Mount) (Container, error) {
	config, err := json.Marshal(config(wishes, name == "vault-agent-init"))
	if err != nil {
		return Container{}, err
	}
	return Container{
		Name:    name,
		Image:   wishes.Image,
		Command: []string{"/bin/sh", "-ec"},
		Args:    []string{command},
		Env: []Variable{
			{"VAULT_LOG_LEVEL", wishes.LogLevel},
			{"VAULT_CONFIG", encode(config)},
		},
		Resources: map[string]any{"requests": wishes.Requests, "limits": wishes.Limit},
		SecurityContext: map[string]any{
			"runAsUser":                wishes.User,
			"runAsGroup":               wishes.Group,
			"runAsNonRoot":             wishes.User != 0,
			"readOnlyRootFilesystem":   true,
			"allowPrivilegeEscalation": false,
			"capabilities":             map[string]any{"drop": []string{"ALL"}},
		},
		VolumeMounts: []Mount{token, {Name: home(name), MountPath: homeDir}, secretsMount},
	}, nil
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Pod is what this reads of a pod.
type Pod struct {
	Metadata struct {
		Name         string            `json:"name"`
		GenerateName string            `json:"generateName"`
		Annotations  map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Volumes        []json.RawMessage `json:"volumes"`
		InitContainers []Container       `json:"initContainers"`
		Containers     []Container       `json:"containers"`
	} `json:"spec"`
}

// Name is the pod's name, or how it begins.
func (p Pod) Name() string {
	if p.Metadata.Name == "" {
		return p.Metadata.GenerateName
	}
	return p.Metadata.Name
}

// Operation is one of a JSON patch.
type Operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// Add puts a value into an object, or before the end of a list if the path ends with `-`.
func Add(path string, value any) Operation { return Operation{"add", path, value} }

// Injected is how a pod gets its agent.
type Injected struct {
	Patch    []Operation
	Role     string
	Secrets  int
	Warnings []string
}

// Inject decides what to add to a pod. It is nil for a pod that wants no agent.
func Inject(pod Pod, defaults Defaults) (*Injected, error) {
	wants, err := WantsAgent(pod.Metadata.Annotations)
	if err != nil || !wants {
		return nil, err
	}
	wishes, err := ReadWishes(pod.Metadata.Annotations, defaults)
	if err != nil {
		return nil, err
	}
	token, ok := tokenMount(pod)
	if !ok {
		return nil, errors.New("no container has a service account's token, so the agent cannot say who it is: " +
			"automountServiceAccountToken must not be false")
	}

	var patch []Operation
	patch = appendTo(patch, "/spec/volumes", len(pod.Spec.Volumes), volumes(wishes)...)
	patch = mountSecrets(patch, "/spec/initContainers", pod.Spec.InitContainers)
	patch = mountSecrets(patch, "/spec/containers", pod.Spec.Containers)
	if wishes.First {
		agent, err := agent("vault-agent-init", wishes, token)
		if err != nil {
			return nil, err
		}
		patch = appendTo(patch, "/spec/initContainers", len(pod.Spec.InitContainers), agent)
	}
	if wishes.Beside {
		agent, err := agent("vault-agent", wishes, token)
		if err != nil {
			return nil, err
		}
		patch = appendTo(patch, "/spec/containers", len(pod.Spec.Containers), agent)
	}
	// There are annotations: one has asked for the agent.
	status := strings.ReplaceAll(injectStatus, "/", "~1")
	patch = append(patch, Add("/metadata/annotations/"+status, "injected"))

	injected := &Injected{Patch: patch, Role: wishes.Role, Secrets: len(wishes.Secrets)}
	for _, name := range wishes.Unknown {
		injected.Warnings = append(injected.Warnings, fmt.Sprintf("the annotation %s is not known to this injector", name))
	}
	return injected, nil
}

// mountSecrets gives the pod's own containers what the agents write.
func mountSecrets(patch []Operation, path string, containers []Container) []Operation {
	for index, container := range containers {
		mounts := fmt.Sprintf("%s/%d/volumeMounts", path, index)
		patch = appendTo(patch, mounts, len(container.VolumeMounts), secretsMount)
	}
	return patch
}

// appendTo adds to the end of a list that has so many entries; one without any may not be there.
func appendTo(patch []Operation, path string, length int, values ...any) []Operation {
	if length == 0 {
		return append(patch, Add(path, values))
	}
	for _, value := range values {
		patch = append(patch, Add(path+"/-", value))
	}
	return patch
}

// tokenMount is how a pod's containers have their service account's token: Kubernetes has put it there.
func tokenMount(pod Pod) (Mount, bool) {
	for _, container := range pod.Spec.Containers {
		for _, mount := range container.VolumeMounts {
			if mount.MountPath == identity {
				return mount, true
			}
		}
	}
	return Mount{}, false
}

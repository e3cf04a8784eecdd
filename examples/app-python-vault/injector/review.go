package main

import (
	"encoding/json"
	"log"
	"net/http"
)

// A pod is at most 3 MiB, and a request has it twice at most.
const maxBody = 8 << 20

// Reviewer answers the API server's AdmissionReviews.
type Reviewer struct {
	Defaults Defaults
}

type review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *request  `json:"request,omitempty"`
	Response   *response `json:"response,omitempty"`
}

type request struct {
	UID       string `json:"uid"`
	Namespace string `json:"namespace"`
	Object    Pod    `json:"object"`
}

type response struct {
	UID       string   `json:"uid"`
	Allowed   bool     `json:"allowed"`
	Status    *status  `json:"status,omitempty"`
	Patch     []byte   `json:"patch,omitempty"`
	PatchType string   `json:"patchType,omitempty"`
	Warnings  []string `json:"warnings,omitempty"`
}

type status struct {
	Message string `json:"message"`
}

func (r Reviewer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var asked review
	body := http.MaxBytesReader(w, req.Body, maxBody)
	if err := json.NewDecoder(body).Decode(&asked); err != nil || asked.Request == nil {
		http.Error(w, "the body is no AdmissionReview with a request for a pod", http.StatusBadRequest)
		return
	}
	answer := r.review(asked.Request)
	answer.UID = asked.Request.UID
	w.Header().Set("Content-Type", "application/json")
	said := review{APIVersion: asked.APIVersion, Kind: asked.Kind, Response: answer}
	if err := json.NewEncoder(w).Encode(said); err != nil {
		log.Printf("cannot answer: %s", err)
	}
}

func (r Reviewer) review(asked *request) *response {
	pod := asked.Object
	name := asked.Namespace + "/" + pod.Name()
	injected, err := Inject(pod, r.Defaults)
	if err != nil {
		log.Printf("%s: refused: %s", name, err)
		return &response{Status: &status{Message: err.Error()}}
	}
	if injected == nil {
		return &response{Allowed: true}
	}
	patch, err := json.Marshal(injected.Patch)
	if err != nil {
		return &response{Status: &status{Message: err.Error()}}
	}
	log.Printf("%s: an agent with the role %q; secrets: %d", name, injected.Role, injected.Secrets)
	return &response{Allowed: true, Patch: patch, PatchType: "JSONPatch", Warnings: injected.Warnings}
}

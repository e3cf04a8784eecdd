package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

const (
	// What Kubernetes puts into each pod of a service account.
	identity = "/var/run/secrets/kubernetes.io/serviceaccount"
	// The configuration may be applied anew at any time, without the authority. The patch changes nothing if it is there.
	period = time.Second
)

// Registration tells the API server, in a MutatingWebhookConfiguration, which authority to trust.
type Registration struct {
	client *http.Client
	url    string
	patch  []byte
	done   atomic.Bool
}

// NewRegistration is for the configuration of this name. It does nothing yet.
func NewRegistration(name string, authority []byte) (*Registration, error) {
	if name == "" {
		return nil, errors.New("AGENT_INJECT_TLS_AUTO must be set")
	}
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no pod")
	}
	trusted, err := os.ReadFile(identity + "/ca.crt")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(trusted) {
		return nil, errors.New("no certificate in " + identity + "/ca.crt")
	}
	// Only the first webhook of the configuration is this one.
	patch, err := json.Marshal([]Operation{Add("/webhooks/0/clientConfig/caBundle", authority)})
	if err != nil {
		return nil, err
	}
	return &Registration{
		client: &http.Client{
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
			Timeout:   10 * time.Second,
		},
		url: fmt.Sprintf("https://%s/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/%s",
			net.JoinHostPort(host, port), name),
		patch: patch,
	}, nil
}

// Done is whether the API server has been told once.
func (r *Registration) Done() bool { return r.done.Load() }

// Keep tells the API server again and again, until the context ends.
func (r *Registration) Keep(ctx context.Context) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	var last string
	for {
		// Said once, not each second.
		said := "registered"
		if err := r.tell(ctx); err != nil {
			said = fmt.Sprintf("cannot register: %s", err)
		} else {
			r.done.Store(true)
		}
		if said != last && ctx.Err() == nil {
			log.Print(said)
			last = said
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Registration) tell(ctx context.Context) error {
	// It is replaced before it expires.
	token, err := os.ReadFile(identity + "/token")
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPatch, r.url, bytes.NewReader(r.patch))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
	request.Header.Set("Content-Type", "application/json-patch+json")
	request.Header.Set("Accept", "application/json")
	answer, err := r.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, body)
	}
	return nil
}

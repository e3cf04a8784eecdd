// Puts a Vault agent into pods that ask for one by their annotations: a webhook that the API server calls before it
// stores a pod.
//
// It stands in for HashiCorp's vault-k8s, and understands the settings, flags and annotations of it that its chart and
// most pods use. It is settled by the environment, as that is:
//
//	AGENT_INJECT_LISTEN           where to listen (default :8080)
//	AGENT_INJECT_VAULT_ADDR       where agents find Vault
//	AGENT_INJECT_VAULT_AUTH_PATH  where Vault has the kubernetes auth method (default auth/kubernetes)
//	AGENT_INJECT_VAULT_IMAGE      the agents' image
//	AGENT_INJECT_TLS_AUTO         the MutatingWebhookConfiguration that is told how to trust this server
//	AGENT_INJECT_TLS_AUTO_HOSTS   the names that the API server calls it by, with commas between them
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(log.LstdFlags | log.LUTC)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	defaults := Defaults{
		Address:  os.Getenv("AGENT_INJECT_VAULT_ADDR"),
		AuthPath: setting("AGENT_INJECT_VAULT_AUTH_PATH", "auth/kubernetes"),
		Image:    os.Getenv("AGENT_INJECT_VAULT_IMAGE"),
	}
	if defaults.Address == "" || defaults.Image == "" {
		return errors.New("AGENT_INJECT_VAULT_ADDR and AGENT_INJECT_VAULT_IMAGE must be set")
	}
	hosts := strings.Split(os.Getenv("AGENT_INJECT_TLS_AUTO_HOSTS"), ",")
	authority, err := NewAuthority(hosts)
	if err != nil {
		return err
	}
	registration, err := NewRegistration(os.Getenv("AGENT_INJECT_TLS_AUTO"), authority.PEM)
	if err != nil {
		return err
	}

	routes := http.NewServeMux()
	routes.Handle("POST /mutate", Reviewer{defaults})
	routes.HandleFunc("GET /health/ready", func(w http.ResponseWriter, _ *http.Request) {
		if !registration.Done() {
			http.Error(w, "the API server does not know yet how to trust this server", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	server := &http.Server{
		Addr:              setting("AGENT_INJECT_LISTEN", ":8080"),
		Handler:           routes,
		TLSConfig:         &tls.Config{GetCertificate: authority.Certificate, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
	}

	kept := make(chan struct{})
	go func() {
		defer close(kept)
		registration.Keep(ctx)
	}()
	go func() {
		<-ctx.Done()
		last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		// What is still open after that, ends with the process.
		_ = server.Shutdown(last)
	}()
	log.Printf("listening on %s", server.Addr)
	if err := server.ListenAndServeTLS("", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-kept
	return nil
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

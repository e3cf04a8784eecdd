//go:build !old

package main

import (
	"io"
	"net/http"
	"net/url"
	"os"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
)

func newWebSocketExecutor(config *rest.Config, target *url.URL) (remotecommand.Executor, error) {
	return remotecommand.NewWebSocketExecutor(config, http.MethodGet, target.String())
}

func newWebSocketForwarder(config *rest.Config, target *url.URL, ports []string, stop, ready chan struct{}) (*portforward.PortForwarder, error) {
	dialer, err := portforward.NewSPDYOverWebsocketDialer(target, config)
	if err != nil {
		return nil, err
	}
	return portforward.New(dialer, ports, stop, ready, io.Discard, os.Stderr)
}

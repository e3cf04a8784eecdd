//go:build old

package main

import (
	"errors"
	"net/url"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
)

var errNoWebSockets = errors.New("this client knows no WebSockets")

func newWebSocketExecutor(*rest.Config, *url.URL) (remotecommand.Executor, error) {
	return nil, errNoWebSockets
}

func newWebSocketForwarder(*rest.Config, *url.URL, []string, chan struct{}, chan struct{}) (*portforward.PortForwarder, error) {
	return nil, errNoWebSockets
}

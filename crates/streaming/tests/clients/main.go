// Command client is a Kubernetes client for the tests: it runs a command, or forwards ports, with client-go, as
// kubectl does, at whatever address it is told.
//
// It is built twice: with the newest client-go (go.mod), and with one that knows no WebSockets (old.mod, and the
// build tag "old").
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

var (
	address   = flag.String("url", "", "where to send the request")
	ca        = flag.String("ca", "", "a file with the certificate to trust")
	transport = flag.String("transport", "spdy", "spdy or websocket")
	protocols = flag.String("protocols", "", "with spdy: offer these instead of all")
	stdin     = flag.Bool("stdin", false, "send standard input")
	stderr    = flag.Bool("stderr", false, "ask for standard error")
	sizes     = flag.String("sizes", "", "ask for a terminal and give it these sizes, as 80x24,100x30")
	ports     = flag.String("ports", "", "instead of running a command, forward these ports, as 0:80,0:81")
)

func main() {
	flag.Parse()
	var err error
	if *ports == "" {
		err = run()
	} else {
		err = forward()
	}
	var code exec.CodeExitError
	if errors.As(err, &code) {
		os.Exit(code.Code)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(250)
	}
}

func config() (*rest.Config, *url.URL, error) {
	target, err := url.Parse(*address)
	if err != nil {
		return nil, nil, err
	}
	return &rest.Config{Host: target.Host, TLSClientConfig: rest.TLSClientConfig{CAFile: *ca}}, target, nil
}

func run() error {
	config, target, err := config()
	if err != nil {
		return err
	}
	executor, err := newExecutor(config, target)
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Stdout: os.Stdout}
	if *stdin {
		options.Stdin = os.Stdin
	}
	if *stderr {
		options.Stderr = os.Stderr
	}
	if *sizes != "" {
		options.Tty = true
		options.TerminalSizeQueue = newQueue(*sizes)
	}
	return executor.StreamWithContext(context.Background(), options)
}

func newExecutor(config *rest.Config, target *url.URL) (remotecommand.Executor, error) {
	if *transport == "websocket" {
		return newWebSocketExecutor(config, target)
	}
	if *protocols == "" {
		return remotecommand.NewSPDYExecutor(config, http.MethodPost, target)
	}
	wrapper, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	offered := strings.Split(*protocols, ",")
	return remotecommand.NewSPDYExecutorForProtocols(wrapper, upgrader, http.MethodPost, target, offered...)
}

// queue gives out sizes one after another, and then no more.
type queue chan remotecommand.TerminalSize

func newQueue(text string) queue {
	sizes := strings.Split(text, ",")
	queue := make(queue, len(sizes))
	for _, size := range sizes {
		var parsed remotecommand.TerminalSize
		if _, err := fmt.Sscanf(size, "%dx%d", &parsed.Width, &parsed.Height); err != nil {
			panic(err)
		}
		queue <- parsed
	}
	return queue
}

func (q queue) Next() *remotecommand.TerminalSize {
	size := <-q
	return &size
}

// forward tells the local ports in one line, and forwards until standard input ends.
func forward() error {
	config, target, err := config()
	if err != nil {
		return err
	}
	stop, ready, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	forwarder, err := newForwarder(config, target, strings.Split(*ports, ","), stop, ready)
	if err != nil {
		return err
	}
	go func() { done <- forwarder.ForwardPorts() }()
	select {
	case err := <-done:
		return err
	case <-ready:
	}
	forwarded, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	for _, port := range forwarded {
		fmt.Printf("%d ", port.Local)
	}
	fmt.Println()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	return <-done
}

func newForwarder(config *rest.Config, target *url.URL, ports []string, stop, ready chan struct{}) (*portforward.PortForwarder, error) {
	if *transport == "websocket" {
		return newWebSocketForwarder(config, target, ports, stop, ready)
	}
	wrapper, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: wrapper}, http.MethodPost, target)
	return portforward.New(dialer, ports, stop, ready, io.Discard, os.Stderr)
}

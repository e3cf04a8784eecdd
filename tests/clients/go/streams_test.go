package clients

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

type way struct {
	name string
	make func(config *rest.Config, request *rest.Request) (remotecommand.Executor, error)
}

// The two protocols, and what kubectl does: the newer one, and the other where that fails.
var ways = []way{
	{"SPDY", func(config *rest.Config, request *rest.Request) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(config, "POST", request.URL())
	}},
	{"WebSocket", func(config *rest.Config, request *rest.Request) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(config, "GET", request.URL().String())
	}},
	{"both", func(config *rest.Config, request *rest.Request) (remotecommand.Executor, error) {
		newer, err := remotecommand.NewWebSocketExecutor(config, "GET", request.URL().String())
		if err != nil {
			return nil, err
		}
		older, err := remotecommand.NewSPDYExecutor(config, "POST", request.URL())
		if err != nil {
			return nil, err
		}
		return remotecommand.NewFallbackExecutor(newer, older, httpstream.IsUpgradeFailure)
	}},
}

func (s *suite) exec(way way, pod string, options *corev1.PodExecOptions, streams remotecommand.StreamOptions) error {
	s.Helper()
	request := s.client.CoreV1().RESTClient().Post().Namespace(s.namespace).Resource("pods").Name(pod).
		SubResource("exec").VersionedParams(options, scheme.ParameterCodec)
	executor, err := way.make(s.config, request)
	s.must(err)
	return executor.StreamWithContext(s.ctx, streams)
}

func TestCommandsRunInPods(t *testing.T) {
	s := start(t)
	s.running(pod("one", "sleep 1000"))
	for _, way := range ways {
		var out, fault bytes.Buffer
		// More than fits into one frame, or one window.
		text := strings.Repeat("0123456789abcdef", 1<<15)
		err := s.exec(way, "one", &corev1.PodExecOptions{
			Command: []string{"sh", "-c", "cat; echo not good >&2"}, Stdin: true, Stdout: true, Stderr: true,
		}, remotecommand.StreamOptions{Stdin: strings.NewReader(text), Stdout: &out, Stderr: &fault})
		s.must(err)
		s.is(out.String() == text && fault.String() == "not good\n", "%s: %d bytes, %q", way.name, out.Len(), fault.String())

		err = s.exec(way, "one", &corev1.PodExecOptions{Command: []string{"sh", "-c", "exit 7"}, Stdout: true},
			remotecommand.StreamOptions{Stdout: &out})
		code, is := err.(exec.CodeExitError)
		s.is(is && code.Code == 7, "%s: %v", way.name, err)

		err = s.exec(way, "one", &corev1.PodExecOptions{Command: []string{"no-such"}, Stdout: true},
			remotecommand.StreamOptions{Stdout: &out})
		s.is(err != nil, "%s: no such command", way.name)

		out.Reset()
		err = s.exec(way, "one", &corev1.PodExecOptions{Command: []string{"sh", "-c", "tty; stty size"}, Stdin: true, Stdout: true, TTY: true},
			remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: &out, Tty: true, TerminalSizeQueue: &size{80, 25}})
		s.must(err)
		s.is(strings.Contains(out.String(), "/dev/pts/"), "%s: %q", way.name, out.String())
	}
}

// Size is a terminal's that never changes.
type size struct{ width, height uint16 }

func (s *size) Next() *remotecommand.TerminalSize {
	if s.width == 0 {
		return nil
	}
	now := &remotecommand.TerminalSize{Width: s.width, Height: s.height}
	s.width = 0
	return now
}

func TestLogsAreRead(t *testing.T) {
	s := start(t)
	talker := pod("talker", "echo one; echo two; echo three; sleep 1; echo four")
	talker.Spec.RestartPolicy = corev1.RestartPolicyNever
	pods := s.client.CoreV1().Pods(s.namespace)
	s.running(talker)
	stream, err := pods.GetLogs("talker", &corev1.PodLogOptions{Follow: true}).Stream(s.ctx)
	s.must(err)
	defer stream.Close()
	var lines []string
	for scanner := bufio.NewScanner(stream); scanner.Scan(); {
		lines = append(lines, scanner.Text())
	}
	s.is(strings.Join(lines, " ") == "one two three four", "%q", lines)
	tail := int64(2)
	last, err := pods.GetLogs("talker", &corev1.PodLogOptions{TailLines: &tail, Timestamps: true}).DoRaw(s.ctx)
	s.must(err)
	s.is(strings.HasSuffix(string(last), " four\n") && strings.Count(string(last), "\n") == 2, "%q", last)
	limit := int64(5)
	few, err := pods.GetLogs("talker", &corev1.PodLogOptions{LimitBytes: &limit}).DoRaw(s.ctx)
	s.must(err)
	s.is(string(few) == "one\nt", "%q", few)
	_, err = pods.GetLogs("talker", &corev1.PodLogOptions{Container: "none"}).DoRaw(s.ctx)
	s.is(err != nil, "there is no such container")
}

func TestPortsAreForwarded(t *testing.T) {
	s := start(t)
	web := pod("web", "mkdir /w && echo hello >/w/index.html && httpd -f -p 8080 -h /w")
	// A forwarder ends at the first connection that is refused.
	web.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		PeriodSeconds: 1,
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(8080)}},
	}
	s.running(web)
	request := s.client.CoreV1().RESTClient().Post().Namespace(s.namespace).Resource("pods").Name("web").SubResource("portforward")
	transport, upgrader, err := spdy.RoundTripperFor(s.config)
	s.must(err)
	older := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", request.URL())
	newer, err := portforward.NewSPDYOverWebsocketDialer(request.URL(), s.config)
	s.must(err)
	for name, dialer := range map[string]httpstream.Dialer{"SPDY": older, "WebSocket": newer} {
		stop, ready := make(chan struct{}), make(chan struct{})
		forwarder, err := portforward.New(dialer, []string{"0:8080"}, stop, ready, io.Discard, os.Stderr)
		s.must(err)
		ended := make(chan error, 1)
		go func() { ended <- forwarder.ForwardPorts() }()
		select {
		case <-ready:
		case err := <-ended:
			s.Fatalf("%s: %v", name, err)
		}
		ports, err := forwarder.GetPorts()
		s.must(err)
		for range 3 {
			s.must(s.until("an answer by "+name, func() (bool, error) {
				said, err := ask(s.ctx, fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
				return err == nil && strings.HasSuffix(said, "\r\n\r\nhello\n"), nil
			}))
		}
		close(stop)
		s.must(<-ended)
	}
}

// Ask asks for a page over a connection of its own.
func ask(ctx context.Context, address string) (string, error) {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	if _, err := io.WriteString(connection, "GET /index.html HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	said, err := io.ReadAll(connection)
	return string(said), err
}

func TestEphemeralContainersJoinAPod(t *testing.T) {
	s := start(t)
	served, err := s.client.Discovery().ServerResourcesForGroupVersion("v1")
	s.must(err)
	if !slices.ContainsFunc(served.APIResources, func(resource metav1.APIResource) bool {
		return resource.Name == "pods/ephemeralcontainers"
	}) {
		s.Skip("not served")
	}
	seen := s.running(pod("one", "sleep 1000"))
	seen.Spec.EphemeralContainers = append(seen.Spec.EphemeralContainers, corev1.EphemeralContainer{
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "look", Image: "busybox:1.36", Command: []string{"sleep", "1000"},
		},
		TargetContainerName: "main",
	})
	pods := s.client.CoreV1().Pods(s.namespace)
	_, err = pods.UpdateEphemeralContainers(s.ctx, "one", seen, metav1.UpdateOptions{})
	s.must(err)
	s.must(s.until("the container runs", func() (bool, error) {
		pod, err := pods.Get(s.ctx, "one", metav1.GetOptions{})
		statuses := pod.Status.EphemeralContainerStatuses
		return err == nil && len(statuses) == 1 && statuses[0].State.Running != nil, err
	}))
}

// Package clients is what controllers and operators do with client-go, against a cluster that KUBECONFIG names.
//
// CONTENT_TYPE is what the typed client sends and asks for: JSON, or protobuf as controllers have it.
package clients

import (
	"context"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// How long anything that is awaited may take.
const patience = 60 * time.Second

// What a test has: a namespace of its own, and clients for it.
type suite struct {
	*testing.T
	ctx       context.Context
	config    *rest.Config
	client    kubernetes.Interface
	namespace string
}

// Config returns how to reach the cluster, without a content type: dynamic clients know JSON only.
func jsonConfig(t *testing.T) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 200, 400
	return config
}

func start(t *testing.T) *suite {
	t.Helper()
	t.Parallel()
	config := jsonConfig(t)
	if kind := os.Getenv("CONTENT_TYPE"); kind != "" {
		config.ContentType = kind
		config.AcceptContentTypes = kind + "," + runtime.ContentTypeJSON
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	namespace, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "client-go-"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{T: t, ctx: ctx, config: config, client: client, namespace: namespace.Name}
	t.Cleanup(func() {
		background := metav1.DeletePropagationBackground
		err := client.CoreV1().Namespaces().Delete(context.Background(), s.namespace,
			metav1.DeleteOptions{PropagationPolicy: &background})
		if err != nil {
			t.Error(err)
		}
	})
	s.must(s.until("the default account", func() (bool, error) {
		_, err := client.CoreV1().ServiceAccounts(s.namespace).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, nil
	}))
	return s
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) is(holds bool, format string, args ...any) {
	s.Helper()
	if !holds {
		s.Fatalf(format, args...)
	}
}

// Until waits for what no watch tells.
func (s *suite) until(what string, holds wait.ConditionFunc) error {
	s.Helper()
	err := wait.PollUntilContextTimeout(s.ctx, 50*time.Millisecond, patience, true,
		func(context.Context) (bool, error) { return holds() })
	if err != nil {
		s.Errorf("%s: %v", what, err)
	}
	return err
}

func called(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}
}

// Pod is one that does what a script says, and ends at once when it is asked to.
func pod(name, script string) *corev1.Pod {
	grace := int64(0)
	return &corev1.Pod{ObjectMeta: called(name), Spec: podSpec(script, &grace)}
}

func podSpec(script string, grace *int64) corev1.PodSpec {
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: grace,
		Containers: []corev1.Container{{
			Name: "main", Image: "busybox:1.36", Command: []string{"sh", "-c", script},
		}},
	}
}

func isReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Running makes a pod and waits until it is ready.
func (s *suite) running(pod *corev1.Pod) *corev1.Pod {
	s.Helper()
	pods := s.client.CoreV1().Pods(s.namespace)
	_, err := pods.Create(s.ctx, pod, metav1.CreateOptions{})
	s.must(err)
	var seen *corev1.Pod
	s.must(s.until("the pod is ready", func() (bool, error) {
		seen, err = pods.Get(s.ctx, pod.Name, metav1.GetOptions{})
		return err == nil && isReady(seen), err
	}))
	return seen
}

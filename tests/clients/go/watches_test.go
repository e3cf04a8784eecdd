package clients

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	watchtools "k8s.io/client-go/tools/watch"
)

func TestInformersFollowWhatChanges(t *testing.T) {
	s := start(t)
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	for n := range 3 {
		_, err := maps.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: called(fmt.Sprint("before-", n))}, metav1.CreateOptions{})
		s.must(err)
	}
	var added, updated, deleted atomic.Int32
	factory := informers.NewSharedInformerFactoryWithOptions(s.client, time.Hour, informers.WithNamespace(s.namespace))
	informer := factory.Core().V1().ConfigMaps()
	_, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { added.Add(1) },
		UpdateFunc: func(any, any) { updated.Add(1) },
		DeleteFunc: func(any) { deleted.Add(1) },
	})
	s.must(err)
	pods := factory.Core().V1().Pods().Informer()
	sets := factory.Apps().V1().StatefulSets().Informer()
	ctx, stop := context.WithCancel(s.ctx)
	factory.Start(ctx.Done())
	s.is(cache.WaitForCacheSync(s.ctx.Done(), informer.Informer().HasSynced, pods.HasSynced, sets.HasSynced), "no sync")
	seen, err := informer.Lister().ConfigMaps(s.namespace).List(labels.SelectorFromSet(labels.Set{"app": "before-1"}))
	s.must(err)
	s.is(len(seen) == 1, "%+v", seen)

	made, err := maps.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: called("after")}, metav1.CreateOptions{})
	s.must(err)
	made.Data = map[string]string{"a": "b"}
	_, err = maps.Update(s.ctx, made, metav1.UpdateOptions{})
	s.must(err)
	s.must(maps.Delete(s.ctx, "before-0", metav1.DeleteOptions{}))
	// kube-root-ca.crt is there, too.
	s.must(s.until("all changes", func() (bool, error) {
		return added.Load() == 5 && updated.Load() == 1 && deleted.Load() == 1, nil
	}))
	stop()
	factory.Shutdown()
}

func TestWatchesBeginWithWhatIsThereAndHaveBookmarks(t *testing.T) {
	s := start(t)
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	_, err := maps.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: called("there")}, metav1.CreateOptions{})
	s.must(err)
	yes := true
	stream, err := maps.Watch(s.ctx, metav1.ListOptions{
		LabelSelector: "app=there", AllowWatchBookmarks: true, SendInitialEvents: &yes,
		ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	s.must(err)
	defer stream.Stop()
	next := func(kind watch.EventType) *corev1.ConfigMap {
		select {
		case event := <-stream.ResultChan():
			s.is(event.Type == kind, "%s instead of %s: %+v", event.Type, kind, event.Object)
			return event.Object.(*corev1.ConfigMap)
		case <-time.After(patience):
			s.Fatalf("no %s", kind)
			return nil
		}
	}
	first := next(watch.Added)
	s.is(first.Name == "there", "%+v", first)
	bookmark := next(watch.Bookmark)
	s.is(bookmark.Annotations[metav1.InitialEventsAnnotationKey] == "true" && bookmark.ResourceVersion != "", "%+v", bookmark)
	_, err = maps.Patch(s.ctx, "there", types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"elsewhere"}}}`), metav1.PatchOptions{})
	s.must(err)
	// It has left what is watched.
	gone := next(watch.Deleted)
	s.is(gone.Name == "there", "%+v", gone)

	// From the bookmark on: the same once more, without what was there.
	again, err := watchtools.NewRetryWatcherWithContext(s.ctx, bookmark.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector = "app=there"
			return maps.Watch(ctx, options)
		},
	})
	s.must(err)
	defer again.Stop()
	event := <-again.ResultChan()
	s.is(event.Type == watch.Deleted, "%+v", event)

	short := int64(1)
	began := time.Now()
	ended, err := maps.Watch(s.ctx, metav1.ListOptions{TimeoutSeconds: &short, LabelSelector: "no=where"})
	s.must(err)
	for range ended.ResultChan() {
	}
	s.is(time.Since(began) < 10*time.Second, "a watch of a second took %s", time.Since(began))
}

func TestWatchUntilAPodIsReady(t *testing.T) {
	s := start(t)
	pods := s.client.CoreV1().Pods(s.namespace)
	_, err := pods.Create(s.ctx, pod("one", "sleep 1000"), metav1.CreateOptions{})
	s.must(err)
	list := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = "metadata.name=one"
			return pods.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = "metadata.name=one"
			return pods.Watch(ctx, options)
		},
	}
	event, err := watchtools.UntilWithSync(s.ctx, list, &corev1.Pod{}, nil, func(event watch.Event) (bool, error) {
		return isReady(event.Object.(*corev1.Pod)), nil
	})
	s.must(err)
	s.is(event.Object.(*corev1.Pod).Status.PodIP != "", "%+v", event.Object)
}

func TestOneOfTwoCandidatesLeadsAndTheOtherFollowsOn(t *testing.T) {
	s := start(t)
	var leading sync.Map
	elect := func(ctx context.Context, name string) {
		lock, err := resourcelock.New(resourcelock.LeasesResourceLock, s.namespace, "leader",
			s.client.CoreV1(), s.client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: name})
		if err != nil {
			s.Error(err)
			return
		}
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: lock, ReleaseOnCancel: true,
			LeaseDuration: 4 * time.Second, RenewDeadline: 3 * time.Second, RetryPeriod: 200 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { leading.Store(name, true) },
				OnStoppedLeading: func() { leading.Delete(name) },
			},
		})
	}
	leads := func(name string) func() (bool, error) {
		return func() (bool, error) {
			_, leads := leading.Load(name)
			return leads, nil
		}
	}
	var candidates sync.WaitGroup
	first, stopFirst := context.WithCancel(s.ctx)
	candidates.Go(func() { elect(first, "a") })
	s.must(s.until("the first leads", leads("a")))
	second, stopSecond := context.WithCancel(s.ctx)
	candidates.Go(func() { elect(second, "b") })
	time.Sleep(time.Second)
	_, both := leading.Load("b")
	s.is(!both, "two lead")
	stopFirst()
	s.must(s.until("the second leads", leads("b")))
	lease, err := s.client.CoordinationV1().Leases(s.namespace).Get(s.ctx, "leader", metav1.GetOptions{})
	s.must(err)
	s.is(*lease.Spec.HolderIdentity == "b" && *lease.Spec.LeaseTransitions >= 1, "%+v", lease.Spec)
	stopSecond()
	candidates.Wait()
}

func TestEventsAreRecorded(t *testing.T) {
	s := start(t)
	about, err := s.client.CoreV1().ConfigMaps(s.namespace).Create(s.ctx, &corev1.ConfigMap{ObjectMeta: called("about")}, metav1.CreateOptions{})
	s.must(err)
	old := record.NewBroadcaster()
	old.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: s.client.CoreV1().Events(s.namespace)})
	defer old.Shutdown()
	recorder := old.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "suite"})
	for range 3 {
		recorder.Eventf(about, corev1.EventTypeWarning, "Old", "said %s", "again")
	}
	newer := events.NewBroadcaster(&events.EventSinkImpl{Interface: s.client.EventsV1()})
	s.must(newer.StartRecordingToSinkWithContext(s.ctx))
	defer newer.Shutdown()
	newer.NewRecorder(scheme.Scheme, "suite.example.com").Eventf(about, nil, corev1.EventTypeNormal, "New", "Tell", "said once")

	s.must(s.until("the events", func() (bool, error) {
		list, err := s.client.CoreV1().Events(s.namespace).List(s.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=about"})
		if err != nil {
			return false, err
		}
		counts := map[string]int32{}
		for _, event := range list.Items {
			counts[event.Reason] = event.Count
		}
		// The three are one, counted; the newer kind has no count.
		_, isNew := counts["New"]
		return len(list.Items) == 2 && counts["Old"] == 3 && isNew, nil
	}))
	var list *eventsv1.EventList
	list, err = s.client.EventsV1().Events(s.namespace).List(s.ctx, metav1.ListOptions{FieldSelector: "reason=New"})
	s.must(err)
	s.is(len(list.Items) == 1 && list.Items[0].ReportingController == "suite.example.com" && list.Items[0].Action == "Tell", "%+v", list.Items)
}

func TestAWatchOfAnOldVersionIsToldThatItIsGone(t *testing.T) {
	s := start(t)
	_, err := s.client.CoreV1().ConfigMaps(s.namespace).List(s.ctx, metav1.ListOptions{
		ResourceVersion: "999999999", ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	s.is(errors.IsTimeout(err) || errors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge), "a version yet to come: %v", err)
}

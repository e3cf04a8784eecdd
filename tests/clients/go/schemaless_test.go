package clients

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
)

var statefulSets = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "statefulsets"}

func TestDiscoveryFindsTheKinds(t *testing.T) {
	s := start(t)
	client := s.client.Discovery()
	version, err := client.ServerVersion()
	s.must(err)
	s.is(version.Major == "1" && version.GitVersion != "", "%+v", version)
	groups, lists, err := client.ServerGroupsAndResources()
	s.must(err)
	s.is(len(groups) > 5 && len(lists) > 5, "%d groups, %d lists", len(groups), len(lists))
	preferred, err := client.ServerPreferredNamespacedResources()
	s.must(err)
	deletable := discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"delete", "list"}}, preferred)
	s.is(len(deletable) > 3, "%+v", deletable)
	paths, err := client.OpenAPIV3().Paths()
	s.must(err)
	described, err := paths["apis/apps/v1"].Schema("application/json")
	s.must(err)
	var document map[string]any
	s.must(json.Unmarshal(described, &document))
	s.is(document["openapi"] != nil, "no OpenAPI")
	second, err := client.OpenAPISchema()
	s.must(err)
	s.is(second.GetSwagger() == "2.0", "%q", second.GetSwagger())

	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client))
	mapping, err := mapper.RESTMapping(schema.GroupKind{Group: "apps", Kind: "StatefulSet"})
	s.must(err)
	s.is(mapping.Resource == statefulSets && mapping.Scope.Name() == meta.RESTScopeNameNamespace, "%+v", mapping)
	short := restmapper.NewShortcutExpander(mapper, client, func(string) {})
	found, err := short.ResourceFor(schema.GroupVersionResource{Resource: "sts"})
	s.must(err)
	s.is(found == statefulSets, "%+v", found)
	mapping, err = mapper.RESTMapping(schema.GroupKind{Kind: "PersistentVolume"})
	s.must(err)
	s.is(mapping.Scope.Name() == meta.RESTScopeNameRoot, "%+v", mapping)
	_, err = mapper.RESTMapping(schema.GroupKind{Group: "example.com", Kind: "Foo"})
	s.is(meta.IsNoMatchError(err), "%v", err)
}

func TestDynamicClientsDoAll(t *testing.T) {
	s := start(t)
	client, err := dynamic.NewForConfig(jsonConfig(t))
	s.must(err)
	maps := client.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(s.namespace)
	object := func(value string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap",
			"metadata": map[string]any{"name": "any", "finalizers": []any{"example.com/wait"}},
			"data":     map[string]any{"key": value},
		}}
	}
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, s.namespace, nil)
	informer := factory.ForResource(corev1.SchemeGroupVersion.WithResource("configmaps"))
	_ = informer.Informer()
	factory.Start(s.ctx.Done())
	s.is(cache.WaitForCacheSync(s.ctx.Done(), informer.Informer().HasSynced), "no sync")

	made, err := maps.Create(s.ctx, object("1"), metav1.CreateOptions{})
	s.must(err)
	s.must(unstructured.SetNestedField(made.Object, "2", "data", "key"))
	made, err = maps.Update(s.ctx, made, metav1.UpdateOptions{})
	s.must(err)
	applied, err := maps.Apply(s.ctx, "any", object("3"), metav1.ApplyOptions{FieldManager: "dynamic", Force: true})
	s.must(err)
	value, _, _ := unstructured.NestedString(applied.Object, "data", "key")
	s.is(value == "3", "%+v", applied.Object)
	s.must(maps.Delete(s.ctx, "any", metav1.DeleteOptions{}))
	waits, err := maps.Get(s.ctx, "any", metav1.GetOptions{})
	s.must(err)
	s.is(waits.GetDeletionTimestamp() != nil, "its finalizer is there: %+v", waits.Object)
	_, err = maps.Patch(s.ctx, "any", types.JSONPatchType, []byte(`[{"op":"remove","path":"/metadata/finalizers"}]`), metav1.PatchOptions{})
	s.must(err)
	_, err = maps.Get(s.ctx, "any", metav1.GetOptions{})
	s.is(errors.IsNotFound(err), "%v", err)
	s.must(s.until("the informer's cache has seen it go", func() (bool, error) {
		_, err := informer.Lister().ByNamespace(s.namespace).Get("any")
		return errors.IsNotFound(err), nil
	}))
}

func TestMetadataClientsSeeNoMore(t *testing.T) {
	s := start(t)
	client, err := metadata.NewForConfig(s.config)
	s.must(err)
	_, err = s.client.CoreV1().ConfigMaps(s.namespace).Create(s.ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "some", Labels: map[string]string{"a": "b"}}, Data: map[string]string{"c": "d"},
	}, metav1.CreateOptions{})
	s.must(err)
	maps := client.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(s.namespace)
	some, err := maps.Get(s.ctx, "some", metav1.GetOptions{})
	s.must(err)
	s.is(some.Labels["a"] == "b" && some.UID != "", "%+v", some)
	list, err := maps.List(s.ctx, metav1.ListOptions{LabelSelector: "a=b"})
	s.must(err)
	s.is(len(list.Items) == 1 && list.ResourceVersion != "", "%+v", list)
	stream, err := maps.Watch(s.ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	s.must(err)
	defer stream.Stop()
	patched, err := maps.Patch(s.ctx, "some", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"c"}}}`), metav1.PatchOptions{})
	s.must(err)
	s.is(patched.Labels["a"] == "c", "%+v", patched)
	event := <-stream.ResultChan()
	seen, is := event.Object.(*metav1.PartialObjectMetadata)
	s.is(is && seen.Labels["a"] == "c", "%+v", event)
}

func TestApplyingKeepsToWhatOneOwns(t *testing.T) {
	s := start(t)
	sets := s.client.AppsV1().StatefulSets(s.namespace)
	labels := map[string]string{"app": "web"}
	container := coreapply.Container().WithName("main").WithImage("busybox:1.36").WithCommand("sleep", "1000")
	wanted := appsapply.StatefulSet("web", s.namespace).WithLabels(labels).WithSpec(appsapply.StatefulSetSpec().
		WithReplicas(0).WithServiceName("web").
		WithSelector(metaapply.LabelSelector().WithMatchLabels(labels)).
		WithTemplate(coreapply.PodTemplateSpec().WithLabels(labels).WithSpec(coreapply.PodSpec().WithContainers(container))))
	_, err := sets.Apply(s.ctx, wanted, metav1.ApplyOptions{FieldManager: "one"})
	s.must(err)
	other := appsapply.StatefulSet("web", s.namespace).WithSpec(appsapply.StatefulSetSpec().WithReplicas(2))
	_, err = sets.Apply(s.ctx, other, metav1.ApplyOptions{FieldManager: "two"})
	s.is(errors.IsConflict(err) && errors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict), "%v", err)
	seen, err := sets.Apply(s.ctx, other, metav1.ApplyOptions{FieldManager: "two", Force: true})
	s.must(err)
	s.is(*seen.Spec.Replicas == 2 && seen.Spec.ServiceName == "web", "%+v", seen.Spec)
	mine, err := appsapply.ExtractStatefulSet(seen, "two")
	s.must(err)
	s.is(*mine.Spec.Replicas == 2 && mine.Spec.Template == nil, "%+v", mine.Spec)
	// What nobody wants any more goes.
	first := appsapply.StatefulSet("web", s.namespace).WithSpec(wanted.Spec)
	first.Spec.Replicas = nil
	seen, err = sets.Apply(s.ctx, first, metav1.ApplyOptions{FieldManager: "one"})
	s.must(err)
	s.is(*seen.Spec.Replicas == 2 && seen.Labels == nil, "%+v", seen)
}

func TestScalesAreReachedWithoutTheKind(t *testing.T) {
	s := start(t)
	_, err := s.client.AppsV1().StatefulSets(s.namespace).Create(s.ctx, set("web", 0), metav1.CreateOptions{})
	s.must(err)
	groups, err := restmapper.GetAPIGroupResources(s.client.Discovery())
	s.must(err)
	scales, err := scale.NewForConfig(jsonConfig(t), restmapper.NewDiscoveryRESTMapper(groups),
		dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(s.client.Discovery()))
	s.must(err)
	client := scales.Scales(s.namespace)
	// The set's status is written meanwhile.
	s.must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		seen, err := client.Get(s.ctx, statefulSets.GroupResource(), "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		s.is(seen.Spec.Replicas == 0, "%+v", seen)
		seen.Spec.Replicas = 1
		_, err = client.Update(s.ctx, statefulSets.GroupResource(), seen, metav1.UpdateOptions{})
		return err
	}))
	seen, err := client.Patch(s.ctx, statefulSets, "web", types.MergePatchType, []byte(`{"spec":{"replicas":0}}`), metav1.PatchOptions{})
	s.must(err)
	s.is(seen.Spec.Replicas == 0, "%+v", seen)
	raw := &autoscalingv1.Scale{}
	s.must(s.client.AppsV1().RESTClient().Get().Namespace(s.namespace).Resource("statefulsets").Name("web").
		SubResource("scale").Do(s.ctx).Into(raw))
	s.is(raw.Name == "web", "%+v", raw)
}

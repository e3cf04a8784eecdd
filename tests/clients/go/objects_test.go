package clients

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
)

func set(name string, replicas int32) *appsv1.StatefulSet {
	grace := int64(0)
	return &appsv1.StatefulSet{
		ObjectMeta: called(name),
		Spec: appsv1.StatefulSetSpec{
			Replicas:    &replicas,
			ServiceName: name,
			Selector:    &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
				Spec:       podSpec("sleep 1000", &grace),
			},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{
				ObjectMeta: metav1.ObjectMeta{Name: "data"},
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources: corev1.VolumeResourceRequirements{
						Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("10Mi")},
					},
				},
			}},
		},
	}
}

func TestSetsAreMadeScaledAndDeleted(t *testing.T) {
	s := start(t)
	service := &corev1.Service{ObjectMeta: called("web"), Spec: corev1.ServiceSpec{
		ClusterIP: corev1.ClusterIPNone,
		Selector:  map[string]string{"app": "web"},
		Ports:     []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
	}}
	service, err := s.client.CoreV1().Services(s.namespace).Create(s.ctx, service, metav1.CreateOptions{})
	s.must(err)
	s.is(service.Spec.Ports[0].Protocol == corev1.ProtocolTCP, "no default: %+v", service.Spec)

	sets := s.client.AppsV1().StatefulSets(s.namespace)
	made, err := sets.Create(s.ctx, set("web", 1), metav1.CreateOptions{})
	s.must(err)
	s.is(made.UID != "" && made.Generation == 1, "%+v", made.ObjectMeta)
	_, err = sets.Create(s.ctx, set("web", 1), metav1.CreateOptions{})
	s.is(errors.IsAlreadyExists(err), "made twice: %v", err)
	ready := func(replicas int32) func() (bool, error) {
		return func() (bool, error) {
			set, err := sets.Get(s.ctx, "web", metav1.GetOptions{})
			return err == nil && set.Status.ReadyReplicas == replicas &&
				set.Status.ObservedGeneration == set.Generation, err
		}
	}
	s.must(s.until("one replica", ready(1)))

	scale, err := sets.GetScale(s.ctx, "web", metav1.GetOptions{})
	s.must(err)
	s.is(scale.Spec.Replicas == 1 && scale.Status.Selector == "app=web", "%+v", scale)
	// The set's status may be written meanwhile: any version will do.
	scale.Spec.Replicas, scale.ResourceVersion = 2, ""
	scale, err = sets.UpdateScale(s.ctx, "web", &autoscalingv1.Scale{
		ObjectMeta: scale.ObjectMeta, Spec: scale.Spec,
	}, metav1.UpdateOptions{})
	s.must(err)
	s.is(scale.Spec.Replicas == 2, "%+v", scale)
	s.must(s.until("two replicas", ready(2)))

	claims, err := s.client.CoreV1().PersistentVolumeClaims(s.namespace).List(s.ctx, metav1.ListOptions{LabelSelector: "app=web"})
	s.must(err)
	s.is(len(claims.Items) == 2 && claims.Items[0].Name == "data-web-0", "%+v", claims.Items)
	s.is(claims.Items[0].Status.Phase == corev1.ClaimBound, "%+v", claims.Items[0].Status)
	bound, err := s.client.CoreV1().PersistentVolumes().Get(s.ctx, claims.Items[0].Spec.VolumeName, metav1.GetOptions{})
	s.must(err)
	s.is(bound.Spec.ClaimRef.UID == claims.Items[0].UID, "%+v", bound.Spec.ClaimRef)

	foreground := metav1.DeletePropagationForeground
	s.must(sets.Delete(s.ctx, "web", metav1.DeleteOptions{PropagationPolicy: &foreground}))
	s.must(s.until("the set is gone", func() (bool, error) {
		_, err := sets.Get(s.ctx, "web", metav1.GetOptions{})
		return errors.IsNotFound(err), nil
	}))
	pods, err := s.client.CoreV1().Pods(s.namespace).List(s.ctx, metav1.ListOptions{})
	s.must(err)
	s.is(len(pods.Items) == 0, "pods outlived their set, which was deleted in the foreground: %d", len(pods.Items))
}

func TestWhatIsWrongIsToldAsClientsKnowIt(t *testing.T) {
	s := start(t)
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	_, err := maps.Get(s.ctx, "none", metav1.GetOptions{})
	s.is(errors.IsNotFound(err), "%v", err)
	s.is(err.Error() == `configmaps "none" not found`, "%v", err)

	_, err = maps.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "No"}}, metav1.CreateOptions{})
	s.is(errors.IsInvalid(err), "%v", err)
	status := err.(errors.APIStatus).Status()
	s.is(status.Details.Kind == "ConfigMap" && status.Details.Causes[0].Field == "metadata.name", "%+v", status)

	wrong := set("web", 1)
	wrong.Spec.Selector = nil
	_, err = s.client.AppsV1().StatefulSets(s.namespace).Create(s.ctx, wrong, metav1.CreateOptions{})
	s.is(errors.IsInvalid(err), "%v", err)

	_, err = s.client.CoreV1().ConfigMaps("no-such").Create(s.ctx, &corev1.ConfigMap{ObjectMeta: called("a")}, metav1.CreateOptions{})
	s.is(errors.IsNotFound(err), "%v", err)

	dry, err := maps.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: called("dry")}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	s.must(err)
	s.is(dry.UID != "", "a dry run gives a uid")
	_, err = maps.Get(s.ctx, "dry", metav1.GetOptions{})
	s.is(errors.IsNotFound(err), "a dry run wrote: %v", err)
}

func TestConflictsAreSeenAndRetried(t *testing.T) {
	s := start(t)
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	first, err := maps.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: called("count"), Data: map[string]string{"n": "0"}}, metav1.CreateOptions{})
	s.must(err)
	var writers sync.WaitGroup
	faults := make(chan error, 8)
	for range 8 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			backoff := retry.DefaultBackoff
			backoff.Steps = 50
			faults <- retry.RetryOnConflict(backoff, func() error {
				seen, err := maps.Get(s.ctx, "count", metav1.GetOptions{})
				if err != nil {
					return err
				}
				var n int
				if _, err := fmt.Sscan(seen.Data["n"], &n); err != nil {
					return err
				}
				seen.Data["n"] = fmt.Sprint(n + 1)
				_, err = maps.Update(s.ctx, seen, metav1.UpdateOptions{})
				return err
			})
		}()
	}
	writers.Wait()
	for range 8 {
		s.must(<-faults)
	}
	last, err := maps.Get(s.ctx, "count", metav1.GetOptions{})
	s.must(err)
	s.is(last.Data["n"] == "8", "of eight writers, each once: %v", last.Data)
	_, err = maps.Update(s.ctx, first, metav1.UpdateOptions{})
	s.is(errors.IsConflict(err), "an old version was written: %v", err)

	other := types.UID("5bd2b1b6-0000-4000-8000-000000000000")
	err = maps.Delete(s.ctx, "count", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}})
	s.is(errors.IsConflict(err), "deleted, and it is another: %v", err)
	err = maps.Delete(s.ctx, "count", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &first.ResourceVersion}})
	s.is(errors.IsConflict(err), "deleted, and it is newer: %v", err)
	s.must(maps.Delete(s.ctx, "count", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{
		UID: &last.UID, ResourceVersion: &last.ResourceVersion,
	}}))
}

func TestPatchesOfEachKind(t *testing.T) {
	s := start(t)
	sets := s.client.AppsV1().StatefulSets(s.namespace)
	_, err := sets.Create(s.ctx, set("web", 0), metav1.CreateOptions{})
	s.must(err)
	for _, patch := range []struct {
		kind types.PatchType
		body string
		envs int
	}{
		{types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"main","env":[{"name":"A","value":"1"}]}]}}}}`, 1},
		{types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"main","env":[{"name":"B","value":"2"}]}]}}}}`, 2},
		{types.JSONPatchType, `[{"op":"add","path":"/spec/template/spec/containers/0/env/-","value":{"name":"C"}}]`, 3},
		{types.MergePatchType, `{"metadata":{"annotations":{"by":"merge"}}}`, 3},
	} {
		seen, err := sets.Patch(s.ctx, "web", patch.kind, []byte(patch.body), metav1.PatchOptions{})
		s.must(err)
		containers := seen.Spec.Template.Spec.Containers
		s.is(len(containers) == 1 && len(containers[0].Env) == patch.envs, "%s %s: %+v", patch.kind, patch.body, containers)
	}
	_, err = sets.Patch(s.ctx, "web", types.JSONPatchType, []byte(`[{"op":"test","path":"/spec/replicas","value":9}]`), metav1.PatchOptions{})
	s.is(err != nil, "a test that does not hold passed")
	seen, err := sets.Patch(s.ctx, "web", types.MergePatchType, []byte(`{"status":{"replicas":7}}`), metav1.PatchOptions{}, "status")
	s.must(err)
	s.is(seen.Status.Replicas == 7 && seen.Annotations["by"] == "merge", "%+v", seen.Status)
}

func TestListsComeInPages(t *testing.T) {
	s := start(t)
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	for n := range 25 {
		config := &corev1.ConfigMap{ObjectMeta: called(fmt.Sprintf("page-%02d", n))}
		config.Labels["in"] = "pages"
		_, err := maps.Create(s.ctx, config, metav1.CreateOptions{})
		s.must(err)
	}
	page, err := maps.List(s.ctx, metav1.ListOptions{Limit: 10, LabelSelector: "in=pages"})
	s.must(err)
	s.is(len(page.Items) == 10 && page.Continue != "", "%d, %q", len(page.Items), page.Continue)
	pages := pager.New(pager.SimplePageFunc(func(options metav1.ListOptions) (runtime.Object, error) {
		return maps.List(s.ctx, options)
	}))
	pages.PageSize = 10
	seen := 0
	s.must(pages.EachListItem(s.ctx, metav1.ListOptions{LabelSelector: "in=pages"}, func(object runtime.Object) error {
		if name := object.(*corev1.ConfigMap).Name; name != fmt.Sprintf("page-%02d", seen) {
			return fmt.Errorf("%s as number %d", name, seen)
		}
		seen++
		return nil
	}))
	s.is(seen == 25, "%d", seen)
	one, err := maps.List(s.ctx, metav1.ListOptions{FieldSelector: "metadata.name=page-07"})
	s.must(err)
	s.is(len(one.Items) == 1, "%+v", one.Items)
	s.must(maps.DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "in=pages"}))
	left, err := maps.List(s.ctx, metav1.ListOptions{LabelSelector: "in=pages"})
	s.must(err)
	s.is(len(left.Items) == 0, "%+v", left.Items)
}

func TestTokensAreGivenAndReviewed(t *testing.T) {
	s := start(t)
	accounts := s.client.CoreV1().ServiceAccounts(s.namespace)
	hour := int64(3600)
	token, err := accounts.CreateToken(s.ctx, "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour, Audiences: []string{"vault"}},
	}, metav1.CreateOptions{})
	s.must(err)
	s.is(token.Status.Token != "" && !token.Status.ExpirationTimestamp.IsZero(), "%+v", token.Status)
	review, err := s.client.AuthenticationV1().TokenReviews().Create(s.ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token, Audiences: []string{"vault"}},
	}, metav1.CreateOptions{})
	s.must(err)
	s.is(review.Status.Authenticated && review.Status.User.Username == "system:serviceaccount:"+s.namespace+":default", "%+v", review.Status)
	may, err := s.client.AuthorizationV1().SelfSubjectAccessReviews().Create(s.ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: s.namespace, Verb: "create", Resource: "pods",
		}},
	}, metav1.CreateOptions{})
	s.must(err)
	s.is(may.Status.Allowed, "%+v", may.Status)
}

func TestPodsAreEvicted(t *testing.T) {
	s := start(t)
	s.running(pod("victim", "sleep 1000"))
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "victim", Namespace: s.namespace}}
	s.must(s.client.PolicyV1().Evictions(s.namespace).Evict(s.ctx, eviction))
	s.must(s.until("the pod is gone", func() (bool, error) {
		_, err := s.client.CoreV1().Pods(s.namespace).Get(s.ctx, "victim", metav1.GetOptions{})
		return errors.IsNotFound(err), nil
	}))
}

func TestSecretsAndBinariesStayWhatTheyAre(t *testing.T) {
	s := start(t)
	bytes := make([]byte, 256)
	for n := range bytes {
		bytes[n] = byte(n)
	}
	secret, err := s.client.CoreV1().Secrets(s.namespace).Create(s.ctx, &corev1.Secret{
		ObjectMeta: called("key"), Data: map[string][]byte{"key": bytes}, StringData: map[string]string{"word": "geheim"},
	}, metav1.CreateOptions{})
	s.must(err)
	s.is(string(secret.Data["key"]) == string(bytes) && string(secret.Data["word"]) == "geheim", "%+v", secret.Data)
	s.is(secret.StringData == nil && secret.Type == corev1.SecretTypeOpaque, "%+v", secret)
	raw, err := s.client.CoreV1().RESTClient().Get().Namespace(s.namespace).Resource("secrets").Name("key").
		SetHeader("Accept", "application/json").DoRaw(s.ctx)
	s.must(err)
	var same corev1.Secret
	s.must(json.Unmarshal(raw, &same))
	s.is(string(same.Data["key"]) == string(bytes), "another in JSON")
}

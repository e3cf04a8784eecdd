// Command schema writes the table of Kubernetes' types that crates/api is driven by
// (crates/api/src/schema/types.txt): for every field its JSON name, protobuf number, Go type,
// how Go's encoder treats its zero value, and its list, map and patch semantics.
//
// The structure is read by reflection from the published Go types; list types, map keys,
// defaults and required fields come from the OpenAPI documents of the same release.
//
//	go mod download k8s.io/kubernetes@v1.37.0
//	go run . "$(go env GOMODCACHE)/k8s.io/kubernetes@v1.37.0/api/openapi-spec/v3" > ../../crates/api/src/schema/types.txt
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	aggregator "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// groups whose stable versions are in the table.
var groups = []string{
	"/v1", "admissionregistration.k8s.io/v1", "apiextensions.k8s.io/v1", "apiregistration.k8s.io/v1", "apps/v1",
	"authentication.k8s.io/v1", "authorization.k8s.io/v1", "autoscaling/v1", "autoscaling/v2", "batch/v1",
	"certificates.k8s.io/v1", "coordination.k8s.io/v1", "discovery.k8s.io/v1", "events.k8s.io/v1",
	"flowcontrol.apiserver.k8s.io/v1", "networking.k8s.io/v1", "node.k8s.io/v1", "policy/v1",
	"rbac.authorization.k8s.io/v1", "resource.k8s.io/v1", "scheduling.k8s.io/v1", "storage.k8s.io/v1",
}

// special types have an encoding of their own.
var special = map[reflect.Type]string{
	reflect.TypeFor[resource.Quantity]():    "quantity",
	reflect.TypeFor[intstr.IntOrString]():   "intorstring",
	reflect.TypeFor[metav1.Time]():          "time",
	reflect.TypeFor[metav1.MicroTime]():     "microtime",
	reflect.TypeFor[metav1.Duration]():      "duration",
	reflect.TypeFor[metav1.FieldsV1]():      "fieldsv1",
	reflect.TypeFor[runtime.RawExtension](): "raw",
	reflect.TypeFor[apiextensions.JSON]():   "json",
}

type property struct {
	Default     any      `json:"default"`
	ListType    string   `json:"x-kubernetes-list-type"`
	ListMapKeys []string `json:"x-kubernetes-list-map-keys"`
	MapType     string   `json:"x-kubernetes-map-type"`
}

type definition struct {
	Properties map[string]property `json:"properties"`
	Required   []string            `json:"required"`
	MapType    string              `json:"x-kubernetes-map-type"`
}

var (
	definitions map[string]definition
	seen        = map[reflect.Type]bool{}
	blocks      = map[string]string{}
)

func openAPIName(t reflect.Type) string {
	path := t.PkgPath()
	path = strings.TrimPrefix(path, "k8s.io/")
	return "io.k8s." + strings.ReplaceAll(path, "/", ".") + "." + t.Name()
}

// typeName writes a type as the table does, and visits the structs it meets.
func typeName(t reflect.Type) string {
	if s, ok := special[t]; ok {
		return s
	}
	switch t.Kind() {
	case reflect.Pointer:
		return "*" + typeName(t.Elem())
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		return "[]" + typeName(t.Elem())
	case reflect.Map:
		return "map:" + goName(t) + ":" + typeName(t.Elem())
	case reflect.Struct:
		visit(t)
		return openAPIName(t)
	case reflect.String, reflect.Int32, reflect.Int64, reflect.Bool, reflect.Float64, reflect.Uint8:
		if t.PkgPath() != "" {
			return t.Kind().String() + "(" + goName(t) + ")"
		}
		return t.Kind().String()
	}
	panic("no encoding for " + t.String())
}

func goName(t reflect.Type) string { return t.String() }

func visit(t reflect.Type) {
	if seen[t] {
		return
	}
	seen[t] = true
	name := openAPIName(t)
	def := definitions[name]
	var b strings.Builder
	head := "[" + name + "] " + goName(t)
	if def.MapType == "atomic" {
		head += " atomic"
	}
	fmt.Fprintln(&b, head)
	writeFields(&b, t, def)
	blocks[name] = b.String()
}

func writeFields(b *strings.Builder, t reflect.Type, def definition) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := strings.Split(f.Tag.Get("json"), ",")
		options := tag[1:]
		has := func(o string) bool {
			for _, x := range options {
				if x == o {
					return true
				}
			}
			return false
		}
		number := "0"
		if p := strings.Split(f.Tag.Get("protobuf"), ","); len(p) > 1 {
			number = p[1]
		}
		if tag[0] == "-" {
			continue
		}
		if f.Anonymous && tag[0] == "" {
			// An embedded struct is inline in JSON but, but for TypeMeta, a message of its own in protobuf.
			if f.Type == reflect.TypeFor[metav1.TypeMeta]() {
				fmt.Fprintln(b, "kind 0 string omitempty\napiVersion 0 string omitempty")
			} else {
				elem := f.Type
				if elem.Kind() == reflect.Pointer {
					elem = elem.Elem()
				}
				fmt.Fprintf(b, "+inline %s %s\n", number, typeName(elem))
			}
			continue
		}
		line := fmt.Sprintf("%s %s %s", tag[0], number, typeName(f.Type))
		if has("omitempty") {
			line += " omitempty"
		}
		if has("omitzero") {
			line += " omitzero"
		}
		// A named list type may be a message of its own in protobuf.
		if _, message := reflect.PointerTo(f.Type).MethodByName("Marshal"); message && f.Type.Kind() == reflect.Slice {
			line += " wrapped"
		}
		prop := def.Properties[tag[0]]
		for _, r := range def.Required {
			if r == tag[0] {
				line += " required"
			}
		}
		switch d := prop.Default.(type) {
		case string:
			if d != "" {
				line += " default=" + d
			}
		case float64:
			if d != 0 {
				line += fmt.Sprintf(" default=%v", d)
			}
		case bool:
			if d {
				line += " default=true"
			}
		}
		if prop.ListType != "" {
			line += " list=" + prop.ListType
		}
		if len(prop.ListMapKeys) > 0 {
			line += " keys=" + strings.Join(prop.ListMapKeys, ",")
		}
		if prop.MapType != "" {
			line += " map=" + prop.MapType
		}
		if s := f.Tag.Get("patchStrategy"); s != "" {
			line += " patch=" + s
		}
		if s := f.Tag.Get("patchMergeKey"); s != "" {
			line += " key=" + s
		}
		fmt.Fprintln(b, line)
	}
}

func main() {
	files, err := filepath.Glob(filepath.Join(os.Args[1], "*.json"))
	if err != nil || len(files) == 0 {
		panic("no OpenAPI documents in " + os.Args[1])
	}
	definitions = map[string]definition{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			panic(err)
		}
		var doc struct {
			Components struct {
				Schemas map[string]definition `json:"schemas"`
			} `json:"components"`
		}
		if err := json.Unmarshal(data, &doc); err != nil {
			panic(err)
		}
		for name, def := range doc.Components.Schemas {
			definitions[name] = def
		}
	}
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensions.AddToScheme, aggregator.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	for _, gv := range groups {
		for gvk, t := range s.AllKnownTypes() {
			if gvk.Group+"/"+gvk.Version != gv || strings.HasSuffix(gvk.Kind, "List") || strings.HasSuffix(gvk.Kind, "Options") ||
				gvk.Kind == "WatchEvent" || gvk.Kind == "APIGroup" || gvk.Kind == "APIVersions" {
				continue
			}
			visit(t)
		}
	}
	visit(reflect.TypeFor[metav1.Status]())
	visit(reflect.TypeFor[metav1.DeleteOptions]())
	visit(reflect.TypeFor[metav1.PartialObjectMetadata]())
	visit(reflect.TypeFor[metav1.APIVersions]())
	visit(reflect.TypeFor[metav1.APIGroupList]())
	visit(reflect.TypeFor[metav1.APIResourceList]())
	names := make([]string, 0, len(blocks))
	for n := range blocks {
		names = append(names, n)
	}
	sort.Strings(names)
	w := bufio.NewWriter(os.Stdout)
	defer w.Flush()
	fmt.Fprintln(w, "# The types of Kubernetes v1.37.0, written by tools/schema. One block a type: [OpenAPI name] Go name;")
	fmt.Fprintln(w, "# one line a field: JSON name, protobuf number, type, and how it is encoded, merged and patched.")
	for _, n := range names {
		fmt.Fprintln(w, blocks[n])
	}
}

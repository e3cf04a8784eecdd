//! The EndpointSlices of a service: a pure function of its pods and of the slices there are.
//!
//! Follows the reconciler of `k8s.io/endpointslice`: slices are kept as they are where possible, so
//! that a change reaches the watchers of few of them; a slice that changes anyway is filled up first.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::pods::{NodeView, View, addresses, find_port, is_ready, is_terminating, node_name, target};
use super::subsets::HEADLESS_LABEL;

/// Who makes the slices of services with a selector.
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Endpoints of a slice.
const MAX_ENDPOINTS: usize = 100;

/// What is to be done about slices.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

impl Changes {
    /// Turns what would be created into changes of what would be deleted, where the kind of
    /// addresses, which cannot be changed, is the same.
    pub(super) fn recycle(&mut self, may_change: impl Fn(&EndpointSlice) -> bool) {
        let mut kept = Vec::new();
        for old in std::mem::take(&mut self.delete) {
            let fits = |new: &EndpointSlice| new.address_type == old.address_type && may_change(&old);
            match self.create.iter().rposition(fits) {
                None => kept.push(old),
                Some(index) => {
                    let mut new = self.create.remove(index);
                    new.metadata.name = old.metadata.name.clone();
                    new.metadata.generate_name = old.metadata.generate_name.clone();
                    new.metadata.uid = old.metadata.uid.clone();
                    new.metadata.resource_version = old.metadata.resource_version.clone();
                    self.update.push(new);
                }
            }
        }
        self.delete = kept;
    }
}

/// Ports in a fixed order, to tell whether two lists are the same.
pub(super) type PortKey = Vec<(String, String, Option<i32>, Option<String>)>;

pub(super) fn port_key(ports: &[EndpointPort]) -> PortKey {
    let mut key: PortKey = ports
        .iter()
        .map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            (
                port.name.clone().unwrap_or_default(),
                protocol,
                port.port,
                port.app_protocol.clone(),
            )
        })
        .collect();
    key.sort();
    key
}

/// What makes two endpoints the same one, whatever its conditions.
pub(super) type Identity = (Vec<String>, Option<String>, Option<String>, Option<String>);

pub(super) fn identity(endpoint: &Endpoint) -> Identity {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort();
    let target = endpoint.target_ref.as_ref();
    let namespace = target.and_then(|target| target.namespace.clone());
    (
        addresses,
        endpoint.hostname.clone(),
        namespace,
        target.and_then(|target| target.name.clone()),
    )
}

/// What the slices of a service lack.
pub(super) fn plan(view: &View<'_>, existing: &[Arc<EndpointSlice>]) -> Changes {
    let families = families(view);
    let mut changes = Changes::default();
    for slice in existing {
        if !families.contains(&slice.address_type.as_str()) {
            changes.delete.push(Arc::clone(slice));
        }
    }
    for family in families {
        let existing: Vec<_> = existing
            .iter()
            .filter(|slice| slice.address_type == family)
            .cloned()
            .collect();
        let of_family = plan_family(view, family, &existing);
        changes.create.extend(of_family.create);
        changes.update.extend(of_family.update);
        changes.delete.extend(of_family.delete);
    }
    changes.recycle(|slice| is_owned(slice, view.service));
    if view.service.metadata.deletion_timestamp.is_some() {
        changes.create.clear();
    }
    changes
}

fn families(view: &View<'_>) -> Vec<&'static str> {
    let of = |family: &str| if family == "IPv6" { "IPv6" } else { "IPv4" };
    match view.spec.ip_families.as_deref() {
        None | Some([]) if view.is_headless() => vec!["IPv4", "IPv6"],
        None | Some([]) => {
            let is_v6 = view.spec.cluster_ip.as_deref().is_some_and(|ip| ip.contains(':'));
            vec![if is_v6 { "IPv6" } else { "IPv4" }]
        }
        Some(families) => families.iter().map(|family| of(family)).collect(),
    }
}

/// The endpoints that offer the same ports.
#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<Identity, Endpoint>,
}

fn plan_family(view: &View<'_>, family: &'static str, existing: &[Arc<EndpointSlice>]) -> Changes {
    let mut by_ports: BTreeMap<PortKey, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    let mut changes = Changes::default();
    for slice in existing {
        if is_owned(slice, view.service) {
            by_ports
                .entry(port_key(slice.ports.as_deref().unwrap_or_default()))
                .or_default()
                .push(slice);
        } else {
            changes.delete.push(Arc::clone(slice));
        }
    }
    for (key, group) in groups(view, family) {
        let slices = by_ports.remove(&key).unwrap_or_default();
        plan_group(view, family, group, &slices, &mut changes);
    }
    for slices in by_ports.into_values() {
        changes.delete.extend(slices.into_iter().cloned());
    }
    // Without a slice nobody would know that there are no endpoints, rather than none yet.
    if changes.create.is_empty() && changes.delete.len() == existing.len() {
        let placeholder = new_slice(view, family, Vec::new());
        match changes.delete.as_slice() {
            [only] if is_placeholder(only, &placeholder) => changes.delete.clear(),
            _ => changes.create.push(placeholder),
        }
    }
    changes
}

/// The pods' endpoints by the ports that they offer.
fn groups(view: &View<'_>, family: &str) -> BTreeMap<PortKey, Group> {
    let mut groups: BTreeMap<PortKey, Group> = BTreeMap::new();
    for pod in view.members() {
        let ports = ports(view, pod);
        let group = groups.entry(port_key(&ports)).or_default();
        group.ports = ports;
        if let Some(endpoint) = endpoint(view, pod, family) {
            group.endpoints.insert(identity(&endpoint), endpoint);
        }
    }
    groups
}

fn ports(view: &View<'_>, pod: &Pod) -> Vec<EndpointPort> {
    let found = view.ports().iter().filter_map(|port| {
        Some(EndpointPort {
            port: Some(find_port(pod, port)?),
            name: Some(port.name.clone().unwrap_or_default()),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    found.collect()
}

fn endpoint(view: &View<'_>, pod: &Pod, family: &str) -> Option<Endpoint> {
    let addresses: Vec<String> = addresses(pod)
        .iter()
        .filter(|ip| ip.is_ipv6() == (family == "IPv6"))
        .map(ToString::to_string)
        .collect();
    if addresses.is_empty() {
        return None;
    }
    let node = node_name(pod);
    let zone = match node.map_or(NodeView::Missing, |name| (view.node)(name)) {
        NodeView::Here { zone } => zone,
        // Its node is gone and the pod will follow; a service that wants all addresses has it still.
        NodeView::Missing if view.publishes_not_ready() => None,
        NodeView::Missing => return None,
    };
    let (serving, terminating) = (is_ready(pod), is_terminating(pod));
    let ready = view.publishes_not_ready() || (serving && !terminating);
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: if ready {
            hints(view, zone.as_deref(), node)
        } else {
            None
        },
        hostname: view.hostname(pod),
        node_name: node.map(str::to_owned),
        target_ref: Some(target(pod)),
        zone,
        ..Endpoint::default()
    })
}

/// For whom an endpoint is, where the service asks for traffic to stay near ("Traffic distribution").
fn hints(view: &View<'_>, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let distribution = view.spec.traffic_distribution.as_deref();
    let by_zone = matches!(
        distribution,
        Some("PreferClose" | "PreferSameZone" | "PreferSameNode")
    );
    let zone = zone.filter(|_| by_zone);
    let node = node.filter(|_| distribution == Some("PreferSameNode"));
    (zone.is_some() || node.is_some()).then(|| EndpointHints {
        for_nodes: node.map(|name| {
            vec![ForNode {
                name: name.to_owned(),
            }]
        }),
        for_zones: zone.map(|name| {
            vec![ForZone {
                name: name.to_owned(),
            }]
        }),
    })
}

/// Distributes a group's endpoints over its slices, in three steps: what is there and wanted stays
/// where it is; slices that change anyway take what is missing; what is left goes into one slice
/// with room for all of it, or into new ones.
fn plan_group(
    view: &View<'_>,
    family: &'static str,
    mut group: Group,
    slices: &[&Arc<EndpointSlice>],
    changes: &mut Changes,
) {
    let labels = labels(view);
    let mut unchanged: Vec<&Arc<EndpointSlice>> = Vec::new();
    let mut changed: Vec<EndpointSlice> = Vec::new();
    for slice in slices {
        let old = slice.endpoints.as_deref().unwrap_or_default();
        let kept: Vec<Endpoint> = old
            .iter()
            .filter_map(|endpoint| group.endpoints.remove(&identity(endpoint)))
            .collect();
        let is_same =
            kept.len() == old.len() && kept.iter().zip(old).all(|(new, old)| is_same_endpoint(new, old));
        if is_same && slice.metadata.labels.as_ref() == Some(&labels) {
            unchanged.push(slice);
        } else if kept.is_empty() && !old.is_empty() {
            changes.delete.push(Arc::clone(slice));
        } else {
            changed.push(with_endpoints(slice, kept, &labels));
        }
    }
    let mut missing: Vec<Endpoint> = group.endpoints.into_values().collect();
    changed.sort_by_key(|slice| std::cmp::Reverse(count(slice)));
    for slice in &mut changed {
        fill(slice, &mut missing);
    }
    if !missing.is_empty()
        && let Some(index) = roomiest_fit(&unchanged, missing.len())
    {
        let slice = unchanged.swap_remove(index);
        let mut slice = with_endpoints(slice, slice.endpoints.clone().unwrap_or_default(), &labels);
        fill(&mut slice, &mut missing);
        changed.push(slice);
    }
    while !missing.is_empty() {
        let mut slice = new_slice(view, family, group.ports.clone());
        fill(&mut slice, &mut missing);
        changes.create.push(slice);
    }
    changes.update.extend(changed);
}

fn count(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

fn fill(slice: &mut EndpointSlice, missing: &mut Vec<Endpoint>) {
    let room = MAX_ENDPOINTS.saturating_sub(count(slice)).min(missing.len());
    if room > 0 {
        slice
            .endpoints
            .get_or_insert_default()
            .extend(missing.drain(..room));
    }
}

/// The slice that is the fullest with `more` endpoints, yet not too full.
fn roomiest_fit(slices: &[&Arc<EndpointSlice>], more: usize) -> Option<usize> {
    let fits = slices
        .iter()
        .enumerate()
        .filter(|(_, slice)| count(slice) + more <= MAX_ENDPOINTS);
    fits.max_by_key(|(_, slice)| count(slice)).map(|(index, _)| index)
}

/// A reference's resource version is of no interest.
pub(super) fn is_same_endpoint(a: &Endpoint, b: &Endpoint) -> bool {
    let plain = |endpoint: &Endpoint| {
        let mut endpoint = endpoint.clone();
        if let Some(target) = &mut endpoint.target_ref {
            target.resource_version = None;
        }
        endpoint
    };
    plain(a) == plain(b)
}

fn with_endpoints(
    slice: &EndpointSlice,
    endpoints: Vec<Endpoint>,
    labels: &BTreeMap<String, String>,
) -> EndpointSlice {
    let metadata = ObjectMeta {
        labels: Some(labels.clone()),
        ..slice.metadata.clone()
    };
    EndpointSlice {
        metadata,
        endpoints: Some(endpoints),
        ..slice.clone()
    }
}

fn labels(view: &View<'_>) -> BTreeMap<String, String> {
    let mut labels = view.service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if view.is_headless() {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), view.service_name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn new_slice(view: &View<'_>, family: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(name_prefix(view.service_name())),
            namespace: view.service.metadata.namespace.clone(),
            labels: Some(labels(view)),
            owner_references: Some(vec![owner("Service", &view.service.metadata)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(ports),
    }
}

/// What the API makes a slice's name of.
pub(super) fn name_prefix(service: &str) -> String {
    if service.len() < 253 {
        format!("{service}-")
    } else {
        service.to_owned()
    }
}

/// A slice's reference to whose endpoints it holds.
pub(super) fn owner(kind: &str, meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: kind.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A slice of a former service of the name is not this one's.
fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    let owners = slice.metadata.owner_references.iter().flatten();
    owners
        .filter(|owner| owner.kind == "Service" && owner.api_version == "v1")
        .any(|owner| Some(&owner.uid) == service.metadata.uid.as_ref())
}

fn is_placeholder(slice: &EndpointSlice, placeholder: &EndpointSlice) -> bool {
    count(slice) == 0
        && slice.ports.as_ref().is_none_or(Vec::is_empty)
        && slice.metadata.labels == placeholder.metadata.labels
        && slice.metadata.owner_references == placeholder.metadata.owner_references
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(extra: Value) -> Service {
        let mut spec = json!({"clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"], "selector": {"a": "b"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]});
        if let (Value::Object(spec), Value::Object(extra)) = (&mut spec, extra) {
            spec.extend(extra);
        }
        let meta = json!({"name": "web", "namespace": "ns", "uid": "s1", "labels": {"of": "svc"}});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("a service")
    }

    fn pod(index: usize, ready: bool) -> Arc<Pod> {
        // In the order of their addresses.
        let ip = format!("10.0.{}.{}", 100 + index / 100, 100 + index % 100);
        let pod = json!({
            "metadata": {"name": format!("p{index:04}"), "namespace": "ns", "uid": format!("u{index}")},
            "spec": {"nodeName": "n", "containers": [], "hostname": "h", "subdomain": "web"},
            "status": {"podIPs": [{"ip": ip}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn pods(range: std::ops::Range<usize>) -> Vec<Arc<Pod>> {
        range.map(|index| pod(index, true)).collect()
    }

    fn planned(service: &Service, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> Changes {
        let spec = service.spec.as_ref().expect("a spec");
        let node = |name: &str| match name {
            "n" => NodeView::Here {
                zone: Some("z".to_owned()),
            },
            _ => NodeView::Missing,
        };
        plan(
            &View {
                service,
                spec,
                pods,
                node: &node,
            },
            existing,
        )
    }

    /// What the API makes of the changes.
    fn applied(existing: &[Arc<EndpointSlice>], changes: &Changes) -> Vec<Arc<EndpointSlice>> {
        let name = |slice: &EndpointSlice| slice.metadata.name.clone();
        let mut slices: Vec<Arc<EndpointSlice>> = existing
            .iter()
            .filter(|slice| !changes.delete.iter().any(|deleted| name(deleted) == name(slice)))
            .map(
                |slice| match changes.update.iter().find(|update| name(update) == name(slice)) {
                    Some(update) => Arc::new(update.clone()),
                    None => Arc::clone(slice),
                },
            )
            .collect();
        for slice in &changes.create {
            let mut slice = slice.clone();
            slice.metadata.name = Some(format!("web-{}", slices.len()));
            slices.push(Arc::new(slice));
        }
        slices
    }

    fn counts(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
        slices.iter().map(|slice| count(slice)).collect()
    }

    /// How many slices a change creates, updates and deletes, and how full they are afterwards.
    fn check(before: &[Arc<Pod>], after: &[Arc<Pod>], expected: (usize, usize, usize), full: &[usize]) {
        let service = service(json!({}));
        let existing = applied(&[], &planned(&service, before, &[]));
        let changes = planned(&service, after, &existing);
        assert_eq!(
            (changes.create.len(), changes.update.len(), changes.delete.len()),
            expected
        );
        let slices = applied(&existing, &changes);
        assert_eq!(counts(&slices), full);
        assert_eq!(
            planned(&service, after, &slices),
            Changes::default(),
            "a second look finds nothing to do"
        );
    }

    #[test]
    fn slices_hold_a_hundred_and_change_as_little_as_possible() {
        check(&[], &pods(0..1), (0, 1, 0), &[1]);
        check(&pods(0..1), &[], (0, 1, 0), &[0]);
        check(&pods(0..1), &pods(0..1), (0, 0, 0), &[1]);
        check(&pods(0..1), &pods(0..2), (0, 1, 0), &[2]);
        check(&pods(0..250), &pods(0..250), (0, 0, 0), &[100, 100, 50]);
        // The last slice has room.
        check(&pods(0..250), &pods(0..251), (0, 1, 0), &[100, 100, 51]);
        // One slice changes anyway and takes the new one too.
        let mut swapped = pods(1..250);
        swapped.push(pod(300, true));
        check(&pods(0..250), &swapped, (0, 1, 0), &[100, 100, 50]);
        check(&pods(0..250), &pods(100..250), (0, 0, 1), &[100, 50]);
        check(&pods(0..250), &pods(0..350), (1, 0, 0), &[100, 100, 50, 100]);
    }

    #[test]
    fn readiness_is_changed_in_place() {
        let before = pods(0..3);
        let mut after = before.clone();
        after[1] = pod(1, false);
        check(&before, &after, (0, 1, 0), &[3]);
        let service = service(json!({}));
        let slices = applied(&[], &planned(&service, &after, &[]));
        let endpoint = slices[0].endpoints.as_ref().expect("endpoints")[1].clone();
        let expected = EndpointConditions {
            ready: Some(false),
            serving: Some(false),
            terminating: Some(false),
        };
        assert_eq!(endpoint.conditions, Some(expected));
        assert_eq!(
            (
                endpoint.hostname.as_deref(),
                endpoint.zone.as_deref(),
                endpoint.node_name.as_deref()
            ),
            (Some("h"), Some("z"), Some("n"))
        );
    }

    #[test]
    fn a_terminating_pod_serves_but_is_not_ready() {
        let mut pod = Pod::clone(&pod(0, true));
        pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            jiff::Timestamp::UNIX_EPOCH,
        ));
        let pods = [Arc::new(pod)];
        let ready = |extra| {
            let changes = planned(&service(extra), &pods, &[]);
            let conditions = changes.create[0].endpoints.as_ref().expect("endpoints")[0]
                .conditions
                .clone();
            let conditions = conditions.expect("conditions");
            (conditions.ready, conditions.serving, conditions.terminating)
        };
        assert_eq!(ready(json!({})), (Some(false), Some(true), Some(true)));
        assert_eq!(
            ready(json!({"publishNotReadyAddresses": true})),
            (Some(true), Some(true), Some(true))
        );
    }

    #[test]
    fn without_pods_there_is_a_slice_that_says_so() {
        let service = service(json!({}));
        let changes = planned(&service, &[], &[]);
        assert_eq!(changes.create.len(), 1);
        assert_eq!(changes.create[0].ports, Some(Vec::new()));
        let labels = changes.create[0].metadata.labels.clone().expect("labels");
        assert_eq!(
            (labels["of"].as_str(), labels[SERVICE_NAME].as_str()),
            ("svc", "web")
        );
        let slices = applied(&[], &changes);
        assert_eq!(planned(&service, &[], &slices), Changes::default());
    }

    #[test]
    fn labels_follow_the_service() {
        let old = service(json!({}));
        let slices = applied(&[], &planned(&old, &pods(0..1), &[]));
        let mut new = old.clone();
        new.metadata.labels = Some([("of".to_owned(), "other".to_owned())].into());
        let changes = planned(&new, &pods(0..1), &slices);
        assert_eq!(
            (changes.create.len(), changes.update.len(), changes.delete.len()),
            (0, 1, 0)
        );
        assert_eq!(
            changes.update[0].metadata.labels.as_ref().expect("labels")["of"],
            "other"
        );
    }

    #[test]
    fn slices_of_a_former_service_go() {
        let old = service(json!({}));
        let slices = applied(&[], &planned(&old, &pods(0..1), &[]));
        let mut new = old;
        new.metadata.uid = Some("s2".to_owned());
        let changes = planned(&new, &pods(0..1), &slices);
        assert_eq!(
            (changes.create.len(), changes.update.len(), changes.delete.len()),
            (1, 0, 1)
        );
    }

    #[test]
    fn a_pod_of_a_node_that_is_gone_is_left_out() {
        let mut lost = Pod::clone(&pod(0, true));
        lost.spec.as_mut().expect("a spec").node_name = Some("gone".to_owned());
        let pods = [Arc::new(lost)];
        let count = |extra| {
            planned(&service(extra), &pods, &[])
                .create
                .iter()
                .map(count)
                .sum::<usize>()
        };
        assert_eq!(count(json!({})), 0);
        assert_eq!(count(json!({"publishNotReadyAddresses": true})), 1);
    }

    #[test]
    fn traffic_that_is_to_stay_near_gets_hints() {
        let hints = |distribution: &str| {
            let changes = planned(
                &service(json!({"trafficDistribution": distribution})),
                &pods(0..1),
                &[],
            );
            let hints = changes.create[0].endpoints.as_ref().expect("endpoints")[0]
                .hints
                .clone()
                .unwrap_or_default();
            (
                hints.for_zones.map_or(0, |list| list.len()),
                hints.for_nodes.map_or(0, |list| list.len()),
            )
        };
        assert_eq!(hints(""), (0, 0));
        assert_eq!(hints("PreferClose"), (1, 0));
        assert_eq!(hints("PreferSameNode"), (1, 1));
    }

    #[test]
    fn each_family_has_its_slices() {
        let dual = service(json!({"ipFamilies": ["IPv4", "IPv6"]}));
        let slices = applied(&[], &planned(&dual, &pods(0..1), &[]));
        assert_eq!(counts(&slices), [1, 0]);
        let changes = planned(&service(json!({})), &pods(0..1), &slices);
        assert_eq!(
            (changes.create.len(), changes.update.len(), changes.delete.len()),
            (0, 0, 1)
        );
    }
}

use serde_json::{Value, json};

use super::*;

/// A service as it would be created.
fn service(spec: Value) -> Service {
    let mut service: Service =
        serde_json::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).expect("a service");
    service.set_defaults();
    service.prepare_for_create();
    service
}

/// What is wrong with creating it.
fn check(spec: Value) -> String {
    let mut errors = Errors::new();
    service(spec).validate(&mut errors);
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("|")
}

/// A service with an address, and what a merge patch of its spec makes of it.
fn patched(mut spec: Value, patch: &Value) -> (Service, String) {
    if spec["clusterIP"].is_null() && spec["type"] != "ExternalName" {
        spec["clusterIP"] = "10.0.0.7".into();
    }
    let old = service(spec);
    let mut new = json!(old);
    for (field, value) in patch.as_object().into_iter().flatten() {
        if value.is_null() {
            new["spec"].as_object_mut().expect("a spec").remove(field);
        } else {
            new["spec"][field] = value.clone();
        }
    }
    let mut new: Service = serde_json::from_value(new).expect("a service");
    new.set_defaults();
    new.prepare_for_update(&old);
    let mut errors = Errors::new();
    new.validate_update(&old, &mut errors);
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    (new, errors.join("|"))
}

fn web() -> Value {
    json!({"selector": {"app": "x"}, "ports": [{"port": 80}]})
}

fn with(mut spec: Value, more: &Value) -> Value {
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    spec
}

#[test]
fn a_service_is_completed_for_its_type() {
    let spec = json!(spec_of(&service(web())));
    assert_eq!(
        spec,
        json!({
            "selector": {"app": "x"}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "type": "ClusterIP", "sessionAffinity": "None", "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
        })
    );
    let spec = spec_of(&service(with(
        web(),
        &json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP"}),
    )));
    assert_eq!(spec.allocate_load_balancer_node_ports, Some(true));
    assert_eq!(text(&spec.external_traffic_policy), "Cluster");
    assert_eq!(
        json!(spec.session_affinity_config),
        json!({"clientIP": {"timeoutSeconds": 10_800}})
    );
    let name = spec_of(&service(
        json!({"type": "ExternalName", "externalName": "example.com"}),
    ));
    assert_eq!((name.internal_traffic_policy, name.ip_families), (None, None));
}

#[test]
fn a_headless_service_without_pods_is_of_both_families() {
    let spec = spec_of(&service(json!({"clusterIP": "None"})));
    assert_eq!(json!(spec.ip_families), json!(["IPv4", "IPv6"]));
    assert_eq!(text(&spec.ip_family_policy), "RequireDualStack");
    assert_eq!(check(json!({"clusterIP": "None"})), "");
    let spec = spec_of(&service(with(web(), &json!({"clusterIP": "None"}))));
    assert_eq!(json!(spec.ip_families), json!(["IPv4"]));
}

#[test]
fn addresses_and_families_fit_each_other_and_the_cluster() {
    for (more, expected) in [
        (json!({}), ""),
        (json!({"ipFamilyPolicy": "PreferDualStack"}), ""),
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (
            json!({"ipFamilies": ["IPv4", "IPv6"]}),
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
        ),
        (
            json!({"ipFamilies": ["IPv4", "IPv4"]}),
            "spec.ipFamilies[1]: Duplicate value: \"IPv4\"",
        ),
        (
            json!({"clusterIP": "fd00::1"}),
            "spec.clusterIPs[0]: Invalid value: []string{\"fd00::1\"}: IPv6 is not configured on this cluster",
        ),
        (
            json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.8"]}),
            "spec.clusterIPs: Invalid value: []string{\"10.96.0.8\"}: first value must match `clusterIP`",
        ),
        (
            json!({"clusterIPs": ["None", "None"]}),
            "spec.clusterIPs: Invalid value: []string{\"None\", \"None\"}: must be empty when `clusterIP` is not specified|\
             spec.clusterIPs: Invalid value: []string{\"None\", \"None\"}: 'None' must be the first and only value|\
             spec.clusterIPs[1]: Invalid value: \"None\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            json!({"clusterIP": "None", "type": "NodePort"}),
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
        ),
    ] {
        assert_eq!(check(with(web(), &more)), expected, "{more}");
    }
}

#[test]
fn fields_belong_to_types() {
    for (more, expected) in [
        (json!({"ports": []}), "spec.ports: Required value"),
        (
            json!({"type": "Odd"}),
            "spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ),
        (
            json!({"type": "ExternalName"}),
            "spec.externalName: Required value",
        ),
        (json!({"type": "ExternalName", "externalName": "a.b."}), ""),
        (
            json!({"externalTrafficPolicy": "Local"}),
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set when `type` is 'NodePort' or 'LoadBalancer'",
        ),
        (
            json!({"externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1"]}),
            "",
        ),
        (
            json!({"externalTrafficPolicy": "Local", "type": "LoadBalancer"}),
            "",
        ),
        (
            json!({"loadBalancerClass": "example.com/x"}),
            "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            json!({"healthCheckNodePort": 30000, "type": "NodePort"}),
            "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30080}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30080}]}),
            "spec.ports[1].nodePort: Duplicate value: 30080",
        ),
        (
            json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            json!({"trafficDistribution": "Near"}),
            "spec.trafficDistribution: Unsupported value: \"Near\": supported values: \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\"",
        ),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
        ),
    ] {
        assert_eq!(check(with(web(), &more)), expected, "{more}");
    }
}

#[test]
fn a_type_takes_what_belongs_to_it_along() {
    let node_port =
        json!({"type": "NodePort", "selector": {"app": "x"}, "ports": [{"port": 80, "nodePort": 30080}]});
    let (new, errors) = patched(node_port.clone(), &json!({"type": "ClusterIP"}));
    assert_eq!(errors, "");
    let spec = spec_of(&new);
    assert_eq!(
        (
            spec.ports.expect("ports")[0].node_port,
            spec.external_traffic_policy
        ),
        (None, None)
    );
    assert_eq!(text(&spec.cluster_ip), "10.0.0.7");

    let (new, errors) = patched(
        node_port,
        &json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false}),
    );
    assert_eq!(errors, "");
    assert_eq!(spec_of(&new).ports.expect("ports")[0].node_port, Some(30080));

    let (new, errors) = patched(
        web(),
        &json!({"type": "ExternalName", "externalName": "x.example.com"}),
    );
    assert_eq!(errors, "");
    assert_eq!(
        json!(spec_of(&new)),
        json!({
            "ports": [{"protocol": "TCP", "port": 80, "targetPort": 80}], "selector": {"app": "x"},
            "type": "ExternalName", "sessionAffinity": "None", "externalName": "x.example.com",
        })
    );
    let (new, errors) = patched(
        json!({"type": "ExternalName", "externalName": "a", "ports": [{"port": 1}]}),
        &json!({"type": "ClusterIP"}),
    );
    assert_eq!(errors, "");
    assert_eq!(json!(spec_of(&new).ip_families), json!(["IPv4"]));
}

#[test]
fn an_update_keeps_what_was_given_out_and_cannot_change_it() {
    for (patch, expected) in [
        (json!({"clusterIP": null}), ""),
        (json!({"clusterIP": ""}), ""),
        (
            json!({"clusterIP": null, "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null}),
            "",
        ),
        (
            json!({"clusterIP": "10.0.0.8"}),
            "spec.clusterIPs[0]: Invalid value: []string{\"10.0.0.8\"}: may not change once set",
        ),
        (
            json!({"clusterIP": "None"}),
            "spec.clusterIPs[0]: Invalid value: []string{\"None\"}: may not change once set",
        ),
        (
            json!({"clusterIPs": ["10.0.0.8"]}),
            "spec.clusterIPs: Invalid value: []string{\"10.0.0.8\"}: first value must match `clusterIP`",
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            "spec.clusterIPs[0]: Invalid value: \"10.0.0.7\": expected an IPv6 value as indicated by `ipFamilies[0]`",
        ),
    ] {
        let (new, errors) = patched(web(), &patch);
        assert_eq!(errors, expected, "{patch}");
        if errors.is_empty() {
            assert_eq!(json!(spec_of(&new).cluster_ips), json!(["10.0.0.7"]), "{patch}");
        }
    }
    let old = json!({"type": "NodePort", "ports": [{"name": "a", "port": 1, "nodePort": 30001}, {"name": "b", "port": 2, "nodePort": 30002}]});
    let (new, _) = patched(
        old,
        &json!({"ports": [{"name": "b", "port": 3}, {"name": "c", "port": 1, "nodePort": 30001}]}),
    );
    let ports: Vec<_> = spec_of(&new)
        .ports
        .expect("ports")
        .iter()
        .map(|port| port.node_port)
        .collect();
    assert_eq!(ports, [Some(30002), Some(30001)]);
}

#[test]
fn only_load_balancers_have_a_load_balancers_status() {
    let errors_of = |ty: &str, ingress: Value| {
        let old = service(with(web(), &json!({"type": ty})));
        let mut new = old.clone();
        new.status =
            serde_json::from_value(json!({"loadBalancer": {"ingress": [ingress]}})).expect("a status");
        new.set_defaults();
        let mut errors = Errors::new();
        new.validate_status_update(&old, &mut errors);
        errors.iter().map(ToString::to_string).collect::<String>()
    };
    assert_eq!(errors_of("LoadBalancer", json!({"ip": "192.0.2.1"})), "");
    assert_eq!(
        errors_of("ClusterIP", json!({"ip": "192.0.2.1"})),
        "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"
    );
    assert_eq!(
        errors_of("LoadBalancer", json!({"hostname": "a", "ipMode": "VIP"})),
        "status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set"
    );
}

#[test]
fn rows_show_addresses_and_ports() {
    let cells = |service: &Service| {
        let cells = service.row(Timestamp::UNIX_EPOCH);
        [1, 2, 3, 4, 6].map(|at| cells[at].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(
        cells(&service(with(web(), &json!({"clusterIP": "10.0.0.7"})))),
        ["ClusterIP", "10.0.0.7", "<none>", "80/TCP", "app=x"]
    );
    assert_eq!(
        cells(&service(json!({"type": "ExternalName", "externalName": "a.b"}))),
        ["ExternalName", "<none>", "a.b", "<none>", "<none>"]
    );
    let mut balancer = service(json!({"type": "LoadBalancer", "clusterIP": "10.0.0.7",
        "ports": [{"port": 80, "nodePort": 30080}, {"name": "b", "port": 53, "protocol": "UDP"}]}));
    assert_eq!(
        cells(&balancer),
        [
            "LoadBalancer",
            "10.0.0.7",
            "<pending>",
            "80:30080/TCP,53/UDP",
            "<none>"
        ]
    );
    balancer.status = serde_json::from_value(
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}, {"hostname": "h"}]}}),
    )
    .expect("a status");
    assert_eq!(cells(&balancer)[2], "192.0.2.2,h");
}

#[test]
fn what_is_ignored_is_warned_of() {
    let warnings = |spec: Value| service(spec).warnings(None);
    assert_eq!(warnings(web()), Vec::<String>::new());
    assert_eq!(
        warnings(with(
            web(),
            &json!({"clusterIP": "None", "sessionAffinity": "ClientIP"})
        )),
        ["spec.SessionAffinity is ignored for headless services"]
    );
    assert_eq!(
        warnings(with(web(), &json!({"externalName": "a"}))),
        ["spec.externalName is ignored when spec.type is not \"ExternalName\""]
    );
}

//! Objects of a kind with any of its fields set: what no recorded case has.

use fastrand::Rng;
use serde_json::{Map, Value};
use stead_api::registry::Kind;
use stead_api::schema::{self, Schema, Type};

/// Texts that mean something to some field.
pub const TEXTS: &[&str] = &[
    "",
    "a",
    "web",
    "web-0",
    "default",
    "kube-system",
    "Always",
    "Never",
    "OnFailure",
    "RollingUpdate",
    "OnDelete",
    "Recreate",
    "Parallel",
    "ClusterIP",
    "NodePort",
    "LoadBalancer",
    "ExternalName",
    "None",
    "TCP",
    "UDP",
    "SCTP",
    "IPv4",
    "IPv6",
    "10.96.0.1",
    "::1",
    "1.2.3.4/8",
    "0.0.0.0",
    "256.0.0.1",
    "fd00::/8",
    "50%",
    "101%",
    "-1%",
    "Guaranteed",
    "100m",
    "1Gi",
    "1e3",
    "-1",
    "9223372036854775807",
    "0x7f",
    "1n",
    "http",
    "HTTP",
    "HTTPS",
    "/",
    "/a/../b",
    "../x",
    "..",
    "$(A)",
    "$$(B)",
    "kubernetes.io/hostname",
    "app.kubernetes.io/name",
    "a/b/c",
    "In",
    "NotIn",
    "Exists",
    "DoesNotExist",
    "Gt",
    "NoSchedule",
    "NoExecute",
    "Equal",
    "ReadWriteOnce",
    "ReadOnlyMany",
    "Filesystem",
    "Block",
    "Retain",
    "Delete",
    "Immediate",
    "WaitForFirstConsumer",
    "* * * * *",
    "@daily",
    "*/5 0 31 2 *",
    "Europe/Berlin",
    "Allow",
    "Forbid",
    "Replace",
    "Indexed",
    "NonIndexed",
    "0-3,7",
    "Foreground",
    "foregroundDeletion",
    "2026-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z",
    "busybox:1.35",
    "AA==",
    "ä",
    "\u{0}",
    "\u{1f600}",
    "metadata.name",
    "status.podIP",
    "limits.cpu",
    "spec.nodeName",
    "kubernetes.io/service-account-token",
    "kubernetes.io/dockerconfigjson",
    "Opaque",
    "rbac.authorization.k8s.io",
    "ServiceAccount",
    "User",
    "Group",
    "*",
    "system:masters",
    "True",
    "False",
    "Unknown",
    "Running",
    "Pending",
    "Failed",
    "Succeeded",
    "RuntimeDefault",
    "ScheduleAnyway",
    "DoNotSchedule",
    "Local",
    "Cluster",
    "Service",
    "Resource",
    "Pods",
    "Utilization",
    "AverageValue",
];

/// Numbers at the ends of what fields may hold.
pub const NUMBERS: &[i64] = &[
    0,
    1,
    -1,
    2,
    3,
    10,
    80,
    100,
    255,
    256,
    443,
    511,
    512,
    4095,
    30_000,
    32_767,
    65_535,
    65_536,
    86_400,
    i32::MAX as i64,
    i32::MIN as i64,
    i32::MAX as i64 + 1,
    i64::MAX,
    i64::MIN,
    1 << 53,
];

/// How deep objects are filled.
const DEPTH: usize = 9;

/// An object of a kind.
pub fn object(kind: &Kind, random: &mut Rng) -> Value {
    let mut object = of_type(schema::builtin(), &Type::Struct(kind.type_id()), random, 0);
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.into();
    object
}

/// A text.
pub fn text(random: &mut Rng) -> &'static str {
    TEXTS[random.usize(..TEXTS.len())]
}

/// A number.
pub fn number(random: &mut Rng) -> i64 {
    NUMBERS[random.usize(..NUMBERS.len())]
}

fn of_type(schema: &Schema, ty: &Type, random: &mut Rng, depth: usize) -> Value {
    match ty {
        Type::Struct(id) => {
            let mut object = Map::new();
            let fields = schema.get(*id).fields();
            // Deep down only some fields, so that an object has not thousands.
            let few = if depth < 3 { 2 } else { 1 + fields.len() / 3 };
            for field in fields {
                let wanted = field.required && random.u8(..) > 10 || random.usize(..few) == 0;
                if wanted && depth < DEPTH {
                    object.insert(
                        field.name.to_owned(),
                        of_type(schema, &field.ty, random, depth + 1),
                    );
                }
            }
            Value::Object(object)
        }
        Type::List(element) => {
            let count = random.usize(..3);
            (0..count)
                .map(|_| of_type(schema, element, random, depth + 1))
                .collect()
        }
        Type::Map(_, element) => {
            let count = random.usize(..3);
            let entry = |random: &mut Rng| {
                (
                    text(random).to_owned(),
                    of_type(schema, element, random, depth + 1),
                )
            };
            Value::Object((0..count).map(|_| entry(random)).collect())
        }
        Type::Int32(_) => (number(random) as i32).into(),
        Type::Int64(_) => number(random).into(),
        Type::Float64 => (number(random) as f64 / 3.0).into(),
        Type::Bool => random.bool().into(),
        Type::IntOrString if random.bool() => (number(random) as i32).into(),
        Type::Bytes => "AAEC".into(),
        Type::Quantity => [
            "1",
            "100m",
            "1.5Gi",
            "0",
            "-1",
            "1e30",
            "1n",
            "9223372036854775807Ei",
        ][random.usize(..8)]
        .into(),
        Type::Time => "2026-01-01T00:00:00Z".into(),
        Type::MicroTime => "2026-01-01T00:00:00.000001Z".into(),
        Type::Duration => ["1h0m0s", "0s", "-1ns", "2562047h47m16.854775807s"][random.usize(..4)].into(),
        Type::FieldsV1 => serde_json::json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}}),
        Type::Raw | Type::Json => serde_json::json!({"a": [number(random), null, text(random)]}),
        Type::String(_) | Type::IntOrString => text(random).into(),
    }
}

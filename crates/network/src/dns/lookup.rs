//! What the zone says about a name.
//!
//! Pure but for the zone's counter, which rotates answers so that clients that take the first address
//! spread over all of them.
//!
//! "No such name" and "no such record" both carry the zone's SOA record with a TTL of 0, so that nobody
//! remembers a miss: the peers of a pod that just started appear within milliseconds. Hits may be kept for
//! five seconds, CoreDNS's own default (installers raise it to 30): pods keep their names but not their
//! addresses, the server is on the same machine, and a query costs it some microseconds.

use super::zone::{HeadlessEndpoint, Port, ServiceName, ServiceRecords, Zone, lower_labels};
use crate::proxy::Protocol;
use hickory_proto::rr::rdata::{A, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::Ipv4Addr;

/// What the zone says.
#[derive(Debug, PartialEq)]
pub(super) enum Lookup {
    /// Nothing: the name is somebody else's.
    Foreign,
    /// There is no such name.
    NoSuchName,
    /// There is, but without records of that type.
    NoSuchRecord,
    Found {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name stands for another one, which has to be looked up in turn.
    Alias { answer: Box<Record>, target: Name },
}

/// The records at a name, of all types.
#[derive(Default)]
struct Records {
    answers: Vec<Record>,
    additionals: Vec<Record>,
}

const SPECIFICATION: &str = "1.1.0";
const TTL: u32 = 5;
/// Of a service's SRV records; together they weigh this much, as in CoreDNS.
const WEIGHT: usize = 100;

impl Zone {
    /// Looks up the records of type `kind` at `name`.
    pub(super) fn lookup(&self, name: &Name, kind: RecordType) -> Lookup {
        let labels = lower_labels(name);
        let Some(below) = labels.strip_suffix(self.labels.as_slice()) else {
            return self.lookup_address(name, &labels, kind);
        };
        let below: Vec<&str> = below.iter().map(String::as_str).collect();
        if let [service, namespace, "svc"] = below[..]
            && let Some(ServiceRecords::External(target)) = self.service(namespace, service).as_deref()
        {
            return self.alias(name, target, kind);
        }
        self.records(name, &below)
            .map_or(Lookup::NoSuchName, |records| records.of_type(kind))
    }

    /// The SOA record for answers without records.
    pub(super) fn soa(&self) -> Record {
        let server = self
            .origin
            .prepend_label("dns")
            .and_then(|name| name.prepend_label("ns"));
        let mailbox = self.origin.prepend_label("hostmaster");
        let (server, mailbox) = (server.unwrap_or_default(), mailbox.unwrap_or_default());
        let data = SOA::new(server, mailbox, 1, 7200, 1800, 86400, 0);
        Record::from_rdata(self.origin.clone(), 0, RData::SOA(data))
    }

    /// All records at a name, given its labels below the zone's, or nothing when there is no such name.
    fn records(&self, name: &Name, below: &[&str]) -> Option<Records> {
        match *below {
            [] => Some(self.apex(name)),
            ["dns-version"] => {
                let data = RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]));
                Some(Records::of(vec![record(name, data)]))
            }
            ["ns", "dns"] => Some(Records::addresses(
                name,
                self.options.name_servers.iter().copied(),
            )),
            ["svc" | "pod" | "dns"] => Some(Records::none()),
            [namespace, "svc" | "pod"] => self.has_namespace(namespace).then(Records::none),
            [address, _, "pod"] => {
                let address: Ipv4Addr = address.replace('-', ".").parse().ok()?;
                Some(Records::addresses(name, [address]))
            }
            [service, namespace, "svc"] => {
                let records = self.service(namespace, service)?;
                self.service_records(name, name, &records, |_| true)
            }
            [label, service, namespace, "svc"] => {
                let records = self.service(namespace, service)?;
                below_service(name, label, &records)
            }
            [port, protocol, service, namespace, "svc"] => {
                let (port, protocol) = (port.strip_prefix('_')?, protocol.strip_prefix('_')?);
                let records = self.service(namespace, service)?;
                let mut found =
                    self.service_records(name, &name.base_name().base_name(), &records, |candidate| {
                        candidate.name == port && label_of(candidate.protocol) == protocol
                    })?;
                found
                    .answers
                    .retain(|record| record.record_type() == RecordType::SRV);
                (!found.answers.is_empty()).then_some(found)
            }
            _ => None,
        }
    }

    fn apex(&self, name: &Name) -> Records {
        let server = self
            .origin
            .prepend_label("dns")
            .and_then(|name| name.prepend_label("ns"));
        let server = server.unwrap_or_default();
        let addresses = self.options.name_servers.iter();
        Records {
            answers: vec![self.soa(), record(name, RData::NS(NS(server.clone())))],
            additionals: addresses
                .map(|address| record(&server, RData::A(A(*address))))
                .collect(),
        }
    }

    /// A and SRV records of a service, the latter for the ports that are `wanted`; nothing for a headless
    /// service without endpoints, as the specification has it.
    fn service_records(
        &self,
        name: &Name,
        service: &Name,
        records: &ServiceRecords,
        wanted: impl Fn(&Port) -> bool,
    ) -> Option<Records> {
        match records {
            ServiceRecords::ClusterIp { addresses, ports } => {
                let mut found = Records::addresses(name, addresses.iter().copied());
                let ports: Vec<_> = ports.iter().filter(|port| wanted(port)).collect();
                let weight = weight(ports.len());
                found.answers.extend(
                    ports
                        .iter()
                        .map(|port| srv(name, weight, port.port, service.clone())),
                );
                found.additionals = Records::addresses(service, addresses.iter().copied()).answers;
                Some(found)
            }
            ServiceRecords::Headless(endpoints) if endpoints.is_empty() => None,
            ServiceRecords::Headless(endpoints) => {
                let mut in_turn = endpoints.clone();
                in_turn.rotate_left(self.next_turn() % endpoints.len());
                Some(headless_records(name, service, &in_turn, wanted))
            }
            ServiceRecords::External(_) => None,
        }
    }

    fn alias(&self, name: &Name, target: &str, kind: RecordType) -> Lookup {
        let Ok(mut target) = Name::from_ascii(target) else {
            return Lookup::NoSuchRecord;
        };
        target.set_fqdn(true);
        let answer = record(name, RData::CNAME(CNAME(target.clone())));
        match kind {
            RecordType::CNAME => Lookup::Found {
                answers: vec![answer],
                additionals: Vec::new(),
            },
            _ => Lookup::Alias {
                answer: Box::new(answer),
                target,
            },
        }
    }

    /// The names of an address, for `5.0.244.10.in-addr.arpa`.
    fn lookup_address(&self, name: &Name, labels: &[String], kind: RecordType) -> Lookup {
        let Some(address) = reverse_address(labels) else {
            return Lookup::Foreign;
        };
        let names = self.names_of(address).into_iter();
        let names = names.filter_map(|(service, hostname)| self.service_name(&service, hostname));
        let pointers: Vec<Record> = names
            .map(|target| record(name, RData::PTR(PTR(target))))
            .collect();
        let is_ours = self.options.ranges.iter().any(|range| range.contains(&address));
        match pointers.is_empty() {
            true if is_ours => Lookup::NoSuchName,
            true => Lookup::Foreign,
            false => Records::of(pointers).of_type(kind),
        }
    }

    fn service_name(&self, (namespace, service): &ServiceName, hostname: Option<String>) -> Option<Name> {
        let labels = hostname
            .iter()
            .chain([service, namespace])
            .map(String::as_bytes)
            .chain([&b"svc"[..]]);
        Name::from_labels(labels).ok()?.append_domain(&self.origin).ok()
    }
}

impl Records {
    /// Those of one type, or all.
    fn of_type(mut self, kind: RecordType) -> Lookup {
        if kind != RecordType::ANY {
            self.answers.retain(|record| record.record_type() == kind);
        }
        // Addresses of the targets that are named; where the answer is an address, there are none.
        if !matches!(kind, RecordType::SRV | RecordType::NS) {
            self.additionals.clear();
        }
        match self.answers.is_empty() {
            true => Lookup::NoSuchRecord,
            false => Lookup::Found {
                answers: self.answers,
                additionals: self.additionals,
            },
        }
    }

    fn of(answers: Vec<Record>) -> Self {
        Self {
            answers,
            ..Self::default()
        }
    }

    fn addresses(name: &Name, addresses: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        Self::of(
            addresses
                .into_iter()
                .map(|address| record(name, RData::A(A(address))))
                .collect(),
        )
    }

    /// A name with nothing at it, but with names below it.
    fn none() -> Self {
        Self::default()
    }
}

/// What is one label below a service: an endpoint's name, or a protocol that has ports.
fn below_service(name: &Name, label: &str, records: &ServiceRecords) -> Option<Records> {
    if let Some(protocol) = label.strip_prefix('_') {
        let is_named = |port: &Port| label_of(port.protocol) == protocol && !port.name.is_empty();
        let is_above_others = match records {
            ServiceRecords::ClusterIp { ports, .. } => ports.iter().any(is_named),
            ServiceRecords::Headless(endpoints) => endpoints.iter().flat_map(|e| &e.ports).any(is_named),
            ServiceRecords::External(_) => false,
        };
        return is_above_others.then(Records::none);
    }
    let ServiceRecords::Headless(endpoints) = records else {
        return None;
    };
    let named: Vec<_> = endpoints
        .iter()
        .filter(|endpoint| endpoint.host_label() == label)
        .cloned()
        .collect();
    (!named.is_empty()).then(|| headless_records(name, &name.base_name(), &named, |_| true))
}

/// A and SRV records of some endpoints of the headless service `service`.
fn headless_records(
    name: &Name,
    service: &Name,
    endpoints: &[HeadlessEndpoint],
    wanted: impl Fn(&Port) -> bool,
) -> Records {
    let mut found = Records::addresses(name, endpoints.iter().map(|endpoint| endpoint.address));
    let weight = weight(endpoints.len());
    for endpoint in endpoints {
        let Ok(target) = service.prepend_label(endpoint.host_label()) else {
            continue;
        };
        let ports = endpoint.ports.iter().filter(|port| wanted(port));
        found
            .answers
            .extend(ports.map(|port| srv(name, weight, port.port, target.clone())));
        found
            .additionals
            .push(record(&target, RData::A(A(endpoint.address))));
    }
    found
}

fn srv(name: &Name, weight: u16, port: u16, target: Name) -> Record {
    record(name, RData::SRV(SRV::new(0, weight, port, target)))
}

fn weight(records: usize) -> u16 {
    u16::try_from(WEIGHT / records.max(1)).unwrap_or(1).max(1)
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn label_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// The address that a name below `in-addr.arpa` is about.
fn reverse_address(labels: &[String]) -> Option<Ipv4Addr> {
    let [d, c, b, a, "in-addr", "arpa"] = labels.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
        return None;
    };
    format!("{a}.{b}.{c}.{d}").parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::dns::zone::ZoneOptions;

    fn port(name: &str, protocol: Protocol, port: u16) -> Port {
        Port {
            name: name.into(),
            protocol,
            port,
        }
    }

    fn zone() -> Zone {
        let zone = Zone::new(ZoneOptions {
            domain: "Cluster.Local.".into(),
            name_servers: vec![Ipv4Addr::new(10, 96, 0, 10)],
            ranges: vec!["10.96.0.0/16".parse().unwrap(), "10.244.0.0/16".parse().unwrap()],
        });
        let zone = zone.unwrap();
        zone.set_service(
            "default",
            "api",
            ServiceRecords::ClusterIp {
                addresses: vec![Ipv4Addr::new(10, 96, 0, 5)],
                ports: vec![port("https", Protocol::Tcp, 443), port("dns", Protocol::Udp, 53)],
            },
        );
        let endpoint = |last, hostname: Option<&str>| HeadlessEndpoint {
            address: Ipv4Addr::new(10, 244, 0, last),
            hostname: hostname.map(str::to_owned),
            ports: vec![port("http", Protocol::Tcp, 8080)],
        };
        let endpoints = vec![
            endpoint(1, Some("Web-0")),
            endpoint(2, Some("web-1")),
            endpoint(3, None),
        ];
        zone.set_service("default", "web", ServiceRecords::Headless(endpoints));
        zone.set_service("default", "empty", ServiceRecords::Headless(Vec::new()));
        zone.set_service(
            "default",
            "out",
            ServiceRecords::External("db.example.com".into()),
        );
        zone
    }

    fn show(records: &[Record]) -> String {
        let mut lines: Vec<_> = records
            .iter()
            .map(|record| format!("{} {}", record.record_type(), record.data))
            .collect();
        lines.sort();
        lines.join(", ")
    }

    fn check(name: &str, kind: RecordType, expected: &str) {
        let seen = match zone().lookup(&Name::from_ascii(name).unwrap(), kind) {
            Lookup::Foreign => "foreign".into(),
            Lookup::NoSuchName => "no name".into(),
            Lookup::NoSuchRecord => "no record".into(),
            Lookup::Found { answers, additionals } => {
                assert!(
                    answers
                        .iter()
                        .all(|record| record.name.to_string().eq_ignore_ascii_case(name))
                );
                match show(&additionals) {
                    none if none.is_empty() => show(&answers),
                    some => format!("{} + {some}", show(&answers)),
                }
            }
            Lookup::Alias { answer, target } => format!("{} -> {target}", show(&[*answer])),
        };
        assert_eq!(seen, expected, "{kind} of {name}");
    }

    #[test]
    fn names_have_the_records_of_the_specification() {
        use RecordType::{A, AAAA, ANY, CNAME, NS, PTR, SRV, TXT};
        let cases = [
            ("cluster.local.", NS, "NS ns.dns.cluster.local. + A 10.96.0.10"),
            ("cluster.local.", A, "no record"),
            ("ns.dns.cluster.local.", A, "A 10.96.0.10"),
            ("dns-version.cluster.local.", TXT, "TXT 1.1.0"),
            ("api.default.svc.cluster.local.", A, "A 10.96.0.5"),
            ("API.Default.SVC.cluster.LOCAL.", A, "A 10.96.0.5"),
            ("api.default.svc.cluster.local.", AAAA, "no record"),
            (
                "api.default.svc.cluster.local.",
                SRV,
                "SRV 0 50 443 api.default.svc.cluster.local., SRV 0 50 53 api.default.svc.cluster.local. \
                 + A 10.96.0.5",
            ),
            (
                "_https._tcp.api.default.svc.cluster.local.",
                SRV,
                "SRV 0 100 443 api.default.svc.cluster.local. + A 10.96.0.5",
            ),
            ("_https._tcp.api.default.svc.cluster.local.", A, "no record"),
            ("_https._udp.api.default.svc.cluster.local.", SRV, "no name"),
            ("_tcp.api.default.svc.cluster.local.", SRV, "no record"),
            ("_sctp.api.default.svc.cluster.local.", SRV, "no name"),
            (
                "web.default.svc.cluster.local.",
                A,
                "A 10.244.0.1, A 10.244.0.2, A 10.244.0.3",
            ),
            ("web-0.web.default.svc.cluster.local.", A, "A 10.244.0.1"),
            ("10-244-0-3.web.default.svc.cluster.local.", A, "A 10.244.0.3"),
            ("10-244-0-2.web.default.svc.cluster.local.", A, "no name"),
            ("web-2.web.default.svc.cluster.local.", A, "no name"),
            ("web-0.web.default.svc.cluster.local.", AAAA, "no record"),
            (
                "_http._tcp.web.default.svc.cluster.local.",
                SRV,
                "SRV 0 33 8080 10-244-0-3.web.default.svc.cluster.local., \
                 SRV 0 33 8080 web-0.web.default.svc.cluster.local., \
                 SRV 0 33 8080 web-1.web.default.svc.cluster.local. \
                 + A 10.244.0.1, A 10.244.0.2, A 10.244.0.3",
            ),
            ("empty.default.svc.cluster.local.", A, "no name"),
            (
                "out.default.svc.cluster.local.",
                A,
                "CNAME db.example.com. -> db.example.com.",
            ),
            ("out.default.svc.cluster.local.", CNAME, "CNAME db.example.com."),
            ("default.svc.cluster.local.", A, "no record"),
            ("other.svc.cluster.local.", A, "no name"),
            ("svc.cluster.local.", A, "no record"),
            ("10-244-0-7.default.pod.cluster.local.", A, "A 10.244.0.7"),
            ("web-0.default.pod.cluster.local.", A, "no name"),
            ("nothing.cluster.local.", ANY, "no name"),
            ("a.b.c.d.e.svc.cluster.local.", A, "no name"),
            (
                "5.0.96.10.in-addr.arpa.",
                PTR,
                "PTR api.default.svc.cluster.local.",
            ),
            (
                "1.0.244.10.in-addr.arpa.",
                PTR,
                "PTR web-0.web.default.svc.cluster.local.",
            ),
            (
                "3.0.244.10.in-addr.arpa.",
                PTR,
                "PTR 10-244-0-3.web.default.svc.cluster.local.",
            ),
            ("9.0.244.10.in-addr.arpa.", PTR, "no name"),
            ("1.1.168.192.in-addr.arpa.", PTR, "foreign"),
            ("example.com.", A, "foreign"),
            ("local.", A, "foreign"),
            ("notcluster.local.", A, "foreign"),
        ];
        for (name, kind, expected) in cases {
            check(name, kind, expected);
        }
    }

    #[test]
    fn a_change_is_seen_by_the_next_query() {
        let zone = zone();
        let name = Name::from_ascii("web-0.web.default.svc.cluster.local.").unwrap();
        let pointer = Name::from_ascii("1.0.244.10.in-addr.arpa.").unwrap();
        assert!(zone.remove_service("default", "web") && !zone.remove_service("default", "web"));
        assert_eq!(zone.lookup(&name, RecordType::A), Lookup::NoSuchName);
        assert_eq!(zone.lookup(&pointer, RecordType::PTR), Lookup::NoSuchName);
        let moved = HeadlessEndpoint {
            address: Ipv4Addr::new(10, 244, 0, 9),
            hostname: Some("web-0".into()),
            ports: Vec::new(),
        };
        zone.set_service("default", "web", ServiceRecords::Headless(vec![moved]));
        let Lookup::Found { answers, .. } = zone.lookup(&name, RecordType::A) else {
            panic!("not found")
        };
        assert_eq!(show(&answers), "A 10.244.0.9");
    }

    #[test]
    fn a_namespace_is_gone_with_its_last_service() {
        let zone = zone();
        let namespace = Name::from_ascii("default.svc.cluster.local.").unwrap();
        for service in ["api", "web", "empty", "out"] {
            assert_eq!(zone.lookup(&namespace, RecordType::A), Lookup::NoSuchRecord);
            zone.remove_service("default", service);
        }
        assert_eq!(zone.lookup(&namespace, RecordType::A), Lookup::NoSuchName);
    }

    #[test]
    fn endpoints_take_turns_at_being_first() {
        let zone = zone();
        let name = Name::from_ascii("web.default.svc.cluster.local.").unwrap();
        let first = || match zone.lookup(&name, RecordType::A) {
            Lookup::Found { answers, .. } => answers[0].data.to_string(),
            other => panic!("{other:?}"),
        };
        let firsts = [first(), first(), first(), first()];
        assert_eq!(firsts, ["10.244.0.1", "10.244.0.2", "10.244.0.3", "10.244.0.1"]);
    }

    #[test]
    fn misses_are_not_to_be_remembered() {
        let soa = zone().soa();
        let RData::SOA(data) = &soa.data else {
            panic!("not a SOA record")
        };
        assert_eq!((soa.ttl, data.minimum), (0, 0));
    }

    #[test]
    fn a_domain_must_be_a_name() {
        for domain in ["", ".", "a..b"] {
            let options = ZoneOptions {
                domain: domain.into(),
                name_servers: Vec::new(),
                ranges: Vec::new(),
            };
            assert!(Zone::new(options).is_err(), "{domain:?}");
        }
    }
}

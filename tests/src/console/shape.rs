//! What stays the same of what a command says, from run to run.

/// A line without what differs from run to run: ages, times, addresses, the kernel's and generated numbers, uids
/// and hashes of revisions, how wide columns are, how often an event was seen. Names, sizes, states and `2/3` stay.
pub fn shape(line: &str) -> String {
    for heading in ["LAST DEPLOYED:", "Last Started:", "Last Completed:"] {
        if line.starts_with(heading) {
            return heading.to_owned();
        }
    }
    let mut shapes = Vec::new();
    let mut words = line.split_whitespace();
    while let Some(word) = words.next() {
        // (x3 over 5s)
        if word.starts_with("(x") && words.clone().next() == Some("over") {
            words.nth(1);
        } else {
            shapes.push(shape_of_word(word));
        }
    }
    shapes.join(" ")
}

fn shape_of_word(word: &str) -> String {
    let number = word.trim_matches(['(', ')', ',']);
    let is_number = number.chars().all(|char| char.is_ascii_digit() || char == '.');
    if is_number && number.parse::<f64>().is_ok() {
        return word.replace(number, "N");
    }
    if is_age(word.trim_start_matches('(')) {
        return "AGE".to_owned();
    }
    if word.len() > 3 && word.chars().all(|char| "|-".contains(char)) {
        return "|-".to_owned();
    }
    // An image's id and size.
    if word.len() == 12 && word.chars().all(|char| char.is_ascii_hexdigit()) {
        return "ID".to_owned();
    }
    if let Some(size) = word.strip_suffix("MB").filter(|size| size.parse::<f64>().is_ok()) {
        return word.replace(size, "N");
    }
    let mut shape = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let (name, length) = PATTERNS
            .iter()
            .find_map(|(name, pattern)| Some((*name, begins_with(rest, pattern)?)))
            .or_else(|| Some(("HASH", generated(&shape, rest)?)))
            .unwrap_or_else(|| {
                let digits = rest.chars().take_while(char::is_ascii_digit).count();
                match digits {
                    0 => {
                        let length = rest.chars().next().map_or(1, char::len_utf8);
                        (&rest[..length], length)
                    }
                    1..5 => (&rest[..digits], digits),
                    _ => ("N", digits),
                }
            });
        shape.push_str(name);
        rest = &rest[length..];
    }
    shape
}

/// How long the part of a name is that begins a text, if it was generated: a hash, or what makes a pod's name from
/// that of its ReplicaSet, which ends with a hash.
fn generated(before: &str, text: &str) -> Option<usize> {
    let is_begin = before.is_empty() || before.ends_with(['-', '/']);
    let part = text.split('-').next().filter(|_| is_begin)?;
    let is_long = part.len() > 7 || (part.len() == 5 && before.ends_with("HASH-"));
    (is_long && part.chars().all(|char| HASH.contains(char))).then_some(part.len())
}

/// The letters that Kubernetes makes hashes of.
const HASH: &str = "bcdfghjklmnpqrstvwxz2456789";

/// `9+` is one to nine digits, `9` a digit, `f` a hexadecimal one.
const PATTERNS: &[(&str, &str)] = &[
    ("UUID", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    ("IP", "9+.9+.9+.9+"),
    ("DATE", "9999-99-99"),
    ("TIME", "99:99:99.999+"),
    ("TIME", "99:99:99"),
];

/// How much of a text is as the pattern says, if it begins so.
fn begins_with(text: &str, pattern: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut signs = pattern.bytes().peekable();
    while let Some(sign) = signs.next() {
        let byte = bytes.get(at)?;
        let is_it = match sign {
            b'9' => byte.is_ascii_digit(),
            b'f' => byte.is_ascii_hexdigit(),
            other => *byte == other,
        };
        if !is_it {
            return None;
        }
        at += 1;
        if signs.next_if_eq(&b'+').is_some() {
            at += bytes[at..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
        }
    }
    Some(at)
}

/// `12s`, `3m5s`, `2d`.
fn is_age(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_digit())
        && word.split_inclusive(['s', 'm', 'h', 'd']).all(|part| {
            match part.strip_suffix(['s', 'm', 'h', 'd']) {
                Some(number) => number.parse::<u64>().is_ok(),
                None => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_leave_out_what_differs() {
        for (line, shaped) in [
            (
                "pod/web-0   1/1     Running   0     2m3s",
                "pod/web-0 1/1 Running N AGE",
            ),
            (
                "app  NodePort 10.96.213.123 <none> 80:32380/TCP",
                "app NodePort IP <none> 80:N/TCP",
            ),
            ("pvc-a48a963a-cbb8-4ede-bb86-89ec2a4843df 100Mi", "pvc-UUID 100Mi"),
            ("chart-1701168705-app-python-helm-0", "chart-N-app-python-helm-0"),
            ("web-5d4f8c7b9 done in 0.11 s", "web-HASH done in N s"),
            ("pod/web-5d4f8c7b9-x2b4c", "pod/web-HASH-HASH"),
            ("web-5d4567899-24567 web-x2b4c", "web-HASH-HASH web-x2b4c"),
            (
                "| default | http://172.16.0.1:5000 |",
                "| default | http://IP:5000 |",
            ),
            ("process 220, web (249)", "process N, web (N)"),
            ("busybox   1.36   1c65e2ea8a67   1.98MB", "busybox N ID NMB"),
            ("2026-11-26 01:22:41 ok", "DATE TIME ok"),
            ("Warning 2s (x3 over 5s) kubelet", "Warning AGE kubelet"),
            ("|-----|------|", "|-"),
            ("LAST DEPLOYED: Thu Nov 26", "LAST DEPLOYED:"),
        ] {
            assert_eq!(shape(line), shaped, "{line}");
        }
    }
}

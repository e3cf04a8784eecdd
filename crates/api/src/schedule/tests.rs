use super::*;

#[test]
fn schedules_are_read_or_refused() {
    for (text, expected) in [
        ("*/5 * * * *", ""),
        ("0 9-17 * JAN-MAR mon,Fri", ""),
        ("@daily", ""),
        ("@every 1h30m", ""),
        ("TZ=UTC 0 0 * * *", ""),
        ("", "empty spec string"),
        ("often", "expected exactly 5 fields, found 1: [often]"),
        ("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("* * * * 7", "end of range (7) above maximum (6): 7"),
        (
            "5-1 * * * *",
            "beginning of range (5) beyond end of range (1): 5-1",
        ),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        (
            "x * * * *",
            "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax",
        ),
        ("@often", "unrecognized descriptor: @often"),
        (
            "@every often",
            "failed to parse duration @every often: time: invalid duration \"often\"",
        ),
    ] {
        assert_eq!(
            Schedule::parse(text).err().unwrap_or_default(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn the_next_time_is_the_first_that_fits() {
    for (text, name, after, expected) in [
        (
            "*/15 * * * *",
            "UTC",
            "2024-01-01T00:00:00Z",
            "2024-01-01T00:15:00Z",
        ),
        ("0 0 * * *", "UTC", "2024-01-31T00:00:00Z", "2024-02-01T00:00:00Z"),
        (
            "30 9 * * mon",
            "Asia/Kolkata",
            "2024-01-01T04:00:00Z",
            "2024-01-08T04:00:00Z",
        ),
        (
            "0 0 29 2 *",
            "UTC",
            "2096-03-01T00:00:00Z",
            "2104-02-29T00:00:00Z",
        ),
        // A day fits one of two fields about days, where both say something.
        (
            "0 0 13 * fri",
            "UTC",
            "2024-01-01T00:00:00Z",
            "2024-01-05T00:00:00Z",
        ),
        // Half past two is skipped in spring, and comes twice in autumn.
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2024-03-30T12:00:00Z",
            "2024-04-01T00:30:00Z",
        ),
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2024-10-27T00:30:00Z",
            "2024-10-27T01:30:00Z",
        ),
        (
            "@every 90s",
            "UTC",
            "2024-01-01T00:00:00.5Z",
            "2024-01-01T00:01:30Z",
        ),
    ] {
        let schedule = Schedule::parse(text).expect("a schedule");
        let after = after.parse().expect("a time");
        let next = schedule.next(after, &zone(name).expect("a zone"));
        assert_eq!(
            next.map(|next| next.to_string()).as_deref(),
            Some(expected),
            "{text}"
        );
    }
    let never = Schedule::parse("0 0 31 2 *").expect("a schedule");
    assert_eq!(never.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
}

#[test]
fn zones_are_those_of_the_iana() {
    assert!(zone("Asia/Kolkata").is_ok() && zone("UTC").is_ok());
    assert_eq!(
        zone("Mars/Base").err().as_deref(),
        Some("unknown time zone Mars/Base")
    );
    assert!(zone("asia/kolkata").is_err());
}

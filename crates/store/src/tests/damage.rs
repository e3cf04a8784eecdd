//! Files that are damaged, foreign or from a later version: refused, and left as they are.

use super::*;
use crate::format::header::{Header, Kind, LEN as HEADER};

/// A store with a few commits in its log.
fn image(commits: usize) -> Image {
    build(|_, committed| committed == commits)
}

/// A store with two checkpoints, and segments between and after them.
fn image_with_checkpoints() -> Image {
    build(|image, committed| {
        assert!(committed < 100_000, "no checkpoints: {:?}", image.keys());
        image
            .keys()
            .filter(|name| name.starts_with("checkpoint") && !name.ends_with("tmp"))
            .count()
            == 2
    })
}

fn build(is_enough: impl Fn(&Image, usize) -> bool) -> Image {
    let disk = SimDisk::new(Image::new());
    let store = open(&disk).unwrap();
    let mut committed = 0;
    while !is_enough(&disk.image(), committed) {
        block_on(store.commit(put(&format!("/a/{}", committed % 5), vec![b'v'; 40]))).unwrap();
        committed += 1;
    }
    block_on(store.close());
    disk.image()
}

/// The last file whose name starts so.
fn last<'a>(image: &'a mut Image, prefix: &str) -> (String, &'a mut Vec<u8>) {
    let (name, bytes) = image
        .iter_mut()
        .rfind(|(name, _)| name.starts_with(prefix))
        .unwrap();
    (name.clone(), bytes)
}

/// Opens the image, which must be refused; returns the message. Nothing may have been written.
fn refusal(image: &Image) -> String {
    let disk = SimDisk::new(image.clone());
    let error = open(&disk).err().expect("it is refused");
    assert!(disk.acts().is_empty(), "{:?}", disk.acts());
    error.to_string()
}

#[test]
fn damage_before_the_last_frame_is_an_error_wherever_it_is() {
    let mut original = image(5);
    let (_, log) = last(&mut original, "log");
    let frame = (log.iter().rposition(|&byte| byte != 0).unwrap() + 1 - HEADER) / 5;
    for at in HEADER..HEADER + 4 * frame {
        let mut damaged = original.clone();
        last(&mut damaged, "log").1[at] ^= 0x10;
        let refusal = refusal(&damaged);
        let offset = HEADER + (at - HEADER) / frame * frame;
        let expected =
            format!("log-00000000000000000001\" is damaged at byte {offset}: what follows is whole");
        assert!(refusal.ends_with(&expected), "byte {at}: {refusal}");
    }
}

#[test]
fn a_last_frame_that_is_broken_was_never_acknowledged_as_far_as_anyone_can_tell() {
    let mut image = image(5);
    let (_, log) = last(&mut image, "log");
    let end = log.iter().rposition(|&byte| byte != 0).unwrap();
    log[end - 3] ^= 1;
    let disk = SimDisk::new(image);
    assert_eq!(open(&disk).unwrap().revision(), Revision::new(4));
    let mut restored = disk.image();
    assert!(last(&mut restored, "log").1.len() < end - 3, "it is cut off");
}

#[test]
fn a_damaged_header_is_an_error() {
    let mut image = image(5);
    last(&mut image, "log").1[30] ^= 1;
    assert!(refusal(&image).ends_with("is damaged at byte 0: the header's checksum is wrong"));
}

#[test]
fn a_file_of_a_later_version_is_refused() {
    for prefix in ["log", "checkpoint"] {
        let mut image = image_with_checkpoints();
        let (name, bytes) = last(&mut image, prefix);
        bytes[8] = 2;
        assert!(refusal(&image).ends_with(&format!("{name}\" has format version 2; this version reads 1")));
    }
}

#[test]
fn a_foreign_file_of_that_name_is_refused() {
    for content in [
        "",
        "something else",
        "#!/bin/sh\necho it is longer than a header of the store's\n",
    ] {
        let mut image = image_with_checkpoints();
        let (name, bytes) = last(&mut image, "log");
        *bytes = content.as_bytes().to_vec();
        assert!(refusal(&image).ends_with(&format!("{name}\" is not a file of the store")));
    }
}

#[test]
fn files_with_other_names_are_none_of_the_stores_business() {
    let mut image = image(5);
    image.insert("lost+found".to_owned(), b"x".to_vec());
    assert!(open_image(&image).is_ok());
}

#[test]
fn a_part_of_the_log_that_is_missing_is_an_error() {
    let mut without_log = image_with_checkpoints();
    without_log.retain(|name, _| !name.starts_with("log"));
    assert!(refusal(&without_log).ends_with("is missing"));
    let mut without_last = image_with_checkpoints();
    let (name, _) = last(&mut without_last, "log");
    without_last.remove(&name);
    let refusal = refusal(&without_last);
    assert!(refusal.ends_with("is missing"), "{refusal}");
}

#[test]
fn a_segment_of_another_log_does_not_fit() {
    let mut image = image_with_checkpoints();
    let (_, bytes) = last(&mut image, "log");
    let mut header = Header::decode(Kind::Segment, &bytes[..HEADER]).unwrap();
    header.chain ^= 1;
    bytes[..HEADER].copy_from_slice(&header.encode(Kind::Segment));
    assert!(refusal(&image).ends_with("is damaged at byte 0: it does not follow on the log before it"));
}

#[test]
fn a_damaged_old_part_is_passed_over_and_so_is_a_damaged_new_checkpoint() {
    let original = image_with_checkpoints();
    let expected = contents(&open_image(&original).unwrap());
    let names: Vec<_> = original
        .keys()
        .filter(|name| name.starts_with("checkpoint"))
        .collect();
    assert_eq!(names.len(), 2, "{:?}", original.keys());
    for name in names {
        let mut damaged = original.clone();
        damaged.get_mut(name).unwrap()[HEADER + 20] ^= 1;
        assert_eq!(contents(&open_image(&damaged).unwrap()), expected);
    }
    let mut damaged = original.clone();
    let older = damaged
        .iter_mut()
        .find(|(name, _)| name.starts_with("log"))
        .unwrap()
        .1;
    older[HEADER + 30] ^= 1;
    assert_eq!(contents(&open_image(&damaged).unwrap()), expected);
}

#[test]
fn checkpoints_that_are_both_damaged_are_an_error() {
    let mut image = image_with_checkpoints();
    let checkpoints = image
        .iter_mut()
        .filter(|(name, _)| name.starts_with("checkpoint"));
    checkpoints.for_each(|(_, bytes)| bytes[HEADER + 20] ^= 1);
    assert!(refusal(&image).ends_with("is damaged at byte 44: a block's checksum is wrong"));
}

#[test]
fn what_was_being_written_when_the_process_ended_is_removed() {
    let mut image = image(5);
    image.insert("checkpoint-00000000000000000005.tmp".to_owned(), b"half".to_vec());
    let disk = SimDisk::new(image);
    open(&disk).unwrap();
    assert!(disk.image().keys().all(|name| !name.ends_with(".tmp")));
}

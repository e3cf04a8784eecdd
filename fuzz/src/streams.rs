//! What clients of exec and port-forwarding send.

use stead_streaming::fuzz;

/// A byte that says what the others are.
pub fn streams(input: &[u8]) {
    let Some((&what, bytes)) = input.split_first() else {
        return;
    };
    match what % 4 {
        0 => {
            fuzz::spdy(bytes, bytes.len());
            fuzz::spdy(bytes, usize::from(what / 4));
        }
        1 => fuzz::header_block(bytes),
        2 => fuzz::channel_message(bytes),
        _ => fuzz::terminal_sizes(bytes),
    }
}

/// Frames, headers and messages as clients send them.
pub fn seeds() -> Vec<Vec<u8>> {
    let frames: &[&[u8]] = &[
        // A ping, settings, data with its end, a stream that is reset, the end.
        &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1],
        &[0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 100],
        &[0, 0, 0, 1, 1, 0, 0, 5, b'h', b'e', b'l', b'l', b'o'],
        &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5],
        &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    // A stream begins: the start of the deflated blocks, then one that is stored as it is.
    let block = [
        &[0, 0, 0, 1, 0, 0, 0, 10][..],
        b"streamtype",
        &[0, 0, 0, 5],
        b"error",
    ]
    .concat();
    let length = u16::try_from(block.len()).expect("a short block");
    let stored = [
        &[0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2, 0][..],
        &length.to_le_bytes(),
        &(!length).to_le_bytes(),
        &block,
    ]
    .concat();
    let mut syn = vec![0x80, 3, 0, 1, 0, 0, 0, stored.len() as u8 + 10];
    syn.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    syn.extend(&stored);
    let mut inputs: Vec<Vec<u8>> = frames.iter().map(|frame| [&[0], *frame].concat()).collect();
    inputs.push([&[12], frames.concat().as_slice()].concat());
    inputs.push([&[0], syn.as_slice(), frames[2]].concat());
    inputs.push([&[1], block.as_slice()].concat());
    inputs.extend(
        [
            &b"\x02\x00hello"[..],
            b"\x02\xff\x00",
            b"\x020aGVsbG8=",
            b"\x02\x04{\"Width\":80,\"Height\":24}",
        ]
        .map(Vec::from),
    );
    inputs.extend([&b"\x03{\"Width\":80,\"Height\":24}{\"width\":1,\"height\":65535}\n"[..]].map(Vec::from));
    inputs
}

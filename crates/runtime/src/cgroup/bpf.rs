//! The device rules of cgroup v2: a small BPF program that the kernel runs on every access to a device.
//!
//! Assembled here, since a list of comparisons needs no compiler. The program gets the kind and the access
//! in one word, then the numbers of the device; it answers 1 as soon as a rule allows the access, else 0.

#![expect(unsafe_code, reason = "bpf(2) has no wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::devices::{Access, DeviceKind, DeviceRule};

/// One instruction, as the kernel defines it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE_REGISTER: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
const MOVE: u8 = 0xb4; // BPF_ALU | BPF_MOV | BPF_K
const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const JUMP_UNLESS_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const JUMP_UNLESS_EQUAL_REGISTER: u8 = 0x5d; // BPF_JMP | BPF_JNE | BPF_X
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const fn instruction(code: u8, destination: u8, source: u8, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: source << 4 | destination,
        offset: 0,
        immediate,
    }
}

const fn load(destination: u8, offset: i16) -> Instruction {
    Instruction {
        offset,
        ..instruction(LOAD_WORD, destination, CONTEXT, 0)
    }
}

/// The program that allows what `rules` allow.
pub(super) fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        load(KIND, 0),
        instruction(MOVE_REGISTER, ACCESS, KIND, 0),
        instruction(AND, KIND, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules {
        let mut block = conditions(rule);
        block.extend([instruction(MOVE, RESULT, 0, 1), instruction(EXIT, 0, 0, 0)]);
        let end = block.len();
        for (at, step) in block.iter_mut().enumerate() {
            if matches!(step.code, JUMP_UNLESS_EQUAL | JUMP_UNLESS_EQUAL_REGISTER) {
                // To the next rule; counted from the instruction after this one.
                step.offset = i16::try_from(end - at - 1).expect("a rule is a few instructions long");
            }
        }
        program.extend(block);
    }
    program.extend([instruction(MOVE, RESULT, 0, 0), instruction(EXIT, 0, 0, 0)]);
    program
}

/// Jumps away unless the rule is about this access.
fn conditions(rule: &DeviceRule) -> Vec<Instruction> {
    let kind = match rule.kind {
        DeviceKind::Block => 1,
        DeviceKind::Char => 2,
    };
    let mut block = vec![
        instruction(JUMP_UNLESS_EQUAL, KIND, 0, kind),
        // All that is wanted must be allowed. The context is not needed again.
        instruction(MOVE_REGISTER, CONTEXT, ACCESS, 0),
        instruction(AND, CONTEXT, 0, access_bits(rule.access)),
        instruction(JUMP_UNLESS_EQUAL_REGISTER, CONTEXT, ACCESS, 0),
    ];
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        block.extend(number.map(|n| instruction(JUMP_UNLESS_EQUAL, register, 0, n.cast_signed())));
    }
    block
}

fn access_bits(access: Access) -> i32 {
    i32::from(access.make) | i32::from(access.read) << 1 | i32::from(access.write) << 2
}

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
}

#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Loads `program` and puts it in force for the cgroup whose directory this is.
pub(super) fn attach(cgroup: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let load = LoadAttributes {
        program_type: PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadAttributes::default()
    };
    // SAFETY: the attributes say how long the program is, and both outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of_val(&load)) };
    let fd = i32::try_from(fd)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just given us this descriptor. It is closed on exec by default.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd) };
    let attach = AttachAttributes {
        target: cgroup.as_fd().as_raw_fd().cast_unsigned(),
        program: loaded.as_raw_fd().cast_unsigned(),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the attributes are plain numbers and outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            &raw const attach,
            size_of_val(&attach),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::super::devices::DeviceRules;
    use super::*;

    /// What the kernel would answer, by the few instructions in use.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> u32 {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u32; 6];
        let mut at = 0;
        loop {
            let step = program[at];
            at += 1;
            let destination = usize::from(step.registers & 0xf);
            let source = registers[usize::from(step.registers >> 4)];
            let immediate = step.immediate.cast_unsigned();
            let jump = usize::from(step.offset.cast_unsigned());
            match step.code {
                LOAD_WORD => registers[destination] = context[jump / 4],
                MOVE_REGISTER => registers[destination] = source,
                MOVE => registers[destination] = immediate,
                AND => registers[destination] &= immediate,
                SHIFT_RIGHT => registers[destination] >>= immediate,
                JUMP_UNLESS_EQUAL if registers[destination] != immediate => at += jump,
                JUMP_UNLESS_EQUAL_REGISTER if registers[destination] != source => at += jump,
                JUMP_UNLESS_EQUAL | JUMP_UNLESS_EQUAL_REGISTER => {}
                EXIT => return registers[0],
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn the_program_allows_what_the_rules_allow_and_nothing_else() {
        let fuse = DeviceRule {
            kind: DeviceKind::Char,
            major: Some(10),
            minor: Some(229),
            access: Access::parse("r"),
        };
        let DeviceRules::Only(rules) = DeviceRules::container([fuse]) else {
            unreachable!()
        };
        let program = program(&rules);
        let (block, char) = (1, 2);
        let (make, read, write) = (1, 2, 4);
        let cases = [
            ("write to null", char, write, 1, 3, 1),
            ("read and write a terminal", char, read | write, 136, 7, 1),
            ("make a disk's node", block, make, 254, 0, 1),
            ("read a disk", block, read, 254, 0, 0),
            ("make and read a disk", block, make | read, 254, 0, 0),
            ("read kmsg", char, read, 1, 11, 0),
            ("read the extra device", char, read, 10, 229, 1),
            ("write to the extra device", char, write, 10, 229, 0),
        ];
        for (what, kind, access, major, minor, expected) in cases {
            assert_eq!(run(&program, kind, access, major, minor), expected, "{what}");
        }
    }
}

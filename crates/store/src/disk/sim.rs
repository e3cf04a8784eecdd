//! A disk in memory that records what is done to it, fails on demand, and shows what a power cut
//! at any point would have left.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Disk, File};

/// The files of a disk.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

/// A file, whatever its name is at the time.
type FileId = usize;

/// What is written or lost as a whole.
const SECTOR: usize = 512;

/// A handle to the disk; clones are the same disk.
#[derive(Clone)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

struct State {
    /// Where it began, and what has been done since.
    initial: Image,
    acts: Vec<Act>,
    /// What that led to.
    now: Contents,
    faults: Faults,
}

/// What goes wrong.
#[derive(Clone, Copy)]
pub(crate) struct Faults {
    /// Bytes all files together may have.
    pub(crate) capacity: usize,
    /// Syncing files fails.
    pub(crate) no_sync: bool,
    /// Syncing the directory fails.
    pub(crate) no_dir_sync: bool,
    /// Cutting files off fails.
    pub(crate) no_cut: bool,
}

impl Faults {
    pub(crate) const NONE: Faults = Faults {
        capacity: usize::MAX,
        no_sync: false,
        no_dir_sync: false,
        no_cut: false,
    };
}

/// One thing done to the disk.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Create(FileId, String),
    Write(FileId, usize, Vec<u8>),
    SetLen(FileId, usize),
    Sync(FileId),
    Rename(FileId, String, String),
    Remove(String),
    SyncDir,
    /// Nothing; a note that this number was acknowledged.
    Mark(u64),
}

/// Names and contents.
#[derive(Clone, Default)]
struct Contents {
    names: BTreeMap<String, FileId>,
    files: BTreeMap<FileId, Vec<u8>>,
}

impl Contents {
    fn of(image: &Image) -> Self {
        let mut contents = Self::default();
        for (id, (name, bytes)) in image.iter().enumerate() {
            contents.names.insert(name.clone(), id);
            contents.files.insert(id, bytes.clone());
        }
        contents
    }

    fn apply(&mut self, act: &Act) {
        match act {
            Act::Create(id, name) => {
                self.names.insert(name.clone(), *id);
                self.files.entry(*id).or_default();
            }
            Act::Write(id, offset, bytes) => {
                let file = self.files.entry(*id).or_default();
                file.resize(file.len().max(offset + bytes.len()), 0);
                file[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Act::SetLen(id, len) => self.files.entry(*id).or_default().resize(*len, 0),
            Act::Rename(id, from, to) => {
                self.names.remove(from);
                self.names.insert(to.clone(), *id);
            }
            Act::Remove(name) => {
                self.names.remove(name);
            }
            Act::Sync(_) | Act::SyncDir | Act::Mark(_) => {}
        }
    }

    fn image(&self) -> Image {
        let contents = |id| self.files.get(id).cloned().unwrap_or_default();
        self.names
            .iter()
            .map(|(name, id)| (name.clone(), contents(id)))
            .collect()
    }
}

impl SimDisk {
    /// A disk with these files, all durable.
    pub(crate) fn new(image: Image) -> Self {
        let now = Contents::of(&image);
        Self(Arc::new(Mutex::new(State {
            initial: image,
            acts: Vec::new(),
            now,
            faults: Faults::NONE,
        })))
    }

    pub(crate) fn image(&self) -> Image {
        self.with(|state| state.now.image())
    }

    /// Everything done to the disk so far.
    pub(crate) fn acts(&self) -> Vec<Act> {
        self.with(|state| state.acts.clone())
    }

    pub(crate) fn mark(&self, number: u64) {
        self.with(|state| state.acts.push(Act::Mark(number)));
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.with(|state| state.faults = faults);
    }

    /// The disk as it was after the first acts, with what was not synced still to be lost: what
    /// the next process finds if this one is killed.
    pub(crate) fn killed(&self, acts: usize) -> Self {
        self.with(|state| {
            let (initial, acts) = (state.initial.clone(), state.acts[..acts].to_vec());
            let mut now = Contents::of(&initial);
            acts.iter().for_each(|act| now.apply(act));
            Self(Arc::new(Mutex::new(State {
                initial,
                acts,
                now,
                faults: Faults::NONE,
            })))
        })
    }

    /// What a power cut leaves after the first acts and `bytes` bytes of the next, if all that
    /// was done before made it to the disk in its order.
    pub(crate) fn cut(&self, acts: usize, bytes: usize) -> Image {
        self.with(|state| {
            let mut contents = Contents::of(&state.initial);
            state.acts[..acts].iter().for_each(|act| contents.apply(act));
            if let Some(Act::Write(id, offset, written)) = state.acts.get(acts) {
                contents.apply(&Act::Write(*id, *offset, written[..bytes].to_vec()));
            }
            contents.image()
        })
    }

    /// What a power cut leaves after the first acts, if of all that was not synced a random part
    /// made it to the disk.
    pub(crate) fn torn(&self, acts: usize, random: &mut Random) -> Image {
        self.with(|state| {
            let mut contents = Contents::of(&state.initial);
            let done = &state.acts[..acts];
            let synced = Synced::by(done);
            for (at, act) in done.iter().enumerate() {
                if synced.includes(at, act) {
                    contents.apply(act);
                } else {
                    tear(act, &mut contents, random);
                }
            }
            contents.image()
        })
    }

    fn with<T>(&self, access: impl FnOnce(&mut State) -> T) -> T {
        access(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn act(&self, act: Act) {
        self.with(|state| {
            state.now.apply(&act);
            state.acts.push(act);
        });
    }
}

/// Up to which act the files and the directory are durable.
#[derive(Default)]
struct Synced {
    files: BTreeMap<FileId, usize>,
    dir: usize,
}

impl Synced {
    fn by(acts: &[Act]) -> Self {
        let mut synced = Self::default();
        for (at, act) in acts.iter().enumerate() {
            match act {
                Act::Sync(id) => drop(synced.files.insert(*id, at)),
                Act::SyncDir => synced.dir = at,
                _ => {}
            }
        }
        synced
    }

    fn includes(&self, at: usize, act: &Act) -> bool {
        match act {
            Act::Write(id, ..) | Act::SetLen(id, _) => self.files.get(id).is_some_and(|synced| at < *synced),
            Act::Create(..) | Act::Rename(..) | Act::Remove(_) => at < self.dir,
            Act::Sync(_) | Act::SyncDir | Act::Mark(_) => true,
        }
    }
}

/// Applies a random part of an act that was not synced: of a write any of its sectors, and
/// instead of the others zeros, what was there, or something older from the same file.
fn tear(act: &Act, contents: &mut Contents, random: &mut Random) {
    let Act::Write(id, offset, bytes) = act else {
        if random.coin() {
            contents.apply(act);
        }
        return;
    };
    let before = contents.files.get(id).cloned().unwrap_or_default();
    let mut start = *offset;
    while start < offset + bytes.len() {
        let end = ((start / SECTOR + 1) * SECTOR).min(offset + bytes.len());
        let part = match random.below(4) {
            0 => bytes[start - offset..end - offset].to_vec(),
            1 if start >= before.len() => vec![0; end - start],
            2 if start >= before.len() && before.len() > end - start => {
                let from = random.below(before.len() - (end - start));
                before[from..from + (end - start)].to_vec()
            }
            _ => Vec::new(),
        };
        if !part.is_empty() {
            contents.apply(&Act::Write(*id, start, part));
        }
        start = end;
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let image = self.image();
        Ok(image
            .into_iter()
            .map(|(name, bytes)| (name, bytes.len() as u64))
            .collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let id = self.with(|state| {
            let id = state.now.files.len();
            let act = Act::Create(id, name.to_owned());
            state.now.apply(&act);
            state.acts.push(act);
            id
        });
        Ok(Box::new(SimFile(self.clone(), id)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(SimFile(self.clone(), self.id(name)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.act(Act::Rename(self.id(from)?, from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.id(name)?;
        self.act(Act::Remove(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.with(|state| state.faults.no_dir_sync) {
            return Err(io::Error::other("the directory is not synced"));
        }
        self.act(Act::SyncDir);
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("simulated").join(name)
    }
}

impl SimDisk {
    fn id(&self, name: &str) -> io::Result<FileId> {
        self.with(|state| state.now.names.get(name).copied())
            .ok_or(io::ErrorKind::NotFound.into())
    }
}

struct SimFile(SimDisk, FileId);

impl SimFile {
    fn with<T>(&self, access: impl FnOnce(&[u8]) -> T) -> T {
        self.0
            .with(|state| access(state.now.files.get(&self.1).map_or(&[], Vec::as_slice)))
    }
}

impl File for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|bytes| {
            let rest = bytes.get(offset as usize..).unwrap_or(&[]);
            let len = rest.len().min(buf.len());
            buf[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (used, capacity) = self.0.with(|state| {
            let named = state.now.names.values().map(|id| state.now.files[id].len());
            (named.sum::<usize>(), state.faults.capacity)
        });
        let offset = offset as usize;
        let room = self.with(<[u8]>::len) + capacity.saturating_sub(used);
        let fitting = room.saturating_sub(offset).min(bytes.len());
        self.0.act(Act::Write(self.1, offset, bytes[..fitting].to_vec()));
        if fitting < bytes.len() {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.0.with(|state| state.faults.no_cut) {
            return Err(io::Error::other("the file is not cut off"));
        }
        self.0.act(Act::SetLen(self.1, len as usize));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.0.with(|state| state.faults.no_sync) {
            return Err(io::Error::other("the file is not synced"));
        }
        self.0.act(Act::Sync(self.1));
        Ok(())
    }
}

/// Numbers that look random, the same for the same seed (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

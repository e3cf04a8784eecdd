//! Opening: reading the newest state, and the history as far as it goes, back from the files.
//!
//! Nothing is changed until all has been read and found good. Then a frame that was cut short is
//! cut off, and what was found is made durable, since readers will see it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::Revision;
use crate::checkpoint::{self, ReadError};
use crate::compaction::Files;
use crate::disk::{Disk, File, read_full};
use crate::draft::Head;
use crate::entry::Value;
use crate::format::header::{self, Header, HeaderFlaw, Kind};
use crate::format::{names, ops};
use crate::history::{History, HistoryLimits};
use crate::log::{Log, Segment};
use crate::segment::{SegmentReader, Tail};

/// Why a store could not be opened. No file has been changed, unless it was for an I/O error.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or this one, has the directory open.
    #[error("open the store in {dir:?}: another process has it open")]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The directory could not be made or locked.
    #[error("open the store in {dir:?}")]
    Dir {
        /// The store's directory.
        dir: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file was written by a later version.
    #[error("{path:?} has format version {found}; this version reads {supported}")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format's version.
        found: u32,
        /// The newest version that can be read.
        supported: u32,
    },
    /// A file has the name of one of the store's, but was not written by it.
    #[error("{path:?} is not a file of the store")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A file is broken where it was whole once.
    #[error("{path:?} is damaged at byte {offset}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// About where.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A part of the log is gone.
    #[error("{path:?} is missing")]
    Missing {
        /// The file that should be there.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("read or restore {path:?}")]
    Io {
        /// The file, or the directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The committer's thread could not be started.
    #[error("start the store's thread")]
    Thread(#[source] io::Error),
}

/// What was read.
pub(crate) struct Recovered<V> {
    pub(crate) head: Head<V>,
    pub(crate) history: History<V>,
    pub(crate) log: Log,
    /// Bytes of the log since the newest checkpoint.
    pub(crate) log_bytes: u64,
}

/// How to read and go on.
#[derive(Clone, Copy)]
pub(crate) struct Config {
    pub(crate) history: HistoryLimits,
    pub(crate) chunk: u64,
}

/// Reads the store on `disk`, or begins one if there is none.
pub(crate) fn recover<V: Value>(disk: Arc<dyn Disk>, config: Config) -> Result<Recovered<V>, OpenError> {
    let reading = Reading { disk: &*disk, config };
    let files = Files::list(&*disk).map_err(reading.io(""))?;
    let recovered = if files.segments.is_empty() && files.checkpoints.is_empty() {
        let log = Log::create(Arc::clone(&disk), config.chunk).map_err(reading.io(""))?;
        let history = History::new(config.history, Revision::ZERO);
        Recovered {
            head: Head::empty(),
            history,
            log,
            log_bytes: 0,
        }
    } else {
        reading.check_all(&files)?;
        let replayed = reading.replay_from_oldest(&files)?;
        replayed.resume(&disk, config.chunk).map_err(reading.io(""))?
    };
    for name in &files.unfinished {
        // A log that was just begun may have taken the name for its own.
        if let Err(error) = disk.remove(name)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, name, "remove a file that was never finished");
        }
    }
    Ok(recovered)
}

/// The state as read, before anything on the disk is changed.
struct Replayed<V> {
    head: Head<V>,
    history: History<V>,
    log_bytes: u64,
    last: Segment,
    chain: u32,
    torn: bool,
}

impl<V: Value> Replayed<V> {
    fn resume(self, disk: &Arc<dyn Disk>, chunk: u64) -> io::Result<Recovered<V>> {
        let log = Log::resume(Arc::clone(disk), self.last, self.chain, chunk, self.torn)?;
        Ok(Recovered {
            head: self.head,
            history: self.history,
            log,
            log_bytes: self.log_bytes,
        })
    }
}

struct Reading<'a> {
    disk: &'a dyn Disk,
    config: Config,
}

impl Reading<'_> {
    /// Refuses a directory with a file in it that is not ours or from a later version, even if it
    /// would not be read.
    fn check_all(&self, files: &Files) -> Result<(), OpenError> {
        let segments = files
            .segments
            .keys()
            .map(|first| (names::segment(*first), Kind::Segment));
        let checkpoints = files.checkpoints.keys();
        let checkpoints = checkpoints.map(|revision| (names::checkpoint(*revision), Kind::Checkpoint));
        for (name, kind) in segments.chain(checkpoints) {
            match self.header(&name, kind) {
                Err(OpenError::Damaged { .. }) | Ok(_) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }

    /// Starts from the oldest checkpoint there is, for the longest history; from a newer one if
    /// that fails.
    fn replay_from_oldest<V: Value>(&self, files: &Files) -> Result<Replayed<V>, OpenError> {
        // The log goes on after a checkpoint from before the checkpoint is begun.
        let after_newest = files.newest_checkpoint().next();
        if !files.checkpoints.is_empty() && !files.segments.contains_key(&after_newest) {
            return Err(OpenError::Missing {
                path: self.disk.path(&names::segment(after_newest)),
            });
        }
        let mut bases = files.bases().peekable();
        while let Some(base) = bases.next() {
            match self.replay(files, base) {
                Err(error) if bases.peek().is_some() => {
                    tracing::warn!(%error, "read the older part of the log; going on with the newer");
                }
                last => return last,
            }
        }
        // A log without its beginning.
        Err(OpenError::Missing {
            path: self.disk.path(&names::segment(Revision::ZERO.next())),
        })
    }

    fn replay<V: Value>(&self, files: &Files, base: Revision) -> Result<Replayed<V>, OpenError> {
        let (mut head, mut chain) = self.checkpoint(files, base)?;
        let mut history = History::new(self.config.history, base);
        let newest = files.newest_checkpoint();
        let mut log_bytes = 0;
        let mut segments = files.segments.range(base.next()..).peekable();
        while let Some((&first, &len)) = segments.next() {
            let name = names::segment(first);
            let (mut reader, start) = self.segment(&name, len, &head, chain)?;
            self.frames(&name, &mut reader, &mut head, &mut history)?;
            chain = reader.chain();
            if first > newest {
                log_bytes += reader.offset() - start;
            }
            if segments.peek().is_some() {
                continue;
            }
            let (end, tail) = (
                reader.offset(),
                reader.tail(head.revision.next()).map_err(self.io(&name))?,
            );
            if tail == Tail::Damaged {
                return Err(self.damaged(&name, end, "what follows is whole"));
            }
            let (file, seal) = reader.into_parts();
            let last = Segment {
                file,
                seal,
                end,
                allocated: len,
            };
            return Ok(Replayed {
                head,
                history,
                log_bytes,
                last,
                chain,
                torn: tail == Tail::Torn,
            });
        }
        Err(OpenError::Missing {
            path: self.disk.path(&names::segment(base.next())),
        })
    }

    /// The state at `base`, and the checksum of the log up to it.
    fn checkpoint<V: Value>(&self, files: &Files, base: Revision) -> Result<(Head<V>, u32), OpenError> {
        let Some(&len) = files.checkpoints.get(&base) else {
            return Ok((Head::empty(), 0));
        };
        let name = names::checkpoint(base);
        let (file, header) = self.header(&name, Kind::Checkpoint)?;
        if header.revision != base {
            return Err(self.damaged(&name, 0, "it is of another revision than its name says"));
        }
        let head = checkpoint::read(file, len, &header).map_err(|error| match error {
            ReadError::Damaged { offset, what } => self.damaged(&name, offset, what),
            ReadError::Io(source) => self.io(&name)(source),
        })?;
        Ok((head, header.chain))
    }

    /// Opens the segment that goes on from `head`. Returns it with the offset of its first frame.
    fn segment<V>(
        &self,
        name: &str,
        len: u64,
        head: &Head<V>,
        chain: u32,
    ) -> Result<(SegmentReader, u64), OpenError> {
        let (file, header) = self.header(name, Kind::Segment)?;
        if header.revision != head.revision.next() || header.chain != chain {
            return Err(self.damaged(name, 0, "it does not follow on the log before it"));
        }
        let reader = SegmentReader::new(file, len, &header);
        let start = reader.offset();
        Ok((reader, start))
    }

    /// Applies the frames of a segment.
    fn frames<V: Value>(
        &self,
        name: &str,
        reader: &mut SegmentReader,
        head: &mut Head<V>,
        history: &mut History<V>,
    ) -> Result<(), OpenError> {
        let now = Instant::now();
        let mut events = Vec::new();
        loop {
            let offset = reader.offset();
            let first = head.revision.next();
            let Some(body) = reader.next_body(first).map_err(self.io(name))? else {
                return Ok(());
            };
            let last = ops::read(body, first, |op| {
                // A copy of its own, or else one small value would keep the whole window.
                let bytes = op.value.map(Bytes::copy_from_slice);
                events.extend(head.apply(op.revision, op.key, bytes.as_ref()));
            });
            head.revision = last.map_err(|what| self.damaged(name, offset, what))?;
            history.extend(&events, now);
            events.clear();
        }
    }

    fn header(&self, name: &str, kind: Kind) -> Result<(Box<dyn File>, Header), OpenError> {
        let file = self.disk.open(name).map_err(self.io(name))?;
        let mut bytes = [0; header::LEN];
        let read = read_full(&*file, 0, &mut bytes).map_err(self.io(name))?;
        let header = Header::decode(kind, &bytes[..read]).map_err(|flaw| match flaw {
            HeaderFlaw::Foreign => OpenError::Foreign {
                path: self.disk.path(name),
            },
            HeaderFlaw::Newer(found) => OpenError::NewerFormat {
                path: self.disk.path(name),
                found,
                supported: header::VERSION,
            },
            HeaderFlaw::Damaged(what) => self.damaged(name, 0, what),
        })?;
        Ok((file, header))
    }

    fn damaged(&self, name: &str, offset: u64, what: &'static str) -> OpenError {
        OpenError::Damaged {
            path: self.disk.path(name),
            offset,
            what,
        }
    }

    fn io(&self, name: &str) -> impl Fn(io::Error) -> OpenError {
        let path = self.disk.path(name);
        move |source| OpenError::Io {
            path: path.clone(),
            source,
        }
    }
}

//! A record of who asked for what, and what came of it ("Auditing"): a line of JSON for each stage of
//! a request, as far as a policy file wants it.

mod log;
mod policy;
mod trail;

use std::path::{Path, PathBuf};

pub(crate) use trail::Trail;

use self::log::Log;
use self::policy::Policy;

/// Auditing could not begin.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The policy cannot be read or followed.
    #[error("read the audit policy {0:?}: {1}")]
    Policy(PathBuf, String),
    /// The log cannot be written.
    #[error("open the audit log {0:?}")]
    Log(PathBuf, #[source] std::io::Error),
}

/// What is written down, and where.
#[derive(Debug)]
pub struct Audit {
    policy: Policy,
    log: Log,
}

impl Audit {
    /// Reads a policy (`audit.k8s.io/v1`, YAML or JSON) and opens the log, to which lines are appended.
    pub fn open(policy: &Path, log: &Path) -> Result<Audit, AuditError> {
        let failed = |why: String| AuditError::Policy(policy.to_owned(), why);
        let text = std::fs::read_to_string(policy).map_err(|error| failed(error.to_string()))?;
        Ok(Audit {
            policy: Policy::read(&text).map_err(failed)?,
            log: Log::open(log).map_err(|error| AuditError::Log(log.to_owned(), error))?,
        })
    }
}

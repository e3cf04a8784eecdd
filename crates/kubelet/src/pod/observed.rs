//! What a pod's worker knows of its pod on this node. Plain data: the planner and the status read
//! it, only the worker changes it.
//!
//! Waits are on the monotonic clock, so that a wall clock that is set moves no deadline; wall-clock
//! times are for the status only.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A step that is done once, and tried again if it fails.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step<T> {
    /// Not begun.
    Todo,
    /// Under way.
    Doing,
    /// Done.
    Done(T),
    /// Failed; to be tried again.
    Failed(Failure),
}

/// Why a step failed, and when it is tried again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    /// As a waiting container shows it, e.g. `ImagePullBackOff`.
    pub(crate) reason: String,
    /// For people.
    pub(crate) message: String,
    /// How often in a row.
    pub(crate) times: u32,
    /// When to try again.
    pub(crate) retry_at: Instant,
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exit {
    /// The runtime's id; empty for a container that was never made.
    pub(crate) id: String,
    /// 128 and the signal's number, if one ended it.
    pub(crate) code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, …
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    /// The end on the monotonic clock.
    pub(crate) at: Instant,
    /// It was ended because a probe had failed.
    pub(crate) doomed: bool,
}

/// The image of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// As the status shows it, e.g. `docker.io/library/busybox:1.35`.
    pub(crate) name: String,
    /// The image's id or digest.
    pub(crate) id: String,
}

/// Why a running container is to be stopped though the pod goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Doom {
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Running {
    pub(crate) id: String,
    pub(crate) started_at: Timestamp,
    /// Its startup probe, if it has one, has succeeded.
    pub(crate) started: bool,
    /// It is to receive traffic, as far as its probes go.
    pub(crate) ready: bool,
    /// It is to be stopped.
    pub(crate) doom: Option<Doom>,
    /// It has been told to stop.
    pub(crate) stopping: bool,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Run {
    /// Not started yet.
    Waiting,
    /// Being started; after the end of an attempt, this one.
    Starting(Option<Exit>),
    /// It could not be started, for a reason that leaves no container behind.
    Refused(Failure),
    /// Running.
    Running(Running),
    /// Ended.
    Exited(Exit),
}

/// What keeps a container from running, as its waiting state shows it, until it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// A container of the pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Container {
    /// Whether the image is here, for the next start.
    pub(crate) image: Step<()>,
    /// How often in a row it could not be had.
    pub(crate) image_failures: u32,
    /// The image that it was last found to be.
    pub(crate) known_image: Option<Image>,
    pub(crate) run: Run,
    /// The job that starts it has not ended, though the container itself may have.
    pub(crate) start_job: bool,
    /// What went wrong last; it stays while the next try is under way.
    pub(crate) trouble: Option<Trouble>,
    /// How often in a row its start was refused.
    pub(crate) start_failures: u32,
    /// How often it was started again; the number of the present attempt.
    pub(crate) restarts: u32,
    /// The end of the attempt before the present one.
    pub(crate) last: Option<Exit>,
    /// How long the next restart has to wait after an exit; see [`Container::wait`].
    pub(crate) backoff: Backoff,
}

impl From<&Failure> for Trouble {
    fn from(failure: &Failure) -> Trouble {
        Trouble {
            reason: failure.reason.clone(),
            message: failure.message.clone(),
        }
    }
}

impl Container {
    /// One that has not been started.
    pub(crate) fn new() -> Container {
        Container {
            image: Step::Todo,
            image_failures: 0,
            known_image: None,
            run: Run::Waiting,
            start_job: false,
            trouble: None,
            start_failures: 0,
            restarts: 0,
            last: None,
            backoff: Backoff::default(),
        }
    }

    /// The container, if it runs.
    pub(crate) fn running(&self) -> Option<&Running> {
        match &self.run {
            Run::Running(running) => Some(running),
            _ => None,
        }
    }

    /// Whether something of it is there that must end before the pod can.
    pub(crate) fn is_busy(&self) -> bool {
        self.start_job || matches!(self.run, Run::Running(_) | Run::Starting(_))
    }

    /// The attempt that is being started is there, or has failed: from now on it is the present one.
    pub(crate) fn begin_attempt(&mut self) {
        if let Run::Starting(before) = &mut self.run
            && let Some(exit) = before.take()
        {
            // The first restart that a probe asks for does not count as a failure.
            if !exit.doomed || self.last.is_some() {
                self.backoff = self.backoff.restarted();
            }
            self.last = Some(exit);
            self.restarts += 1;
        }
    }

    /// How long a container that ended so has to wait until it is started again. What a probe ended is
    /// started at once, unless the end before was within the wait.
    pub(crate) fn wait(&self, exit: &Exit) -> Duration {
        let wait = self.backoff.delay();
        let is_late = |last: &Exit| exit.at.saturating_duration_since(last.at) >= wait;
        if exit.doomed && self.last.as_ref().is_none_or(is_late) {
            Duration::ZERO
        } else {
            wait
        }
    }

    /// There is no image for the next start.
    pub(crate) fn image_missing(&mut self, failure: Failure) {
        self.trouble = Some(Trouble::from(&failure));
        self.image = Step::Failed(failure);
    }

    /// It could not be started, and nothing is left of the try.
    pub(crate) fn refused(&mut self, failure: Failure) {
        self.trouble = Some(Trouble::from(&failure));
        self.run = Run::Refused(failure);
    }

    /// Its end, if it has ended.
    pub(crate) fn exit(&self) -> Option<&Exit> {
        match &self.run {
            Run::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}

/// The wait before a restart: none at first, then 10 s, doubling up to 5 min; forgotten when the
/// container has run for 10 min ("Container restart policy" in the pod lifecycle page).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    delay: Duration,
}

const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(300);
const BACKOFF_RESET: Duration = Duration::from_secs(600);

impl Backoff {
    /// How long a container that has just ended has to wait.
    pub(crate) fn delay(self) -> Duration {
        self.delay
    }

    /// After a restart: the next one waits longer.
    pub(crate) fn restarted(self) -> Backoff {
        let delay = if self.delay.is_zero() {
            BACKOFF_FIRST
        } else {
            (self.delay * 2).min(BACKOFF_MAX)
        };
        Backoff { delay }
    }

    /// After an end: former failures are forgotten when the container has run for long.
    pub(crate) fn ended(self, ran_for: Duration) -> Backoff {
        if ran_for >= BACKOFF_RESET {
            Backoff::default()
        } else {
            self
        }
    }

    /// The wait after so many restarts, for a pod that is taken over.
    pub(crate) fn after_restarts(restarts: u32) -> Backoff {
        (0..restarts.min(16)).fold(Backoff::default(), |backoff, _| backoff.restarted())
    }
}

/// The pod's sandbox: its namespaces and network.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sandbox {
    /// To be started, being started, or failed to.
    Up(Step<Option<Ipv4Addr>>),
    /// Being taken down.
    GoingDown,
    /// Not taken down; to be tried again.
    NotDown(Failure),
    /// Taken down, for good.
    Down,
}

/// Why a pod ends before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// `status.reason`, e.g. `DeadlineExceeded`.
    pub(crate) reason: String,
    /// `status.message`.
    pub(crate) message: String,
}

/// All that is known of a pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Observed {
    pub(crate) volumes: Step<()>,
    /// How often in a row they could not be made ready.
    pub(crate) volume_failures: u32,
    pub(crate) sandbox: Sandbox,
    /// How often in a row it could not be made.
    pub(crate) sandbox_failures: u32,
    /// By name; init containers among them.
    pub(crate) containers: BTreeMap<String, Container>,
    /// When the worker took the pod on.
    pub(crate) since: Instant,
    /// `status.startTime`.
    pub(crate) start_time: Timestamp,
    /// The address it had; shown even when the sandbox is down.
    pub(crate) ip: Option<Ipv4Addr>,
    /// It ends before its time.
    pub(crate) verdict: Option<Verdict>,
    /// The API has been told that the pod is over.
    pub(crate) finalized: bool,
}

#[cfg(test)]
impl Observed {
    /// A pod whose volumes and sandbox are ready.
    pub(super) fn ready(containers: BTreeMap<String, Container>, since: Instant) -> Observed {
        Observed {
            volumes: Step::Done(()),
            volume_failures: 0,
            sandbox_failures: 0,
            sandbox: Sandbox::Up(Step::Done(None)),
            containers,
            since,
            start_time: Timestamp::UNIX_EPOCH,
            ip: None,
            verdict: None,
            finalized: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_probe_ended_is_started_at_once_unless_it_ends_soon_again() {
        let now = Instant::now();
        let exit = |at: Instant, doomed| Exit {
            id: String::new(),
            code: 137,
            reason: "Error".into(),
            message: None,
            started_at: None,
            finished_at: None,
            at,
            doomed,
        };
        let after = |seconds| now + Duration::from_secs(seconds);
        let restart = |container: &mut Container, exit: Exit| {
            let wait = container.wait(&exit).as_secs();
            container.run = Run::Starting(Some(exit));
            container.begin_attempt();
            wait
        };
        let mut container = Container::new();
        // The first does not count, and the second begins to.
        assert_eq!(restart(&mut container, exit(now, true)), 0);
        assert_eq!(container.backoff.delay().as_secs(), 0);
        assert_eq!(restart(&mut container, exit(after(8), true)), 0);
        assert_eq!(container.backoff.delay().as_secs(), 10);
        // 8 s are within the wait of 10, 30 are not within 20.
        assert_eq!(restart(&mut container, exit(after(16), true)), 10);
        assert_eq!(restart(&mut container, exit(after(46), true)), 0);
        assert_eq!(container.restarts, 4);
        // What ends by itself waits from its end.
        assert_eq!(restart(&mut container, exit(after(146), false)), 40);
    }

    #[test]
    fn restarts_wait_longer_each_time_until_a_container_has_run_well() {
        let mut backoff = Backoff::default();
        let mut delays = Vec::new();
        for _ in 0..7 {
            delays.push(backoff.delay().as_secs());
            backoff = backoff.restarted();
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300]);
        assert_eq!(backoff.ended(BACKOFF_RESET).delay(), Duration::ZERO);
        assert_eq!(backoff.ended(Duration::from_secs(599)).delay(), BACKOFF_MAX);
        assert_eq!(Backoff::after_restarts(3).delay().as_secs(), 40);
    }
}

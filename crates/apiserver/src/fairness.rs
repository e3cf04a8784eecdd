//! Fair shares of the server: one client that asks a lot does not keep the others waiting ("API
//! Priority and Fairness").
//!
//! Requests of one flow (who asks, and with which program) wait for one another; flows take turns.
//! What only waits itself, such as watches and streams, takes no place, and neither do parts of the
//! system.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::USER_AGENT;
use stead_api::error::ApiError;
use tokio::sync::oneshot;

use crate::identity::{Identity, SERVER};

/// Requests that are worked on at a time. More would not be faster: what they wait for is mostly the
/// processor, and writes that wait for the disk share one sync.
const PLACES: usize = 128;
/// Requests of one flow that may wait.
const FLOW_QUEUE: usize = 1_000;
/// Requests that may wait in all.
const QUEUE: usize = 5_000;
/// How long one waits at most; a quarter of the time that a request has.
const PATIENCE: Duration = Duration::from_secs(15);

/// Who asks: the user and the program's name.
type Flow = String;

/// Gives out places to requests.
#[derive(Clone)]
pub(crate) struct Fairness(Arc<Mutex<Turns<oneshot::Sender<Place>>>>);

impl Default for Fairness {
    fn default() -> Fairness {
        Fairness(Arc::new(Mutex::new(Turns::new(PLACES))))
    }
}

/// A place among the requests that are worked on; free again when it is dropped.
pub(crate) struct Place(Option<Fairness>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut place = self.0.take();
        while let Some(fairness) = place.take() {
            let Some(waiting) = fairness.turns().leave() else {
                return;
            };
            // Whoever has given up waiting has no use for it.
            if let Err(mut unused) = waiting.send(Place(Some(fairness))) {
                place = unused.0.take();
            }
        }
    }
}

impl Fairness {
    fn turns(&self) -> MutexGuard<'_, Turns<oneshot::Sender<Place>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a request's turn. None for those that need none.
    pub(crate) async fn enter(
        &self,
        identity: &Identity,
        headers: &HeaderMap,
    ) -> Result<Option<Place>, ApiError> {
        if identity.is_component() || identity.name == SERVER {
            return Ok(None);
        }
        let (sender, receiver) = oneshot::channel();
        match self.turns().enter(flow(identity, headers), sender) {
            Turn::Now => {
                return Ok(Some(Place(Some(self.clone()))));
            }
            Turn::Later => {}
            Turn::Never => return Err(too_many()),
        }
        match tokio::time::timeout(PATIENCE, receiver).await {
            Ok(Ok(place)) => Ok(Some(place)),
            _ => Err(too_many()),
        }
    }
}

fn flow(identity: &Identity, headers: &HeaderMap) -> Flow {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
    let program = agent
        .and_then(|agent| agent.split('/').next())
        .unwrap_or_default();
    let program: String = program.chars().take(64).collect();
    format!("{}\n{program}", identity.name)
}

fn too_many() -> ApiError {
    ApiError {
        details: Some(serde_json::json!({"retryAfterSeconds": 1})),
        ..ApiError::new(
            429,
            "TooManyRequests",
            "too many requests, please try again later",
        )
    }
}

/// Who is worked on, and who waits: pure but for whom it is told of.
#[derive(Debug)]
struct Turns<W> {
    free: usize,
    waiting: HashMap<Flow, VecDeque<W>>,
    /// Flows with somebody waiting, in the order of their turns.
    order: VecDeque<Flow>,
    count: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// It has a place.
    Now,
    /// It will be told.
    Later,
    /// Too many wait already.
    Never,
}

impl<W> Turns<W> {
    fn new(places: usize) -> Turns<W> {
        Turns {
            free: places,
            waiting: HashMap::new(),
            order: VecDeque::new(),
            count: 0,
        }
    }

    fn enter(&mut self, flow: Flow, who: W) -> Turn {
        if self.free > 0 {
            self.free -= 1;
            return Turn::Now;
        }
        if self.count >= QUEUE {
            return Turn::Never;
        }
        let waiting = self.waiting.entry(flow.clone()).or_default();
        if waiting.len() >= FLOW_QUEUE {
            return Turn::Never;
        }
        if waiting.is_empty() {
            self.order.push_back(flow);
        }
        waiting.push_back(who);
        self.count += 1;
        Turn::Later
    }

    /// Frees a place, and gives it to the first of the flow whose turn it is.
    fn leave(&mut self) -> Option<W> {
        let Some(flow) = self.order.pop_front() else {
            self.free += 1;
            return None;
        };
        let waiting = self.waiting.get_mut(&flow)?;
        let next = waiting.pop_front();
        self.count -= 1;
        if waiting.is_empty() {
            self.waiting.remove(&flow);
        } else {
            self.order.push_back(flow);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_take_turns() {
        let mut turns = Turns::new(1);
        assert_eq!(turns.enter("noisy".to_owned(), 0), Turn::Now);
        for number in 1..=3 {
            assert_eq!(turns.enter("noisy".to_owned(), number), Turn::Later);
        }
        assert_eq!(turns.enter("quiet".to_owned(), 10), Turn::Later);
        let order: Vec<_> = std::iter::from_fn(|| turns.leave()).collect();
        assert_eq!(order, [1, 10, 2, 3]);
        assert_eq!((turns.free, turns.count, turns.waiting.len()), (1, 0, 0));
    }

    #[test]
    fn a_flow_may_not_fill_the_queue() {
        let mut turns = Turns::new(0);
        for number in 0..FLOW_QUEUE {
            assert_eq!(turns.enter("noisy".to_owned(), number), Turn::Later);
        }
        assert_eq!(turns.enter("noisy".to_owned(), 0), Turn::Never);
        assert_eq!(turns.enter("quiet".to_owned(), 0), Turn::Later);
    }

    fn user(name: &str) -> Identity {
        Identity::new(name, [""; 0])
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_goes_to_who_still_waits() {
        let fairness = Fairness(Arc::new(Mutex::new(Turns::new(1))));
        let headers = HeaderMap::new();
        let first = fairness.enter(&user("a"), &headers).await.expect("it is free");
        let other = user("b");
        let gave_up = tokio::time::timeout(Duration::from_secs(1), fairness.enter(&other, &headers));
        assert!(gave_up.await.is_err());
        let waiting = tokio::spawn({
            let fairness = fairness.clone();
            async move { fairness.enter(&user("c"), &HeaderMap::new()).await.is_ok() }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.expect("it ends"));
        // All are done: the place is free again.
        assert_eq!(fairness.turns().free, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_and_the_system_never() {
        let fairness = Fairness(Arc::new(Mutex::new(Turns::new(0))));
        let headers = HeaderMap::new();
        let refused = fairness
            .enter(&user("a"), &headers)
            .await
            .err()
            .expect("no place");
        assert_eq!((refused.code, refused.reason.as_ref()), (429, "TooManyRequests"));
        let scheduler = Identity::part("system:kube-scheduler", [""; 0]);
        assert!(
            fairness
                .enter(&scheduler, &headers)
                .await
                .is_ok_and(|place| place.is_none())
        );
    }
}

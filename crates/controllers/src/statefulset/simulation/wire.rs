//! The way between a controller and the simulated API server: requests that are slow, refused, or whose answers are
//! lost. One that is under way arrives even if whoever sent it has died.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::api::{Answer, Call, Verb, refusal, written};
use super::rules;
use super::store::Kind;
use super::watch::Watch;
use super::world::{State, World};

type Answered = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// A client of one process of the controller.
pub(super) fn client(world: &World, controller: usize) -> kube::Client {
    let world = world.clone();
    let service = tower::service_fn(move |request| send(world.clone(), controller, request));
    kube::Client::new(service, super::world::NAMESPACE)
}

/// Sends a request. What has been sent arrives, whether its answer is awaited or not.
fn send(
    world: World,
    controller: usize,
    request: Request<Body>,
) -> impl Future<Output = Result<Answered, io::Error>> + Send {
    let (answer, answered) = oneshot::channel();
    let look = {
        let mut state = world.lock();
        let process = &mut state.controllers[controller];
        let is_watch = process.look.is_none();
        match &mut process.dies_after {
            Some(0) => process.is_alive = false,
            Some(left) if !is_watch => *left -= 1,
            _ => {}
        }
        if process.is_alive {
            Some(process.look)
        } else {
            state.alarm.notify_one();
            None
        }
    };
    if let Some(look) = look {
        tokio::spawn(async move {
            let carried = carry(world.clone(), controller, look, request);
            match AssertUnwindSafe(carried).catch_unwind().await {
                Ok(outcome) => drop(answer.send(outcome)),
                Err(_) => world
                    .lock()
                    .accuse("sends what the simulation does not know".to_owned()),
            }
        });
    } else {
        // The dead wait for no answer.
        std::mem::forget(answer);
    }
    async move {
        answered
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::ConnectionReset.into()))
    }
}

/// What becomes of a request on its way.
struct Fate {
    /// Until it arrives, in milliseconds.
    there: u64,
    /// It is refused, and not carried out.
    refusal: Option<(u16, &'static str)>,
    /// Until the answer arrives.
    back: u64,
    /// It is carried out, and its answer is lost.
    is_lost: bool,
}

impl State {
    fn fate(&mut self) -> Fate {
        if !self.is_faulty {
            return Fate {
                there: 1,
                refusal: None,
                back: 1,
                is_lost: false,
            };
        }
        let refusals = [
            (429, "TooManyRequests"),
            (500, "InternalError"),
            (503, "ServiceUnavailable"),
            (504, "Timeout"),
        ];
        let refusal = self.one_in(25).then(|| self.rng.usize(0..refusals.len()));
        Fate {
            // What one look sends at a time is all sent before any of it arrives.
            there: 1 + self.delay(),
            refusal: refusal.map(|at| refusals[at]),
            back: self.delay(),
            is_lost: self.one_in(40),
        }
    }

    /// Notes what the look that asked is told.
    fn tell_look(&mut self, look: Option<usize>, call: &Call, code: u16, reason: &str) {
        if let Some(look) = look {
            rules::hear(&mut self.looks[look], call, code, reason);
        }
    }

    /// How long something takes: mostly next to nothing, seldom seconds.
    pub(super) fn delay(&mut self) -> u64 {
        match self.rng.u64(0..200) {
            0 => self.rng.u64(1000..10_000),
            1..10 => self.rng.u64(100..1500),
            10..60 => self.rng.u64(1..60),
            _ => self.rng.u64(0..3),
        }
    }
}

pub(super) async fn sleep(milliseconds: u64) {
    if milliseconds > 0 {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}

async fn carry(
    world: World,
    controller: usize,
    look: Option<usize>,
    request: Request<Body>,
) -> Result<Answered, io::Error> {
    let (parts, body) = request.into_parts();
    let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    // /api/v1/… or /apis/GROUP/VERSION/…
    let path = if path[0] == "api" { &path[2..] } else { &path[3..] };
    let path = match path {
        ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
        path => path,
    };
    let query = parts.uri.query().unwrap_or_default();
    let is_watch = query.contains("watch=true");
    let Some(kind) = Kind::of_plural(path[0]) else {
        return other(&world, controller, path[0], &parts.method, is_watch, body).await;
    };
    let defect = world.lock().controllers[controller].defect;
    let fate = world.lock().fate();
    if is_watch {
        sleep(fate.there).await;
        if let Some((code, reason)) = fate.refusal {
            return Ok(plain(refusal(code, reason, "the simulation refuses it")));
        }
        let from = query
            .rsplit("resourceVersion=")
            .next()
            .and_then(|rest| rest.split('&').next());
        let from = from
            .and_then(|version| version.parse().ok())
            .expect("a version to watch from");
        return Ok(Response::new(Watch::new(world, controller, kind, from).body()));
    }
    let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let content_type = parts.headers.get(http::header::CONTENT_TYPE);
    let is_strategic = content_type.is_some_and(|kind| kind == "application/strategic-merge-patch+json");
    let (verb, name) = match (&parts.method, path) {
        (&Method::GET, [_]) => (Verb::List, String::new()),
        (&Method::GET, [_, name]) => (Verb::Get, (*name).to_owned()),
        (&Method::POST, [_]) => (
            Verb::Create,
            super::store::text(&body, "/metadata/name").to_owned(),
        ),
        (&Method::PUT, [_, name]) => (Verb::Replace, (*name).to_owned()),
        (&Method::PUT, [_, name, "status"]) => (Verb::ReplaceStatus, (*name).to_owned()),
        (&Method::PATCH, [_, name]) if is_strategic => (Verb::StrategicPatch, (*name).to_owned()),
        (&Method::PATCH, [_, name]) => (Verb::MergePatch, (*name).to_owned()),
        (&Method::DELETE, [_, name]) => (Verb::Delete, (*name).to_owned()),
        (method, path) => panic!("the simulation knows no {method} {path:?}"),
    };
    (defect.request)(verb, kind, &mut body);
    let call = Call {
        verb,
        kind,
        name,
        body,
    };
    if let Some(look) = look {
        rules::note(&mut world.lock().looks[look], &call);
    }
    sleep(fate.there).await;
    if let Some((code, reason)) = fate.refusal {
        let who = format!("controller {controller}");
        let what = || {
            format!(
                "{verb:?} {} {}: refused: {code} {reason}",
                kind.names().1,
                call.name
            )
        };
        world.lock().tell(&who, what);
        sleep(fate.back).await;
        world.lock().tell_look(look, &call, code, reason);
        return Ok(plain(refusal(code, reason, "the simulation refuses it")));
    }
    let mut answer = {
        let mut state = world.lock();
        match (defect.instead)(&state, controller, &call) {
            Some(answer) => answer,
            None => state.answer(&call, controller, look),
        }
    };
    if call.is_write() {
        world.lock().sweep_soon();
    }
    sleep(fate.back).await;
    let mut state = world.lock();
    if fate.is_lost {
        state.tell("network", || {
            format!("the answer to {verb:?} {} is lost", call.name)
        });
        return Err(io::ErrorKind::TimedOut.into());
    }
    state.tell_look(look, &call, answer.0, super::store::text(&answer.1, "/reason"));
    if answer.0 < 300 {
        match verb {
            Verb::List => {
                state.show(controller, kind, written(&answer));
                for item in answer.1["items"].as_array_mut().into_iter().flatten() {
                    (defect.view)(kind, item);
                }
            }
            Verb::Get => {}
            _ => state.acknowledge(controller, kind, written(&answer)),
        }
    }
    (defect.answer)(verb, &mut answer.1);
    Ok(plain(answer))
}

/// Kinds that are not kept: there are none of them, and events are only told.
async fn other(
    world: &World,
    controller: usize,
    plural: &str,
    method: &Method,
    is_watch: bool,
    body: Body,
) -> Result<Answered, io::Error> {
    if is_watch {
        let silence = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, io::Error>>());
        return Ok(Response::new(silence.boxed_unsync()));
    }
    if *method == Method::GET {
        let list =
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []});
        return Ok(plain((200, list)));
    }
    assert_eq!(plural, "events", "the simulation does not keep them");
    let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let event: Value = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
    let about = json!({"metadata": {"name": "event"}, "involvedObject": {}});
    world.lock().tell(&format!("controller {controller}"), || {
        format!("event {} {}", event["reason"], event["message"])
    });
    Ok(plain((201, about)))
}

fn plain((code, body): Answer) -> Answered {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = http::StatusCode::from_u16(code).expect("a code of HTTP");
    response
}

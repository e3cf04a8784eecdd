//! What controllers, scheduler and kubelet have in common, over any `kube::Client`: informers
//! ([`Informer`]: one watch and one cache per kind, shared), a keyed work queue ([`Queue`]) with its
//! runner ([`run`], [`Objects`]), a recorder of events ([`Recorder`]), and the meaning of those fields that more
//! than one of them reads ([`semantics`]).
//!
//! It stands where client-go's `tools/cache`, `util/workqueue` and `tools/record` do, and
//! component-helpers. It decides nothing. `kube`'s own `Controller` is not used because its scheduler
//! rounds every hop up to milliseconds, and because objects are shared here between all who watch
//! a kind.

mod informer;
mod informers;
mod looks;
mod queue;
mod recorder;
mod runner;
pub mod semantics;

pub use informer::{Change, Informer, Key, Object, revision_of};
pub use informers::{Informers, Task};
pub use looks::metrics;
pub use queue::{Queue, Work};
pub use recorder::{EventType, Recorder, reference};
pub use runner::{Objects, Reconciled, run};

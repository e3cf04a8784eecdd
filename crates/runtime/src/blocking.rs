//! Work that waits for the disk, off the event loop.

/// Runs `work` where it may block. A panic in it goes on in the caller. If the runtime shuts down before
/// the work has begun there is no outcome, and the caller waits until it is dropped, which is then at once.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}

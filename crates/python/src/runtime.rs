//! The threads that operations run on, and the one that replies to Python.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{mem, process, thread};

use futures_util::FutureExt as _;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::{IntoPyObject, IntoPyObjectExt as _};
use seabed::{BackendError, BackendErrorKind, Error, Result};
use tokio::runtime::{Builder, Runtime};

/// How long the exit of the interpreter waits for operations that nobody waits for any more.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Calls Python with the outcome of an operation.
type Reply = Box<dyn FnOnce(Python<'_>) + Send>;

/// The threads of a process. Those of its parent do not survive `fork`.
struct Threads {
    process: u32,
    runtime: Runtime,
    /// `None` ends the thread.
    replies: Sender<Option<Reply>>,
    reply_thread: JoinHandle<()>,
}

enum State {
    NotStarted,
    Started(Threads),
    /// The interpreter of this process exits.
    Ended(u32),
}

/// Locked only by threads that hold the GIL, and none of them lets go of it meanwhile. So no other thread holds this
/// lock while one forks.
static STATE: Mutex<State> = Mutex::new(State::NotStarted);

impl Threads {
    fn start() -> PyResult<Self> {
        let runtime = Builder::new_multi_thread().thread_name("seabed").enable_all().build()?;
        let (replies, outcomes) = channel();
        let reply_thread =
            thread::Builder::new().name("seabed-reply".to_owned()).spawn(move || send_replies(&outcomes))?;
        Ok(Self { process: process::id(), runtime, replies, reply_thread })
    }
}

/// Replies one after the other, so that only one thread ever waits for the GIL.
fn send_replies(outcomes: &Receiver<Option<Reply>>) {
    while let Ok(Some(first)) = outcomes.recv() {
        let mut next = Some(first);
        let mut ended = false;
        Python::attach(|py| {
            while let Some(reply) = next.take() {
                // The panic hook has reported it; the other callers still get their replies.
                let _ = catch_unwind(AssertUnwindSafe(|| reply(py)));
                match outcomes.try_recv() {
                    Ok(Some(reply)) => next = Some(reply),
                    Ok(None) => ended = true,
                    Err(_) => {}
                }
            }
        });
        if ended {
            return;
        }
    }
}

/// Runs `operation` to its end, whoever waits for it, and calls `reply(error, value)`.
///
/// # Errors
/// `RuntimeError` while the interpreter exits, and `OSError` if the threads cannot be started.
pub(crate) fn spawn<T>(reply: Py<PyAny>, operation: impl Future<Output = Result<T>> + Send + 'static) -> PyResult<()>
where
    T: for<'py> IntoPyObject<'py> + Send + 'static,
{
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let threads = started(&mut state)?;
    let replies = threads.replies.clone();
    threads.runtime.spawn(async move {
        let outcome = AssertUnwindSafe(operation).catch_unwind().await.unwrap_or_else(|_| Err(panicked()));
        // There is no receiver once the interpreter exits, and nobody who waits.
        let _ = replies.send(Some(Box::new(move |py| deliver(py, &reply, outcome))));
    });
    Ok(())
}

/// The threads of this process, started if they are not yet.
fn started(state: &mut State) -> PyResult<&mut Threads> {
    let must_start = match state {
        State::NotStarted => true,
        State::Started(threads) => threads.process != process::id(),
        State::Ended(process) => *process != process::id(),
    };
    if must_start {
        // Ending the parent's threads from here would wait for them without end.
        mem::forget(mem::replace(state, State::Started(Threads::start()?)));
    }
    match state {
        State::Started(threads) => Ok(threads),
        State::NotStarted | State::Ended(_) => Err(PyRuntimeError::new_err("the interpreter is shutting down")),
    }
}

fn panicked() -> Error {
    BackendError::new(BackendErrorKind::Unexpected, "the operation panicked, which is a bug in Seabed").into()
}

fn deliver<T: for<'py> IntoPyObject<'py>>(py: Python<'_>, reply: &Py<PyAny>, outcome: Result<T>) {
    let outcome = outcome.and_then(|value| {
        let unexpected = |error: PyErr| BackendError::new(BackendErrorKind::Unexpected, error.to_string());
        Ok(value.into_py_any(py).map_err(unexpected)?)
    });
    let replied = match outcome {
        Ok(value) => reply.call1(py, (py.None(), value)),
        Err(error) => reply.call1(py, (error_json(&error), py.None())),
    };
    // The event loop of a caller who has gone away is closed.
    drop(replied);
}

/// `kind`, `message` and `retryable` of an error.
fn error_json(error: &Error) -> String {
    serde_json::to_string(error)
        .unwrap_or_else(|_| r#"{"kind":"unexpected","message":"","retryable":false}"#.to_owned())
}

/// Ends the threads before the interpreter of the process exits. Operations that are still running are
/// abandoned; a commit that was already sent may still succeed.
#[pyfunction]
pub(crate) fn shutdown(py: Python<'_>) {
    let ended = State::Ended(process::id());
    let state = mem::replace(&mut *STATE.lock().unwrap_or_else(PoisonError::into_inner), ended);
    match state {
        State::Started(Threads { process, runtime, replies, reply_thread }) if process == process::id() => {
            py.detach(move || {
                runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
                let _ = replies.send(None);
                let _ = reply_thread.join();
            });
        }
        of_parent => mem::forget(of_parent),
    }
}

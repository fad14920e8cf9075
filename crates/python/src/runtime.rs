//! The threads that operations run on, and the one that replies to Python.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{future, mem, process, thread};

use futures_util::FutureExt as _;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;
use pyo3::{IntoPyObject, IntoPyObjectExt as _};
use seabed::{BackendError, BackendErrorKind, Error, Result};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

/// How long the exit of the interpreter waits for operations that have not ended.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// When operations begin that their event loop has not begun, because it stopped after it had called them.
const BEGIN_AFTER: Duration = Duration::from_millis(5);

/// Who waits for an operation: an event loop of Python's, and a future of it.
#[derive(FromPyObject)]
pub(crate) struct Caller(Py<PyAny>, Py<PyAny>);

/// An operation, with its reply.
type Operation = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An outcome for Python: an error as JSON text, and a value.
type Settled = (Option<String>, Py<PyAny>);

/// What makes an outcome for Python, by the thread that replies.
type Outcome = Box<dyn for<'py> FnOnce(Python<'py>) -> Settled + Send>;

/// A future of Python's, and what it is told.
type Delivered = (Py<PyAny>, Option<String>, Py<PyAny>);

/// The threads of a process. Those of its parent do not survive `fork`.
struct Threads {
    process: u32,
    runtime: Runtime,
    /// The operations that have not ended.
    operations: TaskTracker,
    /// Those that were called, and have not begun.
    called: Arc<Mutex<Vec<Operation>>>,
    /// `None` ends the thread.
    replies: Sender<Option<(Caller, Outcome)>>,
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

/// Python's function that hands outcomes to futures, in the thread of their event loop.
static SETTLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

impl Threads {
    fn start() -> PyResult<Self> {
        let runtime = Builder::new_multi_thread().thread_name("seabed").enable_all().build()?;
        let (replies, outcomes) = channel();
        let reply_thread =
            thread::Builder::new().name("seabed-reply".to_owned()).spawn(move || send_replies(&outcomes))?;
        let (operations, called) = (TaskTracker::new(), Arc::default());
        Ok(Self { process: process::id(), runtime, operations, called, replies, reply_thread })
    }
}

/// Sends all replies that are there at once. So only one thread ever waits for the GIL, and an event loop wakes once
/// for operations that ended together, and then makes its next calls together.
fn send_replies(outcomes: &Receiver<Option<(Caller, Outcome)>>) {
    while let Ok(Some(first)) = outcomes.recv() {
        let mut ended = false;
        Python::attach(|py| {
            let mut replies = vec![first];
            while let Ok(next) = outcomes.try_recv() {
                ended |= next.is_none();
                replies.extend(next);
            }
            send(py, replies);
        });
        if ended {
            return;
        }
    }
}

fn send(py: Python<'_>, replies: Vec<(Caller, Outcome)>) {
    let mut loops: Vec<(Py<PyAny>, Vec<Delivered>)> = Vec::new();
    for (Caller(event_loop, future), outcome) in replies {
        let converted = catch_unwind(AssertUnwindSafe(|| outcome(py)));
        let (error, value) = converted.unwrap_or_else(|_| to_python(py, Err::<(), _>(panicked())));
        match loops.iter_mut().find(|(other, _)| other.is(&event_loop)) {
            Some((_, outcomes)) => outcomes.push((future, error, value)),
            None => loops.push((event_loop, vec![(future, error, value)])),
        }
    }
    for (event_loop, outcomes) in loops {
        let sent = SETTLE.import(py, "seabed_adk._calls", "settle").and_then(|settle| {
            event_loop.call_method1(py, "call_soon_threadsafe", (settle, PyList::new(py, outcomes)?))
        });
        // The event loop of a caller who has gone away is closed.
        drop(sent);
    }
}

/// Takes note of an operation, which [`begin`] begins. It then runs to its end, whoever waits for it.
///
/// # Errors
/// `RuntimeError` while the interpreter exits, and `OSError` if the threads cannot be started.
pub(crate) fn call<T>(caller: Caller, operation: impl Future<Output = Result<T>> + Send + 'static) -> PyResult<()>
where
    T: for<'py> IntoPyObject<'py> + Send + 'static,
{
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let threads = started(&mut state)?;
    let replies = threads.replies.clone();
    let operation = threads.operations.track_future(async move {
        let outcome = AssertUnwindSafe(operation).catch_unwind().await.unwrap_or_else(|_| Err(panicked()));
        // There is no receiver once the interpreter exits, and nobody who waits.
        let _ = replies.send(Some((caller, Box::new(move |py| to_python(py, outcome)))));
    });
    let mut noted = threads.called.lock().unwrap_or_else(PoisonError::into_inner);
    noted.push(Box::pin(operation));
    if noted.len() == 1 {
        let to_begin = threads.called.clone();
        threads.runtime.spawn(async move {
            sleep(BEGIN_AFTER).await;
            begin_all(&to_begin).await;
        });
    }
    Ok(())
}

/// Begins what was called: the calls of one turn of an event loop together, so that they can share a batch. While the
/// interpreter exits, [`shutdown`] does that.
#[pyfunction]
pub(crate) fn begin() {
    let state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    let State::Started(threads) = &*state else { return };
    // What a parent process has noted is the parent's.
    if threads.process != process::id() {
        return;
    }
    let called = threads.called.clone();
    if !called.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
        threads.runtime.spawn(async move { begin_all(&called).await });
    }
}

/// Begins the operations in their order, and leaves each to a task of its own. Nothing else runs on this thread before
/// all have begun, such as the batch that the first of them waits for.
async fn begin_all(called: &Mutex<Vec<Operation>>) {
    let called = mem::take(&mut *called.lock().unwrap_or_else(PoisonError::into_inner));
    let mut begun = Vec::with_capacity(called.len());
    for mut operation in called {
        if future::poll_fn(|context| Poll::Ready(operation.as_mut().poll(context))).await.is_pending() {
            begun.push(operation);
        }
    }
    for operation in begun {
        tokio::spawn(operation);
    }
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

fn to_python<T: for<'py> IntoPyObject<'py>>(py: Python<'_>, outcome: Result<T>) -> Settled {
    let outcome = outcome.and_then(|value| {
        let unexpected = |error: PyErr| BackendError::new(BackendErrorKind::Unexpected, error.to_string());
        Ok(value.into_py_any(py).map_err(unexpected)?)
    });
    match outcome {
        Ok(value) => (None, value),
        Err(error) => (Some(error_json(&error)), py.None()),
    }
}

/// `kind`, `message` and `retryable` of an error.
fn error_json(error: &Error) -> String {
    serde_json::to_string(error)
        .unwrap_or_else(|_| r#"{"kind":"unexpected","message":"","retryable":false}"#.to_owned())
}

/// Ends the threads before the interpreter of the process exits. Operations have a moment to end, and are then
/// abandoned; a commit that was already sent may still succeed.
#[pyfunction]
pub(crate) fn shutdown(py: Python<'_>) {
    let ended = State::Ended(process::id());
    let state = mem::replace(&mut *STATE.lock().unwrap_or_else(PoisonError::into_inner), ended);
    match state {
        State::Started(Threads { process, runtime, operations, called, replies, reply_thread })
            if process == process::id() =>
        {
            py.detach(move || {
                operations.close();
                runtime.block_on(async {
                    begin_all(&called).await;
                    let _ = timeout(SHUTDOWN_TIMEOUT, operations.wait()).await;
                });
                runtime.shutdown_background();
                let _ = replies.send(None);
                let _ = reply_thread.join();
            });
        }
        of_parent => mem::forget(of_parent),
    }
}

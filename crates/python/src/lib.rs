//! The native half of the Python package `seabed_adk`. Sessions and events cross between Python and Rust as JSON text.
//!
//! Each method of `Store` returns at once, and `begin` begins what was called. The operation runs on threads of its
//! own, where it holds no lock of Python's. In the end the event loop of its caller calls `seabed_adk._calls.settle`
//! with a list of `(future, error, value)`: `error` is JSON text, or `None` if there is a value.

mod connect;
mod operations;
mod runtime;
mod url;

use std::sync::Arc;

use pyo3::IntoPyObject;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use seabed::{DynSessionService, Result};

use self::connect::{Connector, Options};
use self::operations::{EventPage, Key, Read, SessionCopy, SessionRow};
use self::runtime::Caller;

/// A store, which connects when it is first used.
#[pyclass(frozen, module = "seabed_adk._native")]
struct Store {
    connector: Arc<Connector>,
}

impl Store {
    /// Calls `operation` on the service, which it connects first if need be.
    fn start<T, F>(
        &self,
        caller: Caller,
        operation: impl FnOnce(DynSessionService) -> F + Send + 'static,
    ) -> PyResult<()>
    where
        T: for<'py> IntoPyObject<'py> + Send + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        let (connector, opened) = (self.connector.clone(), self.connector.opened()?);
        let running = opened.call();
        runtime::call(caller, async move {
            let _running = running;
            operation(connector.service(&opened).await?).await
        })
    }
}

#[pymethods]
impl Store {
    /// Checks the URL and the options. Connects nowhere.
    #[new]
    #[allow(clippy::needless_pass_by_value, reason = "Python's dictionary is read into a value of ours")]
    fn new(url: &str, options: Options) -> PyResult<Self> {
        let connector = Connector::try_new(url, &options).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self { connector: Arc::new(connector) })
    }

    fn prepare(&self, caller: Caller) -> PyResult<()> {
        self.start(caller, async |_| Ok(()))
    }

    /// For the tests: an operation that panics.
    fn _panic(&self, caller: Caller) -> PyResult<()> {
        self.start::<(), _>(caller, async |_| unreachable!("a test asked for this panic"))
    }

    fn check_health(&self, caller: Caller) -> PyResult<()> {
        self.start(caller, async |service| service.check_health().await)
    }

    /// Closes the connections, after the calls before this one. The next call opens new ones.
    fn close(&self, caller: Caller) -> PyResult<()> {
        let opened = self.connector.replace_opened()?;
        runtime::call(caller, async move { opened.close().await })
    }

    fn create_session(
        &self,
        caller: Caller,
        app_name: String,
        user_id: String,
        session_id: Option<String>,
        state: String,
    ) -> PyResult<()> {
        self.start::<SessionRow, _>(caller, async move |service| {
            operations::create(&service, app_name, user_id, session_id, &state).await
        })
    }

    fn get_session(
        &self,
        caller: Caller,
        key: Key,
        num_recent_events: Option<u32>,
        after_timestamp: Option<f64>,
    ) -> PyResult<()> {
        let read = Read { key, num_recent_events, after_timestamp };
        self.start::<Option<SessionRow>, _>(caller, async move |service| operations::get(&service, read).await)
    }

    /// Replies with the session, and whether it is new.
    fn get_or_create(
        &self,
        caller: Caller,
        key: Key,
        num_recent_events: Option<u32>,
        after_timestamp: Option<f64>,
        state: String,
    ) -> PyResult<()> {
        let read = Read { key, num_recent_events, after_timestamp };
        self.start::<(SessionRow, bool), _>(caller, async move |service| {
            operations::get_or_create(&service, read, &state).await
        })
    }

    fn list_sessions(&self, caller: Caller, app_name: String, user_id: Option<String>) -> PyResult<()> {
        self.start::<Vec<SessionRow>, _>(caller, async move |service| {
            operations::list_sessions(&service, app_name, user_id).await
        })
    }

    fn delete_session(&self, caller: Caller, key: Key) -> PyResult<()> {
        self.start(caller, async move |service| operations::delete(&service, key).await)
    }

    /// Appends if the session is still what `copy` was read from; at any revision without `copy`. Replies with the
    /// new time and revision, and whether the event was there before.
    fn append_event(&self, caller: Caller, key: Key, event: String, copy: Option<SessionCopy>) -> PyResult<()> {
        self.start::<(f64, String, bool), _>(caller, async move |service| {
            operations::append(&service, key, &event, copy).await
        })
    }

    fn list_events(
        &self,
        caller: Caller,
        key: Key,
        limit: i64,
        cursor: Option<String>,
        newest_first: bool,
    ) -> PyResult<()> {
        self.start::<EventPage, _>(caller, async move |service| {
            operations::list_events(&service, key, limit, cursor, newest_first).await
        })
    }

    fn get_app_state(&self, caller: Caller, app_name: String) -> PyResult<()> {
        self.start::<String, _>(caller, async move |service| operations::app_state(&service, app_name).await)
    }

    fn get_user_state(&self, caller: Caller, app_name: String, user_id: String) -> PyResult<()> {
        self.start::<String, _>(caller, async move |service| operations::user_state(&service, app_name, user_id).await)
    }
}

/// What `seabed_adk` imports.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::Store;
    #[pymodule_export]
    use super::runtime::{begin, shutdown};
}

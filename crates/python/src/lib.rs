//! The native half of the Python package `seabed_adk`. Sessions and events cross between Python and Rust as JSON text.
//!
//! Each method of `Store` returns at once. The operation runs on threads of its own, where it holds no lock of
//! Python's, and ends in a call of `reply(error, value)`: `error` is JSON text, or `None` if there is a value.

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

/// A store, which connects when it is first used.
#[pyclass(frozen, module = "seabed_adk._native")]
struct Store {
    connector: Arc<Connector>,
}

impl Store {
    /// Starts `operation` on the service, which it connects first if need be.
    fn start<T, F>(
        &self,
        reply: Py<PyAny>,
        operation: impl FnOnce(DynSessionService) -> F + Send + 'static,
    ) -> PyResult<()>
    where
        T: for<'py> IntoPyObject<'py> + Send + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        let (connector, opened) = (self.connector.clone(), self.connector.opened()?);
        runtime::spawn(reply, async move { operation(connector.service(&opened).await?).await })
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

    fn prepare(&self, reply: Py<PyAny>) -> PyResult<()> {
        self.start(reply, async |_| Ok(()))
    }

    fn check_health(&self, reply: Py<PyAny>) -> PyResult<()> {
        self.start(reply, async |service| service.check_health().await)
    }

    /// Closes the connections. The next call opens new ones.
    fn close(&self, reply: Py<PyAny>) -> PyResult<()> {
        let opened = self.connector.replace_opened()?;
        runtime::spawn(reply, async move { opened.close().await })
    }

    fn create_session(
        &self,
        reply: Py<PyAny>,
        app_name: String,
        user_id: String,
        session_id: Option<String>,
        state: String,
    ) -> PyResult<()> {
        self.start::<SessionRow, _>(reply, async move |service| {
            operations::create(&service, app_name, user_id, session_id, &state).await
        })
    }

    fn get_session(
        &self,
        reply: Py<PyAny>,
        key: Key,
        num_recent_events: Option<u32>,
        after_timestamp: Option<f64>,
    ) -> PyResult<()> {
        let read = Read { key, num_recent_events, after_timestamp };
        self.start::<Option<SessionRow>, _>(reply, async move |service| operations::get(&service, read).await)
    }

    /// Replies with the session, and whether it is new.
    fn get_or_create(
        &self,
        reply: Py<PyAny>,
        key: Key,
        num_recent_events: Option<u32>,
        after_timestamp: Option<f64>,
        state: String,
    ) -> PyResult<()> {
        let read = Read { key, num_recent_events, after_timestamp };
        self.start::<(SessionRow, bool), _>(reply, async move |service| {
            operations::get_or_create(&service, read, &state).await
        })
    }

    fn list_sessions(&self, reply: Py<PyAny>, app_name: String, user_id: Option<String>) -> PyResult<()> {
        self.start::<Vec<SessionRow>, _>(reply, async move |service| {
            operations::list_sessions(&service, app_name, user_id).await
        })
    }

    fn delete_session(&self, reply: Py<PyAny>, key: Key) -> PyResult<()> {
        self.start(reply, async move |service| operations::delete(&service, key).await)
    }

    /// Appends if the session is still what `copy` was read from; at any revision without `copy`. Replies with the
    /// new time and revision, and whether the event was there before.
    fn append_event(&self, reply: Py<PyAny>, key: Key, event: String, copy: Option<SessionCopy>) -> PyResult<()> {
        self.start::<(f64, String, bool), _>(reply, async move |service| {
            operations::append(&service, key, &event, copy).await
        })
    }

    fn list_events(
        &self,
        reply: Py<PyAny>,
        key: Key,
        limit: i64,
        cursor: Option<String>,
        newest_first: bool,
    ) -> PyResult<()> {
        self.start::<EventPage, _>(reply, async move |service| {
            operations::list_events(&service, key, limit, cursor, newest_first).await
        })
    }

    fn get_app_state(&self, reply: Py<PyAny>, app_name: String) -> PyResult<()> {
        self.start::<String, _>(reply, async move |service| operations::app_state(&service, app_name).await)
    }

    fn get_user_state(&self, reply: Py<PyAny>, app_name: String, user_id: String) -> PyResult<()> {
        self.start::<String, _>(reply, async move |service| operations::user_state(&service, app_name, user_id).await)
    }
}

/// What `seabed_adk` imports.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::Store;
    #[pymodule_export]
    use super::runtime::shutdown;
}

//! A write on its way: what is asked, what came of it, and who waits for it.

use tokio::sync::oneshot;

use crate::prepare::{NewEvent, NewSession};
use crate::state::ScopedState;
use crate::{AppName, Appended, Error, Result, Session, SessionKey, UserKey};

/// A request, its outcome once there is one, and the caller who waits for it.
pub(super) struct Call<R, T> {
    pub(super) request: R,
    pub(super) outcome: Option<Result<T>>,
    /// Why nobody knows whether an earlier try was committed.
    pub(super) doubt: Option<Error>,
    /// How often it was tried again.
    retries: u32,
    caller: oneshot::Sender<Told<T>>,
}

/// An outcome, and how often was tried again until there was one.
pub(super) type Told<T> = (Result<T>, u32);

impl<R, T> Call<R, T> {
    pub(super) fn new(request: R) -> (Self, oneshot::Receiver<Told<T>>) {
        let (caller, outcome) = oneshot::channel();
        (Self { request, outcome: None, doubt: None, retries: 0, caller }, outcome)
    }

    /// An error of the database ends what was begun, but does not tell what became of an earlier try.
    fn fail(&mut self, error: Error) {
        let doubt = self.doubt.take().filter(|_| error.backend_kind().is_some());
        self.outcome = Some(Err(doubt.unwrap_or(error)));
    }

    fn doubt(&mut self, error: Error) {
        self.outcome = None;
        self.doubt = Some(error);
    }

    fn tell(self) {
        if let Some(outcome) = self.outcome {
            // Nobody is told when the caller went away meanwhile.
            let _: Result<(), Told<T>> = self.caller.send((outcome, self.retries));
        }
    }
}

/// A write of any kind.
pub(super) enum Write {
    Create(Call<NewSession, Session>),
    Append(Call<NewEvent, Appended>),
    Delete(Call<SessionKey, ()>),
}

/// The same expression on the call of any kind.
macro_rules! on_call {
    ($write:expr, $call:ident => $value:expr) => {
        match $write {
            Write::Create($call) => $value,
            Write::Append($call) => $value,
            Write::Delete($call) => $value,
        }
    };
}

/// A row that a write locks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Row {
    Session(SessionKey),
    App(AppName),
    User(UserKey),
}

impl Write {
    /// The operation, for errors.
    pub(super) fn operation(&self) -> &'static str {
        match self {
            Self::Create(_) => "create_session",
            Self::Append(_) => "append_event",
            Self::Delete(_) => "delete_session",
        }
    }

    /// The session that is written.
    pub(super) fn key(&self) -> &SessionKey {
        match self {
            Self::Create(call) => &call.request.key,
            Self::Append(call) => &call.request.key,
            Self::Delete(call) => &call.request,
        }
    }

    /// What is to be created.
    pub(super) fn create(&self) -> Option<&NewSession> {
        if let Self::Create(call) = self { Some(&call.request) } else { None }
    }

    /// What is to be appended.
    pub(super) fn append(&self) -> Option<&NewEvent> {
        if let Self::Append(call) = self { Some(&call.request) } else { None }
    }

    /// The rows it locks that others may want as well; the session first.
    pub(super) fn rows(&self) -> Vec<Row> {
        let key = self.key();
        let shared = |state: &ScopedState| {
            let app = (!state.app.is_empty()).then(|| Row::App(key.app_name.clone()));
            let user = (!state.user.is_empty()).then(|| Row::User(key.user()));
            app.into_iter().chain(user)
        };
        let session = [Row::Session(key.clone())].into_iter();
        match self {
            Self::Create(call) => session.chain(shared(&call.request.state)).collect(),
            Self::Append(call) => session.chain(shared(&call.request.delta)).collect(),
            Self::Delete(_) => session.collect(),
        }
    }

    /// Whether somebody still waits for the outcome.
    pub(super) fn is_wanted(&self) -> bool {
        on_call!(self, call => !call.caller.is_closed())
    }

    pub(super) fn has_outcome(&self) -> bool {
        on_call!(self, call => call.outcome.is_some())
    }

    /// Whether the outcome is that something was written.
    pub(super) fn has_written(&self) -> bool {
        on_call!(self, call => call.outcome.as_ref().is_some_and(Result::is_ok))
    }

    pub(super) fn forget_outcome(&mut self) {
        on_call!(self, call => call.outcome = None);
    }

    /// Ends with `error`, or with why it was in doubt before, if that is still unknown.
    pub(super) fn fail(&mut self, error: Error) {
        on_call!(self, call => call.fail(error));
    }

    /// Nobody knows whether it was committed, because of `error`.
    pub(super) fn doubt(&mut self, error: Error) {
        on_call!(self, call => call.doubt(error));
    }

    pub(super) fn count_retries(&mut self, retries: u32) {
        on_call!(self, call => call.retries = retries);
    }

    /// Tells the caller the outcome.
    pub(super) fn tell(self) {
        on_call!(self, call => call.tell());
    }
}

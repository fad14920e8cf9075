//! How sessions began, forks and redactions.

use async_trait::async_trait;

use super::{SqlSessionService, traced};
use crate::history::fork::NewFork;
use crate::history::redact::NewRedaction;
use crate::history::{ForkSession, Forked, Origin, RedactEvent, Redacted};
use crate::sql::dialect::Dialect;
use crate::sql::op::fork::ForkOp;
use crate::sql::op::redact::RedactOp;
use crate::{BackendErrorKind, HistoryService, Result, SessionKey};

/// How often a fork is planned.
const MAX_PLANS: u32 = 3;

#[async_trait]
impl<D: Dialect> HistoryService for SqlSessionService<D> {
    async fn get_origin(&self, key: &SessionKey) -> Result<Origin> {
        const OPERATION: &str = "get_origin";
        let read = async || self.sql.origin.get(&mut self.context.database.autocommit(), key).await;
        traced::<D, _>(OPERATION, self.read(OPERATION, read)).await
    }

    async fn fork_session(&self, request: ForkSession) -> Result<Forked> {
        const OPERATION: &str = "fork_session";
        traced::<D, _>(OPERATION, async {
            let (sql, new) = (&self.sql.fork, NewFork::try_prepare(&request, &*self.clock, &*self.ids)?);
            let plan = async || sql.plan(&mut self.context.database.autocommit(), &new).await;
            let mut plans = 1;
            loop {
                let planned = self.read(OPERATION, plan).await?;
                match self.submit(ForkOp { sql: sql.clone(), planned }).await {
                    // The source changed.
                    Err(error) if error.backend_kind() == Some(BackendErrorKind::Contention) && plans < MAX_PLANS => {
                        plans += 1;
                    }
                    forked => return forked,
                }
            }
        })
        .await
    }

    async fn redact_event(&self, request: RedactEvent) -> Result<Redacted> {
        traced::<D, _>("redact_event", async {
            let new = NewRedaction::try_prepare(request, &*self.clock, self.context.settings.adk_check)?;
            let notice = self.append_new(new.notice.clone());
            self.submit(RedactOp { sql: self.sql.redact.clone(), new, notice }).await
        })
        .await
    }
}

//! Titles, labels, and finding sessions.

use async_trait::async_trait;

use super::{SqlSessionService, traced};
use crate::sql::dialect::Dialect;
use crate::sql::op::context::Context;
use crate::sql::op::{find, summarize};
use crate::{
    AnnotateSession, Annotations, DirectoryService, FindCursor, FindSessions, FoundSession, Page, Result,
    SessionFilter, SessionKey, SessionScope, SessionSummary,
};

#[async_trait]
impl<D: Dialect> DirectoryService for SqlSessionService<D> {
    async fn annotate_session(&self, request: AnnotateSession) -> Result<Annotations> {
        traced::<D, _>("annotate_session", async { self.submit(self.annotate_op(request)?).await }).await
    }

    async fn find_sessions(&self, request: FindSessions) -> Result<Page<FoundSession, FindCursor>> {
        traced::<D, _>("find_sessions", async {
            request.check()?;
            let Context { database, tables, .. } = &*self.context;
            let read = async || find::find_sessions::<D>(tables, &mut database.autocommit(), &request).await;
            self.read("find_sessions", read).await
        })
        .await
    }

    async fn count_sessions(&self, scope: &SessionScope, filter: &SessionFilter) -> Result<u64> {
        traced::<D, _>("count_sessions", async {
            filter.check()?;
            let Context { database, tables, .. } = &*self.context;
            let read = async || find::count_sessions::<D>(tables, &mut database.autocommit(), scope, filter).await;
            self.read("count_sessions", read).await
        })
        .await
    }

    async fn summarize_session(&self, key: &SessionKey) -> Result<Option<SessionSummary>> {
        const OPERATION: &str = "summarize_session";
        let Context { database, tables, .. } = &*self.context;
        let read = async || summarize::summarize_session::<D>(tables, &mut database.autocommit(), key).await;
        traced::<D, _>(OPERATION, self.read(OPERATION, read)).await
    }
}

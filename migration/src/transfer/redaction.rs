//! Events that were redacted in the source since an earlier copy.

use std::collections::HashSet;

use sea_orm::sea_query::{Expr, ExprTrait as _, Func, Query};
use sea_orm::{ConnectionTrait as _, DatabaseTransaction, DbErr};
use seabed_core::entity::events;
use serde::Deserialize;

use super::batch::Part;
use super::store::Store;
use super::tables::of_session;
use crate::rows::json_text;

/// What marks a redacted event.
const MARK: &str = "seabed_redacted";

#[derive(Deserialize)]
struct Marked {
    custom_metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    seabed_redacted: bool,
}

fn is_redacted(event: &events::Model) -> bool {
    let text = event.event_data.as_deref().filter(|text| text.contains(MARK));
    let marked = text.and_then(|text| serde_json::from_str::<Marked>(text).ok());
    marked.is_some_and(|marked| marked.custom_metadata.seabed_redacted)
}

impl Store<'_> {
    /// Deletes those of the `known` events that are redacted in the source and not in the target, and returns the
    /// others: what is deleted is inserted anew.
    pub(super) async fn without_redacted(
        &self,
        transaction: &DatabaseTransaction,
        part: &Part,
        mut known: HashSet<String>,
    ) -> Result<HashSet<String>, DbErr> {
        let redacted: Vec<_> =
            part.events.iter().filter(|event| known.contains(&event.id) && is_redacted(event)).collect();
        for event in redacted {
            let position =
                Func::cust(self.spec.dialect.position_function()).arg(json_text(self.spec, "event_data")).arg(MARK);
            let delete = Query::delete()
                .from_table(self.spec.tables.table(events::Entity))
                .cond_where(of_session(self.spec, &part.session))
                .and_where(self.spec.compared("id").eq(event.id.as_str()))
                .and_where(Expr::from(position).eq(0))
                .take();
            if transaction.execute(&delete).await?.rows_affected() > 0 {
                known.remove(&event.id);
            }
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_mark_itself_is_a_redaction() {
        let event = |data: &str| events::Model {
            id: "e".to_owned(),
            app_name: "app".to_owned(),
            user_id: "alice".to_owned(),
            session_id: "s".to_owned(),
            invocation_id: String::new(),
            timestamp: sea_orm::prelude::DateTime::default(),
            event_data: Some(data.to_owned()),
        };
        assert!(is_redacted(&event(r#"{"custom_metadata": {"seabed_redacted": true}}"#)));
        for other in [
            r#"{"custom_metadata": {"seabed_redacted": false}}"#,
            r#"{"custom_metadata": {"seabed_redacted_event_id": "e"}}"#,
            r#"{"content": {"parts": [{"text": "seabed_redacted"}]}}"#,
        ] {
            assert!(!is_redacted(&event(other)), "{other}");
        }
    }
}

//! The guards of values, requests and the memory service.

use super::Mutant;

const REVISION: &str = "crates/core/src/revision.rs";
const SERVICE_EXT: &str = "crates/core/src/service_ext.rs";
const VALIDATE: &str = "crates/core/src/validate.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        guard: "expected revision, portable",
        file: REVISION,
        from: "Self::Exact(expected) if expected != actual => {",
        to: "Self::Exact(expected) if expected != actual && expected == actual => {",
        case: "mariadb::stale_revision_conflicts",
    },
    Mutant {
        guard: "no event is stored at the creation time of its session, blind append",
        file: VALIDATE,
        from: "\n                    && self.timestamp != expected.create_time()",
        to: "",
        case: "sqlite_file::revisions_never_repeat_when_times_do",
    },
    Mutant {
        guard: "content check of a replay",
        file: VALIDATE,
        from: "if is_same_event(stored, &self.event_data) {",
        to: "if is_same_event(stored, &self.event_data) || !stored.is_null() {",
        case: "mariadb::an_event_id_with_other_content_is_refused",
    },
    Mutant {
        guard: "an event that google-adk cannot read is refused",
        file: VALIDATE,
        from: "        adk_check.check(&event_data)?;\n",
        to: "        let _ = adk_check;\n",
        case: "sqlite_memory::events_that_google_adk_cannot_read_are_refused",
    },
    Mutant {
        guard: "stored time of an event is later than that of the newest event",
        file: REVISION,
        from: "if has_events && own <= update_time { update_time.next()? } else { own };",
        to: "if has_events && own < update_time { update_time } else { own };",
        case: "sqlite_file::events_with_one_timestamp_keep_append_order",
    },
    Mutant {
        guard: "no event is stored at the creation time of its session",
        file: REVISION,
        from: "if stored == create_time { stored.next() } else { Some(stored) }",
        to: "Some(stored)",
        case: "sqlite_file::revisions_never_repeat_when_times_do",
    },
    Mutant {
        guard: "a state does not outgrow its limit",
        file: "crates/core/src/state.rs",
        from: "bytes if bytes > max_bytes => {",
        to: "bytes if bytes > max_bytes && bytes < max_bytes => {",
        case: "mariadb::a_state_does_not_outgrow_its_limit",
    },
    Mutant {
        guard: "a session that was read in part and recreated since is refreshed in full",
        file: SERVICE_EXT,
        from: "if read.events_since.is_some() && read.create_time",
        to: "if read.events_since.is_none() && read.create_time",
        case: "sqlite_file::a_refreshed_session_that_was_recreated",
    },
    Mutant {
        guard: "a refresh reads what came since, also before the part that was read",
        file: SERVICE_EXT,
        from: "since.min(session.revision.following())",
        to: "since",
        case: "sqlite_file::an_append_at_the_latest_revision",
    },
    Mutant {
        guard: "a handle is read again when its event is stored before others",
        file: SERVICE_EXT,
        from: " if !has_later_event(session, revision)",
        to: "",
        case: "sqlite_file::a_session_is_refreshed_beside_writers",
    },
    Mutant {
        guard: "check of annotations before any I/O",
        file: VALIDATE,
        from: "        request.check()?;\n        Ok(Self { request, now: clock.now() })",
        to: "        Ok(Self { request, now: clock.now() })",
        case: "sqlite_memory::bad_annotations_are_refused",
    },
    Mutant {
        guard: "limit on the labels of a session",
        file: "crates/core/src/directory.rs",
        from: "        check_label_count(stored.labels.len())?;\n",
        to: "",
        case: "sqlite_memory::a_session_takes_no_more_labels_than_allowed",
    },
    Mutant {
        guard: "a cursor belongs to its listing",
        file: "crates/core/src/directory/find.rs",
        from: "            Some(cursor) if cursor.listing != self.listing() => {",
        to: "            Some(cursor) if cursor.listing != self.listing() && self.limit == 0 => {",
        case: "sqlite_memory::a_cursor_of_another_listing_is_refused",
    },
    Mutant {
        guard: "a page looks at a limited number of states",
        file: "crates/core/src/directory/find.rs",
        from: "        if self.filter.needs_state() { Self::MAX_EXAMINED } else { self.limit }",
        to: "        if self.filter.needs_state() { u32::MAX - 1 } else { self.limit }",
        case: "sqlite_file::a_page_looks_at_no_more_states_than_it_says",
    },
    Mutant {
        guard: "an earlier revision is not a later one",
        file: REVISION,
        from: "Some(actual) if actual >= self =>",
        to: "Some(_) =>",
        case: "revision::tests::a_revision_is_reached_by_itself_and_by_later_ones",
    },
    Mutant {
        guard: "a rewind takes back only what it has read",
        file: SERVICE_EXT,
        from: "service.append(&mut session, rewind.into_event()).await?;",
        to: "service.append_latest(&mut session, rewind.into_event()).await?;",
        case: "sqlite_file::a_rewind_takes_back_only_what_it_has_read",
    },
    Mutant {
        guard: "the id of an invocation is checked before a rewind reads",
        file: SERVICE_EXT,
        from: "        request.check()?;\n",
        to: "",
        case: "sqlite_file::a_rewind_that_cannot_be_is_refused_and_writes_nothing",
    },
];

//! Reads the answer to MySQL's SHOW CREATE TABLE. The catalog shows constraints only to accounts with more privileges
//! than a service needs.

/// A foreign key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ForeignKey {
    pub(super) name: String,
    /// Whether deleting a row deletes the rows that refer to it.
    pub(super) cascades: bool,
}

/// Returns the foreign keys to the table `to` of the same database, whose name the answer leaves out.
pub(super) fn foreign_keys(created: &str, to: &str) -> Vec<ForeignKey> {
    created.lines().filter_map(|line| foreign_key(line.trim_start(), to)).collect()
}

fn foreign_key(line: &str, to: &str) -> Option<ForeignKey> {
    let (name, key) = identifier(line.strip_prefix("CONSTRAINT ")?)?;
    let (_, references) = key.strip_prefix(" FOREIGN KEY ")?.split_once(" REFERENCES ")?;
    let (table, columns) = identifier(references)?;
    let refers = table == to && columns.starts_with(" (");
    refers.then(|| ForeignKey { name, cascades: columns.contains(" ON DELETE CASCADE") })
}

/// Splits an identifier off. It stands between backticks; under `ANSI_QUOTES`, between double quotes; and if
/// `sql_quote_show_create` is off, between nothing. A quote in it is doubled.
fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(quote) = text.chars().next().filter(|first| matches!(first, '`' | '"')) else {
        let (name, rest) = text.split_at(text.find([' ', '.'])?);
        return Some((name.to_owned(), rest));
    };
    let (mut name, mut rest) = (String::new(), &text[1..]);
    loop {
        let (part, after) = rest.split_once(quote)?;
        name.push_str(part);
        let Some(doubled) = after.strip_prefix(quote) else { return Some((name, after)) };
        name.push(quote);
        rest = doubled;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn created(quote: &str) -> String {
        let key = "FOREIGN KEY (`app_name`, `user_id`, `session_id`) REFERENCES";
        [
            "CREATE TABLE `events` (",
            "  `id` varchar(128) NOT NULL COMMENT 'CONSTRAINT `c` FOREIGN KEY (`a`) REFERENCES `sessions` (`a`)',",
            "  PRIMARY KEY (`id`,`app_name`,`user_id`,`session_id`),",
            &format!("  CONSTRAINT `events_ibfk_1` {key} `sessions` (`app_name`, `user_id`, `id`) ON DELETE CASCADE,"),
            &format!("  CONSTRAINT `second` {key} `sessions` (`app_name`, `user_id`, `id`),"),
            &format!("  CONSTRAINT `third` {key} `others`.`sessions` (`app_name`, `user_id`, `id`) ON DELETE CASCADE,"),
            &format!("  CONSTRAINT `fourth` {key} `sessions_old` (`app_name`, `user_id`, `id`) ON DELETE CASCADE"),
            ") ENGINE=InnoDB",
        ]
        .join("\n")
        .replace('`', quote)
    }

    #[test]
    fn a_foreign_key_is_found_under_any_quotes() {
        for quote in ["`", "\"", ""] {
            let found = foreign_keys(&created(quote), "sessions");
            let found: Vec<_> = found.iter().map(|key| (key.name.as_str(), key.cascades)).collect();
            assert_eq!(found, [("events_ibfk_1", true), ("second", false)], "{quote:?}");
        }
    }

    #[test]
    fn a_quote_in_a_name_is_doubled() {
        assert_eq!(identifier("`a``b\"` FOREIGN"), Some(("a`b\"".to_owned(), " FOREIGN")));
        assert_eq!(identifier("\"a\"\"b`\".\"c\""), Some(("a\"b`".to_owned(), ".\"c\"")));
        assert_eq!(identifier("`open"), None);
    }
}

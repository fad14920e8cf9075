//! How Python and pydantic write values whose text takes more than one line to compute.

use super::{Id, MAX_TEXT, Node};
use std::fmt::Write as _;

/// Writes an ISO 8601 duration as pydantic does: a year is 365 days.
pub(super) fn duration([days, seconds, micros]: [i64; 3]) -> String {
    let total = (i128::from(days) * 86_400 + i128::from(seconds)) * 1_000_000 + i128::from(micros);
    let (sign, total) = (if total < 0 { "-" } else { "" }, total.unsigned_abs());
    let (clock, micros) = (total / 1_000_000 % 86_400, total % 1_000_000);
    let days = total / 86_400_000_000;
    let part = |value: u128, unit: char| if value == 0 { String::new() } else { format!("{value}{unit}") };
    let date = part(days / 365, 'Y') + &part(days % 365, 'D');
    let mut time = part(clock / 3600, 'H') + &part(clock / 60 % 60, 'M');
    if micros == 0 {
        time += &part(clock % 60, 'S');
    } else {
        time += format!("{}.{micros:06}", clock % 60).trim_end_matches('0');
        time.push('S');
    }
    match (date.is_empty(), time.is_empty()) {
        (true, true) => "PT0S".into(),
        (false, true) => format!("{sign}P{date}"),
        (_, false) => format!("{sign}P{date}T{time}"),
    }
}

/// Writes a number as Python's `repr` does: below 1e-4 and from 1e16 on, with an exponent of at least two digits.
pub(super) fn python_float(float: f64) -> String {
    let scientific = format!("{float:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent) if float != 0.0 && !(-4..16).contains(&exponent) => {
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        _ => {
            let plain = float.to_string();
            if plain.contains('.') { plain } else { plain + ".0" }
        }
    }
}

/// Writes a POSIX path as Python does: up to 3.12 the pickled parts are those of the path, since 3.13 those it was
/// built from.
pub(super) fn path(nodes: &[Node<'_>], parts: Id) -> Option<String> {
    let Node::Tuple(parts) = &nodes[parts] else { return None };
    if parts.len() > MAX_TEXT {
        return None;
    }
    let mut joined = String::new();
    for part in parts {
        let Node::Str(part) = nodes[*part] else { return None };
        if part.starts_with('/') {
            joined.clear();
        } else if !joined.is_empty() && !joined.ends_with('/') {
            joined.push('/');
        }
        if joined.len() + part.len() > MAX_TEXT {
            return None;
        }
        joined.push_str(part);
    }
    let root = match joined.bytes().take_while(|byte| *byte == b'/').count() {
        0 => "",
        2 => "//",
        _ => "/",
    };
    let names: Vec<&str> = joined.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    Some(if root.is_empty() && names.is_empty() { ".".into() } else { format!("{root}{}", names.join("/")) })
}

/// Writes the decimal digits of an integer in two's complement, little endian.
pub(super) fn decimal(bytes: &[u8]) -> String {
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut carry = negative;
    let mut magnitude = Vec::with_capacity(bytes.len());
    for byte in bytes {
        let (byte, carried) = (byte ^ if negative { 0xff } else { 0 }).overflowing_add(carry.into());
        carry = carried;
        magnitude.push(byte);
    }
    let mut groups = Vec::new();
    while !magnitude.is_empty() {
        let mut rest = 0_u64;
        for byte in magnitude.iter_mut().rev() {
            rest = rest << 8 | u64::from(*byte);
            *byte = (rest / 1_000_000_000).to_le_bytes()[0];
            rest %= 1_000_000_000;
        }
        groups.push(rest);
        magnitude.truncate(magnitude.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    }
    let mut digits = String::new();
    for group in groups.iter().rev() {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{group:09}");
    }
    let digits = digits.trim_start_matches('0');
    format!("{}{}", if negative { "-" } else { "" }, if digits.is_empty() { "0" } else { digits })
}

//! What the programs print, and what comes of it.

use std::fmt;

/// Seabed's calls each second, of one work with so many clients.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rate {
    work: String,
    clients: String,
    each_second: f64,
}

/// The rates in the tables that a benchmark prints. Tables without the column `Seabed/s` have none.
pub(super) fn parse(printed: &str) -> Vec<Rate> {
    let mut rates = Vec::new();
    let mut column = None;
    for line in printed.lines() {
        let Some(row) = line.strip_prefix('|') else {
            column = None;
            continue;
        };
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        if let Some(found) = cells.iter().position(|cell| *cell == "Seabed/s") {
            column = Some(found);
        } else if let Some(rate) = column.and_then(|column| cells.get(column)?.parse().ok())
            && let [work, clients, ..] = cells[..]
        {
            rates.push(Rate { work: work.to_owned(), clients: clients.to_owned(), each_second: rate });
        }
    }
    rates
}

/// The rates of all pairs, by target, work and clients, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Pairs(Vec<Compared>);

#[derive(Debug)]
struct Compared {
    target: String,
    work: String,
    clients: String,
    before: Vec<f64>,
    after: Vec<f64>,
}

impl Pairs {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what both programs measured in one pair.
    pub(super) fn add(&mut self, target: &str, before: &[Rate], after: &[Rate]) {
        for Rate { work, clients, each_second: of_before } in before {
            let Some(of_after) = after.iter().find(|rate| rate.work == *work && rate.clients == *clients) else {
                continue;
            };
            let is_same = |row: &&mut Compared| row.target == target && row.work == *work && row.clients == *clients;
            if let Some(row) = self.0.iter_mut().find(is_same) {
                row.before.push(*of_before);
                row.after.push(of_after.each_second);
            } else {
                self.0.push(Compared {
                    target: target.to_owned(),
                    work: work.clone(),
                    clients: clients.clone(),
                    before: vec![*of_before],
                    after: vec![of_after.each_second],
                });
            }
        }
    }
}

/// A table in Markdown.
impl fmt::Display for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| target | work | clients | before/s | after/s | after ÷ before | lowest | highest |")?;
        write!(f, "|---|---|--:|--:|--:|--:|--:|--:|")?;
        for Compared { target, work, clients, before, after } in &self.0 {
            let ratios: Vec<f64> = before.iter().zip(after).map(|(before, after)| after / before).collect();
            let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = ratios.iter().copied().fold(0.0, f64::max);
            let (before, after, ratio) = (median(before), median(after), median(&ratios));
            write!(f, "\n| {target} | {work} | {clients} | {before:.0} | {after:.0} ")?;
            write!(f, "| {ratio:.2} | {lowest:.2} | {highest:.2} |")?;
        }
        Ok(())
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let (upper, lower) = (sorted.len() / 2, sorted.len().saturating_sub(1) / 2);
    f64::midpoint(sorted.get(lower).copied().unwrap_or_default(), sorted.get(upper).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(one: u32, eight: u32) -> String {
        format!(
            "\n### sqlite_file 3.51, limit: the bare driver\n\n\
             | work | clients | limit/s | Seabed/s | ratio |\n|---|--:|--:|--:|--:|\n\
             | append, own sessions | 1 | 900 | {one} | 0.90 |\n\
             | append, own sessions | 8 | 900 | {eight} | 0.90 |\n\n\
             | growth | time on much ÷ on little | lowest to highest | goal |\n|---|--:|--:|--:|\n\
             | append into a session of 100000 ÷ 10 | 0.97 | 0.97 to 0.98 | ≤ 1.1 ✓ |\n"
        )
    }

    #[test]
    fn rates_are_read_and_growth_is_not() {
        let rate = |clients: &str, each_second| Rate {
            work: "append, own sessions".to_owned(),
            clients: clients.to_owned(),
            each_second,
        };
        assert_eq!(parse(&printed(100, 400)), [rate("1", 100.0), rate("8", 400.0)]);
        assert_eq!(parse("\n### mysql_9: not measured: no server\n"), []);
    }

    #[test]
    fn ratios_are_of_one_pair() {
        let mut pairs = Pairs::default();
        // The machine is twice as fast in the second pair, and half as fast in the third.
        for (before, after) in [(100, 110), (200, 240), (50, 50)] {
            pairs.add("sqlite_file", &parse(&printed(before, 1)), &parse(&printed(after, 1)));
        }
        let table = pairs.to_string();
        assert!(table.contains("| append, own sessions | 1 | 100 | 110 | 1.10 | 1.00 | 1.20 |"), "{table}");
    }
}

//! The table, and the statistics behind its cells.

use std::io::Write;
use std::time::Duration;

/// A figure and what it should be.
pub(crate) struct Row {
    figure: String,
    measured: String,
    floor: String,
    ratio: String,
    target: String,
    verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Met,
    NotMet,
    /// Shown for comparison: nothing was promised.
    Shown,
    /// Something that the measurement needs is not on this machine.
    Missing,
}

/// What a figure is held against.
pub(crate) enum Target {
    AtMost(f64),
    /// At most this many times the floor.
    Ratio(f64),
    /// At most this much more than the floor.
    Above(f64),
    /// At most `limit`, which was set where the floor was `then`: where the floor alone is higher, what
    /// comes on top of it may be no more than it was there.
    AtMostWhere {
        limit: f64,
        then: f64,
    },
    /// None: for comparison.
    Shown,
}

impl Row {
    /// `unit` is one of `ms`, `s`, `MiB`, or what is counted.
    pub(crate) fn new(figure: &str, unit: &str, measured: f64, floor: Option<f64>, target: &Target) -> Row {
        let shown = |value: f64| format!("{} {unit}", number(value)).trim().to_owned();
        let base = floor.unwrap_or(0.0);
        let (wanted, limit) = match target {
            Target::AtMost(limit) => (format!("≤ {}", shown(*limit)), Some(*limit)),
            Target::Ratio(times) => (format!("≤ {} × floor", number(*times)), Some(base * times)),
            Target::Above(more) => (format!("≤ floor + {}", shown(*more)), Some(base + more)),
            Target::AtMostWhere { limit, then } => {
                let more = limit - then;
                let wanted = format!("≤ {}, or floor + {}", shown(*limit), shown(more));
                (wanted, Some(limit.max(base + more)))
            }
            Target::Shown => (String::new(), None),
        };
        Row {
            figure: figure.to_owned(),
            measured: shown(measured),
            floor: floor.map_or(String::new(), shown),
            ratio: floor.filter(|floor| *floor > 0.0).map_or(String::new(), |floor| format!("{:.2}", measured / floor)),
            target: wanted,
            verdict: limit
                .map_or(Verdict::Shown, |limit| if measured <= limit { Verdict::Met } else { Verdict::NotMet }),
        }
    }
    pub(crate) fn missing(figure: &str, what: &str) -> Row {
        Row { verdict: Verdict::Missing, ..Row::broken(figure, what) }
    }
    pub(crate) fn broken(figure: &str, why: &str) -> Row {
        Row {
            figure: figure.to_owned(),
            measured: why.to_owned(),
            floor: String::new(),
            ratio: String::new(),
            target: String::new(),
            verdict: Verdict::NotMet,
        }
    }
}

#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }
    pub(crate) fn is_met(&self) -> bool {
        self.rows.iter().all(|row| row.verdict != Verdict::NotMet)
    }
    pub(crate) fn print(&self) {
        let head = ["figure", "measured", "floor", "ratio", "target", ""].map(str::to_owned);
        let body = self.rows.iter().map(|row| {
            let verdict = match row.verdict {
                Verdict::Met => "met",
                Verdict::NotMet => "NOT MET",
                Verdict::Shown => "",
                Verdict::Missing => "not measured",
            };
            [&row.figure, &row.measured, &row.floor, &row.ratio, &row.target, verdict].map(|cell| cell.to_owned())
        });
        let lines: Vec<[String; 6]> = std::iter::once(head).chain(body).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..6).map(width).collect();
        let mut out = std::io::stdout().lock();
        for (at, line) in lines.iter().enumerate() {
            let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if (1..4).contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            // A reader that went away misses nothing.
            let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
            if at == 0 {
                let _ = writeln!(out, "{}", "-".repeat(widths.iter().sum::<usize>() + 10));
            }
        }
    }
}

/// A line for the person who waits.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 || value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value below which `percent` of the values lie.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

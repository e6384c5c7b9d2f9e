//! What a stage or a plan may use before a person is asked, and what it has used.

use serde::{Deserialize, Serialize};

use super::usage::Usage;

/// Caps; none: no cap. At a cap no further session starts until a person says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Budget {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
    /// Tokens without cache reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Millionths of a US dollar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_microusd: Option<u64>,
}

/// What was used, measured by the client's own records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Spent {
    pub sessions: u32,
    /// Tokens without cache reads.
    pub tokens: u64,
    /// Apart: they cost a tenth, and there are many of them.
    pub cache_read: u64,
    /// Millionths of a US dollar, as far as the client has said.
    pub cost_microusd: u64,
}

impl Spent {
    /// One more session that has used `usage`.
    #[must_use]
    pub fn plus(self, usage: Option<Usage>) -> Spent {
        let usage = usage.unwrap_or_default();
        Spent {
            sessions: self.sessions.saturating_add(1),
            tokens: self.tokens.saturating_add(usage.fresh_tokens()),
            cache_read: self.cache_read.saturating_add(usage.cache_read),
            cost_microusd: self.cost_microusd.saturating_add(usage.cost_microusd.unwrap_or(0)),
        }
    }
    /// What came after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Spent) -> Spent {
        Spent {
            sessions: self.sessions.saturating_sub(earlier.sessions),
            tokens: self.tokens.saturating_sub(earlier.tokens),
            cache_read: self.cache_read.saturating_sub(earlier.cache_read),
            cost_microusd: self.cost_microusd.saturating_sub(earlier.cost_microusd),
        }
    }
}

impl Budget {
    /// An amount in dollars as a cap, rounded to millionths; none for one that is no cap.
    pub fn microusd_of(dollars: f64) -> Option<u64> {
        let micro = (dollars * 1e6).round();
        // A number in this range has an exact integer.
        (1.0..=1e12).contains(&micro).then(|| format!("{micro:.0}").parse().ok())?
    }
    pub fn is_empty(&self) -> bool {
        *self == Budget::default()
    }
    /// Each cap of this one, else that of `other`.
    #[must_use]
    pub fn or(self, other: Budget) -> Budget {
        Budget {
            sessions: self.sessions.or(other.sessions),
            tokens: self.tokens.or(other.tokens),
            cost_microusd: self.cost_microusd.or(other.cost_microusd),
        }
    }
    /// The caps that can be met while a session works.
    #[must_use]
    pub fn of_work(self) -> Budget {
        Budget { sessions: None, ..self }
    }
    /// The first cap that is met, in words such as `4.2 M of 4 M tokens`.
    pub fn reached_by(&self, spent: Spent) -> Option<String> {
        let met = |cap: Option<u64>, used: u64| cap.is_some_and(|cap| used >= cap);
        let words = self.words(spent);
        [
            met(self.sessions.map(u64::from), spent.sessions.into()),
            met(self.tokens, spent.tokens),
            met(self.cost_microusd, spent.cost_microusd),
        ]
        .into_iter()
        .zip(words)
        .find_map(|(is_met, words)| words.filter(|_| is_met))
    }
    /// Each cap with what was used of it; none where there is no cap.
    pub fn words(&self, spent: Spent) -> [Option<String>; 3] {
        [
            self.sessions.map(|cap| format!("{} of {}", spent.sessions, sessions(cap))),
            self.tokens.map(|cap| format!("{} of {} tokens", short(spent.tokens), short(cap))),
            self.cost_microusd.map(|cap| format!("{} of {}", dollars(spent.cost_microusd), dollars(cap))),
        ]
    }
}

/// A cap of sessions as a person says it.
pub fn sessions(cap: u32) -> String {
    if cap == 1 { "1 session".to_owned() } else { format!("{cap} sessions") }
}

/// A count as a person says it: `4.2 M`, rounded down.
pub fn short(count: u64) -> String {
    let (unit, name) = match count {
        1_000_000_000.. => (1_000_000_000, " G"),
        1_000_000.. => (1_000_000, " M"),
        10_000.. => (1_000, " k"),
        _ => return count.to_string(),
    };
    match (count / unit, count % unit * 10 / unit) {
        (whole, 0) => format!("{whole}{name}"),
        (whole, tenth) => format!("{whole}.{tenth}{name}"),
    }
}

/// Millionths of a dollar as a person says them, rounded down to a cent.
pub fn dollars(micro: u64) -> String {
    format!("${}.{:02}", micro / 1_000_000, micro % 1_000_000 / 10_000)
}

/// What happens when a usage limit of the account is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLimit {
    /// Everything waits and goes on by itself when it is lifted.
    #[default]
    Resume,
    /// A person is asked whether it then goes on.
    Ask,
    /// The plan pauses until a person starts it again.
    Stop,
}

impl OnLimit {
    pub const NAMES: [&'static str; 3] = ["resume", "ask", "stop"];
    pub fn as_str(self) -> &'static str {
        match self {
            OnLimit::Resume => "resume",
            OnLimit::Ask => "ask",
            OnLimit::Stop => "stop",
        }
    }
}

impl std::str::FromStr for OnLimit {
    type Err = String;
    /// # Errors
    /// The names that there are.
    fn from_str(name: &str) -> Result<OnLimit, String> {
        let all = [OnLimit::Resume, OnLimit::Ask, OnLimit::Stop];
        all.into_iter().find(|policy| policy.as_str() == name).ok_or_else(|| "one of resume, ask, stop".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_amounts_are_said_shortly_and_never_rounded_up() {
        for (count, text) in [
            (0, "0"),
            (9_999, "9999"),
            (12_345, "12.3 k"),
            (999_999, "999.9 k"),
            (4_000_000, "4 M"),
            (4_290_000, "4.2 M"),
            (3_000_000_000, "3 G"),
            (u64::MAX, "18446744073.7 G"),
        ] {
            assert_eq!(short(count), text);
        }
        for (micro, text) in [(0, "$0.00"), (19_999, "$0.01"), (5_000_000, "$5.00"), (12_349_999, "$12.34")] {
            assert_eq!(dollars(micro), text);
        }
    }

    #[test]
    fn the_first_cap_that_is_met_is_said_and_cache_reads_count_for_none() {
        let budget = Budget { sessions: Some(3), tokens: Some(4_000_000), cost_microusd: Some(5_000_000) };
        let spent = Spent { sessions: 2, tokens: 3_999_999, cache_read: u64::MAX, cost_microusd: 4_999_999 };
        assert_eq!(budget.reached_by(spent), None);
        assert_eq!(Budget::default().reached_by(spent), None);
        let met = |spent| budget.reached_by(spent).unwrap();
        assert_eq!(met(Spent { sessions: 3, ..spent }), "3 of 3 sessions");
        assert_eq!(met(Spent { tokens: 4_200_000, ..spent }), "4.2 M of 4 M tokens");
        assert_eq!(met(Spent { cost_microusd: 5_120_000, ..spent }), "$5.12 of $5.00");
        assert_eq!(
            Budget { sessions: Some(0), ..Budget::default() }.reached_by(Spent::default()).unwrap(),
            "0 of 0 sessions"
        );
        assert_eq!(budget.of_work().reached_by(Spent { sessions: 9, ..spent }), None);
    }
}

//! What a session has used: its context window, tokens and money, as measured
//! from the agent CLI's own records.

use serde::{Deserialize, Serialize};

use super::limits::{CONTEXT_BUDGET_MAX, CONTEXT_YELLOW, USAGE_STEP_MICROUSD, USAGE_STEP_TOKENS};

/// One measurement. Tokens are summed over the session, cache reads apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens in the context window now.
    pub context: u64,
    /// Tokens that the window holds.
    pub window: u64,
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write: u64,
    /// Millionths of a US dollar; none: the client has not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_microusd: Option<u64>,
}

impl Usage {
    /// How much of the context window is used, in percent; 0 when its size is not known.
    pub fn percent(&self) -> u32 {
        let percent = self.context.saturating_mul(100).checked_div(self.window).unwrap_or(0);
        u32::try_from(percent).unwrap_or(u32::MAX)
    }
    /// Whether `other` is worth telling: another percentage, or noticeably more used.
    pub fn is_far_from(&self, other: &Usage) -> bool {
        let cost = |usage: &Usage| usage.cost_microusd.unwrap_or(0);
        self.percent() != other.percent()
            || self.fresh_tokens().abs_diff(other.fresh_tokens()) >= USAGE_STEP_TOKENS
            || cost(self).abs_diff(cost(other)) >= USAGE_STEP_MICROUSD
    }
    /// Tokens that count against a budget: all but cache reads.
    pub fn fresh_tokens(&self) -> u64 {
        self.input.saturating_add(self.output).saturating_add(self.cache_write)
    }
    pub fn plus(self, other: Usage) -> Usage {
        Usage {
            context: self.context.max(other.context),
            window: self.window.max(other.window),
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
            cache_read: self.cache_read.saturating_add(other.cache_read),
            cache_write: self.cache_write.saturating_add(other.cache_write),
            cost_microusd: match (self.cost_microusd, other.cost_microusd) {
                (None, cost) | (cost, None) => cost,
                (Some(a), Some(b)) => Some(a.saturating_add(b)),
            },
        }
    }
}

/// How near a session is to its context budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Zone {
    Green,
    /// It should get ready to hand off.
    Yellow,
    /// It has to hand off.
    Red,
}

impl Zone {
    /// Green below 50 percent, red from `budget` on. A budget that the client would compact
    /// before acts as [`CONTEXT_BUDGET_MAX`].
    pub fn of(percent: u32, budget: u32) -> Zone {
        match percent {
            _ if percent >= budget.min(CONTEXT_BUDGET_MAX) => Zone::Red,
            _ if percent >= CONTEXT_YELLOW => Zone::Yellow,
            _ => Zone::Green,
        }
    }
    pub fn as_str(self) -> &'static str {
        match self {
            Zone::Green => "green",
            Zone::Yellow => "yellow",
            Zone::Red => "red",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_follow_the_budget() {
        for (percent, budget, zone) in [
            (0, 65, Zone::Green),
            (49, 65, Zone::Green),
            (50, 65, Zone::Yellow),
            (64, 65, Zone::Yellow),
            (65, 65, Zone::Red),
            (30, 30, Zone::Red),
            (29, 30, Zone::Green),
            (79, 100, Zone::Yellow),
            (80, 100, Zone::Red),
        ] {
            assert_eq!(Zone::of(percent, budget), zone, "{percent} of {budget}");
        }
    }

    #[test]
    fn a_window_of_unknown_size_is_never_full() {
        assert_eq!(Usage { context: 5_000_000, ..Usage::default() }.percent(), 0);
        assert_eq!(Usage { context: 130_000, window: 200_000, ..Usage::default() }.percent(), 65);
    }
}

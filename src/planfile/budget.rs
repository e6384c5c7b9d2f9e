//! What may be used: `budget` of the plan and of a stage, and `on_limit`.

use super::fields;
use super::reader::Reader;
use super::yaml::{Node, Value};
use crate::model::budget::{Budget, OnLimit};
use crate::model::limits::{BUDGET_SESSIONS_MAX, BUDGET_TOKENS_MAX};

impl Reader<'_, '_> {
    pub fn budget(&mut self, node: &Node<'_>) -> Budget {
        let fields = self.fields(node, fields::BUDGET, "`budget`");
        let sessions = fields.get("sessions").and_then(|n| self.int(n, "sessions", 1, i64::from(BUDGET_SESSIONS_MAX)));
        let tokens = fields.get("tokens").and_then(|n| self.int(n, "tokens", 1, BUDGET_TOKENS_MAX));
        Budget {
            sessions: sessions.and_then(|n| u32::try_from(n).ok()),
            tokens: tokens.and_then(|n| u64::try_from(n).ok()),
            cost_microusd: fields.get("cost_usd").and_then(|node| self.amount(node, "cost_usd")),
        }
    }

    pub fn on_limit(&mut self, node: &Node<'_>) -> Option<OnLimit> {
        self.one_of(node, "on_limit", &OnLimit::NAMES)?.parse().ok()
    }

    /// Dollars, such as `5` or `2.50`, in millionths.
    fn amount(&mut self, node: &Node<'_>, name: &str) -> Option<u64> {
        let micro = match &node.value {
            Value::Int(whole) => microusd(&whole.to_string()),
            Value::Number(text) => microusd(text),
            _ => None,
        };
        if micro.is_none() {
            self.wrong_type(node, name, "an amount in US dollars above 0, such as `5` or `2.50`");
        }
        micro
    }
}

fn microusd(text: &str) -> Option<u64> {
    Budget::microusd_of(text.parse().ok()?)
}

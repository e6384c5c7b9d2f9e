//! The policy for an agent's tool calls.

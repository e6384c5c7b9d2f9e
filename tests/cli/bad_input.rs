//! Bad input: each message says what is wrong and what to type next.

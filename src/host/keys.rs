//! What a viewer types, cut where it asks to leave. Ctrl-\ arrives as one byte
//! or, from terminals with extended keyboards, as an escape sequence, which a
//! read may split anywhere.

/// What to do with typed bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Typed {
    /// For the agent.
    pub bytes: Vec<u8>,
    /// The rest is not for it: the viewer leaves.
    pub detaches: bool,
}

/// Looks for the detach key in a stream of typed bytes.
#[derive(Debug, Default)]
pub struct Keys {
    /// The beginning of what may be an escape sequence.
    held: Vec<u8>,
}

/// Longer sequences are not keys.
const SEQUENCE_BYTES_MAX: usize = 32;
const CONTROL_BACKSLASH: u8 = 0x1c;

impl Keys {
    /// Takes what was read.
    pub fn take(&mut self, read: &[u8]) -> Typed {
        let mut bytes = Vec::with_capacity(read.len());
        for byte in read {
            if *byte == CONTROL_BACKSLASH {
                bytes.append(&mut self.held);
                return Typed { bytes, detaches: true };
            }
            // A sequence that another one interrupts was none.
            if *byte == 0x1b || self.held.len() >= SEQUENCE_BYTES_MAX {
                bytes.append(&mut self.held);
            }
            if *byte != 0x1b && self.held.is_empty() {
                bytes.push(*byte);
                continue;
            }
            self.held.push(*byte);
            match self.held.as_slice() {
                [0x1b] | [0x1b, b'['] => {}
                [0x1b, b'[', .., last] if !last.is_ascii_alphabetic() && *last != b'~' => {}
                [0x1b, b'[', parameters @ .., last] if is_detach(parameters, *last) => {
                    self.held.clear();
                    return Typed { bytes, detaches: true };
                }
                _ => bytes.append(&mut self.held),
            }
        }
        Typed { bytes, detaches: false }
    }
    /// Whether something is held back until more is read or some time has passed.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }
    /// Gives up waiting: what was held back was typed as it is.
    pub fn release(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

/// `92;5u` of the kitty keyboard protocol, `27;5;92~` of xterm's modifyOtherKeys. Locks count as
/// modifiers in the first one and are ignored; so is the release of the key.
fn is_detach(parameters: &[u8], last: u8) -> bool {
    let Ok(text) = std::str::from_utf8(parameters) else { return false };
    let fields: Vec<&str> = text.split(';').collect();
    match (fields.as_slice(), last) {
        (["27", modifiers, "92"], b'~') => is_control(modifiers),
        ([key, modifiers, ..], b'u') => key.split(':').next() == Some("92") && is_control(modifiers),
        _ => false,
    }
}

fn is_control(modifiers: &str) -> bool {
    const CONTROL: u16 = 4;
    const LOCKS: u16 = 64 | 128;
    let (number, kind) = modifiers.split_once(':').unwrap_or((modifiers, "1"));
    let pressed = number.parse::<u16>().ok().and_then(|number| number.checked_sub(1));
    pressed.is_some_and(|mask| mask & !LOCKS == CONTROL) && kind != "3"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types `input` in every possible split into two reads.
    fn check(input: &[u8], bytes: &[u8], detaches: bool) {
        for cut in 0..=input.len() {
            let mut keys = Keys::default();
            let mut typed = keys.take(&input[..cut]);
            if !typed.detaches {
                let more = keys.take(&input[cut..]);
                typed.bytes.extend(more.bytes);
                typed.detaches = more.detaches;
            }
            if !typed.detaches {
                typed.bytes.extend(keys.release());
            }
            assert_eq!(typed, Typed { bytes: bytes.to_vec(), detaches }, "cut at {cut}");
        }
    }

    #[test]
    fn the_detach_key_is_known_in_every_form() {
        check(b"ab\x1ccd", b"ab", true);
        check(b"ab\x1b[92;5ucd", b"ab", true);
        check(b"\x1b[27;5;92~", b"", true);
        check(b"\x1b[92;133u", b"", true);
        check(b"\x1b[92;5:1u", b"", true);
    }

    #[test]
    fn everything_else_is_typed() {
        for typed in [
            &b"plain \x1b"[..],
            b"\x1b[A\x1bOP\x1b\x1b[B\x1bx",
            b"\x1b[92;6u\x1b[93;5u\x1b[92;5:3u\x1b[27;5;93~",
            b"\x1b[200~pasted\x1b[201~",
            b"\x1b[<0;10;20M\x1b[I",
            b"\x1b[1111111111111111111111111111111111111111111111111111u",
            "ünï\u{1f600}".as_bytes(),
        ] {
            check(typed, typed, false);
        }
    }
}

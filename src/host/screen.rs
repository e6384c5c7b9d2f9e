//! The emulated screen of an agent on a terminal: what it shows now, what a
//! viewer has to be sent to show the same, and the answers to the agent's
//! device queries. Viewers never see a query, so each is answered once.

use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::spec::TerminalSize;
use crate::model::limits::{SCREEN_COLS_MAX, SCREEN_ROWS_MAX, SCROLLBACK_ROWS};

/// A terminal that exists only in memory.
pub struct Screen {
    parser: vt100::Parser<Answers>,
}

/// What one viewer's terminal shows, as far as it was told.
#[derive(Debug, Default)]
pub struct Shown {
    rows: Vec<String>,
    modes: String,
    cursor: String,
    bells: u64,
    /// Size of the screen and of the viewer.
    sizes: Option<(TerminalSize, TerminalSize)>,
}

impl Screen {
    pub fn new(size: TerminalSize) -> Screen {
        let size = clamp(size);
        let parser =
            vt100::Parser::new_with_callbacks(cells(size.rows), cells(size.cols), SCROLLBACK_ROWS, Answers::default());
        Screen { parser }
    }
    /// Feeds output of the agent.
    pub fn feed(&mut self, bytes: &[u8]) {
        // A defect of the emulator must not end the agent: its screen starts afresh instead.
        if catch_unwind(AssertUnwindSafe(|| self.parser.process(bytes))).is_err() {
            *self = Screen::new(self.size());
        }
    }
    /// Answers to device queries since the last call, to be typed to the agent.
    pub fn take_answers(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.parser.callbacks_mut().bytes)
    }
    pub fn size(&self) -> TerminalSize {
        let (rows, cols) = self.parser.screen().size();
        TerminalSize { rows: rows.get(), cols: cols.get() }
    }
    /// Changes the size; answers with the one that it has now.
    pub fn resize(&mut self, size: TerminalSize) -> TerminalSize {
        let size = clamp(size);
        let resized = catch_unwind(AssertUnwindSafe(|| self.parser.set_size(cells(size.rows), cells(size.cols))));
        if resized.is_err() {
            *self = Screen::new(size);
        }
        size
    }
    /// What brings a viewer of this size from `shown` to the present; empty when it is there.
    /// A smaller viewer sees the top left part.
    pub fn paint(&self, viewer: TerminalSize, shown: &mut Shown) -> Vec<u8> {
        let mut out = String::new();
        let screen = self.parser.screen();
        let sizes = Some((self.size(), viewer));
        if shown.sizes != sizes {
            *shown = Shown { sizes, bells: self.parser.callbacks().bells, ..Shown::default() };
            out.push_str("\x1b[m\x1b[H\x1b[2J");
        }
        self.paint_rows(viewer, shown, &mut out);
        let modes = screen.input_mode_formatted();
        if shown.modes != modes {
            out.push_str(&modes);
            shown.modes = modes;
        }
        let cursor = self.cursor(viewer);
        if shown.cursor != cursor || !out.is_empty() {
            out.push_str(&cursor);
            shown.cursor = cursor;
        }
        if shown.bells != self.parser.callbacks().bells {
            shown.bells = self.parser.callbacks().bells;
            out.push('\x07');
        }
        out.into_bytes()
    }
    fn paint_rows(&self, viewer: TerminalSize, shown: &mut Shown, out: &mut String) {
        let mine = self.size();
        // Another width than its own makes the emulator treat rows one by one, without wrapping.
        let width = if viewer.cols >= mine.cols { u16::MAX } else { viewer.cols };
        let rows = self.parser.screen().rows_formatted(0, width);
        for (at, row) in rows.take(usize::from(viewer.rows)).enumerate() {
            let was = shown.rows.get(at).map_or("", String::as_str);
            if was != row {
                // Hidden while it jumps; `cursor` shows it again.
                if !out.starts_with("\x1b[?25l") {
                    out.insert_str(0, "\x1b[?25l");
                }
                out.push_str(&format!("\x1b[{};1H\x1b[m\x1b[2K{row}\x1b[m", at + 1));
            }
            if at < shown.rows.len() {
                shown.rows[at] = row;
            } else {
                shown.rows.push(row);
            }
        }
    }
    fn cursor(&self, viewer: TerminalSize) -> String {
        let screen = self.parser.screen();
        let (row, col) = screen.cursor_position();
        let col = col.min(self.size().cols - 1);
        if screen.hide_cursor() || row >= viewer.rows || col >= viewer.cols {
            return "\x1b[?25l".to_owned();
        }
        format!("\x1b[{};{}H\x1b[?25h", row + 1, col + 1)
    }
    /// The visible text, a line a row, without trailing blanks.
    #[cfg(test)]
    fn text(&self) -> String {
        self.parser.screen().contents()
    }
}

fn clamp(size: TerminalSize) -> TerminalSize {
    TerminalSize { rows: size.rows.clamp(1, SCREEN_ROWS_MAX), cols: size.cols.clamp(1, SCREEN_COLS_MAX) }
}

fn cells(n: u16) -> NonZeroU16 {
    NonZeroU16::new(n).unwrap_or(NonZeroU16::MIN)
}

/// Collects what the agent's terminal has to say to the agent.
#[derive(Debug, Default)]
struct Answers {
    bytes: Vec<u8>,
    bells: u64,
}

impl Answers {
    fn say(&mut self, answer: &str) {
        self.bytes.extend_from_slice(answer.as_bytes());
    }
}

/// The first number of a sequence, 0 when it has none.
fn number(params: &[&[u16]], at: usize) -> u16 {
    params.get(at).and_then(|param| param.first()).copied().unwrap_or(0)
}

impl vt100::Callbacks for Answers {
    fn audible_bell(&mut self, _: &mut vt100::Screen) {
        self.bells += 1;
    }
    fn unhandled_csi(
        &mut self,
        screen: &mut vt100::Screen,
        first: Option<u8>,
        second: Option<u8>,
        params: &[&[u16]],
        end: char,
    ) {
        let n = number(params, 0);
        match (first, second, end) {
            // Device attributes: a VT220 with colour, nothing else.
            (None, None, 'c') if n == 0 => self.say("\x1b[?62;22c"),
            (Some(b'>'), None, 'c') if n == 0 => self.say("\x1b[>1;1;0c"),
            (None, None, 'n') if n == 5 => self.say("\x1b[0n"),
            (None | Some(b'?'), None, 'n') if n == 6 => {
                let ((row, col), (_, cols)) = (screen.cursor_position(), screen.size());
                let mark = if first.is_some() { "?" } else { "" };
                self.say(&format!("\x1b[{mark}{};{}R", row + 1, col.min(cols.get() - 1) + 1));
            }
            (Some(b'>'), None, 'q') if n == 0 => {
                self.say(concat!("\x1bP>|loom(", env!("CARGO_PKG_VERSION"), ")\x1b\\"));
            }
            // The kitty keyboard protocol: known, nothing switched on.
            (Some(b'?'), None, 'u') => self.say("\x1b[?0u"),
            (Some(b'?'), Some(b'$'), 'p') => self.say(&format!("\x1b[?{n};0$y")),
            (Some(b'$'), None, 'p') => self.say(&format!("\x1b[{n};0$y")),
            (None, None, 't') if n == 18 => {
                let (rows, cols) = screen.size();
                self.say(&format!("\x1b[8;{rows};{cols}t"));
            }
            _ => {}
        }
    }
    fn unhandled_osc(&mut self, _: &mut vt100::Screen, params: &[&[u8]]) {
        match params {
            [b"10", b"?"] => self.say("\x1b]10;rgb:d0d0/d0d0/d0d0\x1b\\"),
            [b"11", b"?"] => self.say("\x1b]11;rgb:0000/0000/0000\x1b\\"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: TerminalSize = TerminalSize { rows: 3, cols: 10 };

    /// Feeds `output`, paints into a second terminal and compares.
    fn check(chunks: &[&str], viewer: TerminalSize, expected: &str) {
        let mut screen = Screen::new(SIZE);
        let mut shown = Shown::default();
        let mut mirror = Screen::new(viewer);
        for chunk in chunks {
            screen.feed(chunk.as_bytes());
            mirror.feed(&screen.paint(viewer, &mut shown));
        }
        assert_eq!(mirror.text(), expected);
        assert_eq!(screen.paint(viewer, &mut shown), b"", "nothing is painted twice");
    }

    #[test]
    fn a_viewer_shows_what_the_screen_shows() {
        check(&["one\r\ntwo"], SIZE, "one\ntwo");
        check(&["one\r\ntwo", "\x1b[2J\x1b[Hx"], SIZE, "x");
        check(&["0123456789abc", "\x1b[H\x1b[31mX\x1b[m"], SIZE, "X123456789\nabc");
        check(&["\x1b[?1049h", "in\x1b[3;10Hz", "\x1b[?1049l"], SIZE, "");
        check(&["漢字漢字漢", "\r\n\u{1f600}!"], SIZE, "漢字漢字漢\n\u{1f600}!");
    }

    #[test]
    fn a_smaller_viewer_sees_the_top_left_and_a_larger_one_all() {
        check(&["0123456789\r\nab\r\ncd"], TerminalSize { rows: 2, cols: 4 }, "0123\nab");
        check(&["0123456789\r\nab\r\ncd"], TerminalSize { rows: 9, cols: 40 }, "0123456789\nab\ncd");
    }

    #[test]
    fn a_resized_screen_is_painted_anew() {
        let mut screen = Screen::new(SIZE);
        let mut shown = Shown::default();
        screen.feed(b"hello");
        screen.paint(SIZE, &mut shown);
        screen.resize(TerminalSize { rows: 5, cols: 10 });
        let paint = String::from_utf8(screen.paint(SIZE, &mut shown)).unwrap();
        assert!(paint.contains("\x1b[2J") && paint.contains("hello"), "{paint:?}");
        assert_eq!(screen.resize(TerminalSize { rows: 0, cols: u16::MAX }), TerminalSize { rows: 1, cols: 500 });
    }

    #[test]
    fn device_queries_are_answered_where_they_were_asked() {
        let mut screen = Screen::new(SIZE);
        screen.feed(b"ab\x1b[6n\x1b[5n\x1b[c\x1b[>c\x1b[?u\x1b[?2026$p\x1b[18t\x1b]11;?\x07");
        let answers = String::from_utf8(screen.take_answers()).unwrap();
        let expected = "\x1b[1;3R\x1b[0n\x1b[?62;22c\x1b[>1;1;0c\x1b[?0u\x1b[?2026;0$y\x1b[8;3;10t\
                        \x1b]11;rgb:0000/0000/0000\x1b\\";
        assert_eq!(answers, expected);
        assert_eq!(screen.take_answers(), b"");
    }

    #[test]
    fn modes_reach_a_viewer_and_clipboards_do_not() {
        let mut screen = Screen::new(SIZE);
        let mut shown = Shown::default();
        screen.paint(SIZE, &mut shown);
        screen.feed(b"\x1b[?2004h\x1b[?1006h\x1b[?1002h\x1b]52;c;aGk=\x07\x1b]0;title\x07\x07");
        let paint = String::from_utf8(screen.paint(SIZE, &mut shown)).unwrap();
        assert!(paint.contains("\x1b[?2004h") && paint.contains("\x1b[?1002h"), "{paint:?}");
        assert!(!paint.contains("]52") && !paint.contains("title"), "{paint:?}");
        assert!(paint.ends_with('\x07'), "{paint:?}");
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut screen = Screen::new(SIZE);
        let alphabet = b"\x1b[?;0199HJKmrhlLMPST\xff\0\x9b\xe6\xbc\xa2\n\r\x08";
        let mut noise = 1_u32;
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..64)
                .map(|_| {
                    noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    alphabet[(noise >> 20) as usize % alphabet.len()]
                })
                .collect();
            screen.feed(&bytes);
            screen.resize(TerminalSize { rows: 1 + (noise >> 20) as u16 % 9, cols: 1 + (noise >> 10) as u16 % 19 });
            screen.paint(TerminalSize { rows: 4, cols: 5 }, &mut Shown::default());
        }
    }
}

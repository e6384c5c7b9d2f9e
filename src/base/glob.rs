//! Globs as plans write them: `*` and `?` stay inside one folder, `**` crosses
//! folders, `{a,b}` and `[a-z]` choose. A path without any of them that names a
//! folder means everything in it.

use globset::{Error, Glob, GlobBuilder, GlobSet, GlobSetBuilder};

/// Most alternatives that the braces of one pattern are written out to.
const ALTERNATIVES_MAX: usize = 64;
/// Characters with a meaning in a pattern.
const WILD: [char; 5] = ['*', '?', '[', '{', '\\'];

/// Whether a pattern is more than a path.
pub fn is_wild(pattern: &str) -> bool {
    pattern.contains(WILD)
}

/// `pattern`, relative to the folder `base`, as seen from the top of the tree: without `./`,
/// doubled and final slashes.
pub fn from_top(base: &str, pattern: &str) -> String {
    let parts = base.split('/').chain(pattern.split('/')).filter(|part| !matches!(*part, "" | "."));
    let joined: Vec<&str> = parts.collect();
    joined.join("/")
}

/// One pattern.
///
/// # Errors
/// When it is not a glob.
pub fn compile(pattern: &str) -> Result<Glob, Error> {
    GlobBuilder::new(pattern).literal_separator(true).build()
}

/// Several patterns at once, each relative to the folder `base`.
#[derive(Debug, Clone)]
pub struct Globs {
    set: GlobSet,
    /// Which pattern each glob of the set belongs to.
    owner: Vec<usize>,
}

impl Globs {
    /// # Errors
    /// The first pattern that is not a glob.
    pub fn new<'p>(base: &str, patterns: impl IntoIterator<Item = &'p str>) -> Result<Globs, Error> {
        let mut set = GlobSetBuilder::new();
        let mut owner = Vec::new();
        for (number, pattern) in patterns.into_iter().enumerate() {
            let pattern = from_top(base, pattern);
            if !is_wild(&pattern) {
                set.add(compile(&format!("{pattern}/**"))?);
                owner.push(number);
            }
            set.add(compile(&pattern)?);
            owner.push(number);
        }
        Ok(Globs { set: set.build()?, owner })
    }

    /// Whether one of the patterns means `path`, which starts at the top of the tree.
    pub fn is_match(&self, path: &str) -> bool {
        self.set.is_match(path)
    }

    /// The numbers of the patterns that mean `path`, in order.
    pub fn matches(&self, path: &str) -> Vec<usize> {
        let mut numbers: Vec<usize> = self.set.matches(path).into_iter().map(|at| self.owner[at]).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

/// What a pattern can mean, to be compared with another one without any files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The braces written out: in each, the parts between slashes. None: too many to write out.
    alternatives: Option<Vec<Vec<String>>>,
}

impl Reach {
    pub fn of(base: &str, pattern: &str) -> Reach {
        let pattern = from_top(base, pattern);
        let is_path = !is_wild(&pattern);
        let mut all = vec![pattern];
        while let Some(at) = all.iter().position(|pattern| braces(pattern).is_some()) {
            let pattern = all.swap_remove(at);
            let Some((open, close)) = braces(&pattern) else { break };
            for choice in choices(&pattern[open + 1..close]) {
                all.push(format!("{}{choice}{}", &pattern[..open], &pattern[close + 1..]));
            }
            if all.len() > ALTERNATIVES_MAX {
                return Reach { alternatives: None };
            }
        }
        let parts = |pattern: String| {
            let mut parts: Vec<String> = pattern.split('/').map(str::to_owned).collect();
            if is_path {
                parts.push("**".to_owned());
            }
            parts
        };
        Reach { alternatives: Some(all.into_iter().map(parts).collect()) }
    }

    /// Whether some path could be meant by both. Character classes count as any character, so that
    /// the answer may be yes where it is no, never the other way round.
    pub fn overlaps(&self, other: &Reach) -> bool {
        let (Some(ours), Some(theirs)) = (&self.alternatives, &other.alternatives) else { return true };
        ours.iter().any(|one| theirs.iter().any(|another| paths_meet(one, another)))
    }

    /// Whether it could mean this path, with the same caution.
    pub fn means(&self, path: &str) -> bool {
        let Some(ours) = &self.alternatives else { return true };
        let path: Vec<String> = path.split('/').map(str::to_owned).collect();
        ours.iter().any(|one| meet(one, &path, |part| part == "**", |a, b| parts_mean(a, b)))
    }
}

/// The outermost first pair of braces.
fn braces(pattern: &str) -> Option<(usize, usize)> {
    let (mut open, mut depth, mut escaped, mut in_class) = (0, 0_usize, false, false);
    for (at, c) in pattern.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '{' if !in_class => {
                if depth == 0 {
                    open = at;
                }
                depth += 1;
            }
            '}' if !in_class && depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    return Some((open, at));
                }
            }
            _ => {}
        }
    }
    None
}

/// The texts between the commas of one pair of braces.
fn choices(inner: &str) -> Vec<&str> {
    let (mut start, mut depth, mut escaped) = (0, 0_usize, false);
    let mut all = Vec::new();
    for (at, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                all.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    all.push(&inner[start..]);
    all
}

/// Whether two lists meet, where `is_many` items stand for any number of the other's.
fn meet<T>(ours: &[T], theirs: &[T], is_many: impl Fn(&T) -> bool, is_same: impl Fn(&T, &T) -> bool) -> bool {
    // Row by row: whether the first i of ours and the first j of theirs can mean the same.
    let mut above = vec![false; theirs.len() + 1];
    for i in 0..=ours.len() {
        let mut row = vec![false; theirs.len() + 1];
        row[0] = i == 0 || above[0] && is_many(&ours[i - 1]);
        for j in 1..=theirs.len() {
            let (up, left) = (i > 0 && above[j], row[j - 1]);
            row[j] = is_many(&theirs[j - 1]) && (left || up)
                || i > 0 && is_many(&ours[i - 1]) && (left || up)
                || i > 0 && above[j - 1] && is_same(&ours[i - 1], &theirs[j - 1]);
        }
        above = row;
    }
    above[theirs.len()]
}

fn paths_meet(ours: &[String], theirs: &[String]) -> bool {
    let is_many = |part: &String| part == "**";
    meet(ours, theirs, is_many, |a, b| parts_meet(a, b))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    Any,
    Run,
}

/// As [`parts_meet`], where the second one is a name and no pattern.
fn parts_mean(pattern: &str, name: &str) -> bool {
    if !is_wild(pattern) {
        return pattern == name;
    }
    let name: Vec<Token> = name.chars().map(Token::Char).collect();
    let is_same = |a: &Token, b: &Token| *a == Token::Any || a == b;
    meet(&tokens(pattern), &name, |token| *token == Token::Run, is_same)
}

fn parts_meet(ours: &str, theirs: &str) -> bool {
    if !is_wild(ours) && !is_wild(theirs) {
        return ours == theirs;
    }
    let is_same = |a: &Token, b: &Token| *a == Token::Any || *b == Token::Any || a == b;
    meet(&tokens(ours), &tokens(theirs), |token| *token == Token::Run, is_same)
}

fn tokens(part: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = part.chars();
    while let Some(c) = rest.next() {
        tokens.push(match c {
            '*' => Token::Run,
            '?' => Token::Any,
            '[' => {
                let class: Vec<char> = rest.clone().collect();
                // A bracket that comes first, or behind a negation, is part of the class.
                let first = usize::from(matches!(class.first(), Some('!' | '^')));
                let end = class.iter().skip(first + 1).position(|c| *c == ']').map(|at| at + first + 1);
                match end {
                    Some(end) => {
                        rest.nth(end);
                        Token::Any
                    }
                    None => Token::Char('['),
                }
            }
            '\\' => Token::Char(rest.next().unwrap_or('\\')),
            c => Token::Char(c),
        });
    }
    tokens
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn overlap(a: &str, b: &str) -> bool {
        let (a, b) = (Reach::of(".", a), Reach::of(".", b));
        assert_eq!(a.overlaps(&b), b.overlaps(&a));
        a.overlaps(&b)
    }

    #[test]
    fn patterns_that_can_mean_one_file_overlap() {
        for (a, b) in [
            ("src/**", "src/api/mod.rs"),
            ("src/**/*.rs", "src/mod.rs"),
            ("**/*.rs", "src/api"),
            ("src/**/mod.rs", "src/api"),
            ("src/*.rs", "src/m*"),
            ("src", "src/api/mod.rs"),
            ("src/", "./src//api"),
            ("{src,tests}/a.rs", "tests/*.rs"),
            ("{a/b,c}/x", "a/*/x"),
            ("a/**/b/**/c", "a/b/b/c"),
            ("**", "x"),
            ("a?c", "a[b-z]c"),
        ] {
            assert!(overlap(a, b), "{a} {b}");
        }
    }

    #[test]
    fn patterns_without_a_common_file_do_not() {
        for (a, b) in [
            ("src/*.rs", "src/api/mod.rs"),
            ("src/a/**", "src/b/**"),
            ("*.rs", "*.md"),
            ("src/*.rs", "srcs/*.rs"),
            ("{a,b}/x", "c/x"),
            ("a/**/b", "a/**/c"),
            ("src/**/mod.rs", "src/**/lib.rs"),
            ("a", "ab"),
        ] {
            assert!(!overlap(a, b), "{a} {b}");
        }
    }

    #[test]
    fn a_star_stays_in_its_folder_and_a_folder_means_what_is_in_it() {
        let globs = Globs::new("crates/api", ["src/*.rs", "doc", "./**/*.sql"]).unwrap();
        assert_eq!(globs.matches("crates/api/src/a.rs"), [0]);
        assert!(!globs.is_match("crates/api/src/a/b.rs"));
        assert_eq!(globs.matches("crates/api/doc/x/y.sql"), [1, 2]);
        assert!(!globs.is_match("src/a.rs"));
    }

    const PARTS: [&str; 12] = ["a", "b", "*", "?", "**", "a*", "*b", "{a,b}", "[ab]", "{a/b,c}", "ab", "[!a]?"];

    proptest! {
        /// Whatever a path shows to be meant by both has to be seen without it.
        #[test]
        fn an_overlap_is_never_missed(
            a in proptest::collection::vec(proptest::sample::select(&PARTS[..]), 1..5),
            b in proptest::collection::vec(proptest::sample::select(&PARTS[..]), 1..5),
            path in proptest::collection::vec(proptest::sample::select(&["a", "b", "c", "ab", "bb"][..]), 1..6),
        ) {
            let (a, b, path) = (a.join("/"), b.join("/"), path.join("/"));
            let is_match = |pattern: &str| Globs::new(".", [pattern]).unwrap().is_match(&path);
            if is_match(&a) && is_match(&b) {
                prop_assert!(overlap(&a, &b), "{a} {b} {path}");
            }
        }
    }
}

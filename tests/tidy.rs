//! The style and the layers of Loom, as tests: what `src/lib.rs` draws and what
//! reviewers would otherwise have to say again and again.

#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 700;
const ARCHITECTURE_LINES_MAX: usize = 200;

/// What each module may import besides itself. Adapters know `model` and `base` and not each
/// other; whatever goes beyond that is said here, with its reason.
const LAYERS: [(&str, &[&str]); 18] = [
    ("model", &[]),
    ("kernel", &["model"]),
    ("base", &["model"]),
    ("journal", &["model", "base"]),
    // A view is rendered from the world.
    ("views", &["model", "base", "kernel"]),
    ("planfile", &["model", "base"]),
    ("git", &["model", "base"]),
    ("guard", &["model", "base"]),
    ("terminal", &["model", "base"]),
    ("wire", &["model", "base"]),
    ("config", &["model", "base"]),
    ("notify", &["model", "base"]),
    ("host", &["model", "base"]),
    // A backend describes a launch in the host's words.
    ("agent", &["model", "base", "host"]),
    // A check runs under a host.
    ("checks", &["model", "base", "host"]),
    (
        "daemon",
        &[
            "model", "kernel", "base", "journal", "views", "planfile", "git", "guard", "wire", "host", "agent",
            "checks", "terminal", "notify",
        ],
    ),
    // Without a daemon a client runs the same dispatcher for one request.
    ("client", &["model", "kernel", "base", "git", "wire", "daemon"]),
    (
        "cli",
        &[
            "model", "kernel", "base", "journal", "planfile", "git", "guard", "wire", "host", "agent", "client",
            "daemon", "config", "notify",
        ],
    ),
];

/// Where an import is narrower than the layer: (importer, imported, the only parts of it).
/// A backend says what a host shall run, and reads the last words that one kept.
const ONLY: [(&str, &str, &[&str]); 1] = [("agent", "host", &["spec", "logs"])];

const BANNED_WORDS: [&str; 4] = ["Manager", "Helper", "Util", "Utils"];

#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    place: String,
    what: String,
}

/// One file of the source, read once.
struct Reader<'a> {
    path: &'a str,
    /// The top-level module it belongs to; none in `lib.rs`, `main.rs`, tests and benches.
    module: Option<&'a str>,
    /// How many `super` lead to the crate's root.
    depth: usize,
    complaints: Vec<Complaint>,
}

impl<'a> Reader<'a> {
    /// Everything that is wrong with one file.
    fn check(path: &'a str, source: &str) -> Vec<Complaint> {
        let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
        let module = match parts.as_slice() {
            ["src", "lib" | "main"] => None,
            ["src", module, ..] => Some(*module),
            _ => None,
        };
        let depth = parts.len() - 1 - usize::from(parts.last() == Some(&"mod"));
        let mut reader = Reader { path, module, depth, complaints: Vec::new() };
        reader.text(source);
        match syn::parse_file(source) {
            Ok(file) => {
                reader.size(source, &file);
                reader.visit_file(&file);
            }
            Err(error) => reader.complain(error.span().start().line, format!("cannot be parsed: {error}")),
        }
        reader.complaints
    }

    fn complain(&mut self, line: usize, what: impl Into<String>) {
        self.complaints.push(Complaint { place: format!("{}:{line}", self.path), what: what.into() });
    }

    /// What can be seen without parsing.
    fn text(&mut self, source: &str) {
        if !source.starts_with("//!") {
            self.complain(1, "has no `//!` header that says what it owns");
        }
        for (at, line) in source.lines().enumerate() {
            let Some((_, comment)) = line.split_once("//") else { continue };
            if ["TODO", "FIXME", "XXX"].iter().any(|word| comment.contains(word)) && self.module.is_some() {
                self.complain(at + 1, "leaves something to do: do it, or open an issue");
            }
        }
        for part in self.path.split(['/', '.', '_']) {
            if BANNED_WORDS.iter().any(|word| word.eq_ignore_ascii_case(part)) {
                self.complain(1, format!("`{part}` says nothing: name the file for what it owns"));
            }
        }
    }

    /// Tables of cases are as long as there are cases.
    fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.contains("/tests")
    }

    fn size(&mut self, source: &str, file: &syn::File) {
        let of_tests: usize = file.items.iter().filter(|item| is_for_tests(item)).map(|item| lines(item.span())).sum();
        let own = source.lines().count() - of_tests;
        if own > FILE_LINES_MAX && !self.is_test() {
            self.complain(1, format!("has {own} lines without its tests, more than {FILE_LINES_MAX}: split it"));
        }
    }

    fn name(&mut self, ident: &syn::Ident) {
        let name = ident.to_string();
        let words = words_of(&name);
        if let Some(word) = BANNED_WORDS.iter().find(|banned| words.iter().any(|w| w.eq_ignore_ascii_case(banned))) {
            self.complain(ident.span().start().line, format!("`{name}`: `{word}` says nothing about what it does"));
        }
    }

    fn function(&mut self, ident: &syn::Ident, span: proc_macro2::Span, block: &syn::Block) {
        self.name(ident);
        if lines(span) > FUNCTION_LINES_MAX && !is_flat_match(block) && !self.is_test() {
            let what = format!("`{ident}` has {} lines, more than {FUNCTION_LINES_MAX}", lines(span));
            self.complain(span.start().line, what);
        }
    }

    /// A path from the crate's root: may this module know that one?
    fn import(&mut self, line: usize, path: &[String]) {
        let (Some(from), Some(to)) = (self.module, path.first()) else { return };
        let Some((_, known)) = LAYERS.iter().find(|(module, _)| *module == from) else {
            return self.complain(line, format!("`{from}` is in no layer: say in tests/tidy.rs what it may import"));
        };
        if to == from || !LAYERS.iter().any(|(module, _)| module == to) {
            return;
        }
        if !known.contains(&to.as_str()) {
            return self.complain(line, format!("`{from}` may not import `{to}`"));
        }
        let narrow = ONLY.iter().find(|(importer, imported, _)| *importer == from && imported == to);
        let (Some((_, _, parts)), Some(next)) = (narrow, path.get(1)) else { return };
        if !parts.contains(&next.as_str()) {
            let parts: Vec<String> = parts.iter().map(|part| format!("`{to}::{part}`")).collect();
            self.complain(line, format!("`{from}` may import nothing of `{to}` but {}", parts.join(" and ")));
        }
    }

    /// A path as written; resolved when it starts at the root, by `crate` or by enough `super`.
    fn path(&mut self, line: usize, segments: &[String]) {
        let above = segments.iter().take_while(|segment| *segment == "super").count();
        match segments.first().map(String::as_str) {
            Some("crate") => self.import(line, &segments[1..]),
            Some("super") if above >= self.depth => self.import(line, &segments[above..]),
            _ => {}
        }
        if let [.., thread, sleep] = segments
            && thread == "thread"
            && sleep == "sleep"
        {
            self.complain(line, "sleeps: wait for an event with a deadline");
        }
    }

    fn use_tree(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let with = |ident: &syn::Ident| [prefix, &[ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.use_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.path(name.span().start().line, &with(&name.ident)),
            syn::UseTree::Rename(name) => self.path(name.span().start().line, &with(&name.ident)),
            syn::UseTree::Glob(glob) => self.path(glob.span().start().line, prefix),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(prefix, tree)),
        }
    }

    /// Paths inside of macros, which are not parsed.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut line = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    line = ident.span().start().line;
                    path.push(ident.to_string());
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => {}
                other => {
                    self.path(line, &std::mem::take(&mut path));
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.path(line, &path);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.name(&item.ident);
        self.depth += 1;
        visit::visit_item_mod(self, item);
        self.depth -= 1;
    }
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&[], &item.tree);
    }
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.path(path.span().start().line, &segments);
        visit::visit_path(self, path);
    }
    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        if item.path.is_ident("todo") || item.path.is_ident("unimplemented") {
            self.complain(item.span().start().line, "is not written yet");
        }
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let line = attribute.span().start().line;
        if attribute.path().is_ident("allow") {
            self.complain(line, "allows a lint: use `expect` with a reason");
        }
        if attribute.path().is_ident("ignore") {
            self.complain(line, "ignores a test: assert what is, and say why");
        }
        visit::visit_attribute(self, attribute);
    }
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig.ident, item.sig.span().join(item.block.span()).unwrap(), &item.block);
        visit::visit_item_fn(self, item);
    }
    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig.ident, item.sig.span().join(item.block.span()).unwrap(), &item.block);
        visit::visit_impl_item_fn(self, item);
    }
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.name(&item.ident);
        visit::visit_item_struct(self, item);
    }
    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.name(&item.ident);
        visit::visit_item_enum(self, item);
    }
    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.name(&item.ident);
        visit::visit_item_trait(self, item);
    }
}

fn lines(span: proc_macro2::Span) -> usize {
    span.end().line - span.start().line + 1
}

fn is_for_tests(item: &syn::Item) -> bool {
    let syn::Item::Mod(item) = item else { return false };
    item.attrs.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.meta.require_list().is_ok_and(|l| l.tokens.to_string() == "test")
    })
}

/// A table in the form of code: one `match` and nothing else, each arm on one line.
fn is_flat_match(block: &syn::Block) -> bool {
    match block.stmts.as_slice() {
        [syn::Stmt::Expr(syn::Expr::Match(table), _)] => table.arms.iter().all(|arm| lines(arm.body.span()) == 1),
        _ => false,
    }
}

/// `FileUtils` and `file_utils` are `file` and `utils`.
fn words_of(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c.is_uppercase() {
            words.push(String::new());
        }
        if c != '_' {
            words.last_mut().unwrap().push(c);
        }
    }
    words
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs_err::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_file_is_tidy() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches"] {
        rust_files(&root().join(folder), &mut files);
    }
    assert!(files.len() > 50, "only {} files were found", files.len());
    let mut complaints = Vec::new();
    for file in files {
        let path = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        complaints.extend(Reader::check(&path, &fs_err::read_to_string(&file).unwrap()));
    }
    let shown: Vec<String> = complaints.iter().map(|one| format!("{}: {}", one.place, one.what)).collect();
    assert!(shown.is_empty(), "\n{}\n", shown.join("\n"));
}

#[test]
fn the_map_shows_every_module() {
    let map = fs_err::read_to_string(root().join("doc/ARCHITECTURE.md")).unwrap();
    assert!(map.lines().count() <= ARCHITECTURE_LINES_MAX, "doc/ARCHITECTURE.md is longer than a map should be");
    let library = syn::parse_file(&fs_err::read_to_string(root().join("src/lib.rs")).unwrap()).unwrap();
    for item in library.items {
        let syn::Item::Mod(module) = item else { continue };
        let name = module.ident.to_string();
        assert!(map.contains(&format!("### `{name}/`")), "doc/ARCHITECTURE.md has no section for `{name}/`");
        assert!(LAYERS.iter().any(|(module, _)| *module == name), "`{name}` is in no layer");
    }
}

/// A row without a test says why; a name in it is that of a test.
#[test]
fn every_fault_has_a_row_and_every_test_in_it_exists() {
    let doc = fs_err::read_to_string(root().join("doc/reliability.md")).unwrap();
    let mut source = String::new();
    for folder in ["src", "tests"] {
        let mut files = Vec::new();
        rust_files(&root().join(folder), &mut files);
        files.iter().for_each(|file| source.push_str(&fs_err::read_to_string(file).unwrap()));
    }
    for fault in 1..=78 {
        let start = format!("| F{fault:02} |");
        let row = doc.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no row for F{fault:02}"));
        let says_why = ["Open", "Not here", "not here"].iter().any(|word| row.contains(word));
        let tests: Vec<&str> = row.split('`').filter(|word| is_name_of_a_test(word)).collect();
        assert!(says_why || !tests.is_empty(), "{row}");
        for test in tests {
            assert!(
                source.contains(&format!("fn {test}(")) || source.contains(&format!("fn {test}_")),
                "{test}: {row}"
            );
        }
    }
}

fn is_name_of_a_test(word: &str) -> bool {
    word.contains('_') && word.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
}

#[test]
fn every_limit_says_what_it_limits() {
    let limits = syn::parse_file(&fs_err::read_to_string(root().join("src/model/limits.rs")).unwrap()).unwrap();
    let mut documented_until = 0;
    for item in limits.items {
        let syn::Item::Const(limit) = item else { continue };
        let line = limit.ident.span().start().line;
        // One comment may speak for limits that stand together.
        let has_doc = limit.attrs.iter().any(|attribute| attribute.path().is_ident("doc"));
        assert!(has_doc || documented_until + 1 == line, "{} does not say what it limits", limit.ident);
        documented_until = line;
    }
}

/// Bad snippets, so that the tests above are known to be able to fail.
#[track_caller]
fn check(path: &str, source: &str, expected: &[&str]) {
    let source = format!("//! A snippet.\n{source}");
    let complaints: Vec<String> = Reader::check(path, &source).into_iter().map(|one| one.what).collect();
    assert_eq!(complaints, expected, "{path}: {source}");
}

#[test]
fn imports_go_down_and_never_sideways() {
    check("src/kernel/step.rs", "use crate::model::ids::Oid;", &[]);
    check("src/kernel/step.rs", "use crate::git::Git;", &["`kernel` may not import `git`"]);
    check("src/model/plan.rs", "use crate::{kernel::World, model::ids};", &["`model` may not import `kernel`"]);
    check("src/git/refs.rs", "fn f() { crate::journal::read(); }", &["`git` may not import `journal`"]);
    check("src/host/mod.rs", "use super::daemon::boot;", &["`host` may not import `daemon`"]);
    check("src/host/life.rs", "use super::super::daemon::boot;", &["`host` may not import `daemon`"]);
    check("src/host/life.rs", "mod tests { use super::super::wait; }", &[]);
    check("src/wire/mod.rs", "fn f() { println!(\"{}\", crate::client::x()); }", &["`wire` may not import `client`"]);
    check("src/agent/mod.rs", "use crate::host::spec::HostSpec;", &[]);
    check(
        "src/agent/mod.rs",
        "use crate::host::control;",
        &["`agent` may import nothing of `host` but `host::spec` and `host::logs`"],
    );
    check(
        "src/tui/mod.rs",
        "use crate::model::ids;",
        &["`tui` is in no layer: say in tests/tidy.rs what it may import"],
    );
}

#[test]
fn sizes_have_limits() {
    let long = format!("fn long() {{\n{}}}", "    let _ = 1;\n".repeat(70));
    check("src/kernel/step.rs", &long, &["`long` has 72 lines, more than 70"]);
    let table = format!("fn table(n: u8) -> u8 {{\n    match n {{\n{}    }}\n}}", "        1 => 2,\n".repeat(80));
    check("src/kernel/step.rs", &table, &[]);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}", "    const A: u8 = 1;\n".repeat(800));
    check("src/kernel/step.rs", &tests, &[]);
    let file = "const A: u8 = 1;\n".repeat(700);
    check("src/kernel/step.rs", &file, &["has 701 lines without its tests, more than 700: split it"]);
}

#[test]
fn habits_are_kept() {
    check("src/kernel/step.rs", "struct StageManager;", &["`StageManager`: `Manager` says nothing about what it does"]);
    check("src/kernel/step.rs", "fn file_utils() {}", &["`file_utils`: `Utils` says nothing about what it does"]);
    check("src/base/util.rs", "", &["`util` says nothing: name the file for what it owns"]);
    check("src/kernel/step.rs", "// TODO: later\nfn f() {}", &["leaves something to do: do it, or open an issue"]);
    check("src/kernel/step.rs", "fn f() { todo!() }", &["is not written yet"]);
    check("src/kernel/step.rs", "#[ignore]\nfn f() {}", &["ignores a test: assert what is, and say why"]);
    check("src/kernel/step.rs", "#![allow(dead_code)]", &["allows a lint: use `expect` with a reason"]);
    check("src/kernel/step.rs", "fn f() { std::thread::sleep(d); }", &["sleeps: wait for an event with a deadline"]);
    let bare = Reader::check("src/kernel/step.rs", "fn f() {}");
    assert_eq!(bare[0].what, "has no `//!` header that says what it owns");
}

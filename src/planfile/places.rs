//! Paths, globs and programs of a plan, held against the repository and the
//! machine: what matches nothing, what is missing, and which stage reads what
//! another one makes without waiting for it.

use std::collections::{BTreeSet, HashMap};

use super::analysis::Drafted;
use super::diagnostic::{Report, quoted};
use super::reader::{Mention, MentionKind};
use super::shell::{self, Word};
use super::source::Span;
use crate::base::glob::{Reach, from_top, is_wild};
use crate::base::text;

/// What a shell does itself.
const BUILTINS: [&str; 34] = [
    "cd", "test", "[", "echo", "printf", "true", "false", "exit", "set", "export", "unset", "source", ".", ":", "read",
    "trap", "wait", "exec", "command", "eval", "umask", "ulimit", "alias", "type", "hash", "shift", "return", "break",
    "continue", "local", "readonly", "times", "jobs", "kill",
];

/// Where a plan would run.
pub struct Surroundings<'s> {
    /// The files of the repository, sorted, as paths from its top. None outside of one.
    pub files: Option<Vec<String>>,
    /// Whether a program is found by its name.
    pub has_program: &'s dyn Fn(&str) -> bool,
    /// What the shell says of a command that it cannot read.
    pub shell_error: &'s dyn Fn(&str) -> Option<String>,
    /// Stages of which every check passes there already, by their ids.
    pub passing: Vec<String>,
}

impl Surroundings<'_> {
    fn has_folder(&self, path: &str) -> bool {
        path == "." || self.below(path).next().is_some()
    }
    fn has_file(&self, path: &str) -> bool {
        self.all().binary_search_by(|file| file.as_str().cmp(path)).is_ok()
    }
    /// The files in a folder. Sorted, they stand together.
    fn below<'s>(&'s self, folder: &str) -> impl Iterator<Item = &'s String> + use<'s> {
        let prefix = if folder == "." { String::new() } else { format!("{folder}/") };
        let start = self.all().partition_point(|file| file.as_str() < prefix.as_str());
        self.all()[start..].iter().take_while(move |file| file.starts_with(&prefix))
    }
    fn all(&self) -> &[String] {
        self.files.as_deref().unwrap_or_default()
    }
    /// The name in `folder` that is most like `name`.
    fn similar(&self, folder: &str, name: &str) -> Option<&str> {
        let skip = if folder == "." { 0 } else { folder.len() + 1 };
        let names: BTreeSet<&str> =
            self.below(folder).filter_map(|file| file[skip..].split('/').next()).take(1 << 14).collect();
        text::similar(name, names).filter(|similar| *similar != name)
    }
}

/// A file that a stage makes.
struct Made {
    stage: usize,
    path: String,
}

/// Everything that is looked up while the mentions of a plan are gone through.
pub struct Places<'p, 'n, 's> {
    drafted: &'p Drafted<'p, 'n>,
    around: &'p Surroundings<'s>,
    /// Who makes which file, by its path.
    makers: HashMap<String, Vec<usize>>,
    made: Vec<Made>,
}

impl<'p, 'n, 's> Places<'p, 'n, 's> {
    pub fn of(drafted: &'p Drafted<'p, 'n>, around: &'p Surroundings<'s>) -> Self {
        let mut places = Places { drafted, around, makers: HashMap::new(), made: Vec::new() };
        for mention in drafted.mentions.iter().filter(|mention| mention.kind == MentionKind::Glob) {
            let Some(stage) = mention.stage else { continue };
            // Outside of a repository, what `files` names may be there already.
            let makes = mention.field == "artifacts" || mention.field == "files" && around.files.is_some();
            if !makes || is_wild(&mention.text) {
                continue;
            }
            let path = from_top(drafted.working_dir(stage), &mention.text);
            if !around.has_file(&path) && !around.has_folder(&path) {
                places.made.push(Made { stage, path: path.clone() });
                places.makers.entry(path).or_default().push(stage);
            }
        }
        places
    }

    pub fn report(&self, report: &mut Report) {
        let mut programs = BTreeSet::new();
        for mention in self.drafted.mentions {
            report.stage = mention.stage.map(|at| quoted(self.drafted.stages[at].id));
            match mention.kind {
                MentionKind::Command => self.command(mention, &mut programs, report),
                MentionKind::Glob => self.glob(mention, report),
                MentionKind::Folder => self.folder(mention, report),
                MentionKind::Group => {}
            }
        }
        for draft in self.drafted.stages.iter().filter(|draft| self.around.passing.iter().any(|id| id == draft.id)) {
            report.stage = Some(quoted(draft.id));
            let message = "all its checks pass already, without it: nothing can show that it is done";
            let hint = "add a check that fails now, or write `guard: true` where nothing can fail before";
            report.warning(&draft.id_span, message).hint(hint).field("acceptance");
        }
        report.stage = None;
    }

    fn base(&self, mention: &Mention) -> &str {
        mention.stage.map_or(".", |stage| self.drafted.working_dir(stage))
    }

    /// Whether the stage itself, or one that is over before it, makes something that `reach` means.
    fn comes_to_be(&self, stage: Option<usize>, reach: &Reach) -> bool {
        let before =
            |maker: usize| stage.is_none_or(|stage| maker == stage || self.drafted.graph.precedes(maker, stage));
        self.made.iter().any(|made| before(made.stage) && reach.means(&made.path))
    }

    fn folder(&self, mention: &Mention, report: &mut Report) {
        let path = from_top(".", &mention.text);
        if self.around.files.is_none() || path.is_empty() || self.around.has_folder(&path) {
            return;
        }
        if self.comes_to_be(mention.stage, &Reach::of(".", &format!("{path}/**"))) {
            return;
        }
        let message = format!("there is no folder `{}` in the repository", quoted(&path));
        let hint = self.meant(&path, true).map_or_else(
            || "if an earlier stage makes it, let it name a file in it in `artifacts`".to_owned(),
            |meant| format!("did you mean `{meant}`?"),
        );
        report.warning(&mention.span, message).hint(hint).field(mention.field);
    }

    fn glob(&self, mention: &Mention, report: &mut Report) {
        if mention.field == "source" {
            self.read(mention.stage, &mention.text, &mention.span, report);
        }
        if self.around.files.is_none() || mention.field == "artifacts" {
            return;
        }
        let base = self.base(mention);
        let path = from_top(base, &mention.text);
        let wild = is_wild(&path);
        let fixed: Vec<&str> = path.split('/').take_while(|part| !is_wild(part)).collect();
        let fixed = if fixed.is_empty() { ".".to_owned() } else { fixed.join("/") };
        let reach = Reach::of(".", &path);
        let is_there = if wild {
            self.around.below(&fixed).any(|file| reach.means(file))
        } else {
            self.around.has_file(&path) || self.around.has_folder(&path)
        };
        if is_there || path.is_empty() {
            return;
        }
        let meant = self.meant(&path, false);
        // A path of `files` that is not there yet is what the stage shall make.
        let is_new = mention.field == "files" && !wild && meant.is_none();
        if is_new || meant.is_none() && self.comes_to_be(mention.stage, &reach) {
            return;
        }
        let message = format!("`{}` matches nothing in the repository", quoted(&mention.text));
        let draft = report.warning(&mention.span, message);
        draft.field(mention.field);
        match (meant, mention.field) {
            (Some(meant), _) => draft.did_you_mean(Some(&meant)),
            (None, "protected") => draft.hint("a glob that matches nothing protects nothing"),
            (None, _) => draft.hint("if the stage makes such files, name one of them, without wildcards"),
        };
    }

    /// What was probably meant by a path or glob whose folder is not there.
    fn meant(&self, path: &str, is_folder: bool) -> Option<String> {
        let parts: Vec<&str> = path.split('/').collect();
        for (at, part) in parts.iter().enumerate() {
            let upto = parts[..=at].join("/");
            if is_wild(part) {
                return None;
            }
            if self.around.has_folder(&upto) {
                continue;
            }
            // The last part may be a new file; only folders are taken for misspelled.
            if at + 1 == parts.len() && at > 0 && !is_folder {
                return None;
            }
            let folder = if at == 0 { ".".to_owned() } else { parts[..at].join("/") };
            let similar = self.around.similar(&folder, part)?;
            let mut meant = parts.clone();
            meant[at] = similar;
            return Some(meant.join("/"));
        }
        None
    }

    fn command(&self, mention: &Mention, programs: &mut BTreeSet<String>, report: &mut Report) {
        if !shell::is_surely_valid(&mention.text)
            && let Some(why) = (self.around.shell_error)(&mention.text)
        {
            report.error(&mention.span, format!("the shell cannot read this: {why}")).field(mention.field);
            return;
        }
        let Some(parts) = shell::parse(&mention.text) else { return };
        let base = self.base(mention);
        let mut at = base.to_owned();
        for (number, part) in parts.iter().enumerate() {
            let words: Vec<&Word> = part.arguments().collect();
            let Some(program) = part.program() else { continue };
            if program == "cd" {
                let Some(target) = words.get(1).filter(|word| !word.expands) else { return };
                if number == 0 && base != "." && is_same_or_below(&from_top(".", &target.text), base) {
                    let message = format!("the command starts in `{}` already, which its `cd` repeats", quoted(base));
                    let hint = "remove the `cd`; relative paths start at `working_dir`";
                    report.warning(&mention.span, message).hint(hint).field(mention.field);
                }
                at = from_top(&at, &target.text);
                continue;
            }
            if program.contains('/') {
                self.script(mention, &at, program, report);
            } else if !BUILTINS.contains(&program)
                && programs.insert(program.to_owned())
                && !(self.around.has_program)(program)
            {
                let message = format!("the program `{}` is not on PATH", quoted(program));
                let hint = "install it where Loom runs; a check that cannot start fails";
                report.warning(&mention.span, message).hint(hint).field(mention.field);
            }
            for word in words.iter().skip(1).filter(|word| !word.expands && !word.redirected) {
                let path = word.text.rsplit_once('=').map_or(word.text.as_str(), |(_, value)| value);
                self.read_from(mention.stage, &from_top(&at, path), &mention.span, report);
            }
        }
    }

    /// A program that is a file of the tree.
    fn script(&self, mention: &Mention, at: &str, program: &str, report: &mut Report) {
        if program.starts_with('/') || program.contains("..") || self.around.files.is_none() {
            return;
        }
        let path = from_top(at, program);
        self.read_from(mention.stage, &path, &mention.span, report);
        let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
        // A folder that is not in the repository holds what a build leaves there.
        if self.around.has_file(&path) || !self.around.has_folder(folder) || self.makers.contains_key(&path) {
            return;
        }
        let message = format!("there is no program `{}` in the repository", quoted(&path));
        let draft = report.warning(&mention.span, message);
        draft.field(mention.field);
        let name = path.rsplit('/').next().unwrap_or_default();
        match self.around.similar(folder, name) {
            Some(similar) => draft.did_you_mean(Some(&from_top(folder, similar))),
            None => draft.hint("if a stage makes it, name it in the `artifacts` of that stage"),
        };
    }

    fn read(&self, stage: Option<usize>, path: &str, span: &Span, report: &mut Report) {
        if !is_wild(path) {
            let base = stage.map_or(".", |stage| self.drafted.working_dir(stage));
            self.read_from(stage, &from_top(base, path), span, report);
        }
    }

    /// Warns where `path` is made by a stage that need not be over when this one starts.
    fn read_from(&self, stage: Option<usize>, path: &str, span: &Span, report: &mut Report) {
        let (Some(stage), Some(makers)) = (stage, self.makers.get(path)) else { return };
        let graph = self.drafted.graph;
        if makers.iter().any(|maker| *maker == stage || graph.precedes(*maker, stage)) {
            return;
        }
        let Some(maker) = makers.first() else { return };
        let id = quoted(self.drafted.stages[*maker].id);
        let (message, hint) = if graph.precedes(stage, *maker) {
            let message = format!("`{}` is made by `{id}`, which starts only after this stage", quoted(path));
            (message, "turn the dependency around, or make the file here".to_owned())
        } else {
            let message = format!("`{}` is made by `{id}`, which need not be over before this stage", quoted(path));
            (message, format!("add `{id}` to `dependencies`"))
        };
        report.warning(span, message).hint(hint).field("dependencies");
    }
}

fn is_same_or_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

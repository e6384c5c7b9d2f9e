//! `sandbox:` of the plan and of a stage. A stage's lists are added to the
//! plan's; its other values replace them.

use super::diagnostic::quoted;
use super::fields;
use super::reader::{Fields, Reader};
use super::source::Span;
use super::yaml::{Node, Value};
use crate::model::sandbox::{PermissionMode, Sandbox};

/// What one `sandbox:` says.
#[derive(Debug, Clone, Default)]
pub struct SandboxFields {
    enabled: Option<bool>,
    auto_allow: Option<bool>,
    permission_mode: Option<PermissionMode>,
    excluded_commands: Vec<String>,
    deny_read: Vec<String>,
    deny_write: Vec<String>,
    allow_write: Vec<String>,
    allowed_domains: Vec<String>,
    allow_local_binding: Option<bool>,
    allow_unix_sockets: Option<bool>,
    weaker_nested: Option<bool>,
}

impl SandboxFields {
    /// The sandbox of a stage: `self` is the plan's.
    pub fn with(&self, stage: &SandboxFields) -> Sandbox {
        let both = |list: fn(&SandboxFields) -> &Vec<String>| {
            let mut all = list(self).clone();
            all.extend(list(stage).iter().filter(|item| !list(self).contains(item)).cloned());
            all
        };
        let own = |value: fn(&SandboxFields) -> Option<bool>, otherwise| {
            value(stage).or_else(|| value(self)).unwrap_or(otherwise)
        };
        Sandbox {
            enabled: own(|fields| fields.enabled, true),
            auto_allow: own(|fields| fields.auto_allow, true),
            permission_mode: stage.permission_mode.or(self.permission_mode),
            excluded_commands: both(|fields| &fields.excluded_commands),
            deny_read: both(|fields| &fields.deny_read),
            deny_write: both(|fields| &fields.deny_write),
            allow_write: both(|fields| &fields.allow_write),
            allowed_domains: both(|fields| &fields.allowed_domains),
            allow_local_binding: own(|fields| fields.allow_local_binding, false),
            allow_unix_sockets: own(|fields| fields.allow_unix_sockets, false),
            weaker_nested: own(|fields| fields.weaker_nested, false),
        }
    }
}

impl Reader<'_, '_> {
    pub fn sandbox(&mut self, node: &Node<'_>) -> SandboxFields {
        let fields = self.fields(node, fields::SANDBOX, "`sandbox`");
        let mut sandbox = SandboxFields {
            enabled: self.flag(&fields, "enabled"),
            auto_allow: self.flag(&fields, "auto_allow"),
            permission_mode: fields.get("permission_mode").and_then(|node| self.permission_mode(node)),
            excluded_commands: fields.get("excluded_commands").map_or_else(Vec::new, |node| self.excluded(node)),
            ..SandboxFields::default()
        };
        if let Some(node) = fields.get("filesystem") {
            let files = self.fields(node, fields::SANDBOX_FILES, "`filesystem`");
            sandbox.deny_read = self.paths(&files, "deny_read");
            sandbox.deny_write = self.paths(&files, "deny_write");
            sandbox.allow_write = self.paths(&files, "allow_write");
        }
        if let Some(node) = fields.get("network") {
            let network = self.fields(node, fields::SANDBOX_NETWORK, "`network`");
            for name in ["allowed_domains", "additional_domains"] {
                sandbox.allowed_domains.extend(self.domains(&network, name));
            }
            sandbox.allow_local_binding = self.flag(&network, "allow_local_binding");
            sandbox.allow_unix_sockets = network.get("allow_unix_sockets").and_then(|node| self.unix_sockets(node));
        }
        if let Some(node) = fields.get("linux") {
            let linux = self.fields(node, fields::SANDBOX_LINUX, "`linux`");
            sandbox.weaker_nested = self.flag(&linux, "enable_weaker_nested");
        }
        sandbox
    }

    fn flag(&mut self, fields: &Fields<'_, '_>, name: &str) -> Option<bool> {
        fields.get(name).and_then(|node| self.boolean(node, name))
    }

    fn permission_mode(&mut self, node: &Node<'_>) -> Option<PermissionMode> {
        const NAME: &str = "permission_mode";
        if matches!(&node.value, Value::Text(text) if text.to_lowercase().starts_with("bypass")) {
            let message = "`permission_mode` cannot bypass permissions: nobody would be left who says no";
            let hint = "the hook allows what the sandbox contains; leave the field out, or write `accept-edits`";
            self.report.error(&node.span, message).hint(hint).field(NAME);
            return None;
        }
        self.one_of(node, NAME, fields::PERMISSION_MODES).map(|mode| match mode {
            "auto" => PermissionMode::Auto,
            "plan" => PermissionMode::Plan,
            "default" => PermissionMode::Default,
            _ => PermissionMode::AcceptEdits,
        })
    }

    fn excluded(&mut self, node: &Node<'_>) -> Vec<String> {
        const NAME: &str = "excluded_commands";
        let mut all = Vec::new();
        for (pattern, span) in self.texts(node, NAME) {
            if !self.visible(pattern, span, NAME) {
                continue;
            }
            if pattern.split(|c: char| !c.is_alphanumeric()).any(|word| word == "loom") {
                let message =
                    format!("`{}` takes every command line with `loom` in it out of the sandbox", quoted(pattern));
                let hint = "`loom` works inside the sandbox: leave it out";
                self.report.warning(span, message).hint(hint).field(NAME);
            }
            all.push(pattern.to_owned());
        }
        all
    }

    fn paths(&mut self, fields: &Fields<'_, '_>, name: &str) -> Vec<String> {
        let Some(node) = fields.get(name) else { return Vec::new() };
        let mut all = Vec::new();
        for (path, span) in self.texts(node, name) {
            if self.visible(path, span, name) && self.nameable(path, span, name) {
                // `dir/**` and `dir/` mean the folder with everything in it.
                let plain = path.strip_suffix("/**").unwrap_or(path);
                let plain = if plain.len() > 1 { plain.trim_end_matches('/') } else { plain };
                all.push(plain.to_owned());
            }
        }
        all
    }

    /// Whether the sandbox can be told about this path.
    fn nameable(&mut self, path: &str, span: &Span, name: &str) -> bool {
        let plain = path.strip_suffix("/**").unwrap_or(path);
        let (why, hint) = if plain.is_empty() {
            ("is empty", "name a file or a folder")
        } else if plain.contains(['*', '?', '[']) {
            ("is a pattern, and the sandbox knows files and folders only", "name the folder that holds them")
        } else if plain.split('/').any(|part| part == "..") {
            ("contains `..`", "write the path out")
        } else if plain.starts_with('~') && plain != "~" && !plain.starts_with("~/") {
            ("names another user's home", "write the path out")
        } else if plain.contains('$') {
            ("contains a variable, which nobody fills in", "write the path out; `~` is the home")
        } else {
            return true;
        };
        let message = format!("the path `{}` of `{name}` {why}", quoted(path));
        self.report.error(span, message).hint(hint).field(name);
        false
    }

    fn domains(&mut self, fields: &Fields<'_, '_>, name: &str) -> Vec<String> {
        let Some(node) = fields.get(name) else { return Vec::new() };
        let mut all = Vec::new();
        for (domain, span) in self.texts(node, name) {
            let host = domain.strip_prefix("*.").unwrap_or(domain);
            let is_host = !host.is_empty()
                && host.len() <= 253
                && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
                && !host.starts_with(['.', '-']);
            if is_host {
                all.push(domain.to_ascii_lowercase());
            } else {
                let message = format!("`{}` is not the name of a host", quoted(domain));
                let hint = "such as `example.com` or `*.example.com`: no scheme, port or path";
                self.report.error(span, message).hint(hint).field(name);
            }
        }
        all
    }

    /// All or none: on Linux the sandbox cannot open single sockets.
    fn unix_sockets(&mut self, node: &Node<'_>) -> Option<bool> {
        const NAME: &str = "allow_unix_sockets";
        match &node.value {
            Value::List([]) => None,
            Value::List(_) => {
                let message = "`allow_unix_sockets` cannot name single sockets: on Linux it is all or none";
                let hint = "write `true` if the agent may talk to every service of this machine";
                self.report.error(&node.span, message).hint(hint).field(NAME);
                None
            }
            _ => self.boolean(node, NAME),
        }
    }
}

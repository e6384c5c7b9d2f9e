//! Files that judge by their names alone, and the names of tests. Paths are in
//! lower case.

/// Files that judge wherever they are, by their lower-case name.
const NAMES: &[(&str, &str)] = &[
    ("makefile", "a build script"),
    ("gnumakefile", "a build script"),
    ("justfile", "a build script"),
    ("rakefile", "a build script"),
    ("taskfile.yml", "a build script"),
    ("taskfile.yaml", "a build script"),
    ("build.rs", "a build script"),
    ("setup.py", "a build script"),
    ("cmakelists.txt", "a build script"),
    ("meson.build", "a build script"),
    ("build.gradle", "a build script"),
    ("build.gradle.kts", "a build script"),
    ("settings.gradle", "a build script"),
    ("pom.xml", "a build script"),
    ("gruntfile.js", "a build script"),
    ("gulpfile.js", "a build script"),
    ("conftest.py", "settings of a test runner"),
    ("pytest.ini", "settings of a test runner"),
    ("tox.ini", "settings of a test runner"),
    ("setup.cfg", "settings of a test runner"),
    ("noxfile.py", "settings of a test runner"),
    (".coveragerc", "settings of a test runner"),
    ("sitecustomize.py", "what every run of Python loads"),
    ("usercustomize.py", "what every run of Python loads"),
    ("rust-toolchain", "the choice of tools"),
    ("rust-toolchain.toml", "the choice of tools"),
    (".tool-versions", "the choice of tools"),
    ("mise.toml", "the choice of tools"),
    (".nvmrc", "the choice of tools"),
    (".npmrc", "settings of a tool"),
    (".yarnrc", "settings of a tool"),
    (".yarnrc.yml", "settings of a tool"),
    (".pnpmfile.cjs", "settings of a tool"),
    (".pnp.cjs", "settings of a tool"),
    ("nextest.toml", "settings of a test runner"),
    ("clippy.toml", "settings of a tool"),
    (".clippy.toml", "settings of a tool"),
    (".golangci.yml", "settings of a tool"),
    (".envrc", "what a shell loads"),
    (".pytest.ini", "settings of a test runner"),
    ("pytest.toml", "settings of a test runner"),
    (".pytest.toml", "settings of a test runner"),
    (".rspec", "settings of a test runner"),
    ("phpunit.xml", "settings of a test runner"),
    ("phpunit.xml.dist", "settings of a test runner"),
    ("bunfig.toml", "settings of a test runner"),
    ("deno.json", "settings of a test runner"),
    ("deno.jsonc", "settings of a test runner"),
    ("ctestcustom.cmake", "settings of a test runner"),
    ("insta.yaml", "settings of a test runner"),
    (".env.test", "settings of a test runner"),
    ("mypy.ini", "settings of a tool"),
    (".mypy.ini", "settings of a tool"),
    ("ruff.toml", "settings of a tool"),
    (".ruff.toml", "settings of a tool"),
    (".flake8", "settings of a tool"),
    ("pylintrc", "settings of a tool"),
    (".pylintrc", "settings of a tool"),
    ("pyrightconfig.json", "settings of a tool"),
    ("biome.json", "settings of a tool"),
    ("biome.jsonc", "settings of a tool"),
    (".golangci.yaml", "settings of a tool"),
    (".golangci.toml", "settings of a tool"),
    (".eslintignore", "settings of a tool"),
    ("rustfmt.toml", "settings of a tool"),
    (".rustfmt.toml", "settings of a tool"),
    ("deny.toml", "settings of a tool"),
    (".rubocop.yml", "settings of a tool"),
    ("build.bazel", "a build script"),
    ("workspace.bazel", "a build script"),
    ("module.bazel", "a build script"),
    (".bazelrc", "a build script"),
    ("settings.gradle.kts", "a build script"),
    ("gradle.properties", "a build script"),
    ("build.xml", "a build script"),
    ("jenkinsfile", "CI"),
    (".gitlab-ci.yml", "CI"),
    (".travis.yml", "CI"),
    (".drone.yml", "CI"),
    ("azure-pipelines.yml", "CI"),
    ("bitbucket-pipelines.yml", "CI"),
    (".pre-commit-config.yaml", "CI"),
    ("lefthook.yml", "CI"),
    (".gitattributes", "settings of git"),
    (".gitmodules", "settings of git"),
    ("claude.md", "settings of the agent"),
    ("claude.local.md", "settings of the agent"),
    ("agents.md", "settings of the agent"),
    (".mcp.json", "settings of the agent"),
];

/// Start of the name of a file of settings, such as `jest.config.ts`.
const SETTINGS: &[&str] = &[
    "jest.config.",
    "jest.setup.",
    "vitest.config.",
    "vitest.setup.",
    "vitest.workspace.",
    "vite.config.",
    "playwright.config.",
    "cypress.config.",
    "karma.conf.",
    "babel.config.",
    "eslint.config.",
    ".eslintrc",
    ".mocharc",
    ".babelrc",
    ".nycrc",
    ".c8rc",
    ".swcrc",
];

/// Folders whose every file judges.
const FOLDERS: &[(&str, &str)] = &[
    (".cargo", "settings of cargo"),
    (".github", "CI"),
    (".circleci", "CI"),
    (".buildkite", "CI"),
    (".woodpecker", "CI"),
    (".husky", "git hooks"),
    (".githooks", "git hooks"),
    (".claude", "settings of the agent"),
    (".vscode", "settings that run programs"),
    (".idea", "settings that run programs"),
    ("node_modules", "what tools load"),
    ("site-packages", "what tools load"),
    (".venv", "what tools load"),
    (".work", "Loom's own state"),
    (".worktrees", "Loom's own state"),
];

const LOCKS: &[&str] = &[
    "cargo.lock",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "bun.lock",
    "bun.lockb",
    "deno.lock",
    "poetry.lock",
    "uv.lock",
    "pdm.lock",
    "pipfile.lock",
    "gemfile.lock",
    "composer.lock",
    "go.sum",
    "mix.lock",
    "pubspec.lock",
    "package.resolved",
    "packages.lock.json",
    "gradle.lockfile",
    "flake.lock",
];

/// Files that say what is built and how, by their lower-case name: a stage that begins a project
/// writes the first one, whoever changes it changes what is tested.
const FIRST_IS_FINE: &[(&str, &str)] = &[
    ("tsconfig.json", "settings of a tool"),
    ("jsconfig.json", "settings of a tool"),
    ("mix.exs", "a build script"),
    ("package.swift", "a build script"),
    ("build.sbt", "a build script"),
    ("build", "a build script"),
    ("workspace", "a build script"),
];

/// Python modules that are, or belong to, a test runner.
const RUNNER_MODULES: [&str; 8] = ["unittest", "pytest", "_pytest", "pluggy", "doctest", "nose", "nose2", "runpy"];

/// Modules of Python's own library that test runners use.
const RUNNERS_USE: [&str; 38] = [
    "argparse",
    "ast",
    "asyncio",
    "collections",
    "contextlib",
    "copy",
    "dataclasses",
    "difflib",
    "enum",
    "fnmatch",
    "functools",
    "gc",
    "getpass",
    "glob",
    "importlib",
    "inspect",
    "io",
    "itertools",
    "json",
    "linecache",
    "locale",
    "logging",
    "os",
    "pathlib",
    "pkgutil",
    "pprint",
    "re",
    "shlex",
    "shutil",
    "signal",
    "string",
    "sysconfig",
    "tempfile",
    "textwrap",
    "traceback",
    "types",
    "warnings",
    "weakref",
];

/// Ends of the names of code.
const CODE: [&str; 24] = [
    "rs", "py", "js", "ts", "jsx", "tsx", "mjs", "cjs", "mts", "cts", "go", "java", "kt", "rb", "cs", "php", "swift",
    "scala", "c", "cc", "cpp", "ex", "exs", "bats",
];

/// Folders whose every file is a test, or read by one.
const TEST_FOLDERS: [&str; 10] = [
    "tests",
    "test",
    "__tests__",
    "__mocks__",
    "e2e",
    "testdata",
    "__snapshots__",
    "snapshots",
    "fixtures",
    "step_definitions",
];

/// What a file that judges is, by its path in lower case.
pub(super) fn what(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let by_name = NAMES.iter().find(|(known, _)| *known == name).map(|(_, what)| *what);
    let of_settings = || SETTINGS.iter().any(|start| name.starts_with(start)).then_some("settings of a test runner");
    let by_folder = || {
        let folder = path.split('/').rev().skip(1).find_map(|part| FOLDERS.iter().find(|(known, _)| *known == part));
        folder.map(|(_, what)| *what)
    };
    let by_end = || (name.ends_with(".mk") || name.ends_with(".pth")).then_some("a build script");
    by_name.or_else(of_settings).or_else(by_folder).or_else(by_end)
}

/// What a file is that judges when it was there before, by its lower-case name: a first one
/// weakens nothing.
pub(super) fn once_there(name: &str) -> Option<&'static str> {
    let is_lock = LOCKS.contains(&name).then_some("a lock file");
    is_lock.or_else(|| FIRST_IS_FINE.iter().find(|(known, _)| *known == name).map(|(_, what)| *what))
}

/// What a new module is that stands in for a runner, by its path in lower case: Python looks beside
/// the tests, or in the folder where it is started, before it looks where the runner is.
pub(super) fn shadow(path: &str) -> Option<&'static str> {
    let path = path.strip_suffix(".py")?;
    let module = path.strip_suffix("/__init__").or(path.strip_suffix("/__main__")).unwrap_or(path);
    let (folder, module) = module.rsplit_once('/').unwrap_or(("", module));
    let starts_here = folder.is_empty() || matches!(folder.rsplit('/').next(), Some("tests" | "test"));
    if RUNNER_MODULES.contains(&module) || starts_here && RUNNERS_USE.contains(&module) {
        return Some("a module that stands in for one that test runners load");
    }
    None
}

/// Whether the text of a file at `path` is code, so that new tests in it can be told from changed ones.
pub(in crate::checks) fn is_code(path: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(_, end)| CODE.contains(&end))
}

/// Whether a path is that of a test, or of something that tests read.
pub(in crate::checks) fn is_test(path: &str) -> bool {
    let lower = path.to_lowercase();
    let (folder, name) = lower.rsplit_once('/').unwrap_or(("", &lower));
    let stem = name.split('.').next().unwrap_or(name);
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(&format!(".{end}")));
    if ends(&["md", "rst"]) && matches!(stem, "readme" | "contributing" | "changelog") {
        return false;
    }
    // A specification is no test: prose and interfaces stand in such folders too.
    let in_folder = |part: &str| TEST_FOLDERS.contains(&part) || matches!(part, "spec" | "specs") && is_code(name);
    // `commands/test.rs` carries out a command.
    let of_commands = matches!(folder.rsplit('/').next(), Some("commands" | "cmd" | "subcommands"));
    folder.split('/').any(in_folder)
        || [".test.", ".spec.", ".cy."].iter().any(|part| name.contains(part))
        || ends(&["snap", "bats", "feature"])
        || stem.starts_with("test_")
        || ["_test", "_tests", "_spec"].iter().any(|end| stem.ends_with(end))
        || matches!(stem, "test" | "tests") && !of_commands
        || ends(&["js", "ts", "jsx", "tsx", "mjs", "cjs", "mts", "cts"])
            && (stem.starts_with("test-") || stem.ends_with("-test") || stem.ends_with("-spec"))
        || ends(&["java", "kt", "cs", "swift", "scala", "php"]) && (stem.ends_with("test") || stem.ends_with("tests"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_known_by_their_paths() {
        for path in [
            "tests/a.rs",
            "a/test_b.py",
            "a/b_test.go",
            "na/add-test.js",
            "test-add.mjs",
            "x/add-spec.ts",
            "src/__mocks__/fs.js",
            "app/fixtures/a.json",
            "features/add.feature",
            "cypress/add.cy.ts",
            "spec/add_spec.rb",
            "spec/add.rb",
            "test.py",
            "src/a/tests.rs",
            "src/AddTest.java",
            "tests/golden/a.md",
            "spec/fixtures/a.yaml",
        ] {
            assert!(is_test(path), "{path}");
        }
        for path in [
            "docs/specs/design.md",
            "spec/api.yaml",
            "src/commands/test.rs",
            "tests/README.md",
            "src/contest.py",
            "doc/test-plan.md",
            "src/features/login/form.tsx",
            "src/latest.js",
        ] {
            assert!(!is_test(path), "{path}");
        }
    }

    #[test]
    fn names_that_judge_and_names_that_do_not() {
        for path in [
            ".pytest.ini",
            "mypy.ini",
            "ruff.toml",
            ".flake8",
            "pylintrc",
            ".rspec",
            "phpunit.xml",
            "bunfig.toml",
            "deno.json",
            "biome.json",
            "settings.gradle.kts",
            "gradle.properties",
            "sub/build.bazel",
            "ctestcustom.cmake",
            ".golangci.yaml",
            ".eslintignore",
            ".config/insta.yaml",
            ".env.test",
            "rustfmt.toml",
            "deny.toml",
            ".rubocop.yml",
            "build.xml",
            "a/node_modules/.bin/runner",
            "jest.config.ts",
            "x.mk",
        ] {
            assert!(what(path).is_some(), "{path}");
        }
        for path in ["ps/unittest.py", "pytest/__init__.py", "json.py", "a/tests/traceback.py"] {
            assert!(shadow(path).is_some(), "{path}");
        }
        for path in ["src/app/logging.py", "app/json.py", "src/main.rs", "env.rs", "unittest.rs", "doc/makefile.md"] {
            assert_eq!(what(path).or(shadow(path)), None, "{path}");
        }
        for name in ["tsconfig.json", "package.swift", "cargo.lock", "mix.exs"] {
            assert!(once_there(name).is_some(), "{name}");
        }
        assert_eq!(once_there("main.rs"), None);
    }
}

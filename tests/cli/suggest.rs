//! `loom verify --suggest`: what the work of a stage lets its plan ask for.

use crate::env::{Env, markdown, stage};

const WORK: &str = r#"set -e
mkdir -p src tests
printf 'mod math;\nfn main() {\n    println!("{}", math::twice(2));\n}\n' > src/main.rs
printf 'pub fn twice(n: u32) -> u32 {\n    n * 2\n}\npub fn thrice() {}\n' > src/math.rs
printf '#[test]\nfn t() {}\n' > tests/math.rs
printf '[package]\nname = "x"\nversion = "0.1.0"\nedition = "2021"\n' > Cargo.toml
git add -A; git commit -q -m Work"#;

#[test]
fn suggestions_are_what_was_seen_and_make_a_plan() {
    let env =
        Env::of(&[stage("a").run(WORK).check("test -e src/math.rs"), stage("b").after(&["a"]).with("hold: true")]);
    env.loom(&["verify", "a", "--suggest"]).ends(1).has("no commit to look at");
    env.run().ends(5);
    let said = env.says(&["verify", "a", "--suggest"]);
    let commit = env.stage("a")["commit"].as_str().unwrap()[..10].to_owned();
    insta::assert_snapshot!(said.replace(&commit, "COMMIT"), @r###"
          artifacts:
            - "Cargo.toml"
            - "src/main.rs"
            - "src/math.rs"
          wiring:
            - source: "src/main.rs"
              pattern: "^\\s*(pub(\\([a-z: ]+\\))?\\s+)?mod\\s+math\\s*[;{]"
              description: "src/math.rs is part of the program"
            - source: "src/main.rs"
              pattern: "\\btwice\\("
              description: "`twice` of src/math.rs is called"
          acceptance:
            - "cargo test --test math"   # `tests/math.rs` is a test that the stage may change
            - "cargo test"   # there is `Cargo.toml`
            - "cargo clippy --all-targets -- -D warnings"   # there is `Cargo.toml`
    stage `a` at COMMIT changed 4 files; its plan could ask for:
    src/math.rs: nothing uses `thrice` yet
    Next: take over what fits, then loom plan verify <plan> --strict, and loom plan apply <plan>
    ------- exit 0 -------
    "###);
    let fragment = env.loom(&["verify", "a", "--suggest"]).ok().stdout;
    let stage = format!("    - id: a\n      name: A\n      description: x\n{fragment}");
    env.write("new.md", &markdown(&format!("loom:\n  version: 1\n  stages:\n{stage}")));
    env.loom(&["plan", "verify", "new.md"]).ok();
    let json = env.loom(&["verify", "a", "--suggest", "--json"]).ok().json();
    assert_eq!((&json["wiring"][0]["source"], &json["unused"][0]["name"]), (&"src/main.rs".into(), &"thrice".into()));
    env.loom(&["verify", "nobody", "--suggest"]).ends(1);
    env.loom(&["verify", "--suggest"]).ends(1).has("which stage");
}

#[test]
fn what_changes_nothing_of_a_language_suggests_little() {
    let env = Env::of(&[stage("a"), stage("b").after(&["a"]).with("hold: true")]);
    env.run().ends(5);
    let out = env.loom(&["verify", "a", "--suggest"]).ok();
    assert_eq!(out.stdout, "      artifacts:\n        - \"a.txt\"\n");
}

//! `loom graph`: the dependencies of a plan as a picture.

use crate::env::{Env, plan, stage};

fn diamond() -> String {
    plan(&[
        stage("schema"),
        stage("endpoint").after(&["schema"]),
        stage("client").after(&["schema"]),
        stage("docs").after(&["endpoint", "client"]).with("hold: true"),
    ])
}

#[test]
fn a_plan_file_is_drawn_without_a_project() {
    let env = Env::without_repository();
    env.write("plan.md", &diamond());
    insta::assert_snapshot!(env.says(&["graph", "plan.md"]), @r###"
    The plan: 4 stages in 3 waves
      1  · schema    → endpoint, client
      2  · endpoint  → docs
         · client    → docs
      3  · docs
    ------- exit 0 -------
    "###);
    let dot = env.loom(&["graph", "plan.md", "--dot"]).ok().stdout;
    assert!(dot.starts_with("digraph plan {\n") && dot.ends_with("  \"client\" -> \"docs\";\n}\n"), "{dot}");
    assert!(dot.contains("  \"schema\" [label=\"schema\\nThe stage schema\"];\n"), "{dot}");
    let mermaid = env.loom(&["graph", "plan.md", "--mermaid"]).ok().stdout;
    assert!(mermaid.starts_with("graph LR\n  s0[\"schema<br>The stage schema\"]\n"), "{mermaid}");
    assert!(mermaid.ends_with("  s0 --> s1\n  s0 --> s2\n  s1 --> s3\n  s2 --> s3\n"), "{mermaid}");
    env.write("bad.md", "# Nothing\n");
    env.loom(&["graph", "bad.md"]).ends(1).has("bad.md has 1 error");
    env.loom(&["graph", "none.md"]).ends(1).has("cannot be read");
    env.loom(&["graph", "plan.md", "--dot", "--json"]).ends(2);
}

#[test]
fn the_plan_that_is_carried_out_is_drawn_with_its_states() {
    let env = Env::new();
    env.loom(&["graph"]).ends(1).has("loom init");
    env.load(&diamond());
    env.run().ends(5);
    insta::assert_snapshot!(env.says(&["graph"]), @r###"
    The plan: 4 stages in 3 waves
      1  ✓ schema    merged     → endpoint, client
      2  ✓ endpoint  merged     → docs
         ✓ client    merged     → docs
      3  ○ docs      held
    ------- exit 0 -------
    "###);
    let json = env.loom(&["graph", "--json"]).ok().json();
    assert_eq!(json["waves"][1], serde_json::json!(["endpoint", "client"]));
    assert_eq!((&json["stages"][3]["state"], &json["stages"][3]["wave"]), (&"ready".into(), &3.into()));
    assert_eq!(json["edges"].as_array().map(Vec::len), Some(4));
    env.loom(&["graph", "--mermaid"]).ok().has("[\"✓ schema<br>The stage schema\"]");
}

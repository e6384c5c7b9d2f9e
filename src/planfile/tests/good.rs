//! Plans that are fine.

use super::*;
use crate::model::budget::{Budget, OnLimit};
use crate::model::ids::StageId;
use crate::model::plan::{Agent, AgentMode, Priority, StageType};

fn ids(wave: &[StageId]) -> Vec<&str> {
    wave.iter().map(StageId::as_str).collect()
}

const SMALL: &str = "version: 1\nstages:\n  - {id: a, name: A, acceptance: [make]}\n";

#[test]
fn the_smallest_plan_has_every_default() {
    let plan = plan(&file(SMALL));
    insta::assert_snapshot!(serde_json::to_string_pretty(&plan).unwrap(), @r##"
    {
      "id": "plan-0001-test",
      "title": "Title",
      "overview": "# Title",
      "stages": [
        {
          "id": "a",
          "name": "A",
          "description": "",
          "dependencies": [],
          "checks": [
            {
              "command": "make",
              "exit_code": 0,
              "stderr_empty": false,
              "timeout_secs": null,
              "guard": false,
              "retries": 0,
              "description": null
            }
          ],
          "files": [],
          "working_dir": ".",
          "stage_type": "standard",
          "agent": {
            "backend": "claude",
            "mode": "interactive",
            "model": null,
            "effort": null
          },
          "max_retries": 3,
          "priority": "p2",
          "hold": false,
          "timeout_secs": null,
          "auto_merge": true,
          "sandbox": {
            "enabled": true,
            "auto_allow": true,
            "allow_local_binding": false,
            "allow_unix_sockets": false,
            "weaker_nested": false
          },
          "context_budget": 65,
          "advice": {
            "execution_mode": "single",
            "ultracode": false
          }
        }
      ],
      "acceptance": [],
      "landing": "end"
    }
    "##);
}

#[test]
fn the_example_of_the_contract_is_a_plan() {
    let plan = plan(include_str!("../../../tests/plans/feature.md"));
    assert_eq!(plan.title, "PLAN-0001: Feature name");
    assert_eq!(plan.overview, "# PLAN-0001: Feature name\n\nWhy, what, how …");
    assert_eq!(plan.stages[0].description, "What this stage accomplishes, in as many words as it needs.\n");
    assert_eq!(waves(&plan).iter().map(|wave| ids(wave)).collect::<Vec<_>>(), [["api"], ["docs"]]);
}

#[test]
fn the_example_of_the_documentation_is_a_plan() {
    let page = include_str!("../../../doc/plan-format.md");
    let (_, rest) = page.split_once("````markdown\n").expect("the page has an example");
    let (example, _) = rest.split_once("````\n").expect("the example ends");
    let plan = plan(example);
    assert_eq!(plan.stages.len(), 4);
    assert_eq!(waves(&plan).len(), 3);
}

/// What people and agents copy: the block of every example, strictly.
#[test]
fn every_example_of_the_documents_is_a_plan_without_a_problem() {
    let documents = [
        include_str!("../../../README.md"),
        include_str!("../../../doc/plan-format.md"),
        include_str!("../../../skills/plan-writer/SKILL.md"),
    ];
    let mut examples = 0;
    for document in documents {
        let whole = document.split("````markdown\n").skip(1).filter_map(|rest| rest.split_once("````\n"));
        let blocks = document.split("\n```yaml\nloom:\n").skip(1).filter_map(|rest| rest.split_once("\n```\n"));
        let blocks = blocks.filter(|(_, after)| !after.starts_with(END_MARKER));
        let wrap = |yaml: &str| format!("# T\n{BEGIN_MARKER}\n```yaml\nloom:\n{yaml}\n```\n{END_MARKER}\n");
        let all = whole.map(|(example, _)| example.to_owned()).chain(blocks.map(|(yaml, _)| wrap(yaml)));
        for example in all {
            verified(&example);
            examples += 1;
        }
    }
    assert!(examples >= 4, "{examples} examples");
}

/// The examples of `doc/plan-format.md` that show some fields of a stage.
#[test]
fn every_fragment_of_the_documentation_fits_a_stage() {
    let page = include_str!("../../../doc/plan-format.md");
    let blocks = page.split("\n```yaml\n").skip(1).filter_map(|rest| rest.split_once("\n```\n"));
    let fragments: Vec<&str> = blocks.map(|(yaml, _)| yaml).filter(|yaml| !yaml.starts_with("loom:")).collect();
    assert!(!fragments.is_empty());
    for fragment in fragments {
        let fields: String = fragment.lines().map(|line| format!("    {line}\n")).collect();
        verified(&file(&format!("version: 1\nstages:\n  - id: a\n    name: A\n    acceptance: [make]\n{fields}")));
    }
}

#[test]
fn the_documentation_names_every_field() {
    let page = include_str!("../../../doc/plan-format.md");
    let inner =
        [fields::WIRING, fields::WIRING_TEST, fields::DEAD_CODE, fields::REGRESSION_TEST, fields::CHANGE_IMPACT];
    let outer = [fields::PLAN, fields::STAGE, fields::CHECK, fields::AGENT, fields::CODE_REVIEW, fields::BUDGET];
    for table in outer.into_iter().chain(inner) {
        for field in table {
            assert!(page.contains(&format!("`{}`", field.name)), "doc/plan-format.md does not name `{}`", field.name);
        }
    }
}

#[test]
fn every_field_that_works_reaches_the_plan() {
    let plan = plan(&file(
        "version: 1\nagent: {model: opus, effort: low, mode: headless}\nmax_parallel: 7\nlanding: each\nbudget: {sessions: 9, tokens: 4000000, cost_usd: 2.50}\non_limit: ask\nauto_merge: false
acceptance: [make all]
stages:
  - id: a
    name: A
    acceptance: [{command: make, exit_code: 2, stdout_contains: [x], stdout_not_contains: [y], stderr_contains: [z],
      timeout: 1h30m, guard: true, description: why}]
    truths: [{command: make truth, parallel: true}]
    truth_checks: [{command: make check, stderr_empty: true, timeout: 90}]
    files: ['src/**']
    working_dir: ./crates//api/
    stage_type: integration-verify
    agent: {backend: claude, effort: max}
    model: 'sonnet[1m]'
    reasoning_effort: xhigh
    timeout: 10m
    max_retries: 0
    priority: p0
    budget: {cost_usd: 3}
    hold: true
    auto_merge: true
  - {id: b, name: B, acceptance: [make], run: make b}
  - {id: c, name: C, acceptance: [make], agent: claude}
",
    ));
    assert_eq!((plan.max_parallel, plan.acceptance.len(), plan.landing), (Some(7), 1, Landing::Each));
    let all = Budget { sessions: Some(9), tokens: Some(4_000_000), cost_microusd: Some(2_500_000) };
    assert_eq!((plan.budget, plan.on_limit), (all, Some(OnLimit::Ask)));
    let [a, b, c] = plan.stages.as_slice() else { panic!("three stages") };
    assert_eq!((a.budget.cost_microusd, b.budget), (Some(3_000_000), Budget::default()));
    assert_eq!(a.checks.len(), 3);
    let first = &a.checks[0];
    assert_eq!((first.exit_code, first.timeout_secs, first.guard), (2, Some(5400), true));
    assert_eq!((first.parallel, a.checks[1].parallel), (false, true));
    assert_eq!((first.stdout_contains[0].as_str(), first.description.as_deref()), ("x", Some("why")));
    assert!(a.checks[2].stderr_empty && a.checks[2].timeout_secs == Some(90));
    assert_eq!((a.working_dir.as_str(), a.stage_type), ("crates/api", StageType::IntegrationVerify));
    assert_eq!((a.timeout_secs, a.max_retries, a.priority), (Some(600), 0, Priority::P0));
    assert_eq!((a.hold, a.auto_merge, b.auto_merge), (true, true, false));
    let claude = |model: &str, effort: &str| Agent::Claude {
        mode: AgentMode::Headless,
        model: Some(model.to_owned()),
        effort: Some(effort.to_owned()),
    };
    assert_eq!(a.agent, claude("sonnet[1m]", "xhigh"));
    assert_eq!(b.agent, Agent::Command { run: "make b".to_owned() });
    assert_eq!(c.agent, claude("opus", "low"));
}

#[test]
fn examples_in_other_fences_are_prose() {
    let example = file(SMALL).replace("id: a", "id: example");
    let source = format!("Intro\n\n~~~~markdown\n{example}~~~~\n\n{}\n````markdown\n{example}````\n", file(SMALL));
    let plan = plan(&source);
    assert_eq!((plan.title.as_str(), plan.stages[0].id.as_str()), ("Title", "a"));
    assert_eq!(plan.overview.matches("example").count(), 2);
    assert!(!plan.overview.contains("id: a"), "{}", plan.overview);
}

#[test]
fn a_plan_inside_a_description_is_text() {
    let example: String = file(SMALL).lines().map(|line| format!("      {line}\n")).collect();
    let plan =
        plan(&file(&format!("{SMALL}  - id: b\n    name: B\n    acceptance: [make]\n    description: |\n{example}")));
    assert_eq!(plan.stages[1].description, file(SMALL));
    assert_eq!(plan.overview, "# Title");
}

#[test]
fn a_fence_in_a_block_scalar_does_not_end_the_block() {
    let fenced = "version: 1\nacceptance:\n- |\n ```\n make\n ```\n";
    let described = format!(
        "{fenced}stages:\n- id: a\n  name: A\n  acceptance: [make]\n  description: |\n    ```yaml\n    x\n    ```\n"
    );
    // The fence of the first scalar stands where Markdown alone would take it for the end.
    let indented: String = described.lines().map(|line| format!(" {line}\n")).collect();
    for (open, close) in [("```yaml", "```"), ("````yaml", "````"), ("~~~ yml", "~~~~"), ("  ```yaml", "```")] {
        let plan = plan(&format!("# T\n{BEGIN_MARKER}\n{open}\nloom:\n{indented}{close}\n{END_MARKER}\n"));
        assert_eq!(plan.stages[0].description, "```yaml\nx\n```\n");
        assert_eq!(plan.acceptance[0].command, "```\nmake\n```\n");
    }
}

#[test]
fn a_whole_block_may_be_indented_and_loosely_marked() {
    let block: String = file(SMALL).lines().skip(1).map(|line| format!("   {line}\n")).collect();
    let loose = block.replace(BEGIN_MARKER, "<!--LOOM  Metadata-->").replace("```yaml", "```yaml title=plan");
    assert_eq!(plan(&format!("Title\n=====\n\nprose\n{loose}")).overview, "Title\n=====\n\nprose");
}

#[test]
fn windows_files_read_the_same() {
    let unix = plan(&file(SMALL));
    let windows = file(SMALL).replace('\n', "\r\n");
    assert_eq!(plan(&format!("\u{feff}{windows}")), unix);
    assert_eq!(plan(&windows), unix);
}

#[test]
fn aliases_are_written_out() {
    let plan = plan(&file(
        "version: 1\nstages:\n  - {id: a, name: A, acceptance: &checks [make, &t make test]}
  - {id: b, name: B, acceptance: *checks, truths: [*t]}\n",
    ));
    assert_eq!(plan.stages[1].checks.len(), 3);
}

#[test]
fn values_that_ask_for_nothing_are_no_problem() {
    plan(&file(
        "version: 1\nsandbox: {}\nprotected: []\nstages:\n  - id: a\n    name: A\n    acceptance: [make]
    artifacts: []\n    bug_fix: false\n    setup:\n    dependencies:\n",
    ));
}

#[test]
fn waves_keep_the_order_of_the_file() {
    let body = "version: 1\nstages:
  - {id: z, name: n, acceptance: [make], dependencies: [a, b]}
  - {id: b, name: n, acceptance: [make]}
  - {id: a, name: n, acceptance: [make]}
  - {id: y, name: n, acceptance: [make], dependencies: [b]}
  - {id: x, name: n, acceptance: [make], dependencies: [z]}\n";
    let plan = plan(&file(body));
    let waves = waves(&plan);
    let waves: Vec<Vec<&str>> = waves.iter().map(|wave| ids(wave)).collect();
    assert_eq!(waves, [vec!["b", "a"], vec!["z", "y"], vec!["x"]]);
}

/// Two hundred layers of ten stages; each waits for five of the layer before.
fn large() -> String {
    let mut body = "version: 1\nstages:\n".to_owned();
    for n in 0..2000 {
        let layer = n / 10 * 10;
        let before: Vec<String> =
            (0..5).filter(|_| layer > 0).map(|k| format!("s{}", layer - 10 + (n + k * 2) % 10)).collect();
        body.push_str(&format!("  - id: s{n}\n    name: \"Stage {n}\"\n    description: |\n      Some words.\n"));
        body.push_str(&format!("    dependencies: [{}]\n    acceptance: [\"cargo test s{n}\"]\n", before.join(", ")));
        body.push_str(&format!("    files: [\"src/s{n}/**/*.rs\"]\n"));
    }
    file(&body)
}

/// `LOOM_TIME=1` with an optimised build prints how long it takes.
#[test]
fn a_large_plan_is_read_at_once() {
    let source = large();
    let timed = || {
        let started = std::time::Instant::now();
        let parsed = read(source.as_bytes(), "plan.md");
        (started.elapsed(), parsed)
    };
    let (took, parsed) = timed();
    assert_eq!(render(&parsed), "");
    let plan = parsed.plan.expect("a plan without problems");
    assert_eq!((plan.stages.len(), waves(&plan).len()), (2000, 200));
    // Far above what an optimised build needs; a quadratic step would show even here.
    assert!(took.as_millis() < 2000, "{took:?}");
    if std::env::var_os("LOOM_TIME").is_some() {
        let best = (0..20).map(|_| timed().0).min().unwrap_or(took);
        fs_err::write("/dev/stderr", format!("{} bytes in {best:?}\n", source.len())).expect("stderr");
    }
}

fn verified(source: &str) -> Summary {
    let around = Surroundings { files: None, has_program: &|_| true, shell_error: &|_| None, passing: Vec::new() };
    let (parsed, summary) = verify(source.as_bytes(), "plan.md", &around);
    assert_eq!(render(&parsed), "");
    summary.expect("a plan without problems has a shape")
}

#[test]
fn a_plan_says_how_it_will_run() {
    let body = "version: 1\nmax_parallel: 2\nstages:
  - {id: a, name: n, acceptance: [make]}
  - {id: b, name: n, acceptance: [make], dependencies: [a]}
  - {id: c, name: n, acceptance: [make], dependencies: [a]}
  - {id: d, name: n, acceptance: [make], dependencies: [c]}
  - {id: e, name: n, acceptance: [make]}
  - {id: f, name: n, acceptance: [make], dependencies: [b, d]}\n";
    let summary = verified(&file(body));
    assert_eq!(summary.critical_path, ["a", "c", "d", "f"]);
    // The widest wave has two stages; `b`, `e` and one of `c` and `d` can still run together.
    assert_eq!((summary.width, summary.max_parallel, summary.waves.len()), (3, 2, 4));
}

proptest::proptest! {
    /// The width against all sets of stages of a small plan.
    #[test]
    fn the_width_is_that_of_the_largest_set_without_an_order(
        edges in proptest::collection::vec(proptest::arbitrary::any::<bool>(), 36),
    ) {
        let mut body = "version: 1\nstages:\n".to_owned();
        let mut edges = edges.into_iter();
        for n in 0..9_usize {
            let on: Vec<String> = (0..n).filter(|_| edges.next() == Some(true)).map(|on| format!("s{on}")).collect();
            body.push_str(&format!("  - {{id: s{n}, name: n, acceptance: [make], dependencies: [{}]}}\n", on.join(", ")));
        }
        let parsed = read(file(&body).as_bytes(), "plan.md");
        let graph = Graph::of(&parsed.plan.unwrap());
        let is_free = |set: u32| {
            let members: Vec<usize> = (0..9).filter(|at| set >> at & 1 == 1).collect();
            members.iter().all(|a| members.iter().all(|b| a == b || graph.may_meet(*a, *b)))
        };
        let widest = (0_u32..1 << 9).filter(|set| is_free(*set)).map(u32::count_ones).max().unwrap();
        proptest::prop_assert_eq!(graph.width(), widest as usize);
    }
}

#[test]
fn a_large_plan_is_looked_at_as_a_whole_at_once() {
    let source = large();
    let files: Vec<String> = (0..2000).map(|n| format!("src/s{n}/mod.rs")).collect();
    let mut files = Some(files);
    files.as_mut().unwrap().sort();
    let around = Surroundings { files, has_program: &|_| true, shell_error: &|_| None, passing: Vec::new() };
    let timed = || {
        let started = std::time::Instant::now();
        let found = verify(source.as_bytes(), "plan.md", &around);
        (started.elapsed(), found)
    };
    let (took, (parsed, summary)) = timed();
    assert_eq!(render(&parsed), "");
    assert_eq!((summary.unwrap().width, parsed.plan.unwrap().stages.len()), (10, 2000));
    assert!(took.as_millis() < 4000, "{took:?}");
    if std::env::var_os("LOOM_TIME").is_some() {
        let best = (0..10).map(|_| timed().0).min().unwrap_or(took);
        fs_err::write("/dev/stderr", format!("verified {} bytes in {best:?}\n", source.len())).expect("stderr");
    }
}

#[test]
fn a_sandbox_of_a_stage_adds_to_that_of_the_plan() {
    use crate::model::sandbox::{PermissionMode, Sandbox};
    let plan = plan(&file(
        "version: 1
sandbox:
  permission_mode: default
  excluded_commands: [\"docker *\"]
  filesystem: {deny_read: [~/secret], deny_write: [migrations/**], allow_write: [~/.cargo/registry/]}
  network: {allowed_domains: [one.example], additional_domains: [\"*.Example.com\"], allow_local_binding: true}
stages:
  - id: a
    name: A
    acceptance: [make]
  - id: b
    name: B
    acceptance: [make]
    sandbox:
      auto_allow: false
      permission_mode: accept-edits
      filesystem: {deny_write: [migrations, doc], allow_write: [/srv/data]}
      network: {allowed_domains: [one.example, two.example], allow_local_binding: false, allow_unix_sockets: true}
      linux: {enable_weaker_nested: true}
  - id: c
    name: C
    acceptance: [make]
    sandbox: {enabled: false}
",
    ));
    let texts = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<String>>();
    let of_plan = Sandbox {
        permission_mode: Some(PermissionMode::Default),
        excluded_commands: texts(&["docker *"]),
        deny_read: texts(&["~/secret"]),
        deny_write: texts(&["migrations"]),
        allow_write: texts(&["~/.cargo/registry"]),
        allowed_domains: texts(&["one.example", "*.example.com"]),
        allow_local_binding: true,
        ..Sandbox::default()
    };
    assert_eq!(plan.stages[0].sandbox, of_plan);
    let added = Sandbox {
        auto_allow: false,
        permission_mode: Some(PermissionMode::AcceptEdits),
        deny_write: texts(&["migrations", "doc"]),
        allow_write: texts(&["~/.cargo/registry", "/srv/data"]),
        allowed_domains: texts(&["one.example", "*.example.com", "two.example"]),
        allow_local_binding: false,
        allow_unix_sockets: true,
        weaker_nested: true,
        ..of_plan.clone()
    };
    assert_eq!(plan.stages[1].sandbox, added);
    assert_eq!(plan.stages[2].sandbox, Sandbox { enabled: false, ..of_plan });
}

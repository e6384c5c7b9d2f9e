//! Which stage starts first.

use super::*;

#[test]
fn a_stage_whose_mates_run_goes_first() {
    let of_group = |name: &str, after: &[&str], group: &str| {
        let parallel_group = Some(group.to_owned());
        StageSpec { parallel_group, ..spec(name, after, command()) }
    };
    let stages = vec![
        of_group("a", &[], "g"),
        spec("x", &[], command()),
        spec("b", &["x"], command()),
        of_group("c", &["x"], "other"),
        spec("d", &["x"], command()),
        of_group("e", &["x"], "g"),
        StageSpec { priority: Priority::P1, ..spec("f", &["x"], command()) },
    ];
    let mut sim = Sim::new(stages);
    sim.until_verifying("x").land("x", oid(20)).schedule();
    let started: Vec<&str> = ["a", "b", "c", "d", "e", "f"]
        .into_iter()
        .filter(|name| matches!(sim.state(name), StageState::Running { .. }))
        .collect();
    // Four slots: `a` has one, then the priority counts, then the group, then the order of the plan.
    assert_eq!(started, ["a", "b", "e", "f"]);
}

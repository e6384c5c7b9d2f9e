//! What the plan says about how a stage is to be worked on, for its signal.

use std::fmt::Write;

use crate::base::text::list;
use crate::kernel::world::Run;
use crate::model::plan::{ExecutionMode, StageSpec, StageType};

/// Where stages of the knowledge types leave what they found.
const KNOWLEDGE: &str = "doc/loom/knowledge/";

/// Appends the list items of one stage's advice, and the section about its review.
pub(super) fn push(out: &mut String, run: &Run, spec: &StageSpec) {
    match spec.stage_type {
        StageType::Standard => {}
        StageType::Knowledge => {
            let _ =
                writeln!(out, "- What you find out about this project belongs into `{KNOWLEDGE}`, one subject a file");
        }
        StageType::KnowledgeDistill => {
            let _ = writeln!(
                out,
                "- Gather what the stages before this one learned, and keep in `{KNOWLEDGE}` what will still be true"
            );
        }
        StageType::IntegrationVerify => {
            let _ = writeln!(
                out,
                "- It verifies the whole: use what the stages before made, as a user would. It need not change anything"
            );
        }
        StageType::CodeReview => {
            let _ = writeln!(
                out,
                "- It reviews what the stages before made. It need not change anything; mend and commit what has to be mended"
            );
        }
    }
    let advice = &spec.advice;
    if advice.execution_mode == ExecutionMode::Team {
        let _ = writeln!(
            out,
            "- Work as a team: give parts to subagents that do not edit the same files. You answer for the whole"
        );
    }
    if advice.ultracode {
        let _ = writeln!(out, "- You may start as many subagents as the work is good for");
    }
    if !advice.implementers.is_empty() {
        let _ = writeln!(out, "- Parts of the work may go to, in this order: {}", list(&advice.implementers));
    }
    if let Some(seconds) = advice.subagent_timeout_secs {
        let _ = writeln!(out, "- A subagent that says nothing for {seconds} s is stuck: stop it and go on without it");
    }
    push_group(out, run, spec);
    push_review(out, spec);
}

/// The other stages of its group that are not over.
fn push_group(out: &mut String, run: &Run, spec: &StageSpec) {
    let Some(group) = &spec.parallel_group else { return };
    let mates = run.stages.values().filter(|stage| stage.spec.id != spec.id && !stage.state.is_final());
    let mates: Vec<String> = mates
        .filter(|stage| stage.spec.parallel_group.as_ref() == Some(group))
        .map(|stage| match stage.spec.files.as_slice() {
            [] => format!("`{}`", stage.spec.id),
            files => format!("`{}` ({})", stage.spec.id, list(files)),
        })
        .collect();
    if !mates.is_empty() {
        let _ = writeln!(
            out,
            "- Side by side with it, as group `{group}`: {}. Leave to them what is theirs",
            mates.join(", ")
        );
    }
}

fn push_review(out: &mut String, spec: &StageSpec) {
    let Some(review) = &spec.advice.code_review else { return };
    let each = if review.require_all { "each of them" } else { "those that matter here" };
    match review.dimensions.as_slice() {
        [] => out.push_str("\n## Review\n\nBefore you submit, review the whole change as a stranger would.\n"),
        dimensions => {
            let _ =
                writeln!(out, "\n## Review\n\nBefore you submit, review the whole change, and answer for {each}:\n");
            for dimension in dimensions {
                let _ = writeln!(out, "- {dimension}");
            }
        }
    }
}

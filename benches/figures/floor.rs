//! The same git work in a shell loop, with the same durability: what no
//! orchestrator of git worktrees can be faster than, one stage after the other.

use std::time::Duration;

use crate::lab::{Lab, Outcome};

/// Everything Loom makes durable is made durable here: git's own writes by
/// `core.fsync=all`, the ref's folders by `sync`.
const SCRIPT: &str = r#"
set -e
git="git -c core.fsync=all -c core.fsyncMethod=fsync -c gc.auto=0 -c maintenance.auto=false"
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=core.fsync GIT_CONFIG_VALUE_0=all
repo=$PWD proof=$PWD/../proof
mkdir -p "$proof" "$repo/.worktrees"
$git update-ref refs/heads/plan HEAD
tip=$(git rev-parse HEAD)
base=$tip
for n in $(seq 1 "$STAGES"); do
  if [ "$CHAINED" = 1 ]; then base=$tip; fi
  $git worktree add -q --no-track -b "stage/s$n" ".worktrees/s$n" "$base"
  (cd ".worktrees/s$n" && sh -c "echo $n > new$n.txt && git add new$n.txt && git commit -q -m 'Add $n'")
  head=$(git rev-parse "refs/heads/stage/s$n")
  tree=$($git merge-tree --write-tree "$tip" "$head")
  landing=$(echo "Add $n" | $git commit-tree "$tree" -p "$tip" -p "$head")
  GIT_INDEX_FILE="$repo/../proof.index" GIT_WORK_TREE="$proof" $git --git-dir="$repo/.git" read-tree --reset -u "$tree"
  (cd "$proof" && sh -c "sh -c true")
  $git update-ref refs/heads/plan "$landing" "$tip"
  sync .git/refs/heads .git/refs
  $git worktree remove ".worktrees/s$n"
  tip=$landing
done
$git merge -q --ff-only --no-overwrite-ignore plan
"#;

/// How long `stages` stages take, and whether each starts where the one before ended.
pub(crate) fn shell_loop(stages: usize, chained: bool) -> Outcome<Duration> {
    let lab = Lab::new()?;
    let mut shell = lab.command("bash");
    shell.args(["-c", SCRIPT]).env("STAGES", stages.to_string()).env("CHAINED", if chained { "1" } else { "0" });
    lab.time(shell)
}

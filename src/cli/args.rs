//! What clap parses. The doc comments are the help texts.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, Args as ClapArgs, CommandFactory, Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::complete;
use crate::model::budget::OnLimit;
use crate::model::ids::StageId;
use crate::model::terminal::Terminal;

/// Carries out plans with coding agents: worktrees, proof, and a merge queue that stays green
#[derive(Debug, Parser)]
#[command(name = "loom", version, arg_required_else_help = true)]
pub struct Args {
    /// Work as if started in this folder
    #[arg(short = 'C', long, global = true, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

fn terminals() -> impl TypedValueParser<Value = Terminal> {
    PossibleValuesParser::new(Terminal::ALL.map(Terminal::as_str)).try_map(|name| name.parse::<Terminal>())
}

fn policies() -> impl TypedValueParser<Value = OnLimit> {
    PossibleValuesParser::new(OnLimit::NAMES).try_map(|name| name.parse::<OnLimit>())
}

/// The command line as data, for completion.
pub fn command() -> clap::Command {
    Args::command()
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a plan and make it this project's plan
    Init(Init),
    /// Carry the plan out, in the background
    Run(Run),
    /// Show what is going on and what to type next
    Status(Status),
    /// Stop the daemon; sessions go on under their hosts
    Stop(Stop),
    /// Go on with a blocked stage in the same conversation
    Resume(StageOnly),
    /// Land a stage now, or let the base branch follow
    Merge(Merge),
    /// Show the live terminal of a session
    Attach(Attach),
    /// Show what a session printed
    Logs(Logs),
    /// Draw the stages with what waits for what
    Graph(Graph),
    /// Tell Loom about a stage
    #[command(subcommand)]
    Stage(Stage),
    /// Print the assignment of this worktree
    Signal(Signal),
    /// Write what the next session and dependents need (agents)
    Handoff(Box<Handoff>),
    /// Run a stage's checks now, in a fresh checkout, and print each with its evidence
    Verify(VerifyStage),
    /// Look at plans
    #[command(subcommand)]
    Plan(Plan),
    /// What agents may reach
    #[command(subcommand)]
    Sandbox(Sandbox),
    /// List and end sessions
    #[command(subcommand)]
    Sessions(Sessions),
    /// Show every setting, and where its value comes from
    Config(Config),
    /// Tell the whole story from the journal, and verify it
    Audit(Audit),
    /// Bring back what a reset, a retry or a removal put aside
    Undo(Undo),
    /// Say what is damaged or was left behind, and mend it
    Doctor(Doctor),
    /// See the whole story in a temporary repository: no account, no network
    Demo(Demo),
    /// Kill everything while a plan runs, and prove that nothing is lost or done twice
    Chaos(Chaos),
    /// Print the completion script of a shell
    Completions(Completions),
    /// The daemon itself
    #[command(hide = true)]
    Daemon(Run),
    /// Carries notifications
    #[command(hide = true)]
    Notify,
    /// The daemon's parent
    #[command(hide = true)]
    Keeper(Run),
}

#[derive(Debug, ClapArgs)]
pub struct Init {
    /// The plan: Markdown with a YAML block
    pub plan: PathBuf,
    /// Put the open plan's work aside and start over
    #[arg(long)]
    pub clean: bool,
}

#[derive(Debug, Clone, Default, ClapArgs)]
pub struct Run {
    /// Only this stage and what it depends on
    #[arg(long, value_name = "ID", add = ArgValueCompleter::new(complete::stages))]
    pub stage: Option<StageId>,
    /// Follow until it is over; the exit code says how it ended
    #[arg(long)]
    pub watch: bool,
    /// Run the daemon in this terminal
    #[arg(long)]
    pub foreground: bool,
    /// Sessions at once, instead of the plan's `max_parallel`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub max_parallel: Option<u32>,
    /// Prove, but ask before landing
    #[arg(long)]
    pub no_merge: bool,
    /// Give agents no sandbox: they may do what you may
    #[arg(long)]
    pub no_sandbox: bool,
    /// At a usage limit of the account: go on by itself when it is lifted, ask, or pause the plan
    #[arg(long, value_name = "POLICY", value_parser = policies())]
    pub on_limit: Option<OnLimit>,
    /// The keeper starts the daemon again
    #[arg(long, hide = true)]
    pub restarted: bool,
    /// Open a window for each session that has a terminal (`terminal` in the settings says it for good)
    #[arg(long, value_name = "KIND", value_parser = terminals())]
    pub terminal: Option<Terminal>,
}

#[derive(Debug, ClapArgs)]
pub struct Config {
    /// As JSON (documented in doc/configuration.md)
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Status {
    /// Only this stage, with everything about it
    #[arg(add = ArgValueCompleter::new(complete::stages))]
    pub stage: Option<StageId>,
    /// As JSON (documented in doc/status.md)
    #[arg(long)]
    pub json: bool,
    /// Keep showing it until the plan is over
    #[arg(long, conflicts_with = "json")]
    pub live: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Stop {
    /// End the sessions too; their stages go on with the next `loom run`
    #[arg(long)]
    pub kill: bool,
}

#[derive(Debug, ClapArgs)]
pub struct StageOnly {
    #[arg(add = ArgValueCompleter::new(complete::stages))]
    pub stage: StageId,
}

#[derive(Debug, ClapArgs)]
pub struct Merge {
    /// The stage; without it, the base branch follows the plan branch
    #[arg(add = ArgValueCompleter::new(complete::stages))]
    pub stage: Option<StageId>,
}

#[derive(Debug, ClapArgs)]
pub struct Attach {
    /// A stage or a session
    #[arg(value_name = "STAGE|SESSION", add = ArgValueCompleter::new(complete::stages))]
    pub target: String,
    /// Only look: nothing typed reaches the agent
    #[arg(long)]
    pub read_only: bool,
    /// In a window that Loom opens by itself
    #[arg(long, hide = true)]
    pub window: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Logs {
    /// A stage or a session; without it, the daemon's own log
    #[arg(value_name = "STAGE|SESSION", add = ArgValueCompleter::new(complete::stages))]
    pub target: Option<String>,
    /// Keep printing until the session ends
    #[arg(short, long)]
    pub follow: bool,
    /// The bytes as they came, also those that drive a terminal
    #[arg(long)]
    pub raw: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Graph {
    /// A plan file; without it, the plan of this project with its states
    pub plan: Option<PathBuf>,
    /// As JSON
    #[arg(long, conflicts_with_all = ["dot", "mermaid"])]
    pub json: bool,
    /// For Graphviz: loom graph --dot | dot -Tsvg
    #[arg(long, conflicts_with = "mermaid")]
    pub dot: bool,
    /// For Markdown that shows Mermaid
    #[arg(long)]
    pub mermaid: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Signal {
    /// The stage; without it, that of this session or worktree
    #[arg(add = ArgValueCompleter::new(complete::stages))]
    pub stage: Option<StageId>,
}

/// Without a file or a section, the handoff is read from standard input
#[derive(Debug, Default, ClapArgs)]
pub struct Handoff {
    /// Markdown with `## Status`, `## Done`, `## Decisions`, `## Open work`, `## Next steps` …
    pub file: Option<PathBuf>,
    /// The stage; without it, that of this session or worktree
    #[arg(long, add = ArgValueCompleter::new(complete::stages))]
    pub stage: Option<StageId>,
    /// Where the work stands
    #[arg(long, value_name = "TEXT")]
    pub status: Option<String>,
    /// Something that is done (this and the following: repeatable)
    #[arg(long, value_name = "TEXT")]
    pub done: Vec<String>,
    /// A decision, with its reason
    #[arg(long, value_name = "TEXT")]
    pub decision: Vec<String>,
    /// Something that is not done yet
    #[arg(long, value_name = "TEXT")]
    pub open: Vec<String>,
    /// What to do next, the first thing first
    #[arg(long, value_name = "TEXT")]
    pub next: Vec<String>,
    /// For dependents: something they can call
    #[arg(long, value_name = "TEXT")]
    pub interface: Vec<String>,
    /// For dependents: a pattern to follow
    #[arg(long, value_name = "TEXT")]
    pub pattern: Vec<String>,
    /// For dependents: where to hook in
    #[arg(long, value_name = "TEXT")]
    pub integration: Vec<String>,
    /// For dependents: what was assumed
    #[arg(long, value_name = "TEXT")]
    pub assumption: Vec<String>,
    /// For dependents: what to beware of
    #[arg(long, value_name = "TEXT")]
    pub warning: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum Stage {
    /// Submit the worktree's commit: Loom proves it and lands it
    Complete(Complete),
    /// Say that it cannot go on without a person
    Block(WithReason),
    /// Say that a check which failed is wrong: a person decides
    Dispute(DisputeCheck),
    /// Start the next attempt of a blocked stage
    Retry(Retry),
    /// Start over from the plan branch; what is there is kept (loom undo)
    Reset(WithReason),
    /// Do not start it until it is released
    Hold(StageOnly),
    /// Let a held stage start
    Release(StageOnly),
    /// Do without it
    Skip(Skip),
    /// Show what an open question of a stage is about
    Review(StageOnly),
    /// Say that its agent waits for a person (for agents without hooks)
    Waiting(WithReason),
    /// Say that its agent is at work again
    Resume(StageOnly),
    /// Answer an open question with yes
    Approve(Gate),
    /// Answer an open question with no
    Reject(Gate),
}

#[derive(Debug, ClapArgs)]
pub struct Complete {
    #[arg(add = ArgValueCompleter::new(complete::stages))]
    pub stage: StageId,
    /// Wait for the verdict and show it check by check
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, ClapArgs)]
pub struct WithReason {
    #[arg(add = ArgValueCompleter::new(complete::stages))]
    pub stage: StageId,
    /// Why; it is kept in the journal
    #[arg(long)]
    pub reason: String,
}

#[derive(Debug, ClapArgs)]
pub struct DisputeCheck {
    #[arg(add = ArgValueCompleter::new(complete::stages))]
    pub stage: StageId,
    /// The number of the check, as `loom signal` lists them
    #[arg(long, value_name = "N")]
    pub check: u32,
    /// Why the check is wrong, and not the work
    #[arg(long)]
    pub reason: String,
}

#[derive(Debug, ClapArgs)]
pub struct Retry {
    #[arg(add = ArgValueCompleter::new(complete::stages))]
    pub stage: StageId,
    /// What the next session should know
    #[arg(long)]
    pub context: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Skip {
    #[arg(add = ArgValueCompleter::new(complete::stages))]
    pub stage: StageId,
    /// Why; it is kept in the journal
    #[arg(long)]
    pub reason: String,
    /// Let dependents start without it
    #[arg(long)]
    pub go_on: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Gate {
    /// The stage with an open question, or a question's id (g1)
    #[arg(value_name = "STAGE|GATE", add = ArgValueCompleter::new(complete::stages))]
    pub target: String,
    /// Why; it is kept in the journal
    #[arg(long, default_value = "")]
    pub reason: String,
}

#[derive(Debug, ClapArgs)]
pub struct VerifyStage {
    #[arg(add = ArgValueCompleter::new(complete::stages))]
    pub stage: Option<StageId>,
    /// Instead, hold a kept bundle of evidence against the repository
    #[arg(long, value_name = "BUNDLE", conflicts_with = "stage")]
    pub evidence: Option<PathBuf>,
    /// Run nothing: print what the plan could ask for, from what the stage changed
    #[arg(long, conflicts_with = "evidence")]
    pub suggest: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Plan {
    /// Check a plan: every problem with line, column, reason and fix
    Verify(Verify),
    /// What a new version of the plan would change: what goes on, what is proven again, what restarts
    Diff(PlanDiff),
    /// Take a new version of the plan over; running stages keep theirs until their next attempt
    Apply(PlanApply),
}

#[derive(Debug, ClapArgs)]
pub struct PlanDiff {
    pub plan: PathBuf,
    /// As `loom plan apply --restart` would do (repeatable)
    #[arg(long, value_name = "STAGE", action = ArgAction::Append, add = ArgValueCompleter::new(complete::stages))]
    pub restart: Vec<StageId>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct PlanApply {
    pub plan: PathBuf,
    /// End this stage's session, or start it over if it has landed, so that it follows the new
    /// version at once (repeatable)
    #[arg(long, value_name = "STAGE", action = ArgAction::Append, add = ArgValueCompleter::new(complete::stages))]
    pub restart: Vec<StageId>,
}

#[derive(Debug, ClapArgs)]
pub struct Verify {
    pub plan: PathBuf,
    /// Warnings count as errors, and so does a stage whose checks all pass already: they are run,
    /// at the commit that is checked out, in a checkout of their own
    #[arg(long)]
    pub strict: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Sandbox {
    /// Print a `sandbox:` for the languages of this project
    Suggest(Suggest),
}

#[derive(Debug, ClapArgs)]
pub struct Suggest {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Sessions {
    /// The sessions that live
    List(SessionsList),
    /// End a session and its whole process tree; its stage is blocked
    Kill(SessionsKill),
}

#[derive(Debug, ClapArgs)]
pub struct SessionsList {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct SessionsKill {
    #[arg(add = ArgValueCompleter::new(complete::sessions))]
    pub session: crate::model::ids::SessionId,
}

#[derive(Debug, ClapArgs)]
pub struct Doctor {
    /// Mend what is Loom's own; work is rescued before anything is removed
    #[arg(long)]
    pub fix: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Audit {
    /// Only what is about this stage
    #[arg(conflicts_with = "verify", add = ArgValueCompleter::new(complete::stages))]
    pub stage: Option<StageId>,
    /// Verify every byte, and every landing against git; exit 4 when something is wrong
    #[arg(long)]
    pub verify: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Undo {
    /// What to bring back, as `--list` names it
    #[arg(value_name = "STAGE/N")]
    pub rescue: Option<String>,
    /// Show what can be brought back
    #[arg(long)]
    pub list: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Demo {
    /// Keep the temporary repository to look around
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Chaos {
    /// Where and when it kills; the same seed makes the same choices
    #[arg(long)]
    pub seed: Option<u64>,
    /// How often it kills
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub kills: u32,
    /// List the places where Loom can be killed
    #[arg(long)]
    pub points: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Completions {
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    pub shell: String,
}

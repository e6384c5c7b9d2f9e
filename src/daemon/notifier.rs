//! Tells a person what waits for them: each thing once, and what comes together in one message.
//! What was told is remembered in a file and is no fact: nothing is decided by it, and where it
//! is lost something is told twice.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::base::fs::write_atomic;
use crate::base::layout::Layout;
use crate::base::process;
use crate::kernel::World;
use crate::model::attention::{Attention, AttentionKind, Channels, Notification};
use crate::model::limits::{NOTIFY_GATHER, NOTIFY_TEXT_BYTES_MAX};
use crate::notify;

/// What `loom notify` is given on its standard input.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Errand {
    pub channels: Channels,
    pub notifications: Vec<Notification>,
}

/// The daemon's memory of what was told, and the thread that tells.
pub(super) struct Notifier {
    told: BTreeSet<String>,
    file: PathBuf,
    kinds: Vec<AttentionKind>,
    news: Option<Sender<(Option<String>, Vec<Attention>)>>,
    teller: Option<JoinHandle<()>>,
}

impl Notifier {
    /// None: there is no way to tell anybody, or nothing to tell.
    pub(super) fn start(layout: &Layout, channels: &Channels) -> Option<Notifier> {
        if channels.kinds.is_empty() || !notify::has_any(channels) {
            return None;
        }
        let (news, inbox) = channel();
        let teller = Teller { channels: channels.clone(), project: layout.project.clone() };
        let thread = std::thread::Builder::new().name("notifier".to_owned()).stack_size(256 << 10);
        let teller = thread.spawn(move || teller.tell(&inbox));
        let teller = teller.map_err(|error| tracing::error!("nobody can be notified: {error}")).ok()?;
        let file = layout.notified();
        let told = fs_err::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Some(Notifier { told, file, kinds: channels.kinds.clone(), news: Some(news), teller: Some(teller) })
    }

    /// Tells what was not told yet. What is over is forgotten, so that it is told if it comes again.
    pub(super) fn look(&mut self, world: &World) {
        let mut all = crate::kernel::attention(world);
        all.retain(|attention| self.kinds.contains(&attention.kind));
        let keys: BTreeSet<String> = all.iter().map(|attention| attention.key.clone()).collect();
        if keys == self.told {
            return;
        }
        all.retain(|attention| !self.told.contains(&attention.key));
        if let Some(news) = self.news.as_ref().filter(|_| !all.is_empty()) {
            let plan = world.run.as_ref().map(|run| run.plan.id.to_string());
            // A teller that is gone has logged why.
            let _ = news.send((plan, all));
        }
        self.told = keys;
        let bytes = serde_json::to_vec(&self.told).unwrap_or_default();
        if let Err(error) = write_atomic(&self.file, &bytes) {
            tracing::warn!("what was told is not remembered: {error}");
        }
    }
}

/// What is not told yet is told now.
impl Drop for Notifier {
    fn drop(&mut self) {
        drop(self.news.take());
        let _ = self.teller.take().map(JoinHandle::join);
    }
}

struct Teller {
    channels: Channels,
    project: PathBuf,
}

impl Teller {
    fn tell(&self, inbox: &Receiver<(Option<String>, Vec<Attention>)>) {
        while let Ok((plan, mut news)) = inbox.recv() {
            let end = Instant::now() + NOTIFY_GATHER;
            let is_last = loop {
                match inbox.recv_timeout(end.saturating_duration_since(Instant::now())) {
                    Ok((_, more)) => news.extend(more),
                    Err(RecvTimeoutError::Timeout) => break false,
                    Err(RecvTimeoutError::Disconnected) => break true,
                }
            };
            if let Err(error) = self.deliver(gathered(&self.project, plan, news), is_last) {
                tracing::error!("a notification was not sent: {error}");
            }
        }
    }

    /// A process of its own carries it: it outlives a daemon that ends, and holds none up. While
    /// one is under way, more is gathered.
    fn deliver(&self, notifications: Vec<Notification>, is_last: bool) -> std::io::Result<()> {
        let mut carrier = process::command(process::this_binary()?);
        carrier.arg("-C").arg(&self.project).arg("notify").current_dir(&self.project);
        let mut carrier = carrier.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let errand = serde_json::to_vec(&Errand { channels: self.channels.clone(), notifications })?;
        let sent = carrier.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&errand));
        if !is_last {
            carrier.wait()?;
        }
        sent
    }
}

/// One notification for each kind of thing.
fn gathered(project: &std::path::Path, plan: Option<String>, news: Vec<Attention>) -> Vec<Notification> {
    let mut kinds: Vec<AttentionKind> = news.iter().map(|attention| attention.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.into_iter().map(|kind| one(project, plan.clone(), kind, &news)).collect()
}

fn one(project: &std::path::Path, plan: Option<String>, event: AttentionKind, news: &[Attention]) -> Notification {
    let of: Vec<&Attention> = news.iter().filter(|attention| attention.kind == event).collect();
    let mut stages = Vec::new();
    for stage in of.iter().flat_map(|attention| &attention.stages) {
        if !stages.contains(stage) {
            stages.push(stage.clone());
        }
    }
    let lines: Vec<&str> = of.iter().map(|attention| attention.text.as_str()).collect();
    let mut text = lines.join("\n");
    if text.len() > NOTIFY_TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(NOTIFY_TEXT_BYTES_MAX));
        text.push('…');
    }
    let next = match of.as_slice() {
        [only] => only.next.clone(),
        _ => "loom status".to_owned(),
    };
    let project = project.display().to_string();
    Notification { version: notify::NOTIFICATION_VERSION, event, project, plan, stages, text, next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::StageId;

    #[test]
    fn what_comes_together_is_one_message_for_each_kind() {
        let of = |n: u32, kind, text: &str| Attention {
            key: n.to_string(),
            kind,
            stages: vec![StageId::new(format!("s{n}")).unwrap()],
            text: text.to_owned(),
            next: format!("loom attach s{n}"),
        };
        let mut news: Vec<Attention> = (0..10).map(|n| of(n, AttentionKind::Blocked, &"x".repeat(3_000))).collect();
        news.push(of(3, AttentionKind::Waiting, "asks"));
        let told = gathered(std::path::Path::new("/p"), Some("plan".to_owned()), news);
        let [waiting, blocked] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((waiting.text.as_str(), waiting.next.as_str()), ("asks", "loom attach s3"));
        assert_eq!((blocked.stages.len(), blocked.next.as_str()), (10, "loom status"));
        assert!(blocked.text.len() <= NOTIFY_TEXT_BYTES_MAX + 3 && blocked.text.ends_with('…'));
    }
}

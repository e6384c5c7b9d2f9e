//! A model of git: commits with parents and trees, refs that move by compare-and-swap, merges
//! with conflicts, locks, and what of it survives a power cut. A file's content is one number.

use std::collections::BTreeMap;

use loom::model::ids::Oid;

use super::dice::{Dice, mix};

/// Content by path.
pub type Tree = BTreeMap<u8, u32>;

pub struct Commit {
    pub oid: Oid,
    pub tree_oid: Oid,
    pub tree: Tree,
    pub parents: Vec<usize>,
    pub message: String,
    /// Itself and all commits it can reach, as a bit set.
    reaches: Vec<u64>,
    pub is_durable: bool,
    /// A power cut took it.
    pub is_gone: bool,
}

#[derive(Default)]
pub struct Git {
    pub commits: Vec<Commit>,
    by_oid: BTreeMap<Oid, usize>,
    pub refs: BTreeMap<String, usize>,
    /// Refs as they are after a power cut, at the least.
    durable: BTreeMap<String, usize>,
    pub locks: Vec<String>,
    /// Raised by every change, so that the checker knows when to look again.
    pub version: u64,
}

pub enum Merged {
    Clean(Tree),
    Conflict(Vec<u8>),
}

fn oid(hash: u64) -> Oid {
    Oid::new(format!("{hash:016x}{:016x}{:08x}", mix(hash), hash as u32)).unwrap()
}

fn hash_of(text: &str, seed: u64) -> u64 {
    text.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

pub fn tree_oid(tree: &Tree) -> Oid {
    let hash = tree.iter().fold(7, |hash, (path, content)| mix(hash ^ (u64::from(*path) << 32) ^ u64::from(*content)));
    oid(hash)
}

fn has(bits: &[u64], at: usize) -> bool {
    bits.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
}

fn add(bits: &mut Vec<u64>, other: &[u64]) {
    if bits.len() < other.len() {
        bits.resize(other.len(), 0);
    }
    bits.iter_mut().zip(other).for_each(|(word, other)| *word |= other);
}

impl Git {
    pub fn commit(&mut self, tree: Tree, parents: &[usize], message: &str) -> usize {
        let tree_oid = tree_oid(&tree);
        let seed = parents.iter().fold(hash_of(tree_oid.as_str(), 3), |hash, parent| mix(hash ^ *parent as u64));
        let oid = oid(hash_of(message, seed));
        if let Some(at) = self.by_oid.get(&oid).copied() {
            self.commits[at].is_gone = false;
            return at;
        }
        let at = self.commits.len();
        let mut reaches = vec![0; at / 64 + 1];
        for parent in parents {
            add(&mut reaches, &self.commits[*parent].reaches);
        }
        reaches[at / 64] |= 1 << (at % 64);
        self.by_oid.insert(oid.clone(), at);
        self.commits.push(Commit {
            oid,
            tree_oid,
            tree,
            parents: parents.to_vec(),
            message: message.to_owned(),
            reaches,
            is_durable: false,
            is_gone: false,
        });
        self.version += 1;
        at
    }

    pub fn find(&self, oid: &Oid) -> Option<usize> {
        self.by_oid.get(oid).copied().filter(|at| !self.commits[*at].is_gone)
    }

    pub fn oid(&self, at: usize) -> Oid {
        self.commits[at].oid.clone()
    }

    pub fn tip(&self, name: &str) -> Option<usize> {
        self.refs.get(name).copied()
    }

    pub fn is_ancestor(&self, old: usize, new: usize) -> bool {
        has(&self.commits[new].reaches, old)
    }

    /// What some ref reaches.
    pub fn reachable(&self) -> Vec<u64> {
        let mut bits = Vec::new();
        for tip in self.refs.values() {
            add(&mut bits, &self.commits[*tip].reaches);
        }
        bits
    }

    /// The commit and everything before it.
    pub fn closure(&self, at: usize) -> &[u64] {
        &self.commits[at].reaches
    }

    pub fn reaches(bits: &[u64], at: usize) -> bool {
        has(bits, at)
    }

    /// Makes the commit and all its ancestors survive a power cut.
    pub fn make_durable(&mut self, at: usize) {
        let mut todo = vec![at];
        while let Some(at) = todo.pop() {
            if !std::mem::replace(&mut self.commits[at].is_durable, true) {
                todo.extend(&self.commits[at].parents);
            }
        }
    }

    pub fn set(&mut self, name: &str, to: Option<usize>) {
        match to {
            Some(to) => self.refs.insert(name.to_owned(), to),
            None => self.refs.remove(name),
        };
        self.version += 1;
    }

    /// Loom's own move of a ref: compare-and-swap, durable when it returns.
    pub fn swap(&mut self, name: &str, old: Option<usize>, new: Option<usize>) -> Result<(), String> {
        if self.locks.iter().any(|lock| lock == name) {
            return Err(format!("cannot lock ref '{name}'"));
        }
        if self.tip(name) != old {
            return Err(format!("'{name}' is not where it was"));
        }
        self.set(name, new);
        match new {
            Some(new) => {
                self.make_durable(new);
                self.durable.insert(name.to_owned(), new);
            }
            None => {
                self.durable.remove(name);
            }
        }
        Ok(())
    }

    pub fn merge_base(&self, ours: usize, theirs: usize) -> Option<usize> {
        (0..=ours.min(theirs)).rev().find(|at| self.is_ancestor(*at, ours) && self.is_ancestor(*at, theirs))
    }

    pub fn merge(&self, ours: usize, theirs: usize) -> Merged {
        let empty = Tree::new();
        let base = self.merge_base(ours, theirs).map_or(&empty, |at| &self.commits[at].tree);
        let (ours, theirs) = (&self.commits[ours].tree, &self.commits[theirs].tree);
        let mut merged = Tree::new();
        let mut conflicts = Vec::new();
        let paths: std::collections::BTreeSet<u8> =
            base.keys().chain(ours.keys()).chain(theirs.keys()).copied().collect();
        for path in paths {
            let (old, our, their) = (base.get(&path), ours.get(&path), theirs.get(&path));
            let result = match () {
                () if our == their || their == old => our,
                () if our == old => their,
                () => {
                    conflicts.push(path);
                    our.or(their)
                }
            };
            merged.extend(result.map(|content| (path, *content)));
        }
        if conflicts.is_empty() { Merged::Clean(merged) } else { Merged::Conflict(conflicts) }
    }

    /// Unsynced moves of refs survive or not; what nothing durable holds is gone.
    pub fn power_cut(&mut self, dice: &mut Dice) {
        let names: std::collections::BTreeSet<String> = self.refs.keys().chain(self.durable.keys()).cloned().collect();
        for name in names {
            let (now, kept) = (self.refs.get(&name).copied(), self.durable.get(&name).copied());
            if now != kept && dice.chance(500) {
                match kept {
                    Some(kept) => self.refs.insert(name, kept),
                    None => self.refs.remove(&name),
                };
            }
        }
        self.durable = self.refs.clone();
        for tip in self.refs.values().copied().collect::<Vec<_>>() {
            self.make_durable(tip);
        }
        for commit in &mut self.commits {
            commit.is_gone |= !commit.is_durable;
        }
        self.version += 1;
    }

    /// What is there is old: it has reached the disk long ago.
    pub fn settle(&mut self) {
        self.durable = self.refs.clone();
        for tip in self.refs.values().copied().collect::<Vec<_>>() {
            self.make_durable(tip);
        }
    }
}

//! Who is authenticated: what the checks of uniqueness and of first contact look through.
//!
//! They come with every IKE SA, so they must not cost more with more of them: peers are found by their identity.

use crate::config::Identity;
use crate::event::IkeId;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The two ends of an established IKE SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) connection: String,
    pub(crate) local: Identity,
    pub(crate) remote: Identity,
}

/// All established IKE SAs by their ends. The hash map is only looked up.
#[derive(Default)]
pub(crate) struct KnownPeers {
    by_id: BTreeMap<IkeId, Known>,
    by_remote: HashMap<Identity, BTreeSet<IkeId>>,
}

/// The key of an identity: equal for any two that are equal, and for names that differ in case only.
fn key(id: &Identity) -> Identity {
    match id {
        Identity::Fqdn(name) => Identity::Fqdn(name.to_ascii_lowercase()),
        Identity::Email(name) => Identity::Email(name.to_ascii_lowercase()),
        Identity::Any | Identity::Address(_) | Identity::Dn(_) | Identity::KeyId(_) => id.clone(),
    }
}

impl KnownPeers {
    pub(crate) fn insert(&mut self, id: IkeId, known: Known) {
        self.remove(id);
        self.by_remote.entry(key(&known.remote)).or_default().insert(id);
        self.by_id.insert(id, known);
    }

    pub(crate) fn remove(&mut self, id: IkeId) {
        let Some(known) = self.by_id.remove(&id) else { return };
        let key = key(&known.remote);
        if let Some(ids) = self.by_remote.get_mut(&key) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_remote.remove(&key);
            }
        }
    }

    pub(crate) fn get(&self, id: IkeId) -> Option<&Known> {
        self.by_id.get(&id)
    }

    /// Those whose peer has exactly this identity, oldest first.
    pub(crate) fn of(&self, remote: &Identity) -> impl Iterator<Item = (IkeId, &Known)> {
        let ids = self.by_remote.get(&key(remote)).into_iter().flatten();
        let found = ids.filter_map(|id| Some((*id, self.by_id.get(id)?)));
        found.filter(move |(_, known)| known.remote == *remote)
    }

    /// Whether there is one between these two, where a peer's name may be written in another way.
    pub(crate) fn has(&self, local: &Identity, remote: &Identity) -> bool {
        let same = |known: &Known| known.local == *local && remote.is_same(&known.remote);
        match remote {
            // One name can be encoded in many ways; initiators to such peers are few.
            Identity::Dn(_) => self.by_id.values().any(same),
            _ => {
                let ids = self.by_remote.get(&key(remote)).into_iter().flatten();
                ids.filter_map(|id| self.by_id.get(id)).any(same)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Identity {
        Identity::Fqdn(text.to_owned())
    }

    fn known(remote: &str) -> Known {
        Known { connection: "c".to_owned(), local: name("us"), remote: name(remote) }
    }

    #[test]
    fn what_was_replaced_or_removed_is_not_found() {
        let mut peers = KnownPeers::default();
        peers.insert(IkeId(1), known("a"));
        peers.insert(IkeId(2), known("a"));
        peers.insert(IkeId(3), known("b"));
        let of = |peers: &KnownPeers, text| {
            peers.of(&name(text)).map(|(id, _)| id.0).collect::<Vec<_>>()
        };
        assert_eq!(of(&peers, "a"), vec![1, 2]);
        peers.insert(IkeId(2), known("b"));
        peers.remove(IkeId(1));
        peers.remove(IkeId(1));
        assert_eq!(of(&peers, "a"), Vec::<u64>::new());
        assert_eq!(of(&peers, "b"), vec![2, 3]);
        assert_eq!(peers.by_remote.len(), 1);
    }

    #[test]
    fn names_are_alike_without_regard_to_case_and_equal_only_with() {
        let mut peers = KnownPeers::default();
        peers.insert(IkeId(1), known("Peer.Example"));
        assert!(peers.has(&name("us"), &name("peer.example")));
        assert!(!peers.has(&name("other"), &name("peer.example")));
        assert_eq!(peers.of(&name("peer.example")).count(), 0);
        assert_eq!(peers.of(&name("Peer.Example")).count(), 1);
        assert!(!peers.has(&name("us"), &Identity::Any));
    }
}

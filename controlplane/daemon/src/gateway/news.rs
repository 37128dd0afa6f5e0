//! What happens to SAs, told to VICI clients that listen.

use super::Gateway;
use crate::vici::{Message, reply};
use core::fmt::Write as _;
use ike::IkeId;
use ike::event::{Event, Level};
use ike::view::{ChildSaView, ChildState, IkeSaView, IkeState};
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// News that wait for the control socket, which takes them in every turn of the loop: what a burst of set-ups makes. More are lost.
const MOST: usize = 4096;

/// SAs of which it is remembered how they were: as many as a gateway has. Without them the end of one is told by a log line only.
const MOST_SEEN: usize = 65_536;

/// Something to tell.
#[derive(Debug)]
pub(crate) enum Item {
    /// An event that clients register for.
    Event(&'static str, Message),
    /// A line of the log.
    Log(Line),
}

/// A line of the log, which also goes to whoever waits for a command about its connection.
#[derive(Debug)]
pub(crate) struct Line {
    /// charon's: 0 is what an operator must see, 1 what he may want to, 2 for finding faults.
    pub(crate) level: i64,
    /// The connection and the IKE SA that it is about.
    pub(crate) sa: Option<(String, u64)>,
    pub(crate) text: String,
}

/// What is to be told, gathered while somebody listens.
#[derive(Debug, Default)]
pub(crate) struct News {
    listened_to: bool,
    /// SAs as they were last seen: when one has ended the engine knows it no more.
    seen: BTreeMap<IkeId, IkeSaView>,
    items: VecDeque<Item>,
}

impl News {
    fn push(&mut self, item: Item) {
        if self.items.len() < MOST {
            self.items.push_back(item);
        }
    }
}

impl Gateway {
    /// Whether anybody listens: nothing is gathered otherwise, as it costs more than many a set-up.
    pub(crate) fn set_listened_to(&mut self, listened_to: bool) {
        if !listened_to && self.news.listened_to {
            self.news = News::default();
        }
        self.news.listened_to = listened_to;
    }

    /// The next one.
    pub(crate) fn poll_news(&mut self) -> Option<Item> {
        self.news.items.pop_front()
    }

    /// Notes what is about to be carried out.
    pub(super) fn tell(&mut self, now: Instant, event: &Event) {
        if !self.news.listened_to {
            return;
        }
        match event {
            Event::ChildUp { name, replaces, .. } => {
                let before = self.news.seen.get(&name.ike).cloned();
                let Some(view) = self.look(name.ike, now) else { return };
                let Some(child) = view.children.iter().find(|c| c.pair == name.pair) else {
                    return;
                };
                let traffic = |pair| self.traffic(pair, now);
                let old = replaces.and_then(|old| {
                    let views = [Some(&view), before.as_ref()];
                    let children = views.into_iter().flatten().flat_map(|view| &view.children);
                    children.into_iter().find(|c| c.pair == old).cloned()
                });
                let event = match &old {
                    Some(old) => {
                        Item::Event("child-rekey", reply::child_rekey(&view, old, child, traffic))
                    }
                    None => {
                        let message = reply::child_updown(true, &view, child, traffic);
                        Item::Event("child-updown", message)
                    }
                };
                let mut text = format!(
                    "CHILD_SA {}{{{}}} established with SPIs {:08x}_i {:08x}_o and TS",
                    name.child,
                    name.pair.0,
                    child.spi_in.get(),
                    child.spi_out.get()
                );
                for selector in &child.selectors {
                    use crate::config::display;
                    let (local, remote) = (display::local(selector), display::remote(selector));
                    // Writing to a string does not fail.
                    let _ = write!(text, " {local} === {remote}");
                }
                self.news.push(event);
                self.line(1, &name.connection, name.ike, text);
            }
            Event::ChildDown { name, reason, .. } => {
                if let Some(view) = self.look(name.ike, now)
                    && let Some(child) = view.children.iter().find(|c| c.pair == name.pair)
                {
                    let child = ChildSaView { state: ChildState::Deleting, ..child.clone() };
                    let traffic = |pair| self.traffic(pair, now);
                    let message = reply::child_updown(false, &view, &child, traffic);
                    self.news.push(Item::Event("child-updown", message));
                }
                let text = format!("CHILD_SA {}{{{}}} closed: {reason}", name.child, name.pair.0);
                self.line(1, &name.connection, name.ike, text);
            }
            Event::IkeUp { ike, connection, replaces } => {
                let old = replaces.and_then(|old| self.news.seen.remove(&old));
                let Some(view) = self.look(*ike, now) else { return };
                let path = view.path;
                let text = format!(
                    "IKE_SA {connection}[{}] established between {} and {}",
                    ike.0,
                    path.local.ip(),
                    path.remote.ip()
                );
                self.news.push(match &old {
                    Some(old) => Item::Event("ike-rekey", reply::ike_rekey(old, &view)),
                    None => Item::Event("ike-updown", reply::ike_updown(true, &view)),
                });
                self.line(1, connection, *ike, text);
            }
            Event::IkeDown { ike, .. } => {
                if let Some(mut view) = self.look(*ike, now) {
                    view.state = IkeState::Deleting;
                    let message = reply::ike_updown(false, &view);
                    self.news.push(Item::Event("ike-updown", message));
                }
                // The engine itself logs the end.
                self.news.seen.remove(ike);
            }
            Event::Log { level, text } => {
                let level = match level {
                    Level::Warn => 0,
                    Level::Info => 1,
                    Level::Debug => 2,
                };
                self.news.push(Item::Log(Line { level, sa: about(text), text: text.clone() }));
            }
            _ => {}
        }
    }

    /// An IKE SA with its children as it is, or as it last was: of children that are gone what was last seen.
    fn look(&mut self, ike: IkeId, now: Instant) -> Option<IkeSaView> {
        let Some(mut view) = self.engine.ike_sa(ike, now) else {
            return self.news.seen.get(&ike).cloned();
        };
        let is = view.clone();
        if self.news.seen.len() >= MOST_SEEN {
            self.news.seen.clear();
        }
        if let Some(before) = self.news.seen.insert(ike, is) {
            let gone = before.children.into_iter();
            let gone = gone.filter(|c| view.children.iter().all(|now| now.pair != c.pair));
            view.children.extend(gone.collect::<Vec<_>>());
        }
        Some(view)
    }

    fn line(&mut self, level: i64, connection: &str, ike: IkeId, text: String) {
        let sa = Some((connection.to_owned(), ike.0));
        self.news.push(Item::Log(Line { level, sa, text }));
    }
}

/// What a line of the engine is about: it begins with `IKE_SA name[number]` where it is about one.
fn about(text: &str) -> Option<(String, u64)> {
    let (name, rest) = text.strip_prefix("IKE_SA ")?.split_once('[')?;
    let (number, _) = rest.split_once(']')?;
    Some((name.to_owned(), number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_engine_name_their_sa() {
        assert_eq!(about("IKE_SA gw[7] 192.0.2.1: no"), Some(("gw".to_owned(), 7)));
        assert_eq!(about("IKE_SA [7] ended"), Some((String::new(), 7)));
        assert_eq!(about("no proposal in common"), None);
    }
}

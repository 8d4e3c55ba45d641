//! Who is subscribed to what, on one worker.
//!
//! Both directions are kept (a topic's subscribers, a connection's subscriptions), and each entry knows where its
//! twin is: subscribing, unsubscribing and closing cost nothing per subscriber of a topic.
//!
//! Invariant: `topics[t].subscribers[p] == (c, s)` exactly when connection c's `subscriptions[s] == (t, p)`.

use hashbrown::HashMap;
use siphasher::sip::SipHasher13;
use std::hash::BuildHasher;
use thin_vec::ThinVec;

/// One entry of a connection's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    topic: u32,
    position: u32,
}

/// One entry of a topic's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Subscriber {
    /// Index of the connection in the session table.
    conn: u32,
    subscription: u32,
}

/// A topic, as long as nobody subscribes or unsubscribes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TopicId(u32);

/// Why a subscription was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The topic's name is over `topic_bytes_max`.
    #[error("a topic's name may have at most {limit} bytes")]
    NameTooLong {
        /// The limit in force, bytes.
        limit: usize,
    },
    /// The connection has `subscriptions_max` subscriptions.
    #[error("a connection may have at most {limit} subscriptions")]
    TooManySubscriptions {
        /// The limit in force.
        limit: usize,
    },
    /// The worker has `topics_max` topics.
    #[error("a worker may have at most {limit} topics")]
    TooManyTopics {
        /// The limit in force.
        limit: usize,
    },
    /// The connection is not open (any more).
    #[error("the connection is closed")]
    Closed,
}

/// The topics that have a subscriber.
pub(super) struct Topics {
    by_name: HashMap<Box<str>, u32, KeyedHash>,
    topics: Vec<Topic>,
    free: Vec<u32>,
    topics_max: usize,
}

#[derive(Default)]
struct Topic {
    name: Box<str>,
    subscribers: Vec<Subscriber>,
}

/// What is hashed comes from peers: the hash is keyed, so that nobody can aim for collisions.
pub(super) struct KeyedHash {
    pub(super) key: [u8; 16],
}

impl BuildHasher for KeyedHash {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.key)
    }
}

impl Topics {
    pub(super) fn new(topics_max: usize, key: [u8; 16]) -> Self {
        Topics {
            by_name: HashMap::with_hasher(KeyedHash { key }),
            topics: Vec::new(),
            free: Vec::new(),
            topics_max,
        }
    }

    /// The topic of that name, if it has a subscriber.
    pub(super) fn find(&self, name: &str) -> Option<TopicId> {
        self.by_name.get(name).copied().map(TopicId)
    }

    /// The connection (its index in the session table) at a position of a topic's list; `None` past its end.
    pub(super) fn subscriber(&self, topic: TopicId, position: usize) -> Option<u32> {
        self.topics.get(topic.0 as usize)?.subscribers.get(position).map(|subscriber| subscriber.conn)
    }

    /// Subscribes connection `conn`, whose list is `list`; doing it twice changes nothing.
    pub(super) fn subscribe(
        &mut self,
        conn: u32,
        list: &mut ThinVec<Subscription>,
        subscriptions_max: usize,
        name: &str,
    ) -> Result<(), SubscribeError> {
        let known = self.by_name.get(name).copied();
        if known.is_some_and(|topic| list.iter().any(|entry| entry.topic == topic)) {
            return Ok(());
        }
        if list.len() >= subscriptions_max {
            return Err(SubscribeError::TooManySubscriptions { limit: subscriptions_max });
        }
        let topic = match known {
            Some(topic) => topic,
            None => self.insert(name)?,
        };
        let subscribers = &mut self.topics[topic as usize].subscribers;
        list.push(Subscription { topic, position: subscribers.len() as u32 });
        subscribers.push(Subscriber { conn, subscription: list.len() as u32 - 1 });
        Ok(())
    }

    /// Ends one subscription; returns whether there was one. `moved` gets (connection, its subscription, its new
    /// position) when another connection's entry took the place of the removed one.
    pub(super) fn unsubscribe(
        &mut self,
        list: &mut ThinVec<Subscription>,
        name: &str,
        moved: impl FnOnce(Moved),
    ) -> bool {
        let Some(&topic) = self.by_name.get(name) else { return false };
        let Some(at) = list.iter().position(|entry| entry.topic == topic) else { return false };
        let removed = list.swap_remove(at);
        if let Some(shifted) = list.get(at) {
            self.topics[shifted.topic as usize].subscribers[shifted.position as usize].subscription =
                at as u32;
        }
        self.remove(removed, moved);
        true
    }

    /// Takes the last subscription off a connection's list; `false` when it is empty. For connections that end.
    pub(super) fn unsubscribe_last(
        &mut self,
        list: &mut ThinVec<Subscription>,
        moved: impl FnOnce(Moved),
    ) -> bool {
        let Some(removed) = list.pop() else { return false };
        self.remove(removed, moved);
        true
    }

    fn insert(&mut self, name: &str) -> Result<u32, SubscribeError> {
        if self.by_name.len() >= self.topics_max {
            return Err(SubscribeError::TooManyTopics { limit: self.topics_max });
        }
        let topic = self.free.pop().unwrap_or_else(|| {
            self.topics.push(Topic::default());
            self.topics.len() as u32 - 1
        });
        self.topics[topic as usize].name = name.into();
        self.by_name.insert(name.into(), topic);
        Ok(topic)
    }

    fn remove(&mut self, entry: Subscription, moved: impl FnOnce(Moved)) {
        let topic = &mut self.topics[entry.topic as usize];
        topic.subscribers.swap_remove(entry.position as usize);
        match topic.subscribers.get(entry.position as usize) {
            Some(shifted) => moved(Moved {
                conn: shifted.conn,
                subscription: shifted.subscription as usize,
                position: entry.position,
            }),
            None if topic.subscribers.is_empty() => {
                self.by_name.remove(&topic.name);
                *topic = Topic::default();
                self.free.push(entry.topic);
            }
            None => {}
        }
    }
}

/// An entry of a topic's list has moved: its twin must follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    /// Whose twin.
    pub(super) conn: u32,
    /// Which of its subscriptions.
    pub(super) subscription: usize,
    /// The new position.
    pub(super) position: u32,
}

impl Moved {
    /// Writes the new position into the connection's list.
    pub(super) fn apply(self, list: &mut [Subscription]) {
        if let Some(entry) = list.get_mut(self.subscription) {
            entry.position = self.position;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

    #[derive(Clone, Debug)]
    enum Step {
        Subscribe { conn: usize, name: usize },
        Unsubscribe { conn: usize, name: usize },
        Close { conn: usize },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let conn = 0..6usize;
        let name = 0..NAMES.len();
        proptest::collection::vec(
            prop_oneof![
                4 => (conn.clone(), name.clone()).prop_map(|(conn, name)| Step::Subscribe { conn, name }),
                2 => (conn.clone(), name).prop_map(|(conn, name)| Step::Unsubscribe { conn, name }),
                1 => conn.prop_map(|conn| Step::Close { conn }),
            ],
            0..200,
        )
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_pairs(steps in steps()) {
            let mut topics = Topics::new(4, [7; 16]);
            let mut lists = vec![ThinVec::new(); 6];
            let mut model = std::collections::BTreeSet::new();
            for step in steps {
                match step {
                    Step::Subscribe { conn, name } => {
                        let result = topics.subscribe(conn as u32, &mut lists[conn], 3, NAMES[name]);
                        let own = model.iter().filter(|(c, _)| *c == conn).count();
                        let names: std::collections::BTreeSet<_> = model.iter().map(|(_, n)| *n).collect();
                        let expected = if model.contains(&(conn, name)) {
                            Ok(())
                        } else if own == 3 {
                            Err(SubscribeError::TooManySubscriptions { limit: 3 })
                        } else if names.len() == 4 && !names.contains(&name) {
                            Err(SubscribeError::TooManyTopics { limit: 4 })
                        } else {
                            model.insert((conn, name));
                            Ok(())
                        };
                        prop_assert_eq!(result, expected);
                    }
                    Step::Unsubscribe { conn, name } => {
                        let mut list = std::mem::take(&mut lists[conn]);
                        let mut moved = None;
                        let done = topics.unsubscribe(&mut list, NAMES[name], |m| moved = Some(m));
                        lists[conn] = list;
                        if let Some(moved) = moved {
                            moved.apply(&mut lists[moved.conn as usize]);
                        }
                        prop_assert_eq!(done, model.remove(&(conn, name)));
                    }
                    Step::Close { conn } => {
                        let mut list = std::mem::take(&mut lists[conn]);
                        loop {
                            let mut moved = None;
                            if !topics.unsubscribe_last(&mut list, |m| moved = Some(m)) {
                                break;
                            }
                            if let Some(moved) = moved {
                                moved.apply(&mut lists[moved.conn as usize]);
                            }
                        }
                        model.retain(|(c, _)| *c != conn);
                    }
                }
                for (at, name) in NAMES.iter().enumerate() {
                    let mut found: Vec<usize> = topics
                        .find(name)
                        .into_iter()
                        .flat_map(|topic| (0..).map_while(move |position| Some((topic, position))))
                        .map_while(|(topic, position)| topics.subscriber(topic, position))
                        .map(|conn| conn as usize)
                        .collect();
                    found.sort_unstable();
                    let expected: Vec<_> =
                        model.iter().filter(|(_, n)| *n == at).map(|(c, _)| *c).collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}

//! Finished spans → trees, once they are complete.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::trace::span::{Span, SpanId, SpanKind, TraceId};

/// How long a finished root waits for children that were handed over late.
const ROOT_GRACE: Duration = Duration::from_millis(60);

/// How long a child waits for its root to finish, then it is printed on its own.
const CHILD_PATIENCE: Duration = Duration::from_secs(5);

/// Children that may wait. When there are more, those that waited longest are printed on their own.
const MAX_WAITING: usize = 8192;

/// Parents to remember: those of some seconds at any rate that a terminal can show.
const MAX_KEYS: usize = 8 * MAX_WAITING;

/// Trees are cut at this depth; spans of one process are never nested so deep.
const MAX_DEPTH: usize = 16;

type Key = (TraceId, SpanId);

/// A span with the finished spans that it caused in the same process, by start.
#[derive(Debug, PartialEq)]
pub struct Tree {
    pub span: Arc<Span>,
    pub children: Vec<Tree>,
}

/// Finished spans that are not printed yet.
#[derive(Debug, Default)]
pub struct Forest {
    roots: VecDeque<(Instant, Arc<Span>)>,
    children: HashMap<Key, Vec<Arc<Span>>>,
    /// Keys of `children` with the time until when they wait. Keys whose children were taken stay, so a
    /// straggler waits less.
    expiry: VecDeque<(Instant, Key)>,
    waiting: usize,
}

impl Forest {
    /// Takes a finished span.
    pub fn push(&mut self, span: Arc<Span>, now: Instant) {
        let parent = match span.parent_span_id {
            Some(parent) if span.kind == SpanKind::Client && !span.parent_is_remote => parent,
            _ => return self.roots.push_back((now + ROOT_GRACE, span)),
        };
        let key = (span.trace_id, parent);
        let siblings = self.children.entry(key).or_default();
        if siblings.is_empty() {
            self.expiry.push_back((now + CHILD_PATIENCE, key));
        }
        siblings.push(span);
        self.waiting += 1;
    }

    /// When the next tree is complete though no span comes.
    pub fn next_due(&self) -> Option<Instant> {
        let root = self.roots.front().map(|(due, _)| *due);
        let child = self.expiry.front().map(|(due, _)| *due);
        root.into_iter().chain(child).min()
    }

    /// The trees that are complete by now.
    pub fn due(&mut self, now: Instant) -> Vec<Tree> {
        let mut trees = Vec::new();
        while self.roots.front().is_some_and(|(due, _)| *due <= now)
            && let Some((_, root)) = self.roots.pop_front()
        {
            trees.push(self.tree(root, 0));
        }
        while self.expiry.front().is_some_and(|(due, _)| *due <= now || self.is_full())
            && let Some((_, key)) = self.expiry.pop_front()
        {
            let orphans = self.take_children(&key);
            for orphan in orphans {
                trees.push(self.tree(orphan, 0));
            }
        }
        trees
    }

    /// All trees, complete or not.
    pub fn finish(&mut self) -> Vec<Tree> {
        match self.roots.back().map(|(due, _)| *due).max(self.expiry.back().map(|(due, _)| *due)) {
            Some(end) => self.due(end),
            None => Vec::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.waiting > MAX_WAITING || self.expiry.len() > MAX_KEYS
    }

    fn take_children(&mut self, key: &Key) -> Vec<Arc<Span>> {
        let mut children = self.children.remove(key).unwrap_or_default();
        self.waiting -= children.len();
        children.sort_by_key(|span| span.start_unix_nano);
        children
    }

    fn tree(&mut self, span: Arc<Span>, depth: usize) -> Tree {
        let mut children = Vec::new();
        if depth < MAX_DEPTH {
            for child in self.take_children(&(span.trace_id, span.span_id)) {
                children.push(self.tree(child, depth + 1));
            }
        }
        Tree { span, children }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::{resource, server_span, sql_span};

    /// Ids of the spans, children in parentheses.
    fn shape(trees: &[Tree]) -> String {
        let shapes = trees.iter().map(|tree| {
            let id = u64::from_be_bytes(tree.span.span_id.0);
            if tree.children.is_empty() { id.to_string() } else { format!("{id}({})", shape(&tree.children)) }
        });
        shapes.collect::<Vec<_>>().join(" ")
    }

    fn push(forest: &mut Forest, now: Instant, spans: &[(u64, Option<u64>)]) {
        let shop = resource("shop");
        for &(id, parent) in spans {
            let span = match parent {
                None => server_span(id, "/", &shop),
                Some(_) => sql_span(id, parent, &shop),
            };
            forest.push(Arc::new(span), now);
        }
    }

    #[test]
    fn children_wait_for_their_root_and_roots_for_late_children() {
        let mut forest = Forest::default();
        let start = Instant::now();
        push(&mut forest, start, &[(2, Some(1)), (3, Some(1)), (8, Some(7)), (1, None), (4, Some(1))]);
        assert_eq!(shape(&forest.due(start)), "");
        assert_eq!(forest.next_due(), Some(start + ROOT_GRACE));
        assert_eq!(shape(&forest.due(start + ROOT_GRACE)), "1(2 3 4)");
        assert_eq!(shape(&forest.due(start + CHILD_PATIENCE)), "8", "its root takes too long");
        assert_eq!((forest.next_due(), forest.waiting, forest.children.len()), (None, 0, 0));
    }

    #[test]
    fn deeper_trees_stay_together_even_without_their_root() {
        let mut forest = Forest::default();
        push(&mut forest, Instant::now(), &[(2, Some(1)), (3, Some(2))]);
        assert_eq!(shape(&forest.finish()), "2(3)");
    }

    #[test]
    fn a_span_that_is_its_own_ancestor_does_no_harm() {
        let mut forest = Forest::default();
        push(&mut forest, Instant::now(), &[(2, Some(2)), (3, Some(4)), (4, Some(3))]);
        assert_eq!(forest.finish().len(), 2);
        assert_eq!((forest.waiting, forest.children.len()), (0, 0));
    }

    #[test]
    fn waiting_children_are_bounded() {
        let mut forest = Forest::default();
        let now = Instant::now();
        for id in 0..MAX_WAITING as u64 + 3 {
            push(&mut forest, now, &[(id, Some(1_000_000 + id))]);
        }
        assert_eq!(forest.due(now).len(), 3);
        assert_eq!(forest.waiting, MAX_WAITING);
    }
}

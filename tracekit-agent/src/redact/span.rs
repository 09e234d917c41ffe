//! Places in a text, and the text with something else in them.

use std::borrow::Cow;
use std::ops::Range;

use super::kind::{Counts, Kind, markers};

/// What is to be hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// Where, in bytes.
    pub range: Range<usize>,
    pub kind: Kind,
    /// What stands in its place, if not the marker.
    pub replacement: Option<String>,
}

impl Span {
    pub fn new(range: Range<usize>, kind: Kind) -> Self {
        Self { range, kind, replacement: None }
    }
}

/// Something that was hidden in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it was.
    pub kind: Kind,
    /// Where it was in the text as it came, in bytes.
    pub range: Range<usize>,
}

/// A text without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden<'t> {
    /// The text, with a marker in place of each secret.
    pub text: Cow<'t, str>,
    /// What was hidden, in order.
    pub findings: Vec<Finding>,
}

impl<'t> Hidden<'t> {
    /// A text without secrets.
    pub(super) fn nothing(text: &'t str) -> Self {
        Self { text: Cow::Borrowed(text), findings: Vec::new() }
    }

    /// A text that is hidden as a whole.
    pub(super) fn whole(text: &str, kind: Kind) -> Self {
        Self { text: Cow::Owned(kind.marker()), findings: vec![Finding { kind, range: 0..text.len() }] }
    }

    /// Adds what was hidden to the counts.
    pub fn count(&self, counts: &mut Counts) {
        for finding in &self.findings {
            *counts.entry(finding.kind).or_default() += 1;
        }
    }
}

/// A part of a text: as it came, or replaced.
#[derive(Debug, Clone)]
struct Piece {
    original: Range<usize>,
    replaced: Option<Replaced>,
}

#[derive(Debug, Clone)]
struct Replaced {
    kind: Kind,
    text: String,
    /// It was a marker already.
    before: bool,
}

/// A text of which more and more is replaced. Markers that it has already are kept.
pub(super) struct Scrub<'t> {
    original: &'t str,
    pieces: Vec<Piece>,
    /// The text as it is now, if something was replaced.
    current: Option<String>,
}

impl<'t> Scrub<'t> {
    pub fn new(original: &'t str) -> Self {
        let mut pieces = Vec::new();
        let mut at = 0;
        for (range, kind) in markers(original) {
            pieces.push(Piece { original: at..range.start, replaced: None });
            at = range.end;
            let replaced = Replaced { kind, text: kind.marker(), before: true };
            pieces.push(Piece { original: range, replaced: Some(replaced) });
        }
        pieces.push(Piece { original: at..original.len(), replaced: None });
        pieces.retain(|piece| !piece.original.is_empty());
        Self { original, pieces, current: None }
    }

    pub fn text(&self) -> &str {
        self.current.as_deref().unwrap_or(self.original)
    }

    fn length(piece: &Piece) -> usize {
        piece.replaced.as_ref().map_or(piece.original.len(), |replaced| replaced.text.len())
    }

    /// Replaces the places; those that overlap become one. False if nothing changed.
    pub fn replace(&mut self, spans: Vec<Span>) -> bool {
        let spans = self.merged(spans);
        if spans.is_empty() {
            return false;
        }
        let mut pieces = Vec::with_capacity(self.pieces.len() + 2 * spans.len());
        let mut spans = spans.into_iter().peekable();
        // Where the piece begins in the current text.
        let mut start = 0;
        // The original's end of what was replaced last.
        let mut done = 0;
        for piece in std::mem::take(&mut self.pieces) {
            let end = start + Self::length(&piece);
            let mut at = start;
            while let Some(span) = spans.peek() {
                if span.range.start >= end {
                    break;
                }
                // Of a piece that came as it is, offsets are the same in the original.
                let offset = |place: usize| piece.original.start + (place - start);
                if span.range.start > at {
                    pieces.push(Piece { original: offset(at)..offset(span.range.start), replaced: None });
                }
                let begin = if span.range.start >= start && piece.replaced.is_none() {
                    offset(span.range.start.max(at))
                } else {
                    piece.original.start.max(done)
                };
                let finish = if piece.replaced.is_none() && span.range.end <= end {
                    offset(span.range.end)
                } else {
                    piece.original.end
                };
                match pieces.last_mut() {
                    // It began in an earlier piece.
                    Some(last) if span.range.start < start => last.original.end = finish,
                    _ => {
                        let text = span.replacement.clone().unwrap_or_else(|| span.kind.marker());
                        let replaced = Replaced { kind: span.kind, text, before: false };
                        pieces.push(Piece { original: begin..finish, replaced: Some(replaced) });
                    }
                }
                done = finish;
                at = span.range.end.min(end);
                if span.range.end > end {
                    break;
                }
                spans.next();
            }
            if at < end {
                let original = piece.original.start + (at - start)..piece.original.end;
                match &piece.replaced {
                    None => pieces.push(Piece { original, replaced: None }),
                    Some(_) => pieces.push(piece),
                }
            }
            start = end;
        }
        self.pieces = pieces;
        let text: String = self.pieces.iter().map(|piece| self.shown(piece)).collect();
        self.current = Some(text);
        true
    }

    fn shown<'s>(&'s self, piece: &'s Piece) -> &'s str {
        match &piece.replaced {
            Some(replaced) => &replaced.text,
            None => self.original.get(piece.original.clone()).unwrap_or_default(),
        }
    }

    /// In order, without overlaps; none inside a marker, each with all of what is replaced and touched by it.
    fn merged(&self, mut spans: Vec<Span>) -> Vec<Span> {
        let mut replaced = Vec::new();
        let mut start = 0;
        for piece in &self.pieces {
            let end = start + Self::length(piece);
            if let Some(Replaced { kind, text, .. }) = &piece.replaced {
                replaced.push((start..end, *text == kind.marker()));
            }
            start = end;
        }
        spans.retain(|span| !span.range.is_empty() && span.range.end <= start);
        for span in &mut spans {
            // The first that ends behind the span's begin; pieces don't overlap.
            let first = replaced.partition_point(|(range, _)| range.end <= span.range.start);
            let touched = replaced.iter().skip(first).take_while(|(range, _)| range.start < span.range.end);
            let (mut low, mut high) = (span.range.start, span.range.end);
            for (range, marker) in touched {
                // What stands for a statement is not inviolable: a marker hides more.
                if *marker && range.start <= span.range.start && range.end >= span.range.end {
                    high = low;
                    break;
                }
                low = low.min(range.start);
                high = high.max(range.end);
            }
            span.range = low..high;
        }
        spans.retain(|span| !span.range.is_empty());
        // The longest of those that begin together comes first, and gives its type; a marker hides more than what
        // stands for a statement.
        spans.sort_by(|a, b| {
            let ends = b.range.end.cmp(&a.range.end);
            a.range.start.cmp(&b.range.start).then(ends).then(a.replacement.cmp(&b.replacement))
        });
        let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
        for span in spans {
            match merged.last_mut() {
                Some(last) if span.range.start < last.range.end => {
                    if span.range.end > last.range.end {
                        if span.range.len() > last.range.len() {
                            last.kind = span.kind;
                        }
                        last.range.end = span.range.end;
                        // What stood for a part does not stand for more.
                        last.replacement = None;
                    }
                }
                _ => merged.push(span),
            }
        }
        merged
    }

    /// The text up to `cut`, a byte of the original; what was replaced across it is there as a whole.
    pub fn finish(self, cut: usize) -> Hidden<'t> {
        let shown = |piece: &&Piece| piece.original.start < cut;
        let findings = self.pieces.iter().filter(shown).filter_map(|piece| {
            let replaced = piece.replaced.as_ref().filter(|replaced| !replaced.before)?;
            Some(Finding { kind: replaced.kind, range: piece.original.clone() })
        });
        let findings = findings.collect();
        if self.current.is_none() && cut >= self.original.len() {
            return Hidden { text: Cow::Borrowed(self.original), findings };
        }
        let text = self.pieces.iter().filter(shown).map(|piece| match &piece.replaced {
            Some(replaced) => &replaced.text,
            None => self.original.get(piece.original.start..piece.original.end.min(cut)).unwrap_or_default(),
        });
        Hidden { text: Cow::Owned(text.collect()), findings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(range: Range<usize>, kind: Kind) -> Span {
        Span::new(range, kind)
    }

    #[test]
    fn places_are_replaced_and_told() {
        let mut scrub = Scrub::new("0123456789");
        assert!(scrub.replace(vec![span(7..8, Kind::JWT), span(2..4, Kind::EMAIL), span(3..5, Kind::SSN)]));
        assert_eq!(scrub.text(), "01[REDACTED:email]56[REDACTED:jwt]89");
        // A second round, across what the first has replaced.
        assert!(scrub.replace(vec![span(1..19, Kind::PHONE)]));
        assert!(!scrub.replace(vec![span(3..7, Kind::PHONE)]));
        let hidden = scrub.finish(usize::MAX);
        assert_eq!(hidden.text, "0[REDACTED:phone]6[REDACTED:jwt]89");
        let expected = [(Kind::PHONE, 1..6), (Kind::JWT, 7..8)];
        assert_eq!(hidden.findings.into_iter().map(|f| (f.kind, f.range)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn markers_stay() {
        let text = "a [REDACTED:email] b [REDACTED:none]";
        let mut scrub = Scrub::new(text);
        assert!(!scrub.replace(vec![span(2..18, Kind::JWT), span(5..9, Kind::JWT)]));
        assert_eq!(scrub.finish(usize::MAX), Hidden::nothing(text));
        let mut scrub = Scrub::new(text);
        assert!(scrub.replace(vec![span(16..20, Kind::JWT)]));
        assert_eq!(scrub.finish(usize::MAX).text, "a [REDACTED:jwt] [REDACTED:none]");
    }
}

//! Finished spans on standard output, as trees or as lines of JSON.
//!
//! Printing has a thread of its own behind a bounded queue: a terminal that someone has paused costs spans
//! on the screen, which are counted, and nothing else.

mod forest;
mod json;
mod pretty;
mod row;

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::metrics::counters::{Counter, Counters};
use crate::trace::span::Span;
use forest::Forest;
pub use pretty::Style;

/// How finished spans are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum PrintMode {
    /// A tree for each request, for people.
    Pretty,
    /// One JSON object a line and span, for programs.
    Jsonl,
    /// Not at all.
    #[default]
    None,
}

/// Spans that may wait for the printing thread.
const QUEUE: usize = 4096;

/// How long the printing thread gathers spans: often enough to look live, rarely enough to cost nothing.
const GATHER: Duration = Duration::from_millis(40);

/// How long to wait for a terminal set to non-blocking that takes no more.
const RETRY_WRITE: Duration = Duration::from_millis(20);

/// Prints spans in the background.
pub struct Printer {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// The output is gone. Outside of the lock because each span asks.
    closed: AtomicBool,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct State {
    queue: Vec<Arc<Span>>,
    /// The thread waits for the first span to come.
    idle: bool,
    stop: bool,
    finished: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Printer {
    /// Prints to standard output; for [`PrintMode::None`] there is nothing to start.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(mode: PrintMode, counters: &Arc<Counters>) -> io::Result<Option<Self>> {
        Self::start_to(mode, Style::of_stdout(), Box::new(io::stdout()), counters)
    }

    fn start_to(
        mode: PrintMode,
        style: Style,
        output: Box<dyn Write + Send>,
        counters: &Arc<Counters>,
    ) -> io::Result<Option<Self>> {
        let renderer = match mode {
            PrintMode::None => return Ok(None),
            PrintMode::Jsonl => Renderer::Jsonl,
            PrintMode::Pretty => Renderer::Pretty(Box::default(), style),
        };
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            closed: AtomicBool::new(false),
            counters: Arc::clone(counters),
        });
        let thread = Arc::clone(&shared);
        std::thread::Builder::new().name("print".to_owned()).spawn(move || thread.run(renderer, output))?;
        Ok(Some(Self { shared }))
    }

    /// Hands a span to the printing thread. Never waits.
    pub fn submit(&self, span: Arc<Span>) {
        let counters = &self.shared.counters;
        if self.shared.closed.load(Ordering::Relaxed) {
            return counters.add(Counter::PrintDroppedClosed, 1);
        }
        let mut state = self.shared.lock();
        if state.queue.len() >= QUEUE {
            drop(state);
            return counters.add(Counter::PrintDroppedQueueFull, 1);
        }
        state.queue.push(span);
        if state.idle {
            state.idle = false;
            drop(state);
            self.shared.wake.notify_all();
        }
    }

    /// Prints what is left, at most until `deadline`. False if the output took longer.
    pub fn shutdown(&self, deadline: Instant) -> bool {
        let mut state = self.shared.lock();
        state.stop = true;
        self.shared.wake.notify_all();
        while !state.finished {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = match self.shared.wake.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn run(&self, mut renderer: Renderer, mut output: Box<dyn Write + Send>) {
        let mut text = String::new();
        loop {
            let (spans, stop) = self.next(renderer.next_due());
            text.clear();
            let mut printed = renderer.take(spans, Instant::now(), &mut text);
            if stop {
                printed += renderer.finish(&mut text);
            }
            if !self.closed.load(Ordering::Relaxed) && !text.is_empty() {
                match write_all(&mut *output, text.as_bytes()) {
                    Ok(()) => self.counters.add(Counter::SpansPrinted, printed),
                    Err(error) => {
                        self.closed.store(true, Ordering::Relaxed);
                        self.counters.add(Counter::PrintDroppedClosed, printed);
                        // A closed pipe is how `| head` ends.
                        if error.kind() != io::ErrorKind::BrokenPipe {
                            tracing::warn!("cannot print spans: {error}; printing stops, exporting goes on");
                        }
                    }
                }
            }
            if stop {
                self.lock().finished = true;
                self.wake.notify_all();
                return;
            }
        }
    }

    /// The spans that came since the last call, after the first of them or when `due`.
    fn next(&self, due: Option<Instant>) -> (Vec<Arc<Span>>, bool) {
        let mut state = self.lock();
        while state.queue.is_empty() && !state.stop {
            state.idle = true;
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            state = match left {
                Some(left) if left.is_zero() => break,
                Some(left) => match self.wake.wait_timeout(state, left) {
                    Ok((state, _)) => state,
                    Err(poisoned) => poisoned.into_inner().0,
                },
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        state.idle = false;
        if !state.stop {
            drop(state);
            std::thread::sleep(GATHER);
            state = self.lock();
        }
        (std::mem::take(&mut state.queue), state.stop)
    }
}

enum Renderer {
    Jsonl,
    Pretty(Box<Forest>, Style),
}

impl Renderer {
    /// When there is something to print though no span comes.
    fn next_due(&self) -> Option<Instant> {
        match self {
            Self::Jsonl => None,
            Self::Pretty(forest, _) => forest.next_due(),
        }
    }

    /// Returns how many spans are in the text.
    fn take(&mut self, spans: Vec<Arc<Span>>, now: Instant, text: &mut String) -> u64 {
        match self {
            Self::Jsonl => {
                for span in &spans {
                    json::write(span, text);
                }
                spans.len() as u64
            }
            Self::Pretty(forest, style) => {
                for span in spans {
                    forest.push(span, now);
                }
                forest.due(now).iter().map(|tree| pretty::render(tree, style, text)).sum()
            }
        }
    }

    fn finish(&mut self, text: &mut String) -> u64 {
        match self {
            Self::Jsonl => 0,
            Self::Pretty(forest, style) => {
                forest.finish().iter().map(|tree| pretty::render(tree, style, text)).sum()
            }
        }
    }
}

/// Like [`Write::write_all`], but also for an output that someone set to non-blocking, as terminals shared
/// with other programs sometimes are.
fn write_all(output: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY_WRITE),
            Err(error) => return Err(error),
        }
    }
    loop {
        match output.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY_WRITE),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl Style {
    /// Colours if standard output is a terminal and `NO_COLOR` is unset or empty; its width, or that of
    /// `COLUMNS`.
    #[must_use]
    pub fn of_stdout() -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let columns = || std::env::var("COLUMNS").ok()?.parse().ok();
        let width = rustix::termios::tcgetwinsize(&stdout)
            .ok()
            .map(|size| usize::from(size.ws_col))
            .filter(|&width| width > 0)
            .or_else(columns);
        Self { color: terminal && !plain, width: width.unwrap_or(120), utc: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::{resource, server_span, sql_span};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Takes a byte now and then, as a paused terminal.
    struct Slow(Arc<AtomicBool>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            while !self.0.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn style() -> Style {
        Style { color: false, width: 80, utc: true }
    }

    fn start(mode: PrintMode, output: Box<dyn Write + Send>) -> (Printer, Arc<Counters>) {
        let counters = Arc::new(Counters::new());
        (Printer::start_to(mode, style(), output, &counters).unwrap().unwrap(), counters)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn everything_is_printed_at_shutdown() {
        for (mode, lines) in [(PrintMode::Jsonl, 3), (PrintMode::Pretty, 3)] {
            let sink = Sink::default();
            let (printer, counters) = start(mode, Box::new(sink.clone()));
            let shop = resource("shop");
            printer.submit(Arc::new(sql_span(2, Some(1), &shop)));
            printer.submit(Arc::new(server_span(1, "/", &shop)));
            printer.submit(Arc::new(sql_span(3, Some(9), &shop)));
            assert!(printer.shutdown(soon()));
            let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.lines().count(), lines, "{text}");
            assert_eq!(counters.get(Counter::SpansPrinted), 3);
        }
    }

    #[test]
    fn a_closed_pipe_ends_printing_quietly() {
        let (printer, counters) = start(PrintMode::Jsonl, Box::new(Broken));
        let shop = resource("shop");
        printer.submit(Arc::new(server_span(1, "/", &shop)));
        let deadline = soon();
        while counters.get(Counter::PrintDroppedClosed) == 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        printer.submit(Arc::new(server_span(2, "/", &shop)));
        assert_eq!(counters.get(Counter::PrintDroppedClosed), 2);
        assert!(printer.shutdown(soon()));
    }

    #[test]
    fn a_slow_terminal_costs_lines_and_not_time() {
        let resume = Arc::new(AtomicBool::new(false));
        let (printer, counters) = start(PrintMode::Jsonl, Box::new(Slow(Arc::clone(&resume))));
        let span = Arc::new(server_span(1, "/", &resource("shop")));
        printer.submit(Arc::clone(&span));
        std::thread::sleep(GATHER * 3);
        for _ in 0..QUEUE + 5 {
            printer.submit(Arc::clone(&span));
        }
        assert_eq!(counters.get(Counter::PrintDroppedQueueFull), 5);
        assert!(
            !printer.shutdown(Instant::now() + Duration::from_millis(50)),
            "nobody waits for it at the end"
        );
        resume.store(true, Ordering::Relaxed);
        assert!(printer.shutdown(soon()));
    }
}

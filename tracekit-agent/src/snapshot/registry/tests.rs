use std::sync::atomic::AtomicUsize;

use super::*;
use crate::snapshot::breakpoint::Kind;
use crate::snapshot::limits::LimitsSpec;
use crate::snapshot::state::Mode;

/// Everything is an expression but `bad`.
struct Anything;

impl Language for Anything {
    fn check_expression(&self, source: &str) -> Result<(), String> {
        if source == "bad" { Err("is not an expression".to_owned()) } else { Ok(()) }
    }

    fn check_template(&self, source: &str) -> Result<(), String> {
        self.check_expression(source)
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Audit for Log {
    fn record(&self, entry: &AuditEntry) {
        let line = format!("{} {} {}", entry.actor.who, entry.action, entry.id.clone().unwrap_or_default());
        self.0.lock().unwrap().push(line.trim().to_owned());
    }
}

fn registry() -> Registry {
    Registry::new(Box::new(Anything), Box::new(()))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn me() -> Actor {
    Actor { who: "me".to_owned(), via: "unix" }
}

fn server() -> Actor {
    Actor { who: "http://server".to_owned(), via: "remote" }
}

fn spec(file: &str, line: u32) -> Spec {
    Spec { file: file.to_owned(), line, ..Spec::default() }
}

fn remote(id: &str, line: u32) -> RemoteSpec {
    let spec = Spec { service: Some("shop".to_owned()), ..spec("orders.py", line) };
    RemoteSpec { id: id.parse().unwrap(), spec, expires_at: None, captured: 0 }
}

fn captured(n: u64) -> Counters {
    Counters { hits: n, captured: n, ..Counters::default() }
}

fn active() -> State {
    State::Active { mode: Mode::CpuWide }
}

fn changes(events: &mut broadcast::Receiver<Arc<Event>>) -> Vec<String> {
    let mut changes = Vec::new();
    while let Ok(event) = events.try_recv() {
        changes.push(match &event.change {
            Change::Added { .. } => "added".to_owned(),
            Change::Updated { .. } => "updated".to_owned(),
            Change::Removed { .. } => "removed".to_owned(),
            Change::State { state, .. } => state.to_string(),
            Change::KillSwitch { kill_switch } => format!("kill-switch {}", kill_switch.is_on()),
        });
    }
    changes
}

#[test]
fn a_life() {
    let log = Log::default();
    let registry = Registry::new(Box::new(Anything), Box::new(log.clone()));
    let mut events = registry.subscribe();
    registry.process_started(10, 1, "shop", at(0));
    let id = registry.add(spec("app/orders.py", 42), &me(), at(0)).unwrap().breakpoint.id;
    assert_eq!(registry.get(&id, at(0)).unwrap().state, State::Pending);
    let revision = registry.revision();
    registry.report_state(&id, 10, active(), at(1));
    registry.report_state(&id, 10, active(), at(2));
    // A process that is not traced has no say.
    registry.report_state(&id, 11, State::Error { reason: "x".into() }, at(2));
    assert_eq!(registry.report_hits(&id, 10, &captured(60), at(3)), 40);
    assert_eq!(registry.revision(), revision, "the engine's own reports are no news to it");
    assert_eq!(registry.report_hits(&id, 10, &captured(40), at(4)), 0);
    assert!(registry.revision() > revision);
    assert!(registry.desired(at(5)).breakpoints.is_empty());
    let view = registry.get(&id, at(5)).unwrap();
    assert_eq!((view.state, view.counters.captured, view.captures_left), (State::Done, 100, 0));
    assert_eq!(view.processes.first().unwrap().captured, 100);

    // Switched on again it starts anew.
    let on = Patch { enabled: Some(true), ..Patch::default() };
    let view = registry.update(&id, &on, &me(), at(6)).unwrap();
    assert_eq!((view.state, view.captures_left), (active(), 100));
    registry.tick(at(3601));
    assert_eq!(registry.get(&id, at(3601)).unwrap().state, State::Expired);
    let view = registry.update(&id, &on, &me(), at(4000)).unwrap();
    assert_eq!(view.breakpoint.expires_at, at(7600));
    let off = Patch { enabled: Some(false), ..Patch::default() };
    assert_eq!(registry.update(&id, &off, &me(), at(4001)).unwrap().state, State::Disabled);
    registry.remove(&id, &me(), at(4002)).unwrap();
    assert!(registry.list(at(4003)).is_empty());
    assert_eq!(
        changes(&mut events),
        [
            "added",
            "ACTIVE",
            "DONE(hits)",
            "updated",
            "ACTIVE",
            "EXPIRED",
            "updated",
            "ACTIVE",
            "updated",
            "DISABLED",
            "removed"
        ]
    );
    let expected =
        ["me add", "tracekit end", "me enable", "tracekit end", "me enable", "me disable", "me remove"];
    assert_eq!(log.lines(), expected.map(|line| format!("{line} {id}")));
}

#[test]
fn only_selected_processes_are_listed_and_counted() {
    let registry = registry();
    registry.process_started(10, 1, "shop", at(0));
    registry.process_started(11, 1, "cart", at(0));
    let spec = Spec { service: Some("cart".to_owned()), ..spec("a.py", 1) };
    let view = registry.add(spec.clone(), &me(), at(0)).unwrap();
    let pids: Vec<u32> = view.processes.iter().map(|process| process.pid).collect();
    assert_eq!(pids, [11]);
    let id = view.breakpoint.id;
    registry.report_hits(&id, 11, &captured(1), at(0));
    registry.process_gone(11, at(1));
    let view = registry.get(&id, at(1)).unwrap();
    assert_eq!((view.processes.len(), view.counters.hits), (0, 1));
    let error = registry.add(Spec { pid: Some(12), ..spec.clone() }, &me(), at(1)).unwrap_err();
    assert_eq!(error, RegistryError::NoProcess(12));
    let view = registry.add(Spec { pid: Some(10), service: None, ..spec }, &me(), at(1)).unwrap();
    registry.process_gone(10, at(2));
    let state = |id: &Id| registry.get(id, at(2)).unwrap().state;
    let id = view.breakpoint.id;
    assert!(matches!(state(&id), State::Error { reason } if reason.contains("10")));
    // Another process with the same number is not meant; that process, looked at again, is.
    registry.process_started(10, 2, "shop", at(2));
    assert!(matches!(state(&id), State::Error { .. }));
    assert!(registry.desired(at(2)).breakpoints.iter().all(|breakpoint| breakpoint.id != id));
    assert!(registry.get(&id, at(2)).unwrap().processes.is_empty());
    registry.process_started(10, 1, "shop", at(2));
    assert_eq!(state(&id), State::Pending);
    assert!(registry.desired(at(2)).breakpoints.iter().any(|breakpoint| breakpoint.id == id));
    registry.process_gone(10, at(2));
    assert_eq!(registry.services().len(), 0);
}

#[test]
fn what_cannot_be_is_refused() {
    let registry = registry();
    let log = |template: &str| Spec {
        kind: Kind::Log,
        template: Some(template.to_owned()).filter(|template| !template.is_empty()),
        ..spec("a.py", 1)
    };
    let condition = |text: &str| Spec { condition: Some(text.to_owned()), ..spec("a.py", 1) };
    let limits = LimitsSpec { hits: Some(0), ..LimitsSpec::default() };
    for (spec, says) in [
        (spec("", 1), "file: name a source file"),
        (spec("app/", 1), "file: name a source file"),
        (spec("a\n.py", 1), "file: has control characters"),
        (spec(&"a".repeat(5000), 1), "file: has 5000 bytes, at most 4096"),
        (spec("a.py", 0), "line: must be between 1 and 2147483647"),
        (spec("a.py", u32::MAX), "line: must be between"),
        (condition("bad"), "condition: \"bad\": is not an expression"),
        (condition(&"x".repeat(2000)), "condition: has 2000 bytes"),
        (Spec { expressions: vec!["x".into(); 17], ..spec("a.py", 1) }, "expressions: there are 17"),
        (Spec { expressions: vec![" ".into()], ..spec("a.py", 1) }, "expressions: one of them is empty"),
        (log(""), "template: a log breakpoint needs a text"),
        (log("bad"), "template: \"bad\""),
        (Spec { kind: Kind::Snapshot, ..log("x") }, "template: only breakpoints of kind log"),
        (Spec { pid: Some(0), ..spec("a.py", 1) }, "pid: is not a process id"),
        (Spec { limits, ..spec("a.py", 1) }, "limits.hits: 0 is not possible; use 1 to 10000"),
    ] {
        let error = registry.add(spec.clone(), &me(), at(0)).unwrap_err().to_string();
        assert!(error.starts_with(says), "{error} instead of {says} for {spec:?}");
    }
    assert!(registry.list(at(0)).is_empty());
}

#[test]
fn lines_are_looked_up_before() {
    struct Nowhere;
    impl Locate for Nowhere {
        fn locate(&self, breakpoint: &Breakpoint, pids: &[u32]) -> Result<(), Misplaced> {
            assert_eq!(pids, [10]);
            let file = breakpoint.file.clone();
            match breakpoint.line {
                1 => Err(Misplaced::Ambiguous { file, candidates: vec!["/a/x.py".into(), "/b/x.py".into()] }),
                line => Err(Misplaced::NoCode { file, line, nearest: vec![8, 11] }),
            }
        }
    }
    let registry = registry().with_locate(Box::new(Nowhere));
    registry.process_started(10, 1, "shop", at(0));
    let error = |line| registry.add(spec("x.py", line), &me(), at(0)).unwrap_err().to_string();
    assert_eq!(error(1), "x.py is ambiguous: /a/x.py, /b/x.py; give more of the path");
    assert_eq!(error(9), "no code on line 9 of x.py; the nearest lines with code are 8, 11");
}

#[test]
fn ten_thousand() {
    let registry = registry();
    let added = (0..10_000).filter(|n| registry.add(spec("a.py", n + 1), &me(), at(0)).is_ok()).count();
    assert_eq!(added, MAX_BREAKPOINTS);
    let error = registry.add(spec("a.py", 1), &me(), at(0)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there are 1000 breakpoints, which is all that this agent may have; remove some first"
    );
    // Those that are over make room.
    registry.add(spec("new.py", 1), &me(), at(3601)).unwrap();
    let list = registry.list(at(3601));
    assert_eq!(list.len(), MAX_BREAKPOINTS);
    assert_eq!(list.last().unwrap().breakpoint.file, "new.py");
    // And are forgotten after a day.
    registry.tick(at(3600 + 25 * 3600));
    assert_eq!(registry.list(at(0)).len(), 1);
}

#[test]
fn texts_are_bounded_together() {
    let registry = registry();
    let large = Spec { expressions: vec!["x".repeat(1000); 16], ..spec("a.py", 1) };
    let added = (0..1000).filter(|_| registry.add(large.clone(), &me(), at(0)).is_ok()).count();
    assert!((60..70).contains(&added), "{added}");
    let error = registry.add(large, &me(), at(0)).unwrap_err();
    assert_eq!(error, RegistryError::TooLarge);
    let ids: Vec<Id> = registry.list(at(0)).into_iter().map(|view| view.breakpoint.id).collect();
    for id in ids {
        registry.remove(&id, &me(), at(1)).unwrap();
    }
    assert_eq!(registry.lock().text, 0);
}

#[test]
fn the_kill_switch_stops_all_or_one_service() {
    let registry = registry();
    registry.process_started(10, 1, "shop", at(0));
    registry.process_started(11, 1, "cart", at(0));
    let mut events = registry.subscribe();
    let id = registry.add(spec("a.py", 1), &me(), at(0)).unwrap().breakpoint.id;
    registry.report_state(&id, 10, active(), at(0));
    registry.report_state(&id, 11, active(), at(0));
    registry.set_kill_switch(true, Some("shop"), Source::Remote, &server(), at(1));
    assert_eq!(registry.get(&id, at(1)).unwrap().state, active(), "one process is left");
    registry.set_kill_switch(true, None, Source::Local, &me(), at(2));
    let paused = State::Paused { reason: Pause::KillSwitch };
    assert_eq!(registry.get(&id, at(2)).unwrap().state, paused);
    assert!(registry.desired(at(2)).kill_switch.is_on_for("cart"));
    registry.set_kill_switch(false, None, Source::Local, &me(), at(3));
    let switch = registry.desired(at(3)).kill_switch;
    assert!(switch.is_on_for("shop") && !switch.is_on_for("cart"));
    let expected = [
        "added",
        "ACTIVE",
        "kill-switch true",
        "kill-switch true",
        "PAUSED(kill-switch)",
        "kill-switch true",
        "ACTIVE",
    ];
    assert_eq!(changes(&mut events), expected);
}

#[test]
fn a_control_server_has_its_own() {
    let registry = registry();
    let mine = registry.add(spec("a.py", 1), &me(), at(0)).unwrap().breakpoint.id;
    assert!(registry.sync_remote("shop", &[remote("r1", 1), remote("r2", 2)], &server(), at(0)).is_empty());
    let revision = registry.revision();
    assert!(registry.sync_remote("shop", &[remote("r1", 1), remote("r2", 2)], &server(), at(30)).is_empty());
    assert_eq!(registry.revision(), revision, "nothing has changed");

    // A user may switch it off, and only that.
    let r1: Id = "r1".parse().unwrap();
    let off = Patch { enabled: Some(false), ..Patch::default() };
    registry.update(&r1, &off, &me(), at(31)).unwrap();
    let other = Patch { label: Some("x".into()), ..Patch::default() };
    assert_eq!(registry.update(&r1, &other, &me(), at(31)).unwrap_err(), RegistryError::Remote(r1.clone()));
    assert!(registry.remove(&r1, &me(), at(31)).is_err());
    registry.sync_remote("shop", &[remote("r1", 1), remote("r2", 3)], &server(), at(60));
    assert_eq!(registry.get(&r1, at(60)).unwrap().state, State::Disabled);
    let r2 = registry.get(&"r2".parse().unwrap(), at(60)).unwrap();
    assert_eq!((r2.breakpoint.line, r2.breakpoint.created_at), (3, at(0)));

    // What the list of a service lacks is gone; of other services and users it is not.
    let mut clash = remote(mine.as_str(), 1);
    clash.captured = 5;
    let refused = registry.sync_remote("shop", &[clash], &server(), at(90));
    assert_eq!(refused, [(mine.clone(), RegistryError::Exists(mine.clone()))]);
    let left: Vec<Id> = registry.list(at(90)).into_iter().map(|view| view.breakpoint.id).collect();
    assert_eq!(left, [mine]);
}

#[test]
fn a_control_server_cannot_take_all() {
    let registry = registry();
    let many: Vec<RemoteSpec> = (0..2000).map(|n| remote(&format!("r{n}"), 1)).collect();
    let refused = registry.sync_remote("shop", &many, &server(), at(0));
    assert_eq!(refused.len(), 2000 - MAX_REMOTE_BREAKPOINTS);
    registry.add(spec("a.py", 1), &me(), at(0)).unwrap();
}

#[test]
fn captures_that_the_server_has_count() {
    let registry = registry();
    let mut wanted = remote("r1", 1);
    wanted.captured = 99;
    registry.upsert_remote(&wanted, &server(), at(0)).unwrap();
    let id: Id = "r1".parse().unwrap();
    assert_eq!(registry.get(&id, at(0)).unwrap().captures_left, 1);
    registry.process_started(10, 1, "shop", at(0));
    assert_eq!(registry.report_hits(&id, 10, &captured(1), at(1)), 0);
    // Switching it on is no way around what the server wants.
    let on = Patch { enabled: Some(true), ..Patch::default() };
    assert_eq!(registry.update(&id, &on, &me(), at(1)).unwrap().state, State::Done);
    wanted.captured = 0;
    wanted.spec.limits.hits = Some(200);
    wanted.expires_at = Some(at(100));
    registry.upsert_remote(&wanted, &server(), at(2)).unwrap();
    let view = registry.get(&id, at(2)).unwrap();
    assert_eq!((view.captures_left, view.breakpoint.expires_at), (200, at(100)));
}

#[test]
fn what_a_server_still_wants_goes_on() {
    let registry = registry();
    let mut wanted = remote("r1", 1);
    wanted.spec.limits.expires_seconds = Some(24 * 3600);
    let id: Id = "r1".parse().unwrap();
    for hour in 0..100 {
        registry.sync_remote("shop", std::slice::from_ref(&wanted), &server(), at(hour * 3600));
        assert_eq!(registry.get(&id, at(hour * 3600)).unwrap().state, State::Pending, "{hour}");
    }
    // A day after it was heard last, it is over.
    registry.tick(at(124 * 3600));
    assert_eq!(registry.get(&id, at(124 * 3600)).unwrap().state, State::Expired);
}

#[test]
fn saved_and_restored() {
    let one = registry();
    let id = one.add(spec("a.py", 1), &me(), at(0)).unwrap().breakpoint.id;
    one.process_started(10, 1, "shop", at(0));
    one.report_hits(&id, 10, &captured(7), at(1));
    one.upsert_remote(&remote("r1", 1), &server(), at(0)).unwrap();
    one.set_kill_switch(true, None, Source::Local, &me(), at(2));
    let (saved, switch) = one.save();
    let text = serde_json::to_string(&(&saved, &switch)).unwrap();

    let (mut saved, switch): (Vec<Saved>, KillSwitch) = serde_json::from_str(&text).unwrap();
    let mut broken = saved.first().unwrap().clone();
    broken.breakpoint.limits.depth = 99;
    broken.breakpoint.id = "broken".parse().unwrap();
    saved.push(broken);
    let two = registry();
    let refused = two.restore(saved, switch, at(3));
    assert_eq!(refused.first().unwrap().0.as_str(), "broken");
    let list = two.list(at(3));
    assert_eq!(list.len(), 1);
    let view = list.first().unwrap();
    assert_eq!((view.captures_left, view.counters.hits), (93, 7));
    assert_eq!(view.state, State::Paused { reason: Pause::KillSwitch });
    assert_eq!(view.breakpoint, one.get(&id, at(3)).unwrap().breakpoint);

    // One process alone: it is the same one, or it is gone.
    let own = Spec { pid: Some(10), ..spec("b.py", 1) };
    let own = one.add(own, &me(), at(3)).unwrap().breakpoint.id;
    for (start_ticks, live) in [(1, 2), (2, 1)] {
        let three = self::registry();
        three.restore(one.save().0, KillSwitch::default(), at(3));
        three.process_started(10, start_ticks, "shop", at(3));
        assert_eq!(three.desired(at(3)).breakpoints.len(), live, "{own}");
    }
}

#[test]
fn the_json_form() {
    let registry = registry();
    registry.process_started(10, 1, "shop", at(0));
    let given = serde_json::json!({
        "kind": "log", "file": "app/orders.py", "line": 42, "template": "total={total}", "level": "warn",
        "condition": "total > 100", "service": "shop", "limits": {"rate": 5, "expires_seconds": 60},
    });
    let view = registry.add(serde_json::from_value(given).unwrap(), &me(), at(0)).unwrap();
    let mut json = serde_json::to_value(&view).unwrap();
    json["id"] = "bp-1".into();
    assert_eq!(
        json,
        serde_json::json!({
            "id": "bp-1", "kind": "log", "file": "app/orders.py", "line": 42, "condition": "total > 100",
            "expressions": [], "template": "total={total}", "level": "warn", "label": null, "function": null,
            "service": "shop", "pid": null,
            "limits": {
                "hits": 10000, "rate": 5.0, "expires_seconds": 60, "depth": 3, "items": 100, "text": 256,
                "fields": 20, "frames": 0, "stack": 64, "payload_bytes": 16384,
            },
            "enabled": true, "created_at": "2023-11-14T22:13:20Z", "expires_at": "2023-11-14T22:14:20Z",
            "created_by": "me", "source": "local", "state": "PENDING", "captures_left": 10000,
            "counters": {
                "hits": 0, "captured": 0, "undefined": 0, "last_hit": null,
                "skipped": {"condition": 0, "rate": 0, "budget": 0, "error": 0},
                "cost": {"count": 0, "mean_us": 0.0, "p50_us": 0.0, "p99_us": 0.0, "max_us": 0.0},
            },
            "process_count": 1,
            "processes": [{"pid": 10, "service": "shop", "state": "PENDING", "hits": 0, "captured": 0}],
        })
    );
    let misspelt = serde_json::json!({"file": "a.py", "line": 1, "conditoin": "x"});
    assert!(serde_json::from_value::<Spec>(misspelt).is_err());
}

#[test]
fn many_threads() {
    let registry = registry();
    registry.process_started(10, 1, "shop", at(0));
    let failed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 1..200 {
                    let Ok(view) = registry.add(spec("a.py", n), &me(), at(0)) else {
                        failed.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    registry.report_hits(&view.breakpoint.id, 10, &captured(1), at(0));
                    assert_eq!(registry.desired(at(0)).kill_switch, KillSwitch::default());
                    registry.remove(&view.breakpoint.id, &me(), at(0)).unwrap();
                }
            });
        }
    });
    assert_eq!(failed.into_inner(), 0);
    let inner = registry.lock();
    assert_eq!((inner.entries.len(), inner.pairs, inner.text), (0, 0, 0));
}

//! Conditions that the kernel side decides are decided as Python does, or not at all.

mod watching;

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tracekit_agent::redact::Redactor;
use tracekit_agent::snapshot::engine::LineSpec;
use tracekit_agent::snapshot::expression::Expression;
use tracekit_common::watchpoint::Bucket;
use tracekit_tests::debug_registers::with_debug_registers;
use tracekit_tests::interpreters::{Interpreter, LAYOUTS, Running, installed};

use self::watching::Stage;

const PROGRAM: &str = include_str!("../apps/conditions.py");
const FILE: &str = "app/conditions.py";
const BEGIN: &str = "import sys; exec(compile(sys.argv[1], 'app/conditions.py', 'exec'))";
/// Each has a form for the kernel.
const DECIDED: &[&str] = &[
    "x",
    "not x",
    "x is None",
    "x is not None",
    "x is True",
    "x is not False",
    "None is x",
    "x == None",
    "x != None",
    "x == True",
    "x == False",
    "x != True",
    "x < True",
    "x == 0",
    "x == 5",
    "5 == x",
    "x != 5",
    "x < 5",
    "5 < x",
    "x <= 5",
    "x > 5",
    "x >= 5",
    "x == -5",
    "x > -5",
    "x < -1073741824",
    "x >= 1073741824",
    "x == 1073741823",
    "x > 1073741829",
    "x == 9007199254740992",
    "x > 9007199254740993",
    "x < 576460752303423488",
    "x == 1152921504606846975",
    "x > 1152921504606846975",
    "x < -1152921504606846975",
    "x == 0.0",
    "x > 0.0",
    "x < -0.0",
    "x == 0.5",
    "x > 0.5",
    "x >= 0.5",
    "x < 0.5",
    "x <= 0.5",
    "x != 0.5",
    "x > -1.5",
    "x < -0.5",
    "x >= 5.0",
    "x == 5.0",
    "x < 1e-300",
    "x == ''",
    "x == 'a'",
    "x == 'pro'",
    "x != 'pro'",
    "'pro' == x",
    "x == '12345678'",
    "x == '123456789'",
    "x == 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'",
    "x in ('pro', 'abc', 5, None)",
    "x not in ('pro', 'abc', 5, None)",
    "x in [0.5, True]",
    "0 < x < 6",
    "0 <= x <= 5.5",
    "-1 < x == 5",
    "x == 5 and y == 'pro'",
    "x == 5 or y == 'pro'",
    "not (x == 5 or y == 'pro')",
    "x is None and not y",
    "x != 'pro' and y != 'pro' and x != 5 and y != 5",
    "(x == 5 and y is not None) or (x == 'pro' and y)",
    "x if y else y == 0",
    "x is not None if y is None else x == 'pro'",
    "x is None or x == 'a' or x == 'abc' or x == 'pro' or x == 5 or y == 5 or y == 'a' or y is None",
];

/// None of these has one.
const LEFT: &[&str] = &[
    "x == y",
    "x is y",
    "x + 1 == 5",
    "len(x) == 3",
    "x.real == 5",
    "x[0] == 5",
    "'p' in x",
    "x in 'pro'",
    "x in ()",
    "x < 'pro'",
    "x == 1152921504606846976",
    "x == 1e300",
    "x == '\u{e9}'",
    "x == 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'",
    "x == 5 and len(y) == 3",
    "True",
    "x == [5]",
    "x in (0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16)",
];

/// What [`PROGRAM`] says of values: comparisons with them are decided.
const DECIDABLE: u8 = 2;
/// Those with integers are, that are floats.
const FLOAT: u8 = 1;

/// What differs.
fn check(stage: &mut Stage, interpreter: &Interpreter) -> Result<Vec<String>> {
    let at = PROGRAM.lines().position(|line| line.ends_with("# here")).context("a line is marked")?;
    let line = i32::try_from(at + 1)?;
    let mut command = interpreter.command();
    command.args(["-W", "ignore", "-c", BEGIN, PROGRAM]).env("PYTHON_JIT", "0");
    let mut running = Running::start(command, Stdio::piped())?;
    let said = running.ask(&serde_json::to_string(DECIDED)?)?;
    let (kinds, truths): (Vec<u8>, Vec<Vec<Option<bool>>>) = serde_json::from_str(&said)?;
    let pid = running.pid();
    stage.attach(pid)?;
    // What passes is counted, and not captured.
    let bucket = Some(Bucket { interval: 0, tolerance: 0, due: 0, left: 0 });
    let mut failures = Vec::new();
    for (text, truths) in DECIDED.iter().zip(&truths) {
        let condition = Expression::compile(text, Redactor::standard())?.decision();
        ensure!(condition.is_some(), "{text} has no form for the kernel");
        // Integers that are no floats.
        let large = ["9007199254740993", "1152921504606846975"].iter().any(|number| text.contains(number));
        let id = stage.engine.add(pid, LineSpec { bucket, condition, ..LineSpec::new(FILE, line) })?;
        let mut before = stage.engine.status(id).context("it has a status")?.hits;
        for (at, (truth, kind)) in truths.iter().zip(&kinds).enumerate() {
            running.ask(&at.to_string())?;
            let now = stage.engine.status(id).context("it has a status")?.hits;
            let counted = [
                now.hits - before.hits,
                now.unmet - before.unmet,
                now.undecided - before.undecided,
                now.limited - before.limited,
            ];
            before = now;
            let answer = match counted {
                [1, 1, 0, 0] => Some(false),
                [1, 0, 0, 1] => Some(true),
                [1, 0, 1, 1] => None,
                _ => {
                    failures.push(format!("{text}, value {at}: counted as {counted:?}"));
                    continue;
                }
            };
            let decidable = *kind == DECIDABLE || *kind == FLOAT && !large;
            let differs = match (answer, truth) {
                (Some(answer), truth) => *truth != Some(answer),
                (None, Some(_)) => decidable,
                (None, None) => false,
            };
            if differs {
                failures.push(format!("{text}, value {at}: {answer:?}, not {truth:?}"));
            }
        }
        stage.engine.remove(id);
    }
    stage.detach(pid);
    Ok(failures)
}

#[test]
fn answers_are_those_of_eval() -> Result<()> {
    with_debug_registers(|| {
        let all = installed()?;
        let mut stage = Stage::new()?;
        let mut failures = Vec::new();
        for name in LAYOUTS {
            let interpreter = all.iter().find(|row| row.id == *name).with_context(|| format!("no {name}"))?;
            let found = check(&mut stage, interpreter).with_context(|| format!("on {name}"))?;
            failures.extend(found.into_iter().map(|failure| format!("{name}: {failure}")));
        }
        ensure!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
        Ok(())
    })
}

#[test]
fn what_the_kernel_cannot_decide_is_left_to_the_agent() -> Result<()> {
    for text in LEFT {
        let expression = Expression::compile(text, Redactor::standard())?;
        ensure!(expression.decision().is_none(), "{text} has a form for the kernel");
    }
    Ok(())
}

#[test]
fn the_one_of_many_is_captured() -> Result<()> {
    const COUNT: u64 = 20_000;
    let source = format!(
        "import sys\ndef step(number, name):\n    return number  # here\nfor at in range(2000): step(at, 'x')\n\
         print('ready', flush=True)\nfor line in sys.stdin:\n    for at in range({COUNT}):\n        \
         step(at, 'name' + str(at))\n    print('done', flush=True)\n"
    );
    with_debug_registers(|| {
        let mut stage = Stage::new()?;
        for minor in ["3.8", "3.12", "3.14"] {
            let all = installed()?;
            let interpreter =
                all.iter().find(|row| row.minor() == minor).context("there is no such Python")?;
            let mut command = interpreter.command();
            command.args(["-c", BEGIN, &source]).env("PYTHON_JIT", "0");
            let mut running = Running::start(command, Stdio::piped())?;
            let pid = running.pid();
            stage.attach(pid)?;
            // One, and then one an hour.
            let bucket = Some(Bucket { interval: 3_600_000_000_000, tolerance: 0, due: 0, left: u64::MAX });
            for text in ["number == 12345", "name == 'name12345' and number > 9999.5"] {
                let condition = Expression::compile(text, Redactor::standard())?.decision();
                let spec = |condition| LineSpec { bucket, condition, ..LineSpec::new(FILE, 3) };
                let id = stage.engine.add(pid, spec(condition.clone()))?;
                running.ask("go")?;
                stage.records.wait(Duration::from_millis(200));
                let hits = stage.hits(false);
                let status = stage.engine.status(id).context("it has a status")?.hits;
                ensure!(
                    (status.hits, status.unmet, status.captured) == (COUNT, COUNT - 1, 1) && hits.len() == 1,
                    "{minor}: {text}: {status:?}"
                );
                ensure!(hits[0].breakpoint == id, "{minor}: {text}: a hit of another breakpoint");
                let variables = hits[0].variables.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
                let number =
                    variables.iter().find(|(name, _)| name == "number").context("it has a number")?;
                ensure!(number.1.to_string() == "12345", "{minor}: {text}: {number:?}");

                // It can be changed, and taken away.
                stage
                    .engine
                    .change(id, spec(Expression::compile("number < 0", Redactor::standard())?.decision()))?;
                running.ask("go")?;
                let status = stage.engine.status(id).context("it has a status")?.hits;
                ensure!(status.unmet == 2 * COUNT - 1, "{minor}: {text}: {status:?}");
                stage.engine.change(id, spec(None))?;
                running.ask("go")?;
                let status = stage.engine.status(id).context("it has a status")?.hits;
                ensure!(
                    (status.hits, status.unmet, status.undecided) == (3 * COUNT, 2 * COUNT - 1, 0),
                    "{minor}: {text}: {status:?}"
                );
                stage.hits(false);
                stage.engine.remove(id);
            }
            stage.detach(pid);
        }
        Ok(())
    })
}

//! What a Python command line starts.

use super::proc_fs::ProcFs;
use super::process::Process;

/// What the interpreter was told to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A file: `python manage.py`, or a console script (`/venv/bin/python /venv/bin/gunicorn`).
    Script(String),
    /// `python -m module`
    Module(String),
    /// `python -c …`, standard input, or no command line at all.
    Inline,
    /// The process set a title (`setproctitle`): `gunicorn: worker [app:wsgi]`.
    Title(String),
    /// A program that is not named `python` (uWSGI, a frozen application); its name.
    Embedded(String),
}

/// What a Python command line starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// What is run.
    pub program: Program,
    /// Its arguments.
    pub args: Vec<String>,
}

/// Words of a command line that are looked at.
const MAX_WORDS: usize = 1024;
/// Interpreter options that take a value, as a separate word or attached.
const OPTIONS_WITH_VALUE: &[char] = &['W', 'X', 'Q'];
/// Tools that run another program in their own process: `python -m cProfile app.py`.
const RUNNERS: &[&str] =
    &["cProfile", "profile", "pdb", "trace", "coverage", "debugpy", "viztracer", "memray"];

impl Launch {
    /// Parses a command line.
    #[must_use]
    pub fn parse(argv: &[String]) -> Self {
        let words = argv.get(..MAX_WORDS).unwrap_or(argv);
        let Some((first, rest)) = words.split_first() else {
            return Self { program: Program::Inline, args: Vec::new() };
        };
        let base = base_name(first);
        if !base.starts_with("python") && !base.starts_with("pypy") {
            let title =
                first.contains(": ") || first.starts_with('[') || (rest.is_empty() && first.contains(' '));
            let program =
                if title { Program::Title(first.clone()) } else { Program::Embedded(base.to_owned()) };
            return Self { program, args: rest.to_vec() };
        }
        Self::of_interpreter(rest)
    }

    /// The launch of a process. A worker that `multiprocessing` started (`python -c "from
    /// multiprocessing.spawn import …"`) says nothing of the program, so that of its parent counts.
    #[must_use]
    pub fn of_process(proc: &ProcFs, process: &Process) -> Self {
        let mut launch = Self::parse(&process.argv);
        if let Program::Title(title) = &mut launch.program {
            complete_celery_title(proc, process, title);
        }
        if !is_multiprocessing(&process.argv) {
            return launch;
        }
        for ancestor in process.ancestors.iter().take(8) {
            let Ok(argv) = proc.argv(*ancestor) else { break };
            if !is_multiprocessing(&argv) {
                launch = Self::parse(&argv);
                break;
            }
        }
        launch
    }

    fn of_interpreter(words: &[String]) -> Self {
        let mut at = 0;
        while let Some(word) = words.get(at) {
            at += 1;
            let rest = |from: usize| words.get(from..).unwrap_or_default().to_vec();
            if let Some(long) = word.strip_prefix("--") {
                match long {
                    "" => break,
                    "check-hash-based-pycs" => at += 1,
                    _ => {}
                }
                continue;
            }
            let Some(short) = word.strip_prefix('-').filter(|short| !short.is_empty()) else {
                if word == "-" {
                    return Self { program: Program::Inline, args: rest(at) };
                }
                return Self { program: Program::Script(word.clone()), args: rest(at) }.unwrapped();
            };
            for (index, option) in short.char_indices() {
                let attached = short.get(index + option.len_utf8()..).unwrap_or_default();
                match option {
                    'c' => return Self { program: Program::Inline, args: rest(at) },
                    'm' if attached.is_empty() => {
                        let Some(module) = words.get(at) else { break };
                        return Self { program: Program::Module(module.clone()), args: rest(at + 1) }
                            .unwrapped();
                    }
                    'm' => {
                        let program = Program::Module(attached.to_owned());
                        return Self { program, args: rest(at) }.unwrapped();
                    }
                    option if OPTIONS_WITH_VALUE.contains(&option) => {
                        at += usize::from(attached.is_empty());
                        break;
                    }
                    _ => {}
                }
            }
        }
        match words.get(at) {
            Some(script) => Self {
                program: Program::Script(script.clone()),
                args: words.get(at + 1..).unwrap_or_default().to_vec(),
            },
            None => Self { program: Program::Inline, args: Vec::new() },
        }
    }

    /// Looks through a profiler or debugger that runs the program in its own process.
    fn unwrapped(self) -> Self {
        let Some(tool) = self.tool() else { return self };
        if !RUNNERS.contains(&tool) {
            return self;
        }
        let mut at = if matches!(tool, "coverage" | "memray") { 1 } else { 0 };
        while let Some(word) = self.args.get(at) {
            at += 1;
            match word.as_str() {
                "-m" => {
                    let Some(module) = self.args.get(at) else { break };
                    let args = self.args.get(at + 1..).unwrap_or_default().to_vec();
                    return Self { program: Program::Module(module.clone()), args };
                }
                "--listen" | "--connect" | "-o" | "-s" | "--rcfile" => at += 1,
                option if option.starts_with('-') => {}
                script if script.ends_with(".py") => {
                    let args = self.args.get(at..).unwrap_or_default().to_vec();
                    return Self { program: Program::Script(script.to_owned()), args };
                }
                _ => break,
            }
        }
        self
    }

    /// The well-known name of what is run: `gunicorn` for the console script as for `-m gunicorn`; the file
    /// name without `.py` for other scripts; the top-level package for other modules.
    #[must_use]
    pub fn tool(&self) -> Option<&str> {
        match &self.program {
            Program::Script(path) => {
                let base = base_name(path);
                let stem = base.strip_suffix(".py").unwrap_or(base);
                if stem == "__main__" {
                    return path
                        .rsplit('/')
                        .nth(1)
                        .filter(|directory| !directory.is_empty() && *directory != ".");
                }
                Some(stem)
            }
            Program::Module(module) => module.split('.').next(),
            Program::Embedded(name) => Some(name),
            Program::Inline | Program::Title(_) => None,
        }
    }

    /// The value of an option: `--worker-class gthread`, `--worker-class=gthread`, `-k gthread`, `-kgthread`.
    /// The last one counts.
    #[must_use]
    pub fn option(&self, names: &[&str]) -> Option<&str> {
        option_in(&self.args, names)
    }
}

/// As [`Launch::option`], in any list of words.
#[must_use]
pub fn option_in<'a>(words: &'a [String], names: &[&str]) -> Option<&'a str> {
    let mut found = None;
    for (index, word) in words.iter().enumerate() {
        for name in names {
            let value = if word == name {
                words.get(index + 1).map(String::as_str)
            } else if let Some(attached) = word.strip_prefix(name) {
                match attached.strip_prefix('=') {
                    Some(value) => Some(value),
                    None if !name.starts_with("--") => Some(attached),
                    None => None,
                }
            } else {
                None
            };
            found = value.filter(|value| !value.is_empty()).or(found);
        }
    }
    found
}

/// The last component of a path.
#[must_use]
pub fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// Celery's pool workers leave the command out of their title; the title of their parent has it:
/// `[celeryd: celery@host:MainProcess] -active- (-A proj worker)`.
fn complete_celery_title(proc: &ProcFs, process: &Process, title: &mut String) {
    if !title.starts_with("[celery") || title.contains('(') {
        return;
    }
    let parent = process.parent().and_then(|parent| proc.argv(parent).ok()).unwrap_or_default();
    let Some(first) = parent.first().filter(|first| first.starts_with("[celery")) else { return };
    if let Some(at) = first.find('(') {
        title.push(' ');
        title.push_str(first.get(at..).unwrap_or_default());
    }
}

/// The process is the bookkeeper of `multiprocessing`, which runs nothing of the program.
#[must_use]
pub fn is_resource_tracker(argv: &[String]) -> bool {
    let tracker = |word: &String| {
        word.starts_with("from multiprocessing.resource_tracker")
            || word.starts_with("from multiprocessing.semaphore_tracker")
    };
    argv.iter().skip(1).take(8).any(tracker)
}

fn is_multiprocessing(argv: &[String]) -> bool {
    argv.iter().skip(1).take(8).any(|word| {
        word.starts_with("from multiprocessing.")
            || word.starts_with("from billiard.")
            || word == "--multiprocessing-fork"
    })
}

#[cfg(test)]
pub(crate) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Launch {
        Launch::parse(&words(line))
    }

    #[test]
    fn command_lines() {
        let script = |name: &str| Program::Script(name.into());
        let module = |name: &str| Program::Module(name.into());
        for (line, program, args) in [
            ("python3 app.py -v", script("app.py"), "-v"),
            ("/usr/bin/python3.11 -u -X dev -W ignore app.py x", script("app.py"), "x"),
            ("python -Xfrozen_modules=off -Wd /srv/a.py", script("/srv/a.py"), ""),
            ("python -m http.server 8000", module("http.server"), "8000"),
            ("python -Bum gunicorn app:wsgi", module("gunicorn"), "app:wsgi"),
            ("python -muvicorn main:app", module("uvicorn"), "main:app"),
            ("python -c pass", Program::Inline, ""),
            ("python", Program::Inline, ""),
            ("python -m", Program::Inline, ""),
            ("python -- app.py x", script("app.py"), "x"),
            ("python -m cProfile -o out.prof app.py x", script("app.py"), "x"),
            ("python -m debugpy --listen 5678 -m uvicorn main:app", module("uvicorn"), "main:app"),
            ("python -m coverage run app.py", script("app.py"), ""),
            ("/usr/bin/uwsgi --http :80", Program::Embedded("uwsgi".into()), "--http :80"),
        ] {
            let launch = parse(line);
            assert_eq!(launch.program, program, "{line}");
            if !args.is_empty() {
                assert_eq!(launch.args, words(args), "{line}");
            }
        }
        let title = Launch::parse(&["gunicorn: worker [app:wsgi]".to_owned()]);
        assert_eq!(title.program, Program::Title("gunicorn: worker [app:wsgi]".into()));
        assert_eq!(Launch::parse(&[]).program, Program::Inline);
    }

    #[test]
    fn tools_and_options() {
        assert_eq!(parse("python /venv/bin/gunicorn app").tool(), Some("gunicorn"));
        assert_eq!(parse("python -m celery.bin.celery").tool(), Some("celery"));
        assert_eq!(parse("python /srv/shop/__main__.py").tool(), Some("shop"));
        let launch = parse("python gunicorn -w2 -k gthread --bind=:80 --worker-class gevent app");
        assert_eq!(launch.option(&["-w", "--workers"]), Some("2"));
        assert_eq!(launch.option(&["-k", "--worker-class"]), Some("gevent"));
        assert_eq!(launch.option(&["--bind"]), Some(":80"));
        assert_eq!(launch.option(&["--name"]), None);
    }

    proptest! {
        #[test]
        fn any_command_line(argv in proptest::collection::vec("[-a-zA-Zé:= .\\[/]{0,12}", 0..8)) {
            let launch = Launch::parse(&argv);
            let _ = (launch.tool(), launch.option(&["-k", "--x"]));
            let mut python = vec!["python3".to_owned()];
            python.extend(argv);
            let launch = Launch::parse(&python);
            let _ = launch.tool();
        }
    }
}

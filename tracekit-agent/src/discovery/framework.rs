//! Which server and which web framework a process runs, where that is recognisable without looking into its
//! memory: from the command line, the environment, and what the application's own source file imports.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::application::application;
use super::launch::{Launch, Program, is_resource_tracker, option_in};
use super::proc_fs::ProcFs;
use super::process::Process;

/// Bytes of a source or configuration file that are read.
const MAX_SOURCE: u64 = 64 << 10;

/// A server's process that supervises, or one that answers requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Starts and watches the workers.
    Master,
    /// Answers requests.
    Worker,
}

/// What runs the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `gunicorn`, `uvicorn`, `celery`, …
    pub name: &'static str,
    /// Worker class or pool: `sync`, `gthread`, `uvicorn`, `prefork`.
    pub mode: Option<String>,
    /// Master or worker, for servers that have both.
    pub role: Option<Role>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(mode) = &self.mode {
            write!(f, "/{mode}")?;
        }
        match self.role {
            Some(Role::Master) => f.write_str(" (master)"),
            Some(Role::Worker) => f.write_str(" (worker)"),
            None => Ok(()),
        }
    }
}

/// Where a framework was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameworkEvidence {
    /// The command line.
    CommandLine,
    /// A variable of the environment.
    Environment,
    /// An import in the application's source file.
    Source,
}

/// A web framework.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framework {
    /// `flask`, `django`, `fastapi`, …
    pub name: &'static str,
    /// Where that was seen.
    pub evidence: FrameworkEvidence,
}

/// What was recognised in a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recognised {
    /// What runs the application.
    pub server: Option<Server>,
    /// The framework it is written with.
    pub framework: Option<Framework>,
}

/// Recognises server and framework.
#[must_use]
pub fn recognise(proc: &ProcFs, process: &Process, launch: &Launch) -> Recognised {
    if is_resource_tracker(&process.argv) {
        return Recognised::default();
    }
    let source = source_text(proc, process, launch);
    // A variable may be inherited from whoever started the service, so the application's own source counts more.
    let framework = by_command(launch)
        .or_else(|| {
            by_source(source.as_deref()?).map(|name| Framework { name, evidence: FrameworkEvidence::Source })
        })
        .or_else(|| by_environment(process));
    let mut server = server_by_command(proc, process, launch);
    if server.is_none()
        && let Some(name) =
            source.as_deref().and_then(|text| server_by_source(text, framework.map(|f| f.name)))
    {
        server = Some(Server { name, mode: None, role: None });
    }
    Recognised { server, framework }
}

fn server_by_command(proc: &ProcFs, process: &Process, launch: &Launch) -> Option<Server> {
    let plain = |name| Some(Server { name, mode: None, role: None });
    if let Program::Title(title) = &launch.program {
        return server_by_title(title);
    }
    let command = || launch.args.iter().find(|word| !word.starts_with('-')).map(String::as_str);
    match launch.tool()? {
        "gunicorn" => {
            let role = if parent_runs(proc, process, "gunicorn") { Role::Worker } else { Role::Master };
            Some(Server {
                name: "gunicorn",
                mode: Some(worker_class(proc, process, launch)),
                role: Some(role),
            })
        }
        "uvicorn" => {
            let workers = launch.option(&["--workers"]).is_some_and(|count| count != "1");
            let reload = launch.args.iter().any(|word| word == "--reload");
            let role = (workers || reload)
                .then(|| if parent_runs(proc, process, "uvicorn") { Role::Worker } else { Role::Master });
            Some(Server { name: "uvicorn", mode: None, role })
        }
        "fastapi" => plain("uvicorn"),
        "hypercorn" => plain("hypercorn"),
        "daphne" => plain("daphne"),
        "granian" => plain("granian"),
        "sanic" => plain("sanic"),
        "waitress" | "waitress-serve" => plain("waitress"),
        "uwsgi" | "pyuwsgi" => plain("uwsgi"),
        "celery" if launch.args.iter().any(|word| word == "worker") => {
            let mode = launch.option(&["-P", "--pool"]).unwrap_or("prefork").to_owned();
            let role = if parent_runs(proc, process, "celery") { Role::Worker } else { Role::Master };
            Some(Server { name: "celery", mode: Some(mode), role: Some(role) })
        }
        "celery" => plain("celery"),
        "flask" if launch.args.iter().any(|word| word == "run") => plain("werkzeug"),
        "manage" | "django-admin" | "django" if command() == Some("runserver") => {
            let reloader = !launch.args.iter().any(|word| word == "--noreload");
            let child = process.variable("RUN_MAIN").is_some();
            let role = reloader.then_some(if child { Role::Worker } else { Role::Master });
            Some(Server { name: "runserver", mode: None, role })
        }
        "http" if launch.program == Program::Module("http.server".into()) => plain("http.server"),
        "streamlit" => plain("streamlit"),
        "rq" => plain("rq"),
        "dramatiq" => plain("dramatiq"),
        "arq" => plain("arq"),
        _ => None,
    }
}

fn server_by_title(title: &str) -> Option<Server> {
    if let Some(rest) = title.strip_prefix("gunicorn: ") {
        let role = if rest.starts_with("master") { Role::Master } else { Role::Worker };
        return Some(Server { name: "gunicorn", mode: None, role: Some(role) });
    }
    if title.starts_with("[celery") {
        let role = if title.contains("MainProcess") { Role::Master } else { Role::Worker };
        return Some(Server { name: "celery", mode: None, role: Some(role) });
    }
    if let Some(rest) = title.strip_prefix("granian ") {
        let role = if rest.contains(" worker-") { Role::Worker } else { Role::Master };
        return Some(Server { name: "granian", mode: None, role: Some(role) });
    }
    title.starts_with("uWSGI").then_some(Server { name: "uwsgi", mode: None, role: None })
}

/// Whether the parent runs the same tool: then this process is its worker.
fn parent_runs(proc: &ProcFs, process: &Process, tool: &str) -> bool {
    let Some(argv) = process.parent().and_then(|parent| proc.argv(parent).ok()) else { return false };
    Launch::parse(&argv).tool() == Some(tool)
}

/// Gunicorn's worker class by its own precedence: command line, `GUNICORN_CMD_ARGS`, configuration file;
/// `sync` becomes `gthread` when more than one thread is asked for (gunicorn `Config.worker_class`).
fn worker_class(proc: &ProcFs, process: &Process, launch: &Launch) -> String {
    const CLASS: &[&str] = &["-k", "--worker-class"];
    let more: Vec<String> = process
        .variable("GUNICORN_CMD_ARGS")
        .map(|text| text.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default();
    let from_words = |names: &[&str]| {
        launch.option(names).map(str::to_owned).or_else(|| option_in(&more, names).map(str::to_owned))
    };
    let config = || {
        let path = from_words(&["-c", "--config"]).unwrap_or_else(|| "./gunicorn.conf.py".to_owned());
        read_source(proc, process.pid, path.strip_prefix("./").unwrap_or(&path))
    };
    let (class, threads) = match (from_words(CLASS), from_words(&["--threads"])) {
        (Some(class), threads) => (Some(class), threads),
        (None, threads) => {
            let text = config().unwrap_or_default();
            let setting = |pattern: &Regex| {
                pattern.captures(&text).and_then(|found| found.get(1)).map(|value| value.as_str().to_owned())
            };
            (setting(&CONFIG_CLASS), threads.or_else(|| setting(&CONFIG_THREADS)))
        }
    };
    let class = class.unwrap_or_else(|| "sync".to_owned());
    if class == "sync" && threads.and_then(|count| count.parse::<u32>().ok()).is_some_and(|count| count > 1) {
        return "gthread".to_owned();
    }
    // `uvicorn.workers.UvicornWorker`, `egg:gunicorn#gevent`
    match class.as_str() {
        dotted if dotted.contains("uvicorn") => "uvicorn".to_owned(),
        other => other.rsplit(['#', ':']).next().unwrap_or(other).chars().take(64).collect(),
    }
}

static CONFIG_CLASS: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"(?m)^worker_class\s*=\s*["']([^"']{1,128})["']"#));
static CONFIG_THREADS: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^threads\s*=\s*(\d{1,6})"));

/// Frameworks by the module that an application imports; one that is built on another stands before it.
static IMPORTS: LazyLock<Vec<(&'static str, Regex)>> = LazyLock::new(|| {
    [
        ("fastapi", "fastapi"),
        ("litestar", "litestar"),
        ("sanic", "sanic"),
        ("quart", "quart"),
        ("django", "django"),
        ("flask", "flask"),
        ("falcon", "falcon"),
        ("bottle", "bottle"),
        ("pyramid", "pyramid"),
        ("tornado", r"tornado(?:\.web|\.httpserver)?"),
        ("aiohttp", r"aiohttp(?:\.web|\s+import\s+(?:[\w, ]+,\s*)?web)"),
        ("starlette", "starlette"),
        ("celery", "celery"),
    ]
    .into_iter()
    .map(|(name, module)| (name, pattern(&format!(r"(?m)^[ \t]*(?:from|import)[ \t]+{module}\b"))))
    .collect()
});

fn pattern(text: &str) -> Regex {
    // A literal of this file: the tests compile every one.
    Regex::new(text).expect("the pattern is valid")
}

fn by_command(launch: &Launch) -> Option<Framework> {
    let name = match launch.tool()? {
        "manage" | "django-admin" | "django" => "django",
        "flask" => "flask",
        "fastapi" => "fastapi",
        "sanic" => "sanic",
        "streamlit" => "streamlit",
        "celery" => "celery",
        _ => return None,
    };
    Some(Framework { name, evidence: FrameworkEvidence::CommandLine })
}

fn by_environment(process: &Process) -> Option<Framework> {
    let name = match (process.variable("DJANGO_SETTINGS_MODULE"), process.variable("FLASK_APP")) {
        (Some(_), _) => "django",
        (None, Some(_)) => "flask",
        (None, None) => return None,
    };
    Some(Framework { name, evidence: FrameworkEvidence::Environment })
}

fn by_source(text: &str) -> Option<&'static str> {
    IMPORTS.iter().find(|(_, import)| import.is_match(text)).map(|(name, _)| *name)
}

/// A script that starts its own server.
fn server_by_source(text: &str, framework: Option<&str>) -> Option<&'static str> {
    for (call, name) in [
        ("uvicorn.run(", "uvicorn"),
        ("hypercorn", "hypercorn"),
        ("waitress", "waitress"),
        ("gevent.pywsgi", "gevent"),
        ("web.run_app(", "aiohttp"),
        ("http.server", "http.server"),
        ("wsgiref.simple_server", "wsgiref"),
        ("xmlrpc.server", "xmlrpc.server"),
    ] {
        if text.contains(call) {
            return Some(name);
        }
    }
    match framework {
        Some("flask") if text.contains(".run(") => Some("werkzeug"),
        Some("tornado") if text.contains(".listen(") => Some("tornado"),
        _ => None,
    }
}

/// The beginning of the source file of the application, if it can be found.
fn source_text(proc: &ProcFs, process: &Process, launch: &Launch) -> Option<String> {
    let files = match (application(launch, process), &launch.program) {
        (Some(application), _) => application.source_files(),
        (None, Program::Script(script)) => vec![script.clone()],
        (None, Program::Module(module)) => {
            let path = module.replace('.', "/");
            vec![format!("{path}.py"), format!("{path}/__main__.py")]
        }
        (None, _) => return None,
    };
    let directory = launch.option(&["--chdir", "--app-dir", "--workdir"]);
    files.iter().find_map(|file| match directory {
        Some(directory) => read_source(proc, process.pid, &format!("{directory}/{file}")),
        None => read_source(proc, process.pid, file),
    })
}

fn read_source(proc: &ProcFs, pid: u32, path: &str) -> Option<String> {
    let path = Path::new(path);
    let file = if path.is_absolute() { proc.open_in_root(pid, path) } else { proc.open_below_cwd(pid, path) };
    let mut bytes = Vec::new();
    file.ok()?.take(MAX_SOURCE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Constructed, process};
    use super::*;

    fn recognised(line: &str) -> (Option<String>, Option<&'static str>) {
        let tree = Constructed::new();
        let process = process(10, line);
        let found = recognise(&tree.proc, &process, &Launch::parse(&process.argv));
        (found.server.map(|server| server.to_string()), found.framework.map(|framework| framework.name))
    }

    #[test]
    fn by_command_line() {
        for (line, server, framework) in [
            ("python /venv/bin/gunicorn -k gthread app:wsgi", Some("gunicorn/gthread (master)"), None),
            ("python -m gunicorn --threads 4 app:wsgi", Some("gunicorn/gthread (master)"), None),
            ("python -m gunicorn app:wsgi", Some("gunicorn/sync (master)"), None),
            (
                "python -m gunicorn --worker-class=uvicorn.workers.UvicornWorker m:app",
                Some("gunicorn/uvicorn (master)"),
                None,
            ),
            ("python -m uvicorn main:app", Some("uvicorn"), None),
            ("python -m uvicorn main:app --workers 4", Some("uvicorn (master)"), None),
            ("python /v/bin/hypercorn m:app", Some("hypercorn"), None),
            ("python /v/bin/daphne m:app", Some("daphne"), None),
            ("python /v/bin/granian m:app", Some("granian"), None),
            ("python /v/bin/waitress-serve m:app", Some("waitress"), None),
            ("/usr/bin/uwsgi --module m", Some("uwsgi"), None),
            ("python /v/bin/celery -A proj worker", Some("celery/prefork (master)"), Some("celery")),
            ("python -m celery -A proj worker -P gevent", Some("celery/gevent (master)"), Some("celery")),
            ("python -m flask run", Some("werkzeug"), Some("flask")),
            ("python manage.py runserver --noreload", Some("runserver"), Some("django")),
            ("python manage.py migrate", None, Some("django")),
            ("python -m http.server", Some("http.server"), None),
            ("python /v/bin/fastapi run main.py", Some("uvicorn"), Some("fastapi")),
            ("python script.py", None, None),
        ] {
            assert_eq!(recognised(line), (server.map(str::to_owned), framework), "{line}");
        }
    }

    #[test]
    fn by_title() {
        let server = |title: &str| server_by_title(title).map(|server| server.to_string());
        assert_eq!(server("gunicorn: master [a]").as_deref(), Some("gunicorn (master)"));
        assert_eq!(server("gunicorn: worker [a]").as_deref(), Some("gunicorn (worker)"));
        assert_eq!(server("[celeryd: c@h:ForkPoolWorker-1]").as_deref(), Some("celery (worker)"));
        assert_eq!(server("granian asgi 127.0.0.1:80 m:app worker-1").as_deref(), Some("granian (worker)"));
        assert_eq!(server("postgres: x"), None);
    }

    #[test]
    fn by_imports() {
        for (text, expected) in [
            ("import os\nfrom flask import Flask\n", Some("flask")),
            ("from starlette.routing import Route\nfrom fastapi import FastAPI\n", Some("fastapi")),
            ("from django.core.wsgi import get_wsgi_application\n", Some("django")),
            ("import aiohttp\n", None),
            ("from aiohttp import web\n", Some("aiohttp")),
            ("import flasky\n# import flask\n", None),
        ] {
            assert_eq!(by_source(text), expected, "{text}");
        }
        assert_eq!(server_by_source("app = Flask()\napp.run(port=1)", Some("flask")), Some("werkzeug"));
    }

    #[test]
    fn a_celery_worker_is_completed_from_its_parent() {
        let tree = Constructed::new();
        tree.write("10/cmdline", b"[celeryd: celery@host:MainProcess] -active- (-A proj worker)\0\0");
        let mut worker = process(11, "");
        worker.argv = vec!["[celeryd: celery@host:ForkPoolWorker-1]".to_owned()];
        worker.ancestors = vec![10];
        let launch = Launch::of_process(&tree.proc, &worker);
        assert_eq!(application(&launch, &worker).unwrap().name(), Some("proj"));
        assert_eq!(recognise(&tree.proc, &worker, &launch).server.unwrap().to_string(), "celery (worker)");
    }

    #[test]
    fn the_resource_tracker_serves_nothing() {
        let tree = Constructed::new();
        tree.write("10/cmdline", b"python\0-m\0uvicorn\0main:app\0--workers\x002\0");
        let mut tracker = process(11, "");
        tracker.argv = ["python", "-c", "from multiprocessing.resource_tracker import main;main(4)"]
            .map(str::to_owned)
            .to_vec();
        tracker.ancestors = vec![10];
        let launch = Launch::of_process(&tree.proc, &tracker);
        assert_eq!(recognise(&tree.proc, &tracker, &launch), Recognised::default());
        assert_eq!(application(&launch, &tracker).unwrap().name(), Some("main"), "it belongs to the service");
    }

    #[test]
    fn a_worker_and_its_source_and_configuration() {
        let tree = Constructed::new();
        tree.write("10/cmdline", b"python\0-m\0gunicorn\0app:wsgi\0");
        tree.write("11/cwd/app.py", b"from flask import Flask\n");
        tree.write("11/cwd/gunicorn.conf.py", b"worker_class = 'gevent'\n");
        let mut worker = process(11, "python -m gunicorn app:wsgi");
        worker.ancestors = vec![10];
        let found = recognise(&tree.proc, &worker, &Launch::parse(&worker.argv));
        assert_eq!(found.server.unwrap().to_string(), "gunicorn/gevent (worker)");
        let framework = found.framework.unwrap();
        assert_eq!((framework.name, framework.evidence), ("flask", FrameworkEvidence::Source));
    }
}

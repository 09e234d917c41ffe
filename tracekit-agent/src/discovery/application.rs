//! Which application a server was told to serve: `gunicorn shop.wsgi:application`.

use super::launch::{Launch, Program, base_name, option_in};
use super::process::Process;

/// How a command line or a variable names an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Application {
    /// A module in import notation: `shop.wsgi`.
    Module(String),
    /// A file or directory: `./web`, `hello.py`.
    Path(String),
    /// A name that somebody gave to the process: `gunicorn --name shop`.
    Named(String),
}

impl Application {
    /// Reads `module:attribute`, `module`, `path/file.py:attribute`.
    #[must_use]
    pub fn parse(spec: &str) -> Option<Self> {
        let path = spec.split(':').next().unwrap_or_default().trim();
        if path.is_empty() || path.len() > 256 {
            return None;
        }
        if path.contains('/') || path.ends_with(".py") {
            return Some(Self::Path(path.to_owned()));
        }
        is_dotted_name(path).then(|| Self::Module(path.to_owned()))
    }

    /// The name that a person would give the service: top-level package, file name without `.py`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        let name = match self {
            Self::Named(name) => name,
            Self::Module(module) => {
                let mut parts = module.split('.').filter(|part| !part.is_empty());
                let first = parts.next()?;
                // A source directory on the path is not the package's name.
                if first == "src" { parts.next().unwrap_or(first) } else { first }
            }
            Self::Path(path) => {
                let base = base_name(path);
                match base.strip_suffix(".py").unwrap_or(base) {
                    "__init__" | "__main__" => path.rsplit('/').nth(1)?,
                    stem => stem,
                }
            }
        };
        (!name.is_empty() && name != "." && name != "..").then_some(name)
    }

    /// Where the source may be, from the working directory; the first that exists counts.
    #[must_use]
    pub fn source_files(&self) -> Vec<String> {
        match self {
            Self::Named(_) => Vec::new(),
            Self::Path(path) if path.ends_with(".py") => vec![path.clone()],
            Self::Path(path) => vec![format!("{path}/__init__.py"), format!("{path}.py")],
            Self::Module(module) => {
                let path = module.replace('.', "/");
                vec![format!("{path}.py"), format!("{path}/__init__.py"), format!("src/{path}.py")]
            }
        }
    }
}

/// The application of a launch, where its server's own conventions name it.
#[must_use]
pub fn application(launch: &Launch, process: &Process) -> Option<Application> {
    if let Program::Title(title) = &launch.program {
        return of_title(title);
    }
    let variable = |name| process.variable(name).and_then(Application::parse);
    match launch.tool()? {
        "gunicorn" => {
            let more: Vec<String> = process
                .variable("GUNICORN_CMD_ARGS")
                .map(|text| text.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default();
            let named = launch.option(&["-n", "--name"]).or_else(|| option_in(&more, &["-n", "--name"]));
            named.map(|name| Application::Named(name.to_owned())).or_else(|| positional(&launch.args))
        }
        "uvicorn" => positional(&launch.args).or_else(|| variable("UVICORN_APP")),
        "hypercorn" | "daphne" | "granian" | "waitress-serve" | "waitress" | "sanic" => {
            positional(&launch.args)
        }
        "uwsgi" | "pyuwsgi" => {
            let option = |names: &[&str]| launch.option(names).and_then(Application::parse);
            option(&["-w", "--module", "--wsgi"])
                .or_else(|| option(&["--wsgi-file", "--file"]))
                .or_else(|| variable("UWSGI_MODULE"))
                .or_else(|| variable("UWSGI_WSGI_FILE"))
        }
        "celery" => {
            launch.option(&["-A", "--app"]).and_then(Application::parse).or_else(|| variable("CELERY_APP"))
        }
        "flask" => {
            launch.option(&["-A", "--app"]).and_then(Application::parse).or_else(|| variable("FLASK_APP"))
        }
        "fastapi" | "streamlit" => launch
            .args
            .iter()
            .skip(1)
            .find(|word| word.ends_with(".py"))
            .and_then(|word| Application::parse(word)),
        _ => None,
    }
}

/// `gunicorn: worker [app:wsgi]`, `[celeryd: celery@host:ForkPoolWorker-1] -active- (-A proj worker)`
fn of_title(title: &str) -> Option<Application> {
    if let Some(rest) = title.strip_prefix("gunicorn: ") {
        let inside = rest.split_once('[')?.1.split_once(']')?.0;
        // The process name is the application unless somebody chose another.
        return Application::parse(inside).or_else(|| Some(Application::Named(inside.to_owned())));
    }
    if title.starts_with("granian ") {
        // `granian asgi 127.0.0.1:8000 main:app worker-1`
        return title.split_whitespace().nth(3).and_then(Application::parse);
    }
    if title.starts_with("[celery") {
        let words: Vec<String> =
            title.split(|c: char| c.is_whitespace() || matches!(c, '(' | ')')).map(str::to_owned).collect();
        return option_in(&words, &["-A", "--app"]).and_then(Application::parse);
    }
    None
}

/// The argument that names the application: the first `module:attribute`, else the last word, if it is a
/// module and not the value of an option.
fn positional(args: &[String]) -> Option<Application> {
    let value_of_option = |index: usize| {
        let before = index.checked_sub(1).and_then(|at| args.get(at));
        before.is_some_and(|before| before.starts_with('-') && before.len() > 1 && !before.contains('='))
    };
    let with_attribute = args.iter().enumerate().find(|(index, word)| {
        let Some((module, attribute)) = word.split_once(':') else { return false };
        let address_option = index.checked_sub(1).and_then(|at| args.get(at)).is_some_and(|before| {
            matches!(
                before.as_str(),
                "-b" | "--bind"
                    | "--host"
                    | "-h"
                    | "-c"
                    | "--config"
                    | "--listen"
                    | "-e"
                    | "--endpoint"
                    | "-u"
                    | "--uds"
                    | "--env"
            )
        });
        !word.starts_with('-')
            && !address_option
            && (is_dotted_name(module) || module.ends_with(".py"))
            && attribute.starts_with(|c: char| c.is_alphabetic() || c == '_')
    });
    if let Some((_, word)) = with_attribute {
        return Application::parse(word);
    }
    let (index, last) = args.iter().enumerate().next_back()?;
    let flag_without_value = matches!(
        index.checked_sub(1).and_then(|at| args.get(at)).map(String::as_str),
        Some("--reload" | "--preload" | "-D" | "--daemon" | "--factory" | "--debug" | "--call")
    );
    if last.starts_with('-') || (value_of_option(index) && !flag_without_value) || last.contains(':') {
        return None;
    }
    Application::parse(last)
}

/// `package.module`
fn is_dotted_name(text: &str) -> bool {
    !text.is_empty()
        && text.split('.').all(|part| {
            part.starts_with(|c: char| c.is_alphabetic() || c == '_')
                && part.chars().all(|c| c.is_alphanumeric() || c == '_')
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::launch::words;
    use super::*;

    fn positional_name(line: &str) -> Option<String> {
        positional(&words(line)).and_then(|app| app.name().map(str::to_owned))
    }

    #[test]
    fn positional_arguments() {
        for (line, expected) in [
            ("app:wsgi", Some("app")),
            ("-w 4 -b 127.0.0.1:8000 shop.wsgi:application", Some("shop")),
            ("shop.wsgi:application --bind unix:app", Some("shop")),
            ("--bind localhost:http shop.wsgi", Some("shop")),
            ("-b :8000 --reload app", Some("app")),
            ("app:create_app()", Some("app")),
            ("src.main:app --workers 4", Some("main")),
            ("-w 4", None),
            ("--worker-class gevent", None),
            ("--port=8041 --call shop:create", Some("shop")),
            ("", None),
        ] {
            assert_eq!(positional_name(line).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn titles() {
        for (title, expected) in [
            ("gunicorn: master [app:wsgi]", Some("app")),
            ("gunicorn: worker [shop.wsgi:application]", Some("shop")),
            ("gunicorn: worker [my shop]", Some("my shop")),
            ("[celeryd: celery@host:MainProcess] -active- (-A proj worker -l info)", Some("proj")),
            ("[celeryd: celery@host:ForkPoolWorker-1]", None),
            ("granian asgi 127.0.0.1:8000 main:app worker-1", Some("main")),
            ("gunicorn: worker", None),
        ] {
            assert_eq!(of_title(title).as_ref().and_then(Application::name), expected, "{title}");
        }
    }

    #[test]
    fn names_and_sources() {
        let name = |spec: &str| Application::parse(spec).and_then(|app| app.name().map(str::to_owned));
        assert_eq!(name("hello.py:app").as_deref(), Some("hello"));
        assert_eq!(name("./web").as_deref(), Some("web"));
        assert_eq!(name("pkg/__init__.py").as_deref(), Some("pkg"));
        assert_eq!(name("1bad"), None);
        assert_eq!(name("."), None);
        assert_eq!(Application::parse("a.b:c").unwrap().source_files()[0], "a/b.py");
    }

    proptest! {
        #[test]
        fn anything_parses(text in ".{0,80}", args in proptest::collection::vec(".{0,20}", 0..6)) {
            let _ = Application::parse(&text).map(|app| (app.name().map(str::to_owned), app.source_files()));
            let _ = of_title(&text);
            let _ = of_title(&format!("gunicorn: {text}"));
            let _ = positional(&args);
        }
    }
}

//! What a traced process is called.

use std::path::Path;

use super::application::application;
use super::launch::{Launch, Program, base_name};
use super::process::Process;
use super::resource::parse_attributes;

/// The name for a process that nothing names (OpenTelemetry resource conventions, `service.name`).
pub const UNKNOWN: &str = "unknown_service:python";
/// Characters of a name that are kept.
const MAX_NAME: usize = 255;

/// Where a service's name came from, in order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameSource {
    /// The agent's command line or configuration.
    Override,
    /// The target's `OTEL_SERVICE_NAME`.
    OtelServiceName,
    /// `service.name` in the target's `OTEL_RESOURCE_ATTRIBUTES`.
    OtelResourceAttributes,
    /// The target's `TRACEKIT_SERVICE_NAME`, as TraceKit's SDK reads it.
    TracekitServiceName,
    /// Derived from the command line, the environment or the directory.
    Derived,
    /// Nothing tells it.
    Unknown,
}

/// A service's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceName {
    /// Never empty.
    pub name: String,
    /// Where it came from.
    pub source: NameSource,
}

/// Names the service that a process belongs to.
#[must_use]
pub fn service_name(process: &Process, launch: &Launch, override_name: Option<&str>) -> ServiceName {
    let from_attributes = || {
        let attributes = parse_attributes(process.variable("OTEL_RESOURCE_ATTRIBUTES")?).ok()?;
        attributes.into_iter().find(|(key, _)| key == "service.name").map(|(_, value)| value)
    };
    let variable = |name| process.variable(name).map(str::to_owned);
    [
        (override_name.map(str::to_owned), NameSource::Override),
        (variable("OTEL_SERVICE_NAME"), NameSource::OtelServiceName),
        (from_attributes(), NameSource::OtelResourceAttributes),
        (variable("TRACEKIT_SERVICE_NAME"), NameSource::TracekitServiceName),
        (derived(process, launch), NameSource::Derived),
    ]
    .into_iter()
    .find_map(|(name, source)| Some(ServiceName { name: cleaned(&name?)?, source }))
    .unwrap_or_else(|| ServiceName { name: UNKNOWN.to_owned(), source: NameSource::Unknown })
}

fn cleaned(name: &str) -> Option<String> {
    let name: String = name.trim().chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    (!name.is_empty()).then_some(name)
}

fn derived(process: &Process, launch: &Launch) -> Option<String> {
    if let Some(name) = application(launch, process).as_ref().and_then(|app| app.name()) {
        return Some(name.to_owned());
    }
    let tool = launch.tool();
    if tool == Some("manage")
        && let Some(directory) = directory_of_script(process, launch)
    {
        return Some(directory);
    }
    if let Some(settings) = process.variable("DJANGO_SETTINGS_MODULE") {
        return settings.split('.').next().map(str::to_owned);
    }
    match (&launch.program, tool) {
        // A server whose application is not on the command line: the directory is the best that is left.
        (
            _,
            Some(
                "flask" | "fastapi" | "django-admin" | "django" | "gunicorn" | "uvicorn" | "uwsgi" | "celery",
            ),
        ) => directory_name(process.cwd.as_deref()?),
        (Program::Module(module), _) if module == "http.server" => Some(module.clone()),
        (Program::Script(_) | Program::Module(_) | Program::Embedded(_), Some(tool)) => Some(tool.to_owned()),
        (Program::Title(title), _) => {
            let first = title.split([':', ' ', '[']).find(|word| !word.is_empty())?;
            Some(base_name(first).to_owned())
        }
        _ => None,
    }
}

/// `python /srv/shop/manage.py` → `shop`; `python manage.py` → the working directory's name.
fn directory_of_script(process: &Process, launch: &Launch) -> Option<String> {
    let Program::Script(script) = &launch.program else { return None };
    let directory = Path::new(script).parent().filter(|parent| !parent.as_os_str().is_empty());
    match directory {
        Some(directory) if directory != Path::new(".") => directory_name(directory),
        _ => directory_name(process.cwd.as_deref()?),
    }
}

fn directory_name(directory: &Path) -> Option<String> {
    Some(directory.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::proc_fs::Environment;
    use super::super::testing::process;
    use super::*;

    fn named(line: &str, environ: &[u8], flag: Option<&str>) -> (String, NameSource) {
        let mut process = process(1, line);
        process.environment = Some(Environment::parse(environ));
        let found = service_name(&process, &Launch::parse(&process.argv), flag);
        (found.name, found.source)
    }

    #[test]
    fn precedence() {
        let all = b"OTEL_SERVICE_NAME=a\0OTEL_RESOURCE_ATTRIBUTES=service.name=b\0TRACEKIT_SERVICE_NAME=c\0";
        let line = "python gunicorn app:wsgi";
        assert_eq!(named(line, all, Some("flag")), ("flag".into(), NameSource::Override));
        assert_eq!(named(line, all, Some(" ")), ("a".into(), NameSource::OtelServiceName));
        assert_eq!(named(line, &all[20..], None), ("b".into(), NameSource::OtelResourceAttributes));
        assert_eq!(
            named(line, b"TRACEKIT_SERVICE_NAME=c\0", None),
            ("c".into(), NameSource::TracekitServiceName)
        );
        assert_eq!(named(line, b"OTEL_SERVICE_NAME=\0", None), ("app".into(), NameSource::Derived));
        assert_eq!(named("python", b"", None), (UNKNOWN.into(), NameSource::Unknown));
    }

    #[test]
    fn derived_names() {
        for (line, environ, expected) in [
            ("python /v/bin/gunicorn -w 2 app:wsgi", "", "app"),
            ("python /v/bin/gunicorn shop.wsgi:application", "", "shop"),
            ("python /v/bin/gunicorn --name front shop.wsgi", "", "front"),
            ("python -m uvicorn main:app --port 80", "", "main"),
            ("python manage.py runserver", "", "shop"),
            ("python /srv/blog/manage.py runserver", "DJANGO_SETTINGS_MODULE=cfg.settings", "blog"),
            ("python worker.py", "DJANGO_SETTINGS_MODULE=site.settings", "site"),
            ("python -m pkg.mod", "", "pkg"),
            ("python /srv/foo/main.py", "", "main"),
            ("python /srv/foo/__main__.py", "", "foo"),
            ("python -m celery -A proj worker", "", "proj"),
            ("python -m celery --app=proj.celery:app worker", "", "proj"),
            ("python -m flask run", "FLASK_APP=hello.py", "hello"),
            ("python -m flask --app web:create_app run", "", "web"),
            ("python -m flask run", "", "shop"),
            ("python -m http.server", "", "http.server"),
            ("/usr/bin/uwsgi --http :80 --wsgi-file /srv/x/foo.py", "", "foo"),
            ("/opt/bin/frozen-tool serve", "", "frozen-tool"),
            ("python /v/bin/fastapi run", "", "shop"),
            ("python -c pass", "", UNKNOWN),
        ] {
            assert_eq!(named(line, environ.as_bytes(), None).0, expected, "{line}");
        }
    }

    #[test]
    fn a_worker_with_a_title() {
        let mut worker = process(1, "");
        worker.argv = vec!["gunicorn: worker [app:wsgi]".into()];
        assert_eq!(service_name(&worker, &Launch::parse(&worker.argv), None).name, "app");
    }
}

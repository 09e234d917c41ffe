//! Whether a process has a tracer of its own that exports spans, and which spans that makes.
//!
//! That a tracer's modules are imported proves nothing; what is looked at is what its set-up leaves behind: an
//! installed `TracerProvider` of the OpenTelemetry SDK with a processor of spans, and instrumentors that have
//! done their work (`_is_instrumented_by_opentelemetry`); ddtrace's list of patched modules; the integrations
//! of a Sentry client that samples; the clients of Elastic APM and New Relic. Read in the packages of
//! opentelemetry-sdk 1.20 to 1.45, opentelemetry-instrumentation 0.41b to 0.66b, ddtrace 2 to 4, sentry-sdk 2,
//! elastic-apm 6, newrelic 9 to 11, tracekit-apm 1.4.

use std::sync::LazyLock;

use super::library::{Category, Libraries, Library};
use super::modules::Modules;

/// Who makes the tracer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// The OpenTelemetry SDK, and what is built on it.
    OpenTelemetry,
    /// `ddtrace`
    Datadog,
    /// `sentry_sdk` with tracing.
    Sentry,
    /// `elasticapm`
    ElasticApm,
    /// `newrelic`
    NewRelic,
}

impl Vendor {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenTelemetry => "OpenTelemetry SDK",
            Self::Datadog => "ddtrace",
            Self::Sentry => "Sentry SDK",
            Self::ElasticApm => "Elastic APM",
            Self::NewRelic => "New Relic",
        }
    }
}

/// The tracer of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sdk {
    /// Whose.
    pub vendor: Vendor,
    /// It makes spans of the requests that the process serves.
    pub server: bool,
    /// It makes spans of the calls that go through these.
    pub libraries: Libraries,
    /// What it watches, by its own names.
    pub instrumentations: Vec<&'static str>,
}

impl Sdk {
    /// It watches all that the other one does.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        (self.server || !other.server) && other.libraries.among(self.libraries) == other.libraries
    }

    /// Whether it makes a span of a call of this kind. `stack` is what was seen of the stack that made the call.
    #[must_use]
    pub fn traces_call(&self, category: Category, stack: Libraries) -> bool {
        let watched = self.libraries.for_calls(category);
        let on_stack = stack.for_calls(category);
        let tracer = Libraries::of(&[Library::TracedHttp, Library::TracedSql, Library::TracedRedis]);
        // What a tracer sends itself is nobody's business.
        if stack.contains(Library::Exporter) || !on_stack.among(tracer).is_empty() {
            return true;
        }
        if stack.whole && !on_stack.is_empty() {
            return !on_stack.among(watched).is_empty();
        }
        // A library in C is not on the stack, nor who queued what an event loop writes.
        !watched.is_empty()
    }
}

#[derive(Clone, Copy)]
enum Covers {
    Server,
    Calls(&'static [Library]),
    Both(&'static [Library]),
}

use Covers::{Both, Calls, Server};
use Library::{
    AioMySql, Aiohttp, Aiopg, Asyncpg, DjangoDb, HttpClient, Httpx, MySqlClient, MySqlConnector, Psycopg,
    Psycopg2, PyMySql, Redis, Requests, SqlAlchemy, Tornado, Urllib, Urllib3,
};

/// Below `opentelemetry.instrumentation`: the module, its instrumentor, and what that watches.
const OPENTELEMETRY: [(&str, &str, Covers); 23] = [
    ("opentelemetry.instrumentation.flask", "FlaskInstrumentor", Server),
    ("opentelemetry.instrumentation.django", "DjangoInstrumentor", Server),
    ("opentelemetry.instrumentation.fastapi", "FastAPIInstrumentor", Server),
    ("opentelemetry.instrumentation.starlette", "StarletteInstrumentor", Server),
    ("opentelemetry.instrumentation.aiohttp_server", "AioHttpServerInstrumentor", Server),
    ("opentelemetry.instrumentation.falcon", "FalconInstrumentor", Server),
    ("opentelemetry.instrumentation.pyramid", "PyramidInstrumentor", Server),
    ("opentelemetry.instrumentation.tornado", "TornadoInstrumentor", Both(&[Tornado])),
    ("opentelemetry.instrumentation.requests", "RequestsInstrumentor", Calls(&[Requests])),
    ("opentelemetry.instrumentation.urllib3", "URLLib3Instrumentor", Calls(&[Urllib3])),
    ("opentelemetry.instrumentation.urllib", "URLLibInstrumentor", Calls(&[Urllib])),
    ("opentelemetry.instrumentation.httpx", "HTTPXClientInstrumentor", Calls(&[Httpx])),
    ("opentelemetry.instrumentation.aiohttp_client", "AioHttpClientInstrumentor", Calls(&[Aiohttp])),
    ("opentelemetry.instrumentation.psycopg2", "Psycopg2Instrumentor", Calls(&[Psycopg2])),
    ("opentelemetry.instrumentation.psycopg", "PsycopgInstrumentor", Calls(&[Psycopg])),
    ("opentelemetry.instrumentation.asyncpg", "AsyncPGInstrumentor", Calls(&[Asyncpg])),
    ("opentelemetry.instrumentation.aiopg", "AiopgInstrumentor", Calls(&[Aiopg])),
    ("opentelemetry.instrumentation.sqlalchemy", "SQLAlchemyInstrumentor", Calls(&[SqlAlchemy])),
    ("opentelemetry.instrumentation.pymysql", "PyMySQLInstrumentor", Calls(&[PyMySql])),
    ("opentelemetry.instrumentation.mysqlclient", "MySQLClientInstrumentor", Calls(&[MySqlClient])),
    ("opentelemetry.instrumentation.mysql", "MySQLInstrumentor", Calls(&[MySqlConnector])),
    ("opentelemetry.instrumentation.aiomysql", "AioMySQLInstrumentor", Calls(&[AioMySql])),
    ("opentelemetry.instrumentation.redis", "RedisInstrumentor", Calls(&[Redis])),
];

/// Modules whose import outside of `opentelemetry-instrument` says that a single application is watched, of
/// which nothing is kept anywhere. The last two are imported by the others too.
const OPENTELEMETRY_OF_APPLICATION: [&str; 2] =
    ["opentelemetry.instrumentation.flask", "opentelemetry.instrumentation.falcon"];
const OPENTELEMETRY_MIDDLEWARE: [&str; 2] =
    ["opentelemetry.instrumentation.wsgi", "opentelemetry.instrumentation.asgi"];
/// Classes that keep the applications that were instrumented one by one.
const OPENTELEMETRY_KEPT: [(&str, &str, &str); 2] = [
    ("opentelemetry.instrumentation.fastapi", "_InstrumentedFastAPI", "_instrumented_fastapi_apps"),
    ("opentelemetry.instrumentation.starlette", "_InstrumentedStarlette", "_instrumented_starlette_apps"),
];
/// Middleware of tracekit-apm, imported by who uses it; its client is an OpenTelemetry SDK.
const TRACEKIT_SERVERS: [&str; 3] =
    ["tracekit.middleware.flask", "tracekit.middleware.django", "tracekit.middleware.fastapi"];

/// Names of integrations in ddtrace and Sentry. A server's counts if its module is imported.
const INTEGRATIONS: [(&str, Covers); 28] = [
    ("flask", Server),
    ("django", Both(&[DjangoDb])),
    ("fastapi", Server),
    ("starlette", Server),
    ("falcon", Server),
    ("pyramid", Server),
    ("bottle", Server),
    ("sanic", Server),
    ("quart", Server),
    ("aiohttp", Both(&[Aiohttp])),
    ("tornado", Both(&[Tornado])),
    ("requests", Calls(&[Requests])),
    ("urllib3", Calls(&[Urllib3])),
    ("urllib", Calls(&[Urllib])),
    ("httplib", Calls(&[HttpClient])),
    // Sentry's, of `http.client`.
    ("stdlib", Calls(&[HttpClient])),
    ("httpx", Calls(&[Httpx])),
    ("psycopg", Calls(&[Psycopg, Psycopg2])),
    ("psycopg2", Calls(&[Psycopg2])),
    ("asyncpg", Calls(&[Asyncpg])),
    ("aiopg", Calls(&[Aiopg])),
    ("sqlalchemy", Calls(&[SqlAlchemy])),
    ("pymysql", Calls(&[PyMySql])),
    ("mysqldb", Calls(&[MySqlClient])),
    ("mysql", Calls(&[MySqlConnector])),
    ("mariadb", Calls(&[MySqlConnector])),
    ("aiomysql", Calls(&[AioMySql])),
    ("redis", Calls(&[Redis])),
];

/// Modules of Elastic APM and New Relic that are imported when they watch something.
const BY_MODULE: [(Vendor, &str, Covers); 40] = [
    (Vendor::ElasticApm, "elasticapm.contrib.flask", Server),
    (Vendor::ElasticApm, "elasticapm.contrib.django.middleware", Server),
    (Vendor::ElasticApm, "elasticapm.contrib.starlette", Server),
    (Vendor::ElasticApm, "elasticapm.contrib.aiohttp", Server),
    (Vendor::ElasticApm, "elasticapm.contrib.tornado", Server),
    (Vendor::ElasticApm, "elasticapm.contrib.sanic", Server),
    (Vendor::ElasticApm, "elasticapm.contrib.asgi", Server),
    (Vendor::ElasticApm, "elasticapm.instrumentation.packages.requests", Calls(&[Requests])),
    (Vendor::ElasticApm, "elasticapm.instrumentation.packages.urllib3", Calls(&[Urllib3])),
    (Vendor::ElasticApm, "elasticapm.instrumentation.packages.urllib", Calls(&[Urllib])),
    (Vendor::ElasticApm, "elasticapm.instrumentation.packages.httpx", Calls(&[Httpx])),
    (Vendor::ElasticApm, "elasticapm.instrumentation.packages.psycopg2", Calls(&[Psycopg2])),
    (Vendor::ElasticApm, "elasticapm.instrumentation.packages.psycopg", Calls(&[Psycopg])),
    (Vendor::ElasticApm, "elasticapm.instrumentation.packages.pymysql", Calls(&[PyMySql])),
    (Vendor::ElasticApm, "elasticapm.instrumentation.packages.mysql", Calls(&[MySqlClient])),
    (Vendor::ElasticApm, "elasticapm.instrumentation.packages.mysql_connector", Calls(&[MySqlConnector])),
    (Vendor::ElasticApm, "elasticapm.instrumentation.packages.redis", Calls(&[Redis])),
    (Vendor::ElasticApm, "elasticapm.instrumentation.packages.asyncio.asyncpg", Calls(&[Asyncpg])),
    (Vendor::ElasticApm, "elasticapm.instrumentation.packages.asyncio.aiopg", Calls(&[Aiopg])),
    (Vendor::ElasticApm, "elasticapm.instrumentation.packages.asyncio.aiohttp_client", Calls(&[Aiohttp])),
    (Vendor::NewRelic, "newrelic.hooks.framework_flask", Server),
    (Vendor::NewRelic, "newrelic.hooks.framework_django", Server),
    (Vendor::NewRelic, "newrelic.hooks.framework_fastapi", Server),
    (Vendor::NewRelic, "newrelic.hooks.framework_starlette", Server),
    (Vendor::NewRelic, "newrelic.hooks.framework_aiohttp", Both(&[Aiohttp])),
    (Vendor::NewRelic, "newrelic.hooks.framework_tornado", Both(&[Tornado])),
    (Vendor::NewRelic, "newrelic.hooks.framework_sanic", Server),
    (Vendor::NewRelic, "newrelic.hooks.framework_falcon", Server),
    (Vendor::NewRelic, "newrelic.hooks.framework_pyramid", Server),
    (Vendor::NewRelic, "newrelic.hooks.framework_bottle", Server),
    (Vendor::NewRelic, "newrelic.hooks.external_httplib", Calls(&[HttpClient])),
    (Vendor::NewRelic, "newrelic.hooks.external_requests", Calls(&[Requests])),
    (Vendor::NewRelic, "newrelic.hooks.external_urllib3", Calls(&[Urllib3])),
    (Vendor::NewRelic, "newrelic.hooks.external_httpx", Calls(&[Httpx])),
    (Vendor::NewRelic, "newrelic.hooks.database_psycopg2", Calls(&[Psycopg2])),
    (Vendor::NewRelic, "newrelic.hooks.database_psycopg", Calls(&[Psycopg])),
    (Vendor::NewRelic, "newrelic.hooks.database_asyncpg", Calls(&[Asyncpg])),
    (Vendor::NewRelic, "newrelic.hooks.database_pymysql", Calls(&[PyMySql])),
    (Vendor::NewRelic, "newrelic.hooks.database_mysqldb", Calls(&[MySqlClient])),
    (Vendor::NewRelic, "newrelic.hooks.datastore_redis", Calls(&[Redis])),
];

/// What the set-up of a tracer leaves.
const SET_UP: [&str; 9] = [
    "opentelemetry.trace",
    "opentelemetry.sdk.trace",
    "opentelemetry.instrumentation.auto_instrumentation",
    "ddtrace.trace",
    "ddtrace._monkey",
    "sentry_sdk.scope",
    "sentry_sdk.integrations",
    "elasticapm.base",
    "newrelic.core.agent",
];

/// Modules that are looked into.
pub(super) fn modules() -> impl Iterator<Item = &'static &'static str> {
    static ALL: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
        let servers = INTEGRATIONS.iter().filter(|(_, covers)| !matches!(covers, Calls(_)));
        let mut all: Vec<&str> = SET_UP.to_vec();
        all.extend(OPENTELEMETRY.iter().map(|(module, ..)| *module));
        all.extend(OPENTELEMETRY_MIDDLEWARE);
        all.extend(TRACEKIT_SERVERS);
        all.extend(BY_MODULE.iter().map(|(_, module, _)| *module));
        all.extend(servers.map(|(module, _)| *module));
        all
    });
    ALL.iter()
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// The tracer of the process, if it has one that exports and watches something.
    pub sdk: Option<Sdk>,
    /// A tracer is on its way: its modules are imported, so that it may be set up at any moment.
    pub is_expected: bool,
}

/// Looks for a tracer; `None` if something could not be read.
#[must_use]
pub fn find(modules: &Modules<'_, '_, '_>) -> Option<Found> {
    let sdk = one(modules);
    let is_expected = sdk.is_none()
        && ["opentelemetry.sdk.trace", "ddtrace.trace", "sentry_sdk.integrations", "elasticapm.base"]
            .iter()
            .any(|module| modules.has(module));
    (!modules.failed()).then_some(Found { sdk, is_expected })
}

fn one(modules: &Modules<'_, '_, '_>) -> Option<Sdk> {
    let found = open_telemetry(modules)
        .or_else(|| datadog(modules))
        .or_else(|| sentry(modules))
        .or_else(|| elastic(modules))
        .or_else(|| new_relic(modules))?;
    (found.server || !found.libraries.is_empty()).then_some(found)
}

impl Sdk {
    fn of(vendor: Vendor) -> Self {
        Self { vendor, server: false, libraries: Libraries::default(), instrumentations: Vec::new() }
    }

    fn watches(&mut self, name: &'static str, covers: Covers) {
        self.instrumentations.push(name.rsplit('.').next().unwrap_or(name));
        self.server |= matches!(covers, Server | Both(_));
        if let Calls(libraries) | Both(libraries) = covers {
            self.libraries.extend(Libraries::of(libraries));
        }
    }
}

fn open_telemetry(modules: &Modules<'_, '_, '_>) -> Option<Sdk> {
    let provider = modules.member("opentelemetry.trace", "_TRACER_PROVIDER")?;
    let class = modules.member("opentelemetry.sdk.trace", "TracerProvider")?;
    if !modules.is_instance(provider, class) || is_set(modules, provider, "_disabled") {
        return None;
    }
    let processor = modules.attribute(provider, "_active_span_processor")?;
    if modules.length(modules.attribute(processor, "_span_processors")?)? == 0 {
        return None;
    }
    let mut sdk = Sdk::of(Vendor::OpenTelemetry);
    for (module, class, covers) in OPENTELEMETRY {
        let Some(class) = modules.member(module, class) else { continue };
        if let Some(instance) = modules.of_class(class, "_instance")
            && is_set(modules, instance, "_is_instrumented_by_opentelemetry")
        {
            sdk.watches(module, covers);
        }
    }
    for (module, class, applications) in OPENTELEMETRY_KEPT {
        let class = modules.member(module, class);
        let Some(kept) = class.and_then(|class| modules.of_class(class, applications)) else { continue };
        let kept = modules.attribute(kept, "data").unwrap_or(kept);
        if !sdk.server && modules.length(kept).is_some_and(|count| count > 0) {
            sdk.watches(module, Server);
        }
    }
    for module in TRACEKIT_SERVERS {
        if modules.has(module) {
            sdk.watches(module, Server);
        }
    }
    if !sdk.server && !modules.has("opentelemetry.instrumentation.auto_instrumentation") {
        let others = OPENTELEMETRY
            .iter()
            .any(|(module, _, covers)| matches!(covers, Server | Both(_)) && modules.has(module));
        let middleware = OPENTELEMETRY_MIDDLEWARE.iter().filter(|_| !others);
        let found = OPENTELEMETRY_OF_APPLICATION.iter().chain(middleware).find(|module| modules.has(module));
        if let Some(module) = found {
            sdk.watches(module, Server);
        }
    }
    Some(sdk)
}

/// The attribute of the object is `True`.
fn is_set(modules: &Modules<'_, '_, '_>, object: u64, name: &str) -> bool {
    modules.attribute(object, name).is_some_and(|value| modules.is_true(value))
}

fn datadog(modules: &Modules<'_, '_, '_>) -> Option<Sdk> {
    let tracer = modules.member("ddtrace.trace", "tracer")?;
    if !is_set(modules, tracer, "enabled") {
        return None;
    }
    let patched = modules.texts(modules.member("ddtrace._monkey", "_PATCHED_MODULES")?);
    Some(integrations(modules, Vendor::Datadog, &patched))
}

fn sentry(modules: &Modules<'_, '_, '_>) -> Option<Sdk> {
    let scope = modules.member("sentry_sdk.scope", "_global_scope")?;
    let options = modules.attribute(modules.attribute(scope, "client")?, "options")?;
    let option = |name| modules.entry(options, name).is_some_and(|value| !modules.is_none(value));
    if !option("traces_sample_rate") && !option("traces_sampler") {
        return None;
    }
    let installed = modules.texts(modules.member("sentry_sdk.integrations", "_installed_integrations")?);
    Some(integrations(modules, Vendor::Sentry, &installed))
}

fn integrations(modules: &Modules<'_, '_, '_>, vendor: Vendor, names: &[String]) -> Sdk {
    let mut sdk = Sdk::of(vendor);
    for (name, covers) in INTEGRATIONS {
        if !names.iter().any(|found| found == name) {
            continue;
        }
        match covers {
            Calls(_) => sdk.watches(name, covers),
            // All are listed that could be imported.
            Server | Both(_) if modules.has(name) => sdk.watches(name, covers),
            _ => {}
        }
    }
    sdk
}

fn elastic(modules: &Modules<'_, '_, '_>) -> Option<Sdk> {
    let client = modules.member("elasticapm.base", "CLIENT_SINGLETON")?;
    (!modules.is_none(client)).then(|| by_module(modules, Vendor::ElasticApm))
}

fn new_relic(modules: &Modules<'_, '_, '_>) -> Option<Sdk> {
    let agent = modules.of_class(modules.member("newrelic.core.agent", "Agent")?, "_instance")?;
    (!modules.is_none(agent)).then(|| by_module(modules, Vendor::NewRelic))
}

fn by_module(modules: &Modules<'_, '_, '_>, vendor: Vendor) -> Sdk {
    let mut sdk = Sdk::of(vendor);
    for (of, module, covers) in BY_MODULE {
        if of == vendor && modules.has(module) {
            sdk.watches(module, covers);
        }
    }
    sdk
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sdk(libraries: &[Library]) -> Sdk {
        Sdk { libraries: Libraries::of(libraries), ..Sdk::of(Vendor::OpenTelemetry) }
    }

    fn stack(libraries: &[Library], whole: bool) -> Libraries {
        let mut stack = Libraries::of(libraries);
        stack.whole = whole;
        stack
    }

    #[test]
    fn what_is_on_the_stack_decides() {
        let sdk = sdk(&[Requests, Psycopg2]);
        for (category, on_stack, whole, expected) in [
            (Category::Http, &[Requests, Urllib3, HttpClient][..], true, true),
            // The SDK watches `requests`, and this is another library.
            (Category::Http, &[Httpx], true, false),
            (Category::Http, &[HttpClient], true, false),
            // In C, or written later by an event loop.
            (Category::PostgreSql, &[], true, true),
            (Category::Http, &[], false, true),
            (Category::Http, &[HttpClient], false, true),
            (Category::Redis, &[], false, false),
            (Category::Redis, &[Redis], true, false),
            (Category::MySql, &[PyMySql], true, false),
            // The tracer's own code is around the call, or makes it.
            (Category::Redis, &[Redis, Library::TracedRedis], true, true),
            (Category::Http, &[Httpx, Library::TracedSql], true, false),
            (Category::Http, &[HttpClient, Library::Exporter], false, true),
        ] {
            assert_eq!(sdk.traces_call(category, stack(on_stack, whole)), expected, "{on_stack:?}");
        }
    }

    #[test]
    fn no_module_is_looked_for_twice() {
        let mut all: Vec<_> = modules().copied().collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(all.iter().all(|name| name.len() <= 64));
    }
}

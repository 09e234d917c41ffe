//! Whose the code of a stack is, as far as that matters for a call that leaves the process: the client libraries
//! through which it went, and the tracers that watch them.

/// What a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    /// An HTTP request.
    Http,
    /// A statement for PostgreSQL.
    PostgreSql,
    /// A statement for MySQL or MariaDB.
    MySql,
    /// A Redis command.
    Redis,
}

macro_rules! libraries {
    ($($variant:ident = $name:literal [$($category:ident)*];)*) => {
        /// A client library, or a tracer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Library {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl Library {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The calls that are made through it.
            #[must_use]
            pub fn categories(self) -> &'static [Category] {
                match self {
                    $(Self::$variant => &[$(Category::$category,)*],)*
                }
            }
        }
    };
}

libraries! {
    Requests = "requests" [Http];
    Urllib3 = "urllib3" [Http];
    Urllib = "urllib" [Http];
    HttpClient = "http.client" [Http];
    Httpx = "httpx" [Http];
    Aiohttp = "aiohttp" [Http];
    Tornado = "tornado" [Http];
    Psycopg2 = "psycopg2" [PostgreSql];
    Psycopg = "psycopg" [PostgreSql];
    Asyncpg = "asyncpg" [PostgreSql];
    Aiopg = "aiopg" [PostgreSql];
    SqlAlchemy = "sqlalchemy" [PostgreSql MySql];
    DjangoDb = "django.db" [PostgreSql MySql];
    PyMySql = "pymysql" [MySql];
    MySqlClient = "mysqlclient" [MySql];
    MySqlConnector = "mysql.connector" [MySql];
    AioMySql = "aiomysql" [MySql];
    Redis = "redis" [Redis];
    // Not libraries, but tracers: their code around calls of a kind, and what sends their spans.
    TracedHttp = "a tracer of HTTP requests" [Http];
    TracedSql = "a tracer of statements" [PostgreSql MySql];
    TracedRedis = "a tracer of Redis commands" [Redis];
    Exporter = "a tracer's exporter" [];
}

/// What is on a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Libraries {
    bits: u32,
    /// All of the stack down to the application was seen, so that what is not in here is not on it.
    pub whole: bool,
}

impl Libraries {
    /// Of these.
    #[must_use]
    pub fn of(libraries: &[Library]) -> Self {
        let mut found = Self::default();
        libraries.iter().for_each(|library| found.add(*library));
        found
    }

    /// One more.
    pub fn add(&mut self, library: Library) {
        self.bits |= 1 << library as u32;
    }

    /// All of these, too.
    pub fn extend(&mut self, others: Self) {
        self.bits |= others.bits;
    }

    /// It is one of them.
    #[must_use]
    pub fn contains(self, library: Library) -> bool {
        self.bits & 1 << library as u32 != 0
    }

    /// Those that are among the others too.
    #[must_use]
    pub fn among(self, others: Self) -> Self {
        Self { bits: self.bits & others.bits, whole: self.whole }
    }

    /// Those through which calls of a kind are made.
    #[must_use]
    pub fn for_calls(self, category: Category) -> Self {
        let all = Library::ALL.iter().filter(|library| library.categories().contains(&category));
        self.among(Self::of(&all.copied().collect::<Vec<_>>()))
    }

    /// None is known.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// Those that are known.
    pub fn iter(self) -> impl Iterator<Item = Library> {
        Library::ALL.iter().copied().filter(move |library| self.contains(*library))
    }
}

/// The library that code of this file belongs to.
#[must_use]
pub fn of_file(path: &str) -> Option<Library> {
    for packages in ["/site-packages/", "/dist-packages/"] {
        if let Some((_, file)) = path.rsplit_once(packages) {
            return of_package(file);
        }
    }
    // Of the standard library.
    let is_of_python = |end: &str| {
        path.strip_suffix(end).is_some_and(|start| {
            let folder = start.rsplit('/').next().unwrap_or_default();
            folder.starts_with("python3")
        })
    };
    if is_of_python("/urllib/request.py") {
        Some(Library::Urllib)
    } else if is_of_python("/http/client.py") {
        Some(Library::HttpClient)
    } else {
        None
    }
}

fn of_package(file: &str) -> Option<Library> {
    let (package, rest) = file.split_once('/').unwrap_or((file, ""));
    Some(match package {
        "requests" => Library::Requests,
        "urllib3" => Library::Urllib3,
        "httpx" | "httpcore" => Library::Httpx,
        // Both are servers, too.
        "aiohttp" if rest.starts_with("client") || rest == "connector.py" => Library::Aiohttp,
        "tornado" if rest.ends_with("httpclient.py") => Library::Tornado,
        "psycopg2" => Library::Psycopg2,
        "psycopg" | "psycopg_pool" | "psycopg_binary" => Library::Psycopg,
        "asyncpg" => Library::Asyncpg,
        "aiopg" => Library::Aiopg,
        "sqlalchemy" => Library::SqlAlchemy,
        "django" if rest.starts_with("db/") => Library::DjangoDb,
        "pymysql" => Library::PyMySql,
        "MySQLdb" => Library::MySqlClient,
        "mysql" => Library::MySqlConnector,
        "aiomysql" => Library::AioMySql,
        "redis" => Library::Redis,
        "opentelemetry" => match rest.split_once('/') {
            Some(("instrumentation", rest)) => traced(rest)?,
            Some(("exporter" | "sdk", _)) => Library::Exporter,
            _ => return None,
        },
        "ddtrace" => match rest.strip_prefix("contrib/internal/").or_else(|| rest.strip_prefix("contrib/")) {
            Some(rest) => traced(rest)?,
            None if rest.starts_with("internal/") => Library::Exporter,
            None => return None,
        },
        "sentry_sdk" => match rest.strip_prefix("integrations/") {
            Some(rest) => traced(rest)?,
            None if rest == "transport.py" || rest == "worker.py" => Library::Exporter,
            None => return None,
        },
        "elasticapm" => match rest.strip_prefix("instrumentation/packages/") {
            Some(rest) => traced(rest)?,
            None if rest.starts_with("transport/") => Library::Exporter,
            None => return None,
        },
        "newrelic" => match rest.strip_prefix("hooks/") {
            Some(rest) => traced(rest.split_once('_').map_or(rest, |(_, name)| name))?,
            None if rest.starts_with("packages/") || rest.starts_with("core/") => Library::Exporter,
            None => return None,
        },
        _ => return None,
    })
}

/// What a tracer's code watches, by the name of its file or folder.
fn traced(rest: &str) -> Option<Library> {
    let name = rest.split('/').next().unwrap_or(rest);
    Some(match name.strip_suffix(".py").unwrap_or(name) {
        "requests" | "urllib3" | "urllib" | "httpx" | "httpx2" | "httplib" | "aiohttp_client" => {
            Library::TracedHttp
        }
        "dbapi" | "dbapi2" | "psycopg" | "psycopg2" | "asyncpg" | "aiopg" | "sqlalchemy" | "pymysql"
        | "mysql" | "mysqlclient" | "mysqldb" | "aiomysql" | "mariadb" => Library::TracedSql,
        "redis" | "aioredis" | "aredis" | "rediscluster" | "redis_utils" => Library::TracedRedis,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_tell_whose_they_are() {
        let of = |path: &str| of_file(&format!("/srv/venv/lib/python3.11/site-packages/{path}"));
        for (path, library) in [
            ("requests/sessions.py", Some(Library::Requests)),
            ("aiohttp/client_reqrep.py", Some(Library::Aiohttp)),
            ("aiohttp/web_protocol.py", None),
            ("django/db/backends/utils.py", Some(Library::DjangoDb)),
            ("django/core/handlers/wsgi.py", None),
            ("opentelemetry/instrumentation/dbapi/__init__.py", Some(Library::TracedSql)),
            ("opentelemetry/instrumentation/wsgi/__init__.py", None),
            ("opentelemetry/exporter/otlp/proto/http/trace_exporter/__init__.py", Some(Library::Exporter)),
            ("opentelemetry/context/__init__.py", None),
            ("ddtrace/contrib/internal/redis/patch.py", Some(Library::TracedRedis)),
            ("ddtrace/internal/writer/writer.py", Some(Library::Exporter)),
            ("sentry_sdk/integrations/httpx.py", Some(Library::TracedHttp)),
            ("elasticapm/instrumentation/packages/psycopg2.py", Some(Library::TracedSql)),
            ("newrelic/hooks/external_urllib3.py", Some(Library::TracedHttp)),
            ("six.py", None),
        ] {
            assert_eq!(of(path), library, "{path}");
        }
        assert_eq!(of_file("/usr/lib/python3.11/http/client.py"), Some(Library::HttpClient));
        assert_eq!(of_file("/usr/lib/python3.11/urllib/request.py"), Some(Library::Urllib));
        assert_eq!(of_file("/srv/app/http/client.py"), None);
    }

    #[test]
    fn sets_are_filtered_by_the_kind_of_call() {
        let found = Libraries::of(&[Library::Requests, Library::SqlAlchemy, Library::Exporter]);
        assert_eq!(found.for_calls(Category::Http).iter().collect::<Vec<_>>(), [Library::Requests]);
        assert_eq!(found.for_calls(Category::MySql).iter().collect::<Vec<_>>(), [Library::SqlAlchemy]);
        assert!(found.for_calls(Category::Redis).is_empty());
        assert!(Library::ALL.len() <= 32);
    }
}

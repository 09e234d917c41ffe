//! Database spans: SQL and Redis.
//!
//! Source: semantic conventions 1.44, "Semantic conventions for database client spans", and those for
//! PostgreSQL, MariaDB, MySQL and Redis.

use std::{collections::HashMap, sync::Arc};

use tracekit_protocol::{
    Outcome, Role,
    exchange::{Redis, Sql, SqlSystem},
    redis,
    sql::{Sanitized, sanitize},
};

use super::{
    attributes::{peer, put, server},
    correlator::Described,
    http::closed_by,
    peer::ServiceMap,
    span::{Attributes, Status},
};
use crate::{net::Connection, probes::record::Endpoint};

/// Statements whose sanitised form is kept.
const CACHE_MAX: usize = 2048;
/// Longer statements are not kept.
const CACHE_TEXT_MAX: usize = 4096;

/// Sanitised statements by their text: applications send the same ones over and over.
#[derive(Default)]
pub struct Statements {
    known: HashMap<SqlSystem, HashMap<String, Arc<Sanitized>>>,
}

impl Statements {
    fn get(&mut self, system: SqlSystem, text: &str) -> Arc<Sanitized> {
        if let Some(known) = self.known.get(&system).and_then(|texts| texts.get(text)) {
            return Arc::clone(known);
        }
        let fresh = Arc::new(sanitize(text, system));
        if text.len() <= CACHE_TEXT_MAX {
            if self.known.values().map(HashMap::len).sum::<usize>() >= CACHE_MAX {
                self.known.clear();
            }
            self.known.entry(system).or_default().insert(text.to_owned(), Arc::clone(&fresh));
        }
        fresh
    }
}

/// The other end of a client's connection, this end of a server's.
fn serving_end(connection: &Connection, role: Role) -> Option<&Endpoint> {
    connection.ends.as_ref().map(|(local, remote)| if role == Role::Client { remote } else { local })
}

fn ends(attributes: &mut Attributes, connection: &Connection, role: Role, services: &ServiceMap) {
    let serving = serving_end(connection, role);
    server(attributes, serving);
    if let (Role::Client, Some(Endpoint::Ip(address))) = (role, serving) {
        let name = services.mapped(&address.ip().to_string(), Some(address.port()));
        put(attributes, "service.peer.name", name.clone());
        put(attributes, "peer.service", name);
    }
    peer(attributes, connection.ends.as_ref().map(|(_, remote)| remote));
}

fn finish(
    name: String,
    mut attributes: Attributes,
    code: Option<&str>,
    role: Role,
    outcome: Outcome,
) -> Described {
    let error = code.map(str::to_owned).or_else(|| match outcome {
        Outcome::Complete | Outcome::Unknown => None,
        outcome => Some(closed_by(role, outcome).to_owned()),
    });
    put(&mut attributes, "db.response.status_code", code);
    put(&mut attributes, "error.type", error.clone());
    let status = if error.is_some() { Status::Error(None) } else { Status::Unset };
    Described { name, status, attributes }
}

/// Name, status and attributes of a SQL span.
#[must_use]
pub fn describe_sql(
    sql: &Sql,
    role: Role,
    outcome: Outcome,
    connection: &Connection,
    services: &ServiceMap,
    statements: &mut Statements,
) -> Described {
    let mut attributes = Attributes::with_capacity(12);
    attributes.push(("db.system.name", sql.system.name().into()));
    put(&mut attributes, "db.namespace", sql.database.as_deref());
    let mut name = sql.system.name().to_owned();
    if let Some(text) = &sql.text {
        let sanitized = statements.get(sql.system, text);
        attributes.push(("db.query.text", sanitized.text.as_str().into()));
        if !sanitized.summary.is_empty() {
            attributes.push(("db.query.summary", sanitized.summary.as_str().into()));
            name.clone_from(&sanitized.summary);
        }
        put(&mut attributes, "db.operation.name", sanitized.operation.as_deref());
        put(&mut attributes, "db.collection.name", sanitized.collection.as_deref());
    }
    put(
        &mut attributes,
        "db.response.returned_rows",
        sql.returned_rows.and_then(|rows| i64::try_from(rows).ok()),
    );
    ends(&mut attributes, connection, role, services);
    finish(name, attributes, sql.error.as_ref().map(|error| error.code.as_str()), role, outcome)
}

/// Name, status and attributes of a Redis span.
#[must_use]
pub fn describe_redis(
    command: &Redis,
    role: Role,
    outcome: Outcome,
    connection: &Connection,
    services: &ServiceMap,
) -> Described {
    let mut attributes = Attributes::with_capacity(10);
    attributes.push(("db.system.name", "redis".into()));
    put(&mut attributes, "db.namespace", command.database.map(|index| index.to_string()));
    let (operation, text) = if command.batch.is_empty() {
        (command.command.clone(), redis::sanitize(&command.command, &command.arguments))
    } else {
        let size = i64::try_from(command.batch_size).unwrap_or(i64::MAX);
        attributes.push(("db.operation.batch.size", size.into()));
        (batch_operation(command), redis::sanitize_batch(&command.batch))
    };
    attributes.push(("db.operation.name", operation.as_str().into()));
    attributes.push(("db.query.text", text.into()));
    ends(&mut attributes, connection, role, services);
    finish(operation, attributes, command.error.as_ref().map(|error| error.prefix.as_str()), role, outcome)
}

/// `PIPELINE SET` if all commands are the same, else `PIPELINE`; `MULTI` for transactions.
fn batch_operation(command: &Redis) -> String {
    let mut names = command.batch.iter().map(|c| c.command.as_str());
    match names.next() {
        Some(first) if names.all(|name| name == first) => format!("{} {first}", command.command),
        _ => command.command.clone(),
    }
}

//! Commands: their names, what of their arguments may be kept, how they are shown.

use super::resp::Value;
use crate::exchange::RedisCommand;

/// Longest text that [`sanitize`] makes, as the OpenTelemetry instrumentation of redis-py has it.
const MAX_SANITIZED: usize = 1000;

/// Commands whose first argument is a subcommand (`COMMAND DOCS` of Redis 7.4: those with subcommands).
const CONTAINERS: &[&str] = &[
    "ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DEBUG", "FUNCTION", "LATENCY", "MEMORY", "MODULE",
    "OBJECT", "PUBSUB", "SCRIPT", "SENTINEL", "SLOWLOG", "XGROUP", "XINFO",
];

/// Names that prove a stream to be Redis: the commands of Redis 7.4, sorted. Any name is followed once it is proven.
const KNOWN: &[&str] = &[
    "ACL",
    "APPEND",
    "ASKING",
    "AUTH",
    "BGREWRITEAOF",
    "BGSAVE",
    "BITCOUNT",
    "BITFIELD",
    "BITFIELD_RO",
    "BITOP",
    "BITPOS",
    "BLMOVE",
    "BLMPOP",
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "BZMPOP",
    "BZPOPMAX",
    "BZPOPMIN",
    "CLIENT",
    "CLUSTER",
    "COMMAND",
    "CONFIG",
    "COPY",
    "DBSIZE",
    "DEBUG",
    "DECR",
    "DECRBY",
    "DEL",
    "DISCARD",
    "DUMP",
    "ECHO",
    "EVAL",
    "EVALSHA",
    "EVALSHA_RO",
    "EVAL_RO",
    "EXEC",
    "EXISTS",
    "EXPIRE",
    "EXPIREAT",
    "EXPIRETIME",
    "FAILOVER",
    "FCALL",
    "FCALL_RO",
    "FLUSHALL",
    "FLUSHDB",
    "FUNCTION",
    "GEOADD",
    "GEODIST",
    "GEOHASH",
    "GEOPOS",
    "GEORADIUS",
    "GEORADIUSBYMEMBER",
    "GEORADIUSBYMEMBER_RO",
    "GEORADIUS_RO",
    "GEOSEARCH",
    "GEOSEARCHSTORE",
    "GET",
    "GETBIT",
    "GETDEL",
    "GETEX",
    "GETRANGE",
    "GETSET",
    "HDEL",
    "HELLO",
    "HEXISTS",
    "HEXPIRE",
    "HEXPIREAT",
    "HEXPIRETIME",
    "HGET",
    "HGETALL",
    "HINCRBY",
    "HINCRBYFLOAT",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HMSET",
    "HPERSIST",
    "HPEXPIRE",
    "HPEXPIREAT",
    "HPEXPIRETIME",
    "HPTTL",
    "HRANDFIELD",
    "HSCAN",
    "HSET",
    "HSETNX",
    "HSTRLEN",
    "HTTL",
    "HVALS",
    "INCR",
    "INCRBY",
    "INCRBYFLOAT",
    "INFO",
    "KEYS",
    "LASTSAVE",
    "LATENCY",
    "LCS",
    "LINDEX",
    "LINSERT",
    "LLEN",
    "LMOVE",
    "LMPOP",
    "LOLWUT",
    "LPOP",
    "LPOS",
    "LPUSH",
    "LPUSHX",
    "LRANGE",
    "LREM",
    "LSET",
    "LTRIM",
    "MEMORY",
    "MGET",
    "MIGRATE",
    "MODULE",
    "MONITOR",
    "MOVE",
    "MSET",
    "MSETNX",
    "MULTI",
    "OBJECT",
    "PERSIST",
    "PEXPIRE",
    "PEXPIREAT",
    "PEXPIRETIME",
    "PFADD",
    "PFCOUNT",
    "PFDEBUG",
    "PFMERGE",
    "PFSELFTEST",
    "PING",
    "PSETEX",
    "PSUBSCRIBE",
    "PSYNC",
    "PTTL",
    "PUBLISH",
    "PUBSUB",
    "PUNSUBSCRIBE",
    "QUIT",
    "RANDOMKEY",
    "READONLY",
    "READWRITE",
    "RENAME",
    "RENAMENX",
    "REPLCONF",
    "REPLICAOF",
    "RESET",
    "RESTORE",
    "RESTORE-ASKING",
    "ROLE",
    "RPOP",
    "RPOPLPUSH",
    "RPUSH",
    "RPUSHX",
    "SADD",
    "SAVE",
    "SCAN",
    "SCARD",
    "SCRIPT",
    "SDIFF",
    "SDIFFSTORE",
    "SELECT",
    "SENTINEL",
    "SET",
    "SETBIT",
    "SETEX",
    "SETNX",
    "SETRANGE",
    "SHUTDOWN",
    "SINTER",
    "SINTERCARD",
    "SINTERSTORE",
    "SISMEMBER",
    "SLAVEOF",
    "SLOWLOG",
    "SMEMBERS",
    "SMISMEMBER",
    "SMOVE",
    "SORT",
    "SORT_RO",
    "SPOP",
    "SPUBLISH",
    "SRANDMEMBER",
    "SREM",
    "SSCAN",
    "SSUBSCRIBE",
    "STRLEN",
    "SUBSCRIBE",
    "SUBSTR",
    "SUNION",
    "SUNIONSTORE",
    "SUNSUBSCRIBE",
    "SWAPDB",
    "SYNC",
    "TIME",
    "TOUCH",
    "TTL",
    "TYPE",
    "UNLINK",
    "UNSUBSCRIBE",
    "UNWATCH",
    "WAIT",
    "WAITAOF",
    "WATCH",
    "XACK",
    "XADD",
    "XAUTOCLAIM",
    "XCLAIM",
    "XDEL",
    "XGROUP",
    "XINFO",
    "XLEN",
    "XPENDING",
    "XRANGE",
    "XREAD",
    "XREADGROUP",
    "XREVRANGE",
    "XSETID",
    "XTRIM",
    "ZADD",
    "ZCARD",
    "ZCOUNT",
    "ZDIFF",
    "ZDIFFSTORE",
    "ZINCRBY",
    "ZINTER",
    "ZINTERCARD",
    "ZINTERSTORE",
    "ZLEXCOUNT",
    "ZMPOP",
    "ZMSCORE",
    "ZPOPMAX",
    "ZPOPMIN",
    "ZRANDMEMBER",
    "ZRANGE",
    "ZRANGEBYLEX",
    "ZRANGEBYSCORE",
    "ZRANGESTORE",
    "ZRANK",
    "ZREM",
    "ZREMRANGEBYLEX",
    "ZREMRANGEBYRANK",
    "ZREMRANGEBYSCORE",
    "ZREVRANGE",
    "ZREVRANGEBYLEX",
    "ZREVRANGEBYSCORE",
    "ZREVRANK",
    "ZSCAN",
    "ZSCORE",
    "ZUNION",
    "ZUNIONSTORE",
];

/// Prefixes of the commands of Redis' own modules.
const MODULES: &[&str] = &["BF.", "CF.", "CMS.", "FT.", "JSON.", "TDIGEST.", "TOPK.", "TS."];

/// Longest name in [`KNOWN`] and of the modules, with room.
pub const MAX_NAME: usize = 32;

/// Is this the name of a command that everybody knows, in any case?
#[must_use]
pub fn is_known(name: &[u8]) -> bool {
    let Some(name) = upper(name) else { return false };
    KNOWN.binary_search(&name.as_str()).is_ok() || MODULES.iter().any(|m| name.starts_with(m))
}

/// Can this be the name of a command?
#[must_use]
pub fn is_name(name: &[u8]) -> bool {
    name.first().is_some_and(u8::is_ascii_alphabetic)
        && name.iter().all(|b| b.is_ascii_alphanumeric() || b"._-:|".contains(b))
        && name.len() <= 2 * MAX_NAME
}

fn upper(name: &[u8]) -> Option<String> {
    is_name(name).then(|| String::from_utf8_lossy(name).to_ascii_uppercase())
}

/// A command as it was sent, and what it means for the connection.
#[derive(Debug)]
pub struct Command {
    /// Name and arguments for the exchange.
    pub shown: RedisCommand,
    /// Arguments in truth, without name and subcommand.
    pub argument_count: u64,
    /// What the server answers.
    pub answer: Answer,
    /// Connection set-up.
    pub setup: Setup,
}

/// What a command is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// One value.
    One,
    /// One value; if it is `+OK`, the connection has this database from then on.
    Select(u32),
    /// One value, the answers to the commands of a transaction.
    Exec,
    /// A confirmation for each channel, as push (RESP3) or array (RESP2).
    Subscription(u32),
    /// A stream that isn't request and answer.
    Stream,
}

/// Whether a command sets a connection up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// The work that the connection is for.
    No,
    /// If nothing but set-up was before.
    Perhaps,
    /// Always, and only at the start.
    Start,
}

impl Command {
    /// A command from the array that a client sent; `None` if it can't be one.
    #[must_use]
    pub fn new(value: &Value) -> Option<Self> {
        let (name, rest) = value.items.split_first()?;
        let mut name = upper(name)?;
        let mut arguments: Vec<String> =
            rest.iter().map(|a| String::from_utf8_lossy(a).into_owned()).collect();
        let mut argument_count = value.count.saturating_sub(1);
        if CONTAINERS.contains(&name.as_str()) && argument_count > 0 {
            // Without it (it wasn't captured) nobody knows what the command is.
            let subcommand = upper(arguments.first()?.as_bytes())?;
            name.push(' ');
            name.push_str(&subcommand);
            arguments.remove(0);
            argument_count = argument_count.saturating_sub(1);
        }
        let database = arguments.first().and_then(|a| a.parse().ok());
        let channels = u32::try_from(argument_count.max(1)).unwrap_or(u32::MAX);
        let answer = match name.as_str() {
            "SELECT" => database.map_or(Answer::One, Answer::Select),
            "EXEC" => Answer::Exec,
            "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE" | "SUNSUBSCRIBE" => {
                Answer::Subscription(channels)
            }
            "MONITOR" | "SYNC" | "PSYNC" | "REPLCONF" | "CLIENT REPLY" => Answer::Stream,
            _ => Answer::One,
        };
        let setup = match name.as_str() {
            "HELLO" | "AUTH" | "CLIENT SETINFO" => Setup::Start,
            "SELECT"
            | "CLIENT SETNAME"
            | "CLIENT ID"
            | "CLIENT TRACKING"
            | "CLIENT NO-EVICT"
            | "CLIENT NO-TOUCH"
            | "CLIENT MAINT_NOTIFICATIONS"
            | "READONLY" => Setup::Perhaps,
            _ => Setup::No,
        };
        if carries_secret(&name, &arguments) {
            arguments = Vec::new();
        }
        Some(Self { shown: RedisCommand { command: name, arguments }, argument_count, answer, setup })
    }
}

/// Arguments of these hold passwords, so none of them is kept.
fn carries_secret(name: &str, arguments: &[String]) -> bool {
    match name {
        "AUTH" | "ACL SETUSER" | "CONFIG SET" | "MIGRATE" | "SENTINEL SET" => true,
        "HELLO" => arguments.len() > 1,
        _ => false,
    }
}

/// The command with every argument replaced by `?`, as the OpenTelemetry instrumentation of redis-py
/// shows it: `SET ? ?`, at most 1 000 characters.
#[must_use]
pub fn sanitize(command: &str, arguments: &[String]) -> String {
    let mut text = command.to_owned();
    for _ in arguments {
        if text.len() > MAX_SANITIZED {
            break;
        }
        text.push_str(" ?");
    }
    if text.chars().count() > MAX_SANITIZED {
        text = text.chars().take(MAX_SANITIZED - 3).collect();
        text.push_str("...");
    }
    text
}

/// The commands of a pipeline, each on its line, sanitized like a single one.
#[must_use]
pub fn sanitize_batch(batch: &[RedisCommand]) -> String {
    batch.iter().map(|c| sanitize(&c.command, &c.arguments)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(parts: &[&str]) -> Option<Command> {
        Command::new(&Value {
            kind: b'*',
            count: parts.len() as u64,
            items: parts.iter().map(|p| p.as_bytes().to_vec()).collect(),
            error: None,
        })
    }

    #[test]
    fn known_names_are_sorted_for_the_search() {
        assert!(KNOWN.is_sorted());
        assert!(is_known(b"get") && is_known(b"GEORADIUSBYMEMBER_RO") && is_known(b"ft.search"));
        assert!(!is_known(b"message") && !is_known(b"foo") && !is_known(b""));
        assert!(KNOWN.iter().all(|name| name.len() <= MAX_NAME));
    }

    #[test]
    fn subcommands_belong_to_the_name() {
        let client = command(&["client", "setinfo", "LIB-NAME", "redis-py"]).unwrap();
        assert_eq!(client.shown.command, "CLIENT SETINFO");
        assert_eq!(client.shown.arguments, ["LIB-NAME", "redis-py"]);
        assert_eq!(client.argument_count, 2);
        assert_eq!(command(&["get", "client"]).unwrap().shown.command, "GET");
        assert!(command(&["\u{1}bad"]).is_none());
        assert!(command(&[]).is_none());
    }

    #[test]
    fn passwords_are_not_kept() {
        for parts in [
            &["AUTH", "hunter2"][..],
            &["AUTH", "user", "hunter2"],
            &["HELLO", "3", "AUTH", "user", "hunter2"],
            &["CONFIG", "SET", "requirepass", "hunter2"],
            &["ACL", "SETUSER", "x", ">hunter2"],
        ] {
            assert!(command(parts).unwrap().shown.arguments.is_empty());
        }
        assert_eq!(command(&["HELLO", "3"]).unwrap().shown.arguments, ["3"]);
    }

    #[test]
    fn sanitized_like_the_sdk() {
        assert_eq!(sanitize("SET", &["k".into(), "v".into()]), "SET ? ?");
        assert_eq!(sanitize("PING", &[]), "PING");
        let long = sanitize("MSET", &vec![String::new(); 2000]);
        assert_eq!(long.len(), 1000);
        assert!(long.ends_with("..."));
        let batch = [
            RedisCommand { command: "SET".into(), arguments: vec!["k".into(), "v".into()] },
            RedisCommand { command: "GET".into(), arguments: vec!["k".into()] },
        ];
        assert_eq!(sanitize_batch(&batch), "SET ? ?\nGET ?");
    }
}

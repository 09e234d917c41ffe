//! Compares what the agent saw with what the SDK reported, request by request.

use std::collections::BTreeMap;

use crate::span::Span;

/// One request: its server span and the client spans under it, in the order of their start.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// The server span.
    pub server: Span,
    /// Client spans below it, however deep, in the order of their start.
    pub children: Vec<Span>,
}

/// The requests of `spans` by their id.
#[must_use]
pub fn trees(spans: &[Span]) -> BTreeMap<String, Vec<Tree>> {
    let mut by_parent: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        if let Some(parent) = &span.parent_span_id {
            by_parent.entry(parent).or_default().push(span);
        }
    }
    let mut trees: BTreeMap<String, Vec<Tree>> = BTreeMap::new();
    for server in spans.iter().filter(|span| span.is_server()) {
        let Some(id) = server.request_id() else { continue };
        let mut children = Vec::new();
        let mut open = vec![server.span_id.as_str()];
        while let Some(parent) = open.pop() {
            for child in by_parent.get(parent).into_iter().flatten() {
                open.push(&child.span_id);
                if child.kind == "client" {
                    children.push((*child).clone());
                }
            }
        }
        children.sort_by_key(|child| child.start_time_unix_nano);
        trees.entry(id).or_default().push(Tree { server: server.clone(), children });
    }
    trees
}

/// One thing that is not the same, with how often and an example.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// What differs, the same text for the same kind of difference.
    pub what: String,
    /// Why that is right, if it is.
    pub permitted: Option<&'static str>,
    /// Number of spans.
    pub count: usize,
    /// The first one: request id and both values.
    pub example: String,
}

/// A rule for a difference that is right.
#[derive(Debug, Clone, Copy)]
pub struct Permitted {
    /// Why.
    pub reason: &'static str,
    /// Whether this is it.
    pub matches: fn(&Site<'_>) -> bool,
}

/// The place of a difference.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// `name`, `status`, `parent`, `missing span`, `extra span`, or an attribute's key.
    pub key: &'a str,
    /// The SDK's span, if it has one.
    pub sdk: Option<&'a Span>,
    /// The agent's span, if it has one.
    pub agent: Option<&'a Span>,
}

impl Site<'_> {
    /// Text of an attribute of the SDK's span.
    #[must_use]
    pub fn sdk_text(&self, key: &str) -> String {
        self.sdk.and_then(|span| span.text(key)).unwrap_or_default()
    }

    /// Text of an attribute of the agent's span.
    #[must_use]
    pub fn agent_text(&self, key: &str) -> String {
        self.agent.and_then(|span| span.text(key)).unwrap_or_default()
    }
}

/// All differences, the same ones counted together. `ids` are the requests that were sent.
#[must_use]
pub fn compare(ids: &[String], sdk: &[Span], agent: &[Span], permitted: &[Permitted]) -> Vec<Difference> {
    let mut comparison = Comparison { permitted, found: BTreeMap::new() };
    let (sdk_trees, agent_trees) = (trees(sdk), trees(agent));
    let none = Vec::new();
    for id in ids {
        let sdk = sdk_trees.get(id).unwrap_or(&none);
        let agent = agent_trees.get(id).unwrap_or(&none);
        match (sdk.as_slice(), agent.as_slice()) {
            ([sdk], [agent]) => comparison.tree(id, sdk, agent),
            ([sdk], []) => {
                let site = Site { key: "missing span", sdk: Some(&sdk.server), agent: None };
                comparison.note("server span missing".into(), site, id, &sdk.server.to_string());
            }
            _ => {
                let site = Site { key: "server spans", sdk: None, agent: None };
                let counts = format!("SDK {}, agent {}", sdk.len(), agent.len());
                comparison.note(format!("number of server spans: {counts}"), site, id, "");
            }
        }
    }
    // A client span that names a request must hang under it, wherever it is.
    for span in agent.iter().filter(|span| span.kind == "client") {
        let Some(id) = span.request_id().filter(|id| ids.contains(id)) else { continue };
        let under = agent_trees.get(&id).unwrap_or(&none);
        if !under.iter().any(|tree| tree.children.iter().any(|child| child.span_id == span.span_id)) {
            let site = Site { key: "parent", sdk: None, agent: Some(span) };
            comparison.note("client span not under its request".into(), site, &id, &span.to_string());
        }
    }
    comparison.found.into_values().collect()
}

struct Comparison<'a> {
    permitted: &'a [Permitted],
    found: BTreeMap<(String, Option<&'static str>), Difference>,
}

impl Comparison<'_> {
    fn note(&mut self, what: String, site: Site<'_>, id: &str, example: &str) {
        let permitted = self.permitted.iter().find(|rule| (rule.matches)(&site)).map(|rule| rule.reason);
        self.found
            .entry((what.clone(), permitted))
            .or_insert_with(|| Difference { what, permitted, count: 0, example: format!("{id}: {example}") })
            .count += 1;
    }

    fn is_permitted(&self, site: &Site<'_>) -> bool {
        self.permitted.iter().any(|rule| (rule.matches)(site))
    }

    fn tree(&mut self, id: &str, sdk: &Tree, agent: &Tree) {
        self.span(id, &sdk.server, &agent.server);
        // What only one side shows by a rule is set aside first; the rest has to match in order.
        let (extra, seen): (Vec<&Span>, Vec<&Span>) = agent
            .children
            .iter()
            .partition(|span| self.is_permitted(&Site { key: "extra span", sdk: None, agent: Some(span) }));
        for span in extra {
            let site = Site { key: "extra span", sdk: None, agent: Some(span) };
            self.note(format!("extra client span {:?}", signature(span)), site, id, &span.to_string());
        }
        let (absent, expected): (Vec<&Span>, Vec<&Span>) = sdk
            .children
            .iter()
            .partition(|span| self.is_permitted(&Site { key: "missing span", sdk: Some(span), agent: None }));
        for span in absent {
            let site = Site { key: "missing span", sdk: Some(span), agent: None };
            self.note(format!("missing client span {:?}", signature(span)), site, id, &span.to_string());
        }
        for (sdk, agent) in align(&expected, &seen) {
            match (sdk, agent) {
                (Some(sdk), Some(agent)) => self.span(id, sdk, agent),
                (Some(sdk), None) => {
                    let site = Site { key: "missing span", sdk: Some(sdk), agent: None };
                    self.note(
                        format!("missing client span {:?}", signature(sdk)),
                        site,
                        id,
                        &sdk.to_string(),
                    );
                }
                (None, Some(agent)) => {
                    let site = Site { key: "extra span", sdk: None, agent: Some(agent) };
                    self.note(
                        format!("extra client span {:?}", signature(agent)),
                        site,
                        id,
                        &agent.to_string(),
                    );
                }
                (None, None) => {}
            }
        }
    }

    fn span(&mut self, id: &str, sdk: &Span, agent: &Span) {
        let side = if sdk.is_server() { "server".to_owned() } else { signature(sdk) };
        let mut check = |key: &str, left: Option<String>, right: Option<String>| {
            if left == right {
                return;
            }
            let site = Site { key, sdk: Some(sdk), agent: Some(agent) };
            let show = |value: &Option<String>| value.as_deref().unwrap_or("(none)").to_owned();
            let example = format!("SDK {}, agent {}", show(&left), show(&right));
            self.note(format!("{side}: {key}"), site, id, &example);
        };
        check("name", Some(sdk.name.clone()), Some(agent.name.clone()));
        check("status", Some(sdk.is_error().to_string()), Some(agent.is_error().to_string()));
        for key in sdk.attributes.keys() {
            check(key, sdk.text(key), agent.text(key));
        }
    }
}

/// What kind of call it is: the system and the first word of the statement, or the HTTP method.
#[must_use]
pub fn signature(span: &Span) -> String {
    match (system(span), statement_word(span)) {
        (Some(system), Some(word)) => format!("{system} {word}"),
        (Some(system), None) => system,
        (None, _) => {
            format!("HTTP {}", span.text("http.request.method").unwrap_or_else(|| span.name.clone()))
        }
    }
}

/// `db.system.name`, where MariaDB is MySQL: only the wire knows the difference.
fn system(span: &Span) -> Option<String> {
    span.text("db.system.name").map(|system| if system == "mariadb" { "mysql".into() } else { system })
}

/// The first word of the statement. `MULTI` only opens a transaction of Redis commands.
fn statement_word(span: &Span) -> Option<String> {
    let text = span.text("db.query.text").or_else(|| span.text("db.operation.name"))?;
    let mut words =
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    words.find(|word| !word.eq_ignore_ascii_case("MULTI")).map(str::to_ascii_uppercase)
}

/// Whether two spans can be of the same call. A statement that was prepared before the attach has no text.
fn can_be_same(left: &Span, right: &Span) -> bool {
    match (system(left), system(right)) {
        (Some(a), Some(b)) => {
            let words = (statement_word(left), statement_word(right));
            a == b && (words.0 == words.1 || words.0.is_none() || words.1.is_none())
        }
        (None, None) => signature(left) == signature(right),
        _ => false,
    }
}

/// Pairs two sequences by the longest common subsequence of calls that can be the same.
fn align<'a>(left: &[&'a Span], right: &[&'a Span]) -> Vec<(Option<&'a Span>, Option<&'a Span>)> {
    let same = |i: usize, j: usize| can_be_same(left[i], right[j]);
    let mut length = vec![vec![0usize; right.len() + 1]; left.len() + 1];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            length[i][j] =
                if same(i, j) { length[i + 1][j + 1] + 1 } else { length[i + 1][j].max(length[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < left.len() || j < right.len() {
        if i < left.len() && j < right.len() && same(i, j) {
            pairs.push((Some(left[i]), Some(right[j])));
            (i, j) = (i + 1, j + 1);
        } else if j == right.len() || (i < left.len() && length[i + 1][j] >= length[i][j + 1]) {
            pairs.push((Some(left[i]), None));
            i += 1;
        } else {
            pairs.push((None, Some(right[j])));
            j += 1;
        }
    }
    pairs
}

/// The differences for people, those that are right by their reason; the second value says whether any is not.
#[must_use]
pub fn report(title: &str, differences: &[Difference]) -> (String, bool) {
    let mut text = format!("== {title}: what differs between the SDK and the agent\n");
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut failed = false;
    for Difference { what, permitted, count, example } in differences {
        match permitted {
            Some(reason) => reasons.entry(reason).or_default().push(format!("{count} × {what}")),
            None => {
                failed = true;
                text.push_str(&format!("  DIFFERS {count} × {what}\n          {example}\n"));
            }
        }
    }
    for (reason, list) in reasons {
        text.push_str(&format!("  permitted: {reason}\n      {}\n", list.join("\n      ")));
    }
    if differences.is_empty() {
        text.push_str("  nothing\n");
    }
    (text, failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn span(id: &str, parent: Option<&str>, kind: &str, name: &str, attributes: serde_json::Value) -> Span {
        serde_json::from_value(json!({
            "trace_id": "t", "span_id": id, "parent_span_id": parent, "name": name, "kind": kind,
            "start_time_unix_nano": 1, "end_time_unix_nano": "2", "attributes": attributes,
        }))
        .unwrap()
    }

    fn request() -> Vec<Span> {
        vec![
            span("s", None, "server", "GET", json!({"url.query": "id=r1"})),
            span(
                "a",
                Some("s"),
                "client",
                "SELECT",
                json!({"db.system.name": "mysql", "db.query.text": "SELECT 1"}),
            ),
            span(
                "b",
                Some("s"),
                "client",
                "GET",
                json!({"http.request.method": "GET", "url.full": "http://a/?id=r1"}),
            ),
        ]
    }

    fn differences(sdk: &[Span], agent: &[Span], permitted: &[Permitted]) -> Vec<String> {
        compare(&["r1".into()], sdk, agent, permitted).into_iter().map(|difference| difference.what).collect()
    }

    #[test]
    fn the_same_spans_do_not_differ() {
        assert_eq!(differences(&request(), &request(), &[]), Vec::<String>::new());
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let mut agent = request();
        agent[0].name = "POST".into();
        assert_eq!(differences(&request(), &agent, &[]), ["server: name"]);

        let mut agent = request();
        agent[1].attributes.insert("db.query.text".into(), "SELECT 2".into());
        assert_eq!(differences(&request(), &agent, &[]), ["mysql SELECT: db.query.text"]);

        let agent = request()[..2].to_vec();
        assert_eq!(differences(&request(), &agent, &[]), ["missing client span \"HTTP GET\""]);
        assert_eq!(differences(&request()[..2], &request(), &[]), ["extra client span \"HTTP GET\""]);

        let mut agent = request();
        agent[2].parent_span_id = None;
        let found = differences(&request(), &agent, &[]);
        assert_eq!(found, ["client span not under its request", "missing client span \"HTTP GET\""]);

        assert_eq!(differences(&request(), &[], &[]), ["server span missing"]);
        let twice = [request(), request()].concat();
        assert_eq!(differences(&request(), &twice, &[]), ["number of server spans: SDK 1, agent 2"]);
    }

    #[test]
    fn a_rule_permits_only_its_own_difference() {
        let rule = Permitted { reason: "text", matches: |site| site.key == "db.query.text" };
        let mut agent = request();
        agent[1].attributes.insert("db.query.text".into(), "SELECT 2".into());
        agent[0].name = "POST".into();
        let found = compare(&["r1".into()], &request(), &agent, &[rule]);
        let (_, failed) = report("test", &found);
        assert!(failed);
        assert_eq!(found.iter().filter(|difference| difference.permitted.is_some()).count(), 1);
    }
}

//! `service.peer.name`: which service is at the other end, by its host name.

use std::collections::HashMap;

/// Names that the user gave to hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceMap {
    names: HashMap<String, String>,
}

impl ServiceMap {
    /// Adds one mapping `host[:port]=name`.
    ///
    /// # Errors
    /// The text is not of that form.
    pub fn add(&mut self, mapping: &str) -> Result<(), String> {
        match mapping.split_once('=') {
            Some((host, name)) if !host.trim().is_empty() && !name.trim().is_empty() => {
                self.names.insert(host.trim().to_ascii_lowercase(), name.trim().to_owned());
                Ok(())
            }
            _ => Err(format!("`{mapping}` is not a service mapping; write `host:port=name`")),
        }
    }

    /// The service at this host and port: a mapping, else what the host's name says, else nothing (an
    /// address or `localhost` names no service).
    #[must_use]
    pub fn name(&self, host: &str, port: Option<u16>) -> Option<String> {
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        self.mapped(&host, port).or_else(|| derived(&host))
    }

    /// As [`ServiceMap::name`], but only what the user mapped: for databases, whose host is known as an
    /// address.
    #[must_use]
    pub fn mapped(&self, host: &str, port: Option<u16>) -> Option<String> {
        let look = |host: &str| {
            port.and_then(|port| self.names.get(&format!("{host}:{port}"))).or_else(|| self.names.get(host))
        };
        let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        look(host).or_else(|| loopback.then(|| look("localhost")).flatten()).cloned()
    }
}

/// `payment-service` → itself (a compose or short Kubernetes name), `payment.internal` → `payment`,
/// `payment.ns.svc.cluster.local` → `payment`, `api.example.com` → itself.
fn derived(host: &str) -> Option<String> {
    if host.is_empty() || host == "localhost" || host.parse::<std::net::IpAddr>().is_ok() {
        return None;
    }
    let host = host.trim_end_matches('.');
    let first = host.split('.').next().filter(|label| !label.is_empty())?;
    // `name.svc.cluster.local`, `name.namespace.svc.cluster.local`, `name.namespace.svc`
    let kubernetes = host.split('.').skip(1).take(2).any(|label| label == "svc");
    let last = host.rsplit_once('.').map(|(_, last)| last);
    let private = last.is_some_and(|last| matches!(last, "internal" | "local" | "localdomain"));
    Some(if kubernetes || private { first } else { host }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_give_names() {
        let map = ServiceMap::default();
        for (host, name) in [
            ("payment-service", Some("payment-service")),
            ("payment.internal", Some("payment")),
            ("payment.svc.cluster.local", Some("payment")),
            ("payment.prod.svc.cluster.local", Some("payment")),
            ("payment.prod.svc", Some("payment")),
            ("api.example.com", Some("api.example.com")),
            ("API.Example.com", Some("api.example.com")),
            ("localhost", None),
            ("10.0.0.7", None),
            ("[::1]", None),
        ] {
            assert_eq!(map.name(host, Some(80)).as_deref(), name, "{host}");
        }
    }

    #[test]
    fn mappings_win() {
        let mut map = ServiceMap::default();
        map.add("localhost:8082=payment-service").unwrap();
        map.add("api.example.com=partner").unwrap();
        assert_eq!(map.name("localhost", Some(8082)).as_deref(), Some("payment-service"));
        assert_eq!(map.name("127.0.0.1", Some(8082)).as_deref(), Some("payment-service"));
        assert_eq!(map.name("localhost", Some(8083)), None);
        assert_eq!(map.name("api.example.com", Some(443)).as_deref(), Some("partner"));
        assert!(map.add("nonsense").is_err());
    }
}

//! What the correlation asks about the world: services, event loops, sampling, time.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    agent::clock::unix_offset,
    discovery::{Inspected, proc_fs::ProcFs, resource_for},
    export::{ParentSampled, Sampler},
    trace::{
        correlator::Environment,
        span::{Resource, TraceId, Value},
    },
};

/// How long it is believed that a process has no event loop.
const LOOP_MEMORY: Duration = Duration::from_secs(5);
/// Descriptors of a process that are looked at for an event loop.
const MAX_DESCRIPTORS: usize = 65_536;
/// Processes that ended and whose last spans may still come.
const MAX_RESOURCES: usize = 16 * 1024;

/// See the module.
pub struct World {
    resources: HashMap<u32, Arc<Resource>>,
    /// Whether the process has an `epoll` descriptor, and when that was looked up.
    event_loops: RefCell<HashMap<u32, (bool, Instant)>>,
    /// Network namespaces, as far as they were asked for.
    networks: RefCell<HashMap<u32, Option<u64>>>,
    unknown: Arc<Resource>,
    service_name: Option<String>,
    sampler: Sampler,
    unix_offset: u64,
}

impl World {
    pub fn new(service_name: Option<String>, sampler: Sampler) -> Self {
        let name = service_name.clone().unwrap_or_else(|| "unknown_service:python".to_owned());
        let unknown = Resource { attributes: vec![("service.name".to_owned(), Value::String(name))] };
        Self {
            resources: HashMap::new(),
            event_loops: RefCell::default(),
            networks: RefCell::default(),
            unknown: Arc::new(unknown),
            service_name,
            sampler,
            unix_offset: unix_offset(),
        }
    }

    /// A process is traced.
    pub fn add(&mut self, inspected: &Inspected) {
        if self.resources.len() >= MAX_RESOURCES {
            self.resources.clear();
        }
        let resource = resource_for(inspected, self.service_name.as_deref());
        self.resources.insert(inspected.pid(), Arc::new(resource));
    }

    /// A traced process has a child: until it is inspected (it may be gone before) it is what its parent is.
    pub fn forked(&mut self, parent: u32, child: u32) {
        let Some(resource) = self.resources.get(&parent) else { return };
        let mut resource = Resource::clone(resource);
        resource
            .attributes
            .retain(|(key, _)| !matches!(key.as_str(), "process.vpid" | "service.instance.id"));
        for (key, value) in &mut resource.attributes {
            if key == "process.pid" {
                *value = Value::Int(i64::from(child));
            }
        }
        self.resources.insert(child, Arc::new(resource));
    }

    /// A process is gone.
    pub fn remove(&mut self, pid: u32) {
        self.resources.remove(&pid);
        self.event_loops.borrow_mut().remove(&pid);
        self.networks.borrow_mut().remove(&pid);
    }

    /// The name of the service that a process is.
    pub fn service_name(&self, pid: u32) -> &str {
        self.resources.get(&pid).unwrap_or(&self.unknown).service_name()
    }

    /// The wall clock may have been set.
    pub fn tick(&mut self) {
        self.unix_offset = unix_offset();
    }
}

impl Environment for World {
    fn resource(&self, tgid: u32) -> Arc<Resource> {
        Arc::clone(self.resources.get(&tgid).unwrap_or(&self.unknown))
    }

    fn has_event_loop(&self, tgid: u32) -> bool {
        let mut known = self.event_loops.borrow_mut();
        match known.get(&tgid) {
            Some((true, _)) => true,
            Some((false, looked)) if looked.elapsed() < LOOP_MEMORY => false,
            _ => {
                let found = has_epoll(tgid);
                known.insert(tgid, (found, Instant::now()));
                found
            }
        }
    }

    fn sample(&self, trace_id: TraceId, parent: Option<bool>) -> bool {
        self.sampler.decide(trace_id, parent.map(ParentSampled))
    }

    fn network(&self, tgid: u32) -> Option<u64> {
        *self.networks.borrow_mut().entry(tgid).or_insert_with(|| {
            let namespace = std::fs::metadata(format!("/proc/{tgid}/ns/net"));
            namespace.ok().map(|namespace| std::os::unix::fs::MetadataExt::ino(&namespace))
        })
    }

    fn unix_nanos(&self, monotonic: u64) -> u64 {
        monotonic.saturating_add(self.unix_offset)
    }
}

/// The process has an `epoll` descriptor; also said if that can't be seen, because then nothing is guessed.
fn has_epoll(pid: u32) -> bool {
    let Ok(mut descriptors) = ProcFs::default().descriptors(pid, MAX_DESCRIPTORS) else { return true };
    descriptors.any(|target| target.as_os_str() == "anon_inode:[eventpoll]")
}

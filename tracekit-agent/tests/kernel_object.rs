//! The kernel objects can't harm a process: they call no helper but those that read, count and report; and for messages
//! on sockets, those that put bytes in.
//!
//! Disassembles what is committed and loaded, not the sources.

use std::collections::BTreeSet;

use object::{Object, ObjectSection};

static TRACING: &[u8] = include_bytes!("../../tracekit-ebpf/object/tracing.bpf.o");
static PROPAGATING: &[u8] = include_bytes!("../../tracekit-ebpf/object/propagating.bpf.o");

/// Helpers by number (include/uapi/linux/bpf.h, `___BPF_FUNC_MAPPER`).
const TRACING_ALLOWED: &[(i32, &str)] = &[
    (1, "map_lookup_elem"),
    (2, "map_update_elem"),
    (3, "map_delete_elem"),
    (5, "ktime_get_ns"),
    (8, "get_smp_processor_id"),
    (14, "get_current_pid_tgid"),
    (35, "get_current_task"),
    (112, "probe_read_user"),
    (113, "probe_read_kernel"),
    (130, "ringbuf_output"),
    (131, "ringbuf_reserve"),
    (132, "ringbuf_submit"),
    (134, "ringbuf_query"),
];

/// What propagation calls beside: it chooses ids, and puts lines into messages of sockets in its map.
const PROPAGATING_ALLOWED: &[(i32, &str)] = &[
    (7, "get_prandom_u32"),
    (46, "get_socket_cookie"),
    (59, "sock_ops_cb_flags_set"),
    (61, "msg_apply_bytes"),
    (63, "msg_pull_data"),
    (70, "sock_hash_update"),
    (90, "msg_push_data"),
    (91, "msg_pop_data"),
];

/// `BPF_JMP | BPF_CALL`: include/uapi/linux/bpf.h
const CALL: u8 = 0x85;
/// `BPF_LD | BPF_IMM | BPF_DW`: takes two slots.
const LOAD_64: u8 = 0x18;
/// `src_reg` of a call of a helper, and of a function of the same object.
const HELPER: u8 = 0;
const LOCAL: u8 = 1;

/// Helpers that are called, and how many programs of each of these types there are.
#[expect(clippy::unwrap_used, reason = "the objects are ours")]
fn called<const N: usize>(image: &[u8], types: [&str; N]) -> (BTreeSet<i32>, [usize; N]) {
    let elf = object::File::parse(image).unwrap();
    let mut programs = [0; N];
    let mut called = BTreeSet::new();
    for section in elf.sections().filter(|s| s.kind() == object::SectionKind::Text) {
        let name = section.name().unwrap();
        let kind = types.iter().position(|kind| name.split('/').next() == Some(kind));
        assert!(kind.is_some() || name == ".text", "program type of `{name}` is not expected");
        if let Some(kind) = kind {
            programs[kind] += 1;
        }
        let mut slots = section.data().unwrap().chunks_exact(8);
        while let Some(slot) = slots.next() {
            let (opcode, source) = (slot[0], slot[1] >> 4);
            let immediate = i32::from_le_bytes(slot[4..8].try_into().unwrap());
            match opcode {
                LOAD_64 => {
                    slots.next();
                }
                CALL if source == HELPER => {
                    called.insert(immediate);
                }
                CALL => assert_eq!(source, LOCAL, "`{name}` calls something that is no helper"),
                _ => {}
            }
        }
    }
    (called, programs)
}

fn numbers(allowed: &[&[(i32, &str)]]) -> BTreeSet<i32> {
    allowed.iter().flat_map(|list| list.iter()).map(|(number, _)| *number).collect()
}

#[test]
fn tracing_calls_only_helpers_that_read_and_report() {
    let (called, [tracepoints, watchpoints, functions]) = called(TRACING, ["raw_tp", "perf_event", "uprobe"]);
    assert_eq!(tracepoints, 6, "sys_enter, sys_exit, sched_process_fork, _exec, _exit, signal_generate");
    assert_eq!(watchpoints, 1, "line_hit, for two architectures in one section");
    assert_eq!(functions, 1, "task_made and item_put, for two architectures in one section");
    // The lists are what is used: they do not grow without anybody noticing.
    assert_eq!(called, numbers(&[TRACING_ALLOWED]));
}

#[test]
fn propagation_calls_only_those_that_put_bytes_into_messages_beside() {
    let (called, programs) = called(PROPAGATING, ["raw_tp", "perf_event", "uprobe", "sk_msg", "sockops"]);
    assert_eq!(programs, [6, 1, 1, 1, 1]);
    assert_eq!(called, numbers(&[TRACING_ALLOWED, PROPAGATING_ALLOWED]));
}

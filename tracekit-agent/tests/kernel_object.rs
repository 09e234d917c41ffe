//! The kernel object can't harm a process: it calls no helper but those that read, count and report.
//!
//! Disassembles what is committed and loaded, not the sources.

use object::{Object, ObjectSection};

static OBJECT: &[u8] = include_bytes!("../../tracekit-ebpf/object/tracing.bpf.o");

/// Helpers by number (include/uapi/linux/bpf.h, `___BPF_FUNC_MAPPER`).
const ALLOWED: &[(i32, &str)] = &[
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

/// `BPF_JMP | BPF_CALL`: include/uapi/linux/bpf.h
const CALL: u8 = 0x85;
/// `BPF_LD | BPF_IMM | BPF_DW`: takes two slots.
const LOAD_64: u8 = 0x18;
/// `src_reg` of a call of a helper, and of a function of the same object.
const HELPER: u8 = 0;
const LOCAL: u8 = 1;

#[test]
fn only_helpers_that_read_and_report_are_called() {
    let elf = object::File::parse(OBJECT).unwrap();
    let (mut programs, mut watchpoints, mut functions) = (0, 0, 0);
    let mut called = std::collections::BTreeSet::new();
    for section in elf.sections().filter(|s| s.kind() == object::SectionKind::Text) {
        let name = section.name().unwrap();
        programs += usize::from(name.starts_with("raw_tp/"));
        watchpoints += usize::from(name == "perf_event");
        functions += usize::from(name == "uprobe");
        let known = matches!(name, ".text" | "perf_event" | "uprobe") || name.starts_with("raw_tp/");
        assert!(known, "program type of `{name}` is not expected");
        let mut slots = section.data().unwrap().chunks_exact(8);
        while let Some(slot) = slots.next() {
            let (opcode, source) = (slot[0], slot[1] >> 4);
            let immediate = i32::from_le_bytes(slot[4..8].try_into().unwrap());
            match opcode {
                LOAD_64 => {
                    slots.next();
                }
                CALL if source == HELPER => {
                    assert!(
                        ALLOWED.iter().any(|(number, _)| *number == immediate),
                        "`{name}` calls helper {immediate}, which is not known to be harmless"
                    );
                    called.insert(immediate);
                }
                CALL => assert_eq!(source, LOCAL, "`{name}` calls something that is no helper"),
                _ => {}
            }
        }
    }
    assert_eq!(programs, 5, "sys_enter, sys_exit, sched_process_fork, _exec, _exit");
    assert_eq!(watchpoints, 1, "line_hit, for two architectures in one section");
    assert_eq!(functions, 1, "task_made and item_put, for two architectures in one section");
    // The list above is what is used: it does not grow without anybody noticing.
    let allowed: std::collections::BTreeSet<_> = ALLOWED.iter().map(|(number, _)| *number).collect();
    assert_eq!(called, allowed);
}

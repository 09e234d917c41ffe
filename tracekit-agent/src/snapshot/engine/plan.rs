//! Which addresses are watched where, with the few registers that there are.

use std::collections::{BTreeMap, BTreeSet};

use crate::probes::watchpoint::Scope;

/// What is to be watched: addresses and their breakpoints, by process.
pub type Wanted = BTreeMap<u32, Vec<(u64, u32)>>;

/// What is watched.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Where which address is, and for which breakpoints it is watched there.
    pub watches: BTreeMap<(u64, Scope), Vec<u32>>,
    /// Where each breakpoint's are, and whether they take turns.
    pub states: BTreeMap<u32, (Scope, bool)>,
}

/// While all addresses of the host fit, each is on every processor; forks that were found one by one share theirs.
/// Beyond that, each process and its forks have their own, and if one has more than fit, they take `turns`.
pub fn plan(wanted: &Wanted, registers: usize, turns: usize) -> Plan {
    let sets: Vec<BTreeSet<u64>> =
        wanted.values().map(|all| all.iter().map(|(address, _)| *address).collect()).collect();
    let all: BTreeSet<u64> = sets.iter().flatten().copied().collect();
    // One more register would not help if each process needs more than there are.
    let same = sets.iter().all(|set| *set == all);
    let everywhere = all.len() <= registers || same;
    let mut plan = Plan::default();
    for (pid, addresses) in wanted {
        let scope = if everywhere { Scope::Processors } else { Scope::Tasks(*pid) };
        let unique: BTreeSet<u64> = addresses.iter().map(|(address, _)| *address).collect();
        let rotating = unique.len() > registers;
        let first = if rotating { turns.wrapping_mul(registers) % unique.len() } else { 0 };
        let now: BTreeSet<u64> =
            unique.iter().cycle().skip(first).take(registers.min(unique.len())).copied().collect();
        for (address, id) in addresses {
            if now.contains(address) {
                plan.watches.entry((*address, scope)).or_default().push(*id);
            }
            plan.states.insert(*id, (scope, rotating));
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(of: &[(u32, &[u64])]) -> Wanted {
        let with_ids = |pid: u32, all: &[u64]| {
            all.iter().map(|address| (*address, pid * 100 + *address as u32)).collect::<Vec<_>>()
        };
        of.iter().map(|(pid, all)| (*pid, with_ids(*pid, all))).collect()
    }

    fn watched(plan: &Plan) -> Vec<(u64, Scope)> {
        plan.watches.keys().copied().collect()
    }

    #[test]
    fn few_addresses_are_on_every_processor() {
        let plan = plan(&wanted(&[(1, &[10, 20]), (2, &[10]), (3, &[30])]), 4, 0);
        assert_eq!(watched(&plan), [10, 20, 30].map(|address| (address, Scope::Processors)));
        assert_eq!(plan.watches[&(10, Scope::Processors)], [110, 210]);
        assert!(plan.states.values().all(|state| *state == (Scope::Processors, false)));
    }

    #[test]
    fn beyond_that_each_process_has_its_own() {
        let plan = plan(&wanted(&[(1, &[10, 20, 30]), (2, &[40, 50]), (3, &[1, 2, 3, 4, 5])]), 4, 0);
        let of = |pid: u32| watched(&plan).into_iter().filter(|(_, on)| *on == Scope::Tasks(pid)).count();
        assert_eq!([of(1), of(2), of(3)], [3, 2, 4]);
        assert_eq!(plan.states[&110], (Scope::Tasks(1), false));
        assert_eq!(plan.states[&301], (Scope::Tasks(3), true));
    }

    #[test]
    fn all_have_their_turn() {
        for registers in 1..=4 {
            let all: Vec<u64> = (1..=9).collect();
            // Workers that were found one by one, with the same addresses.
            let wanted = wanted(&[(1, &all), (2, &all)]);
            let mut seen = BTreeSet::new();
            for turns in 0..9 {
                let plan = plan(&wanted, registers, turns);
                assert_eq!(plan.watches.len(), registers);
                assert!(plan.watches.values().all(|ids| ids.len() == 2));
                seen.extend(watched(&plan));
            }
            assert_eq!(seen.len(), 9);
        }
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(plan(&Wanted::new(), 4, 7), Plan::default());
        assert_eq!(watched(&plan(&wanted(&[(1, &[10])]), 0, 3)), []);
    }
}

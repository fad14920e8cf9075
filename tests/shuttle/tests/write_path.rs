//! The write path in many orders of its tasks.

use seabed_shuttle::{Operation, Policy, Scenario};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// How many orders of a scenario each scheduler tries.
const ORDERS: usize = 300;
/// How many preemptions the PCT scheduler places, at most.
const DEPTH: usize = 3;

fn explore(scenario: Scenario) {
    let mut config = Config::new();
    // Unoptimized futures need more than the default of 32 KiB.
    config.stack_size = 256 * 1024;
    // The tasks of an execution that fails need no orderly end.
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    Runner::new(RandomScheduler::new(ORDERS), config.clone()).run(move || scenario.run());
    Runner::new(PctScheduler::new(DEPTH, ORDERS), config).run(move || scenario.run());
}

/// Few tasks have few orders, so most of them are tried.
#[test]
fn no_write_is_left_waiting() {
    for (callers, policy) in [(2, Policy::One), (3, Policy::One), (3, Policy::Several)] {
        let (operation, fails, drops, closes) = (Operation::Append, false, false, false);
        let scenario = Scenario { callers, writes: 1, policy, operation, fails, drops, closes };
        (0..3).for_each(|_| explore(scenario));
    }
}

fn explore_policies(operation: Operation, fails: bool, drops: bool, closes: bool) {
    for policy in [Policy::One, Policy::Several, Policy::Homogeneous] {
        explore(Scenario { callers: 3, writes: 3, policy, operation, fails, drops, closes });
    }
}

#[test]
fn writes_are_stored_once_and_in_order() {
    explore_policies(Operation::Append, false, false, false);
}

#[test]
fn writes_are_stored_once_and_in_order_although_commits_fail() {
    explore_policies(Operation::Append, true, false, false);
}

#[test]
fn writes_that_may_not_be_repeated_are_not() {
    explore_policies(Operation::Delete, true, false, false);
}

#[test]
fn bulk_statements_keep_the_same_promises() {
    let (policy, operation) = (Policy::Homogeneous, Operation::Bulk);
    explore(Scenario { callers: 3, writes: 3, policy, operation, fails: true, drops: true, closes: true });
}

#[test]
fn a_dropped_caller_harms_nobody() {
    explore_policies(Operation::Append, true, true, false);
}

#[test]
fn closing_ends_with_an_outcome_for_every_write() {
    explore_policies(Operation::Append, false, false, true);
}

#[test]
fn closing_ends_although_commits_fail_and_callers_drop_their_writes() {
    explore_policies(Operation::Append, true, true, true);
}

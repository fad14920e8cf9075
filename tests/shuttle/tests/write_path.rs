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
    // The tasks of an execution that fails need no orderly end.
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    Runner::new(RandomScheduler::new(ORDERS), config.clone()).run(move || scenario.run());
    Runner::new(PctScheduler::new(DEPTH, ORDERS), config).run(move || scenario.run());
}

fn explore_policies(operation: Operation, fails: bool, drops: bool, closes: bool) {
    for policy in [Policy::One, Policy::Several, Policy::Homogeneous] {
        explore(Scenario { policy, operation, fails, drops, closes });
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
    explore(Scenario {
        policy: Policy::Homogeneous,
        operation: Operation::Bulk,
        fails: true,
        drops: true,
        closes: true,
    });
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

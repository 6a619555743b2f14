//! A whole fleet in virtual time: scripted backends break in every way we know, tables change,
//! clients leave, and after each step the promises of the design are checked. One seed is one
//! run; a failing one prints its seed and its last steps. Replay it with `SIM_SEED=n`;
//! look further with `SIM_RUNS=n`.

#[path = "../fleet/common.rs"]
mod common;
mod recovery;
mod requests;
mod world;

use dataplane_core::Mono;

use world::Sim;

const RUNS: u64 = 24;
/// Virtual seconds with faults in each run.
const TROUBLE_S: u64 = 1_500;

#[test]
fn promises_hold_through_every_kind_of_trouble() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_RUNS").unwrap_or(RUNS),
    };
    for seed in seeds {
        let mut sim = Sim::new(seed);
        sim.run_until(Mono::from_millis(TROUBLE_S * 1_000));
        sim.heal();
        sim.settle();
        sim.check_the_way_back();
        sim.drain();
        assert!(
            sim.answered > 1_000,
            "the run was a real one: {}",
            sim.answered
        );
    }
}

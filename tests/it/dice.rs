//! Chance that a printed seed decides.

/// A small generator: `RENET_SEED` alone decides what it gives.
pub struct Dice(u64);

impl Dice {
    /// From `RENET_SEED`, else from the clock; says which it was.
    pub fn new() -> Self {
        let seed = seed();
        println!("RENET_SEED={seed}");
        Self::of(seed)
    }

    /// From a number.
    pub fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound.max(1)
    }
}

/// `RENET_SEED`, else the clock.
pub fn seed() -> u64 {
    let seed = std::env::var("RENET_SEED").ok();
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    seed.map_or_else(now, |seed| seed.parse().unwrap())
}

/// Whether long tables are run whole.
pub fn long() -> bool {
    std::env::var_os("RENET_LONG").is_some()
}

/// Whether a plain run leaves a test to other seeds, of which every so manieth has it;
/// a long run has all.
pub fn is_left_out(test: &str, every: u64) -> bool {
    let salt = test.bytes().fold(seed(), |salt, byte| {
        salt.wrapping_mul(0x0100_0000_01B3) ^ u64::from(byte)
    });
    let left_out = !long() && Dice::of(salt).below(every) != 0;
    if left_out {
        println!("{test}: left to another seed than RENET_SEED={}", seed());
    }
    left_out
}

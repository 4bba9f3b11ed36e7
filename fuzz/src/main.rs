//! One program for all targets: libFuzzer's arguments, and the target's name in `FUZZ_TARGET`.
#![no_main]

mod target;

use std::sync::LazyLock;
use target::{TARGETS, Target};

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found
        .unwrap_or_else(|| panic!("FUZZ_TARGET names none of the targets"))
        .1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| CHOSEN(data));

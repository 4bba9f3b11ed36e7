//! Pauses that double, so that what is down is not hammered.

use std::time::Duration;

/// The next pause is twice the last one, up to a limit, and up to a quarter shorter by
/// chance: relays that failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

const FIRST: Duration = Duration::from_millis(500);

impl Backoff {
    pub fn up_to(longest: Duration) -> Self {
        Self {
            next: FIRST.min(longest),
            longest,
        }
    }

    pub fn reset(&mut self) {
        self.next = FIRST.min(self.longest);
    }

    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause.mul_f64(fastrand::f64().mul_add(-0.25, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;

    #[test]
    fn it_doubles_up_to_the_limit_and_starts_anew() {
        let mut backoff = Backoff::up_to(Duration::from_secs(4));
        for wanted in [0.5, 1.0, 2.0, 4.0, 4.0] {
            let pause = backoff.pause().as_secs_f64();
            assert!(
                pause <= wanted && pause >= wanted * 0.75,
                "{pause} for {wanted}"
            );
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(500));
    }
}

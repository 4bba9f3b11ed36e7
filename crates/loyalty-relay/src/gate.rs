//! Whether a channel takes notices at the moment.
//!
//! A server that is down must not cost every notice an attempt: after a failure that is the
//! server's, the channel pauses as a whole, then tries one notice, then flows again.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::notice::Outcome;

/// So many failures in a row that look like the server's, and the channel pauses.
const FAULTS: u32 = 3;

#[derive(Debug)]
pub struct Gate {
    state: State,
    faults: u32,
    backoff: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is known of the server yet.
    New,
    Flowing,
    /// One at a time, until one shows that the server is well.
    Trying,
    Paused(Instant),
}

impl Gate {
    pub fn new(longest_pause: Duration) -> Self {
        Self {
            state: State::New,
            faults: 0,
            backoff: Backoff::up_to(longest_pause),
        }
    }

    /// How many notices may be on their way at once.
    pub fn limit(&mut self, concurrency: usize) -> usize {
        if let State::Paused(until) = self.state
            && until <= Instant::now()
        {
            self.state = State::Trying;
        }
        match self.state {
            State::Flowing => concurrency,
            State::New | State::Trying => 1,
            State::Paused(_) => 0,
        }
    }

    /// Whether the server is to be reached before a notice is taken for it.
    pub fn is_in_doubt(&self) -> bool {
        matches!(self.state, State::New | State::Trying)
    }

    /// The server takes connections. After a failure that is not enough, unless there is
    /// nothing to try it with.
    pub fn reached(&mut self, is_idle: bool) {
        if self.state == State::New || is_idle && self.state == State::Trying {
            self.state = State::Flowing;
            self.faults = 0;
        }
    }

    pub fn paused_until(&self) -> Option<Instant> {
        match self.state {
            State::Paused(until) => Some(until),
            _ => None,
        }
    }

    /// Learns from an outcome; true when the channel pauses because of it.
    pub fn learn(&mut self, outcome: &Outcome) -> bool {
        match outcome {
            // Also a refusal comes from a server that works.
            Outcome::Sent | Outcome::Refused(_) | Outcome::Deferred(_) => {
                // What was on its way when the server went down says nothing new.
                if self.paused_until().is_none() {
                    self.state = State::Flowing;
                    self.faults = 0;
                    self.backoff.reset();
                }
                false
            }
            Outcome::Late => false,
            Outcome::Faltered(_, None) => {
                self.faults += 1;
                (self.faults >= FAULTS || self.state == State::Trying) && self.pause(None)
            }
            Outcome::Faltered(_, asked) => self.pause(*asked),
            Outcome::Down(_) => self.pause(None),
        }
    }

    /// True unless it is paused already; asking for longer is heeded.
    fn pause(&mut self, asked: Option<Duration>) -> bool {
        let paused = self.paused_until();
        if paused.is_some() && asked.is_none() {
            return false;
        }
        let pause = match asked {
            Some(asked) => asked,
            None => self.backoff.pause(),
        };
        let until = Instant::now() + pause;
        self.state = State::Paused(paused.map_or(until, |before| before.max(until)));
        paused.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::Gate;
    use crate::notice::{Outcome, Why};

    fn down() -> Outcome {
        Outcome::Down(Why::plain("refused"))
    }

    fn faltered(asked: Option<Duration>) -> Outcome {
        Outcome::Faltered(Why::plain("dropped"), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_down_is_tried_with_one_notice_at_a_time() {
        let mut gate = Gate::new(Duration::from_secs(8));
        assert_eq!(gate.limit(8), 1, "nothing is known yet");
        gate.learn(&Outcome::Sent);
        assert_eq!(gate.limit(8), 8);
        assert!(gate.learn(&down()));
        assert!(
            !gate.learn(&down()),
            "one pause for all that was on its way"
        );
        gate.learn(&Outcome::Sent);
        assert_eq!(gate.limit(8), 0, "a straggler does not end the pause");
        for pause in [1, 2, 4, 8, 8] {
            advance(Duration::from_secs(pause)).await;
            assert_eq!(gate.limit(8), 1);
            assert!(gate.learn(&down()));
            assert_eq!(gate.limit(8), 0);
        }
        advance(Duration::from_secs(8)).await;
        assert_eq!(gate.limit(8), 1);
        gate.learn(&Outcome::Refused(Why::plain("550")));
        assert_eq!(gate.limit(8), 8, "a server that refuses works");
    }

    #[tokio::test(start_paused = true)]
    async fn some_broken_conversations_are_forgiven() {
        let mut gate = Gate::new(Duration::from_secs(8));
        gate.reached(false);
        gate.learn(&faltered(None));
        gate.learn(&faltered(None));
        gate.learn(&Outcome::Sent);
        gate.learn(&faltered(None));
        gate.learn(&faltered(None));
        assert_eq!(gate.limit(8), 8);
        assert!(gate.learn(&faltered(None)), "three in a row are not");
        assert_eq!(gate.limit(8), 0);
        advance(Duration::from_secs(1)).await;
        assert_eq!(gate.limit(8), 1);
        gate.reached(false);
        assert_eq!(gate.limit(8), 1, "it took connections before, too");
        assert!(gate.learn(&faltered(None)), "nor is one at the next try");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_to_be_left_alone_is() {
        let mut gate = Gate::new(Duration::from_secs(8));
        gate.learn(&Outcome::Sent);
        assert!(gate.learn(&faltered(Some(Duration::from_secs(30)))));
        advance(Duration::from_secs(29)).await;
        assert_eq!(gate.limit(8), 0);
        advance(Duration::from_secs(1)).await;
        assert_eq!(gate.limit(8), 1);
    }
}

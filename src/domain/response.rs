//! What a response means for the reservation that was made for it: these rules are the same on every road by which usage
//! comes back.

use crate::domain::estimate::Reasoning;
use crate::domain::settlement::Certainty;
use crate::domain::usage::{Metered, Record, Usage};

/// All that is known of a response.
#[derive(Debug, Clone)]
pub struct Response<'a> {
    /// Its HTTP status.
    pub status: u16,
    /// The method of its request.
    pub method: &'a str,
    /// The path of its request.
    pub path: &'a str,
    /// Whether it came to its end.
    pub ending: Ending,
    /// What it said it used.
    pub metered: Metered,
    /// The bytes of its body, as they came.
    pub body_bytes: u64,
    /// The bytes of its text that a model wrote; zero where it cannot be read.
    pub text_bytes: u64,
    /// What its request was estimated at.
    pub input_tokens: u64,
    /// Whether it may have cost what nobody saw of it.
    pub reasoning: Reasoning,
}

/// Whether a response came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It did.
    Complete,
    /// The client left, or the provider broke off.
    Cut,
}

/// What becomes of the reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was used: all of it is given back.
    Release,
    /// It is charged with what was used, or with what was seen of it.
    Charge(Certainty, Box<Record>),
    /// It is charged with what was seen, and with no less than was set aside, because its model may have reasoned unseen.
    ChargeSeen(Certainty, Box<Record>),
    /// It is charged with what was set aside, because what was seen says nothing of what was used.
    ChargeReserved(Certainty),
}

/// Bytes of text for one token of output: models write one for 3.2 to 4.2, and an estimate must not be below.
const BYTES_PER_TOKEN: u64 = 3;
/// A body without text of a model that is longer than this is something else that costs money: an image, sound, or an encoding
/// that cannot be read.
const OPAQUE_BYTES: u64 = 4096;
/// The status of a conversation over a WebSocket, whose messages nobody reads here.
const SWITCHING_PROTOCOLS: u16 = 101;
/// Calls that answer without usage because they are free: they count tokens of a request that is not made.
const FREE_CALLS: [&str; 3] = ["/count_tokens", ":countTokens", "/input_tokens"];

impl Response<'_> {
    /// The verdict on it.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        match self.metered.clone() {
            Metered::Exact(record) => Verdict::Charge(Certainty::Exact, Box::new(record)),
            Metered::AtLeast(record) => self.charge(Certainty::AtLeast, self.at_least(record)),
            Metered::None if self.status == SWITCHING_PROTOCOLS => {
                Verdict::ChargeReserved(Certainty::Estimated)
            }
            Metered::None if self.is_free() => Verdict::Release,
            Metered::None => self.unmetered(),
        }
    }

    /// Whether a response that tells no usage used nothing.
    fn is_free(&self) -> bool {
        let succeeded = (200..300).contains(&self.status);
        let empty = self.ending == Ending::Complete && self.body_bytes == 0;
        // Only what is sent makes a model work; what is fetched or deleted was paid for when it was made.
        let works = self.method.is_empty() || self.method == "POST";
        !succeeded || empty || !works || FREE_CALLS.iter().any(|end| self.path().ends_with(end))
    }

    /// Without its query.
    fn path(&self) -> &str {
        self.path.split_once('?').map_or(self.path, |(path, _)| path)
    }

    /// What was seen, and no less than what a model must have read and written for it.
    fn at_least(&self, mut record: Record) -> Record {
        let usage = &mut record.usage;
        if usage.input == 0 {
            usage.input = self.input_tokens;
        }
        usage.output = usage.output.max(self.output_tokens());
        record
    }

    fn unmetered(&self) -> Verdict {
        let certainty = match self.ending {
            Ending::Complete => Certainty::Estimated,
            Ending::Cut => Certainty::AtLeast,
        };
        let complete_without_text = self.ending == Ending::Complete && self.text_bytes == 0;
        // Made in the background: what it will use is not told before it is fetched.
        let begun = self.ending == Ending::Complete && self.path().ends_with("/responses");
        if begun
            || complete_without_text
            || (self.text_bytes == 0 && self.body_bytes > OPAQUE_BYTES)
        {
            return Verdict::ChargeReserved(certainty);
        }
        let usage =
            Usage { input: self.input_tokens, output: self.output_tokens(), ..Usage::default() };
        self.charge(certainty, Record { usage, ..Record::default() })
    }

    /// The charge for what was seen. Where the model may have reasoned, only a response that counts its reasoning as it goes on
    /// says how much.
    fn charge(&self, certainty: Certainty, record: Record) -> Verdict {
        let record = Box::new(record);
        match self.reasoning {
            Reasoning::Possible if record.usage.reasoning == 0 => {
                Verdict::ChargeSeen(certainty, record)
            }
            Reasoning::Possible | Reasoning::Unlikely => Verdict::Charge(certainty, record),
        }
    }

    const fn output_tokens(&self) -> u64 {
        self.text_bytes.div_ceil(BYTES_PER_TOKEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, ending: Ending) -> Response<'static> {
        Response {
            status,
            method: "POST",
            path: "/v1/chat/completions",
            ending,
            metered: Metered::None,
            body_bytes: 1000,
            text_bytes: 100,
            input_tokens: 164,
            reasoning: Reasoning::Unlikely,
        }
    }

    fn charge(certainty: Certainty, input: u64, output: u64) -> Verdict {
        Verdict::Charge(certainty, Box::new(record(input, output)))
    }

    fn record(input: u64, output: u64) -> Record {
        Record { usage: Usage { input, output, ..Usage::default() }, ..Record::default() }
    }

    #[test]
    fn what_the_provider_says_in_the_end_counts_whatever_the_status() {
        for status in [200, 429, 500] {
            let told = Response {
                metered: Metered::Exact(record(10, 20)),
                ..response(status, Ending::Complete)
            };
            assert_eq!(told.verdict(), charge(Certainty::Exact, 10, 20));
        }
    }

    #[test]
    fn errors_and_responses_without_content_cost_nothing() {
        for status in [304, 400, 429, 500, 503] {
            for ending in [Ending::Complete, Ending::Cut] {
                assert_eq!(response(status, ending).verdict(), Verdict::Release, "{status}");
            }
        }
        let base = || response(200, Ending::Complete);
        let free = [
            Response { body_bytes: 0, text_bytes: 0, ..base() },
            Response { method: "GET", path: "/v1/models", ..base() },
            Response { path: "/v1/messages/count_tokens?beta=true", ..base() },
            Response { path: "/v1beta/models/gemini-2.5-pro:countTokens", ..base() },
        ];
        for response in free {
            assert_eq!(response.clone().verdict(), Verdict::Release, "{response:?}");
        }
    }

    #[test]
    fn content_without_usage_is_estimated_from_what_was_seen() {
        let estimated = response(200, Ending::Complete).verdict();
        assert_eq!(estimated, charge(Certainty::Estimated, 164, 34));
        let cut = response(200, Ending::Cut).verdict();
        assert_eq!(cut, charge(Certainty::AtLeast, 164, 34));
        let early = Response { body_bytes: 0, text_bytes: 0, ..response(200, Ending::Cut) };
        assert_eq!(early.verdict(), charge(Certainty::AtLeast, 164, 0));
    }

    #[test]
    fn content_that_says_nothing_of_tokens_costs_what_was_set_aside() {
        let image =
            |ending| Response { body_bytes: 5_000_000, text_bytes: 0, ..response(200, ending) };
        let charged = |ending| image(ending).verdict();
        assert_eq!(charged(Ending::Complete), Verdict::ChargeReserved(Certainty::Estimated));
        assert_eq!(charged(Ending::Cut), Verdict::ChargeReserved(Certainty::AtLeast));
        let begun = Response { path: "/v1/responses", ..response(200, Ending::Complete) };
        assert_eq!(begun.verdict(), Verdict::ChargeReserved(Certainty::Estimated));
        let socket = Response { method: "GET", ..response(101, Ending::Cut) };
        assert_eq!(socket.verdict(), Verdict::ChargeReserved(Certainty::Estimated));
    }

    #[test]
    fn what_a_model_may_have_reasoned_unseen_costs_no_less_than_was_set_aside() {
        let reasoning = |ending, metered, text_bytes| Response {
            metered,
            text_bytes,
            reasoning: Reasoning::Possible,
            ..response(200, ending)
        };
        let seen = |certainty, input, output| {
            Verdict::ChargeSeen(certainty, Box::new(record(input, output)))
        };
        let silent = reasoning(Ending::Cut, Metered::None, 0);
        assert_eq!(silent.verdict(), seen(Certainty::AtLeast, 164, 0));
        let begun = reasoning(Ending::Cut, Metered::AtLeast(record(150, 1)), 100);
        assert_eq!(begun.verdict(), seen(Certainty::AtLeast, 150, 34));
        let untold = reasoning(Ending::Complete, Metered::None, 100);
        assert_eq!(untold.verdict(), seen(Certainty::Estimated, 164, 34));

        let mut counted = record(150, 40);
        counted.usage.reasoning = 30;
        let told = reasoning(Ending::Cut, Metered::AtLeast(counted.clone()), 0);
        assert_eq!(told.verdict(), Verdict::Charge(Certainty::AtLeast, Box::new(counted)));
        let whole = reasoning(Ending::Complete, Metered::Exact(record(150, 40)), 100);
        assert_eq!(whole.verdict(), charge(Certainty::Exact, 150, 40));
        let failed = Response { status: 500, ..reasoning(Ending::Cut, Metered::None, 0) };
        assert_eq!(failed.verdict(), Verdict::Release);
    }

    #[test]
    fn a_lower_bound_is_never_below_what_was_seen() {
        for (said, booked) in [((8834, 1), (8834, 34)), ((0, 0), (164, 34)), ((10, 50), (10, 50))] {
            let metered = Metered::AtLeast(record(said.0, said.1));
            let cut = Response { metered, ..response(200, Ending::Cut) };
            assert_eq!(cut.verdict(), charge(Certainty::AtLeast, booked.0, booked.1));
        }
    }
}

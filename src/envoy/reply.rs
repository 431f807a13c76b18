//! Answers as Envoy wants them.

/// How answers look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Style {
    /// The status of `credits_exhausted`.
    pub credits_status: CreditsStatus,
    /// Headers beside Bursar's own.
    pub more_headers: Vec<MoreHeaders>,
}

/// The HTTP status of a refusal for want of prepaid credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CreditsStatus {
    /// 429, which every client library knows.
    #[default]
    TooManyRequests,
    /// 402.
    PaymentRequired,
}

/// A further way to tell the numbers of the request limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoreHeaders {
    /// `x-ratelimit-{limit,remaining,reset}-requests`, as OpenAI names them.
    OpenAi,
    /// `RateLimit-Policy` and `RateLimit` of the IETF's draft. It has no unit for money or tokens.
    Ietf,
}

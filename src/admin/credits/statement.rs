//! The statement of a month: what a balance was, what changed it, what it is. As JSON or CSV.

use std::fmt::Write;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::Serialize;

use crate::admin::Api;
use crate::admin::call::{Manage, Params};
use crate::admin::fault::Fault;
use crate::admin::json::{accepted, named};
use crate::admin::number::Usd;
use crate::domain::credits::{Spender, Statement};
use crate::domain::ids::Id;
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;

/// The forms that a statement comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
}

const FORMATS: [(&str, Format); 2] = [("json", Format::Json), ("csv", Format::Csv)];
/// The media type that a caller may ask for instead of `format=csv`.
const CSV: &str = "text/csv";

/// A calendar month in UTC.
#[derive(Debug, PartialEq, Eq)]
struct Month {
    name: String,
    from: Wall,
    to: Wall,
}

/// All amounts have the sign with which they change the balance: opening plus the others is closing.
#[derive(Serialize)]
struct StatementView<'a> {
    workspace_id: &'a str,
    month: &'a str,
    currency: &'static str,
    opening_balance: Usd,
    grants: Usd,
    spend: Vec<SpendView<'a>>,
    other_spend: Usd,
    adjustments: Usd,
    expiries: Usd,
    closing_balance: Usd,
}

#[derive(Serialize)]
struct SpendView<'a> {
    project_id: Option<&'a str>,
    api_key_id: Option<&'a str>,
    model: Option<&'a str>,
    amount: Usd,
}

pub(in crate::admin) async fn read(
    State(api): State<Api>,
    Manage(mut call): Manage,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let month = month(&mut call.params)?;
    let format = format(&mut call.params, &headers)?;
    let workspace = call.workspace(None)?;
    let statement = api.engine.credit_statement(&workspace, month.from, month.to).await?;
    Ok(match format {
        Format::Json => Json(view(&workspace, &month, &statement)).into_response(),
        Format::Csv => {
            let file = format!("attachment; filename=\"credits-{}.csv\"", month.name);
            let headers = [(CONTENT_TYPE, "text/csv; charset=utf-8"), (CONTENT_DISPOSITION, &file)];
            (headers, csv(&statement)).into_response()
        }
    })
}

fn month(params: &mut Params) -> Result<Month, Fault> {
    let name = params.one("month")?.unwrap_or_default();
    parse_month(&name).ok_or_else(|| Fault::invalid("month must be a month such as 2026-11"))
}

fn parse_month(name: &str) -> Option<Month> {
    let (year, month) = name.split_once('-').filter(|_| name.len() == "2026-11".len())?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(year) || !digits(month) {
        return None;
    }
    let first = Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok()?;
    let next = first.checked_add(1.month()).ok()?;
    Some(Month { name: name.to_owned(), from: midnight(first)?, to: midnight(next)? })
}

fn midnight(day: Date) -> Option<Wall> {
    let instant: Timestamp = TimeZone::UTC.to_timestamp(day.at(0, 0, 0, 0)).ok()?;
    Some(Wall::from_ms(instant.as_millisecond()))
}

/// What the query says, or else the `accept` header.
fn format(params: &mut Params, headers: &HeaderMap) -> Result<Format, Fault> {
    if let Some(text) = params.one("format")? {
        let wrong = || Fault::invalid(format!("format {}", accepted(&FORMATS)));
        return named(&text, &FORMATS).ok_or_else(wrong);
    }
    let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Ok(if accepts.trim().starts_with(CSV) { Format::Csv } else { Format::Json })
}

fn view<'a>(workspace: &'a Id, month: &'a Month, statement: &'a Statement) -> StatementView<'a> {
    let spend = statement.spend.iter().map(|(spender, amount)| SpendView {
        project_id: spender.project.as_ref().map(Id::as_str),
        api_key_id: spender.api_key.as_ref().map(Id::as_str),
        model: spender.model.as_ref().map(Id::as_str),
        amount: Usd(*amount),
    });
    StatementView {
        workspace_id: workspace.as_str(),
        month: &month.name,
        currency: "USD",
        opening_balance: Usd(statement.opening),
        grants: Usd(statement.granted),
        spend: spend.collect(),
        other_spend: Usd(statement.other_spend),
        adjustments: Usd(statement.adjusted),
        expiries: Usd(statement.expired),
        closing_balance: Usd(statement.closing()),
    }
}

/// One line for each part, as RFC 4180 has it.
fn csv(statement: &Statement) -> String {
    let mut text = "line,project_id,api_key_id,model,amount_usd\r\n".to_owned();
    let nobody = Spender::default();
    let mut line = |name: &str, spender: &Spender, amount: NanoUsd| {
        let Spender { project, api_key, model } = spender;
        let [project, api_key, model] = [project, api_key, model].map(cell);
        // Writing to a string does not fail.
        let _ = write!(text, "{name},{project},{api_key},{model},{amount}\r\n");
    };
    line("opening_balance", &nobody, statement.opening);
    line("grants", &nobody, statement.granted);
    for (spender, amount) in &statement.spend {
        line("spend", spender, *amount);
    }
    line("other_spend", &nobody, statement.other_spend);
    line("adjustments", &nobody, statement.adjusted);
    line("expiries", &nobody, statement.expired);
    line("closing_balance", &nobody, statement.closing());
    text
}

/// A name as a cell. One that a spreadsheet would take for a formula begins with an apostrophe: callers choose names, and
/// their accountant opens the file.
fn cell(name: &Option<Id>) -> String {
    let Some(name) = name.as_ref().map(Id::as_str) else { return String::new() };
    let guard = if name.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    if name.contains([',', '"']) {
        return format!("\"{guard}{}\"", name.replace('"', "\"\""));
    }
    format!("{guard}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_begins_and_ends_at_midnight_in_utc() {
        let month = parse_month("2026-12").unwrap();
        assert_eq!(month.from, Wall::from_ms(1_796_083_200_000));
        assert_eq!(month.to, Wall::from_ms(1_798_761_600_000));
        for bad in ["", "2026", "2026-13", "2026-00", "2026-1", "26-11", "2026-11-01", "-026-11"] {
            assert_eq!(parse_month(bad), None, "{bad}");
        }
    }

    #[test]
    fn cells_are_quoted_and_are_no_formulas() {
        let cell = |text: &str| cell(&Id::parse(text).ok());
        assert_eq!(cell(""), "");
        assert_eq!(cell("gpt-4o"), "gpt-4o");
        assert_eq!(cell("a,b"), "\"a,b\"");
        assert_eq!(cell("say \"x\""), "\"say \"\"x\"\"\"");
        assert_eq!(cell("=cmd()"), "'=cmd()");
        assert_eq!(cell("@a,b"), "\"'@a,b\"");
    }
}

//! Hints name functions and tables of schema `loyalty`. Over HTTP the same hint names the endpoint.

use std::borrow::Cow;

/// What cannot be said by changing names only.
const SENTENCES: [(&str, &str); 12] = [
    (
        "loyalty.open_account(program, member_no) gives a member's account.",
        "The account_id of a member is in /balance.",
    ),
    (
        "select code from loyalty.program lists them.",
        "Check the program's code.",
    ),
    (
        "select program_id, code from loyalty.program lists them.",
        "Check the program's code.",
    ),
    (
        "select run_id from loyalty.run lists them.",
        "The run_id of a run is in /run.",
    ),
    (
        "loyalty.set_notice_sender(program => …, email => …) says who the notices come from.",
        "An operator sets the sender first.",
    ),
    (
        "See loyalty.identity_provider.",
        "An operator sets it: /rpc/set_identity_provider.",
    ),
    (
        "loyalty.resume_account(account_id) lifts the suspension.",
        "An operator lifts the suspension.",
    ),
    (
        "loyalty.verify() tells what does not hold.",
        "Tell the operators of the service.",
    ),
    (
        "loyalty.secret_dir names the directory of jwt.json and pepper.json.",
        "the operators of the service set them up.",
    ),
    (
        "Without it, call loyalty.tick() each minute by any other means.",
        "Tell the operators of the service.",
    ),
    (
        "Call loyalty.grant, spend_fifo, refund, revoke, … To correct",
        "Call /rpc/grant, /rpc/spend, /rpc/refund, /rpc/revoke, … To correct",
    ),
    (
        ", or close with forfeit => true to book them as breakage",
        " first",
    ),
];

/// Tables of `loyalty` that are views over HTTP. What else is named is a function.
const VIEWS: [&str; 13] = [
    "balance",
    "event",
    "family",
    "grant_proposal",
    "login_application",
    "lot",
    "lots",
    "member",
    "program_role",
    "rule",
    "run",
    "schedule",
    "statement",
];

const SCHEMA: &str = "loyalty.";

/// A hint for a client over HTTP.
#[must_use]
pub fn over_http(hint: &str) -> Cow<'_, str> {
    if !hint.contains(SCHEMA) && !hint.contains("=>") {
        return Cow::Borrowed(hint);
    }
    let mut told = hint.to_owned();
    for (sql, http) in SENTENCES {
        told = told.replace(sql, http);
    }
    // as in: Pass points => … .
    told = told.replace(" => … .", ".").replace(" => …", "");
    while let Some(start) = told.find(SCHEMA) {
        let rest = &told[start + SCHEMA.len()..];
        let name = rest
            .find(|c: char| !c.is_ascii_lowercase() && c != '_')
            .unwrap_or(rest.len());
        let arguments = match rest[name..].starts_with('(') {
            true => rest[name..].find(')').map_or(0, |end| end + 1),
            false => 0,
        };
        let endpoint = match &rest[..name] {
            "lots" => "/lot".to_owned(),
            view if VIEWS.contains(&view) => format!("/{view}"),
            function => format!("/rpc/{function}"),
        };
        told.replace_range(start..start + SCHEMA.len() + name + arguments, &endpoint);
    }
    Cow::Owned(told)
}

#[cfg(test)]
mod tests {
    use super::over_http;

    #[test]
    fn names_endpoints() {
        for (sql, http) in [
            (
                "Ask for no more than the available points; loyalty.balance(account_id) tells them.",
                "Ask for no more than the available points; /balance tells them.",
            ),
            (
                "loyalty.change_rule adds a version, loyalty.end_rule ends the last one.",
                "/rpc/change_rule adds a version, /rpc/end_rule ends the last one.",
            ),
            ("Pass points => … .", "Pass points."),
            ("Log in again.", "Log in again."),
            ("loyalty.rule", "/rule"),
        ] {
            assert_eq!(over_http(sql), http);
        }
    }
}

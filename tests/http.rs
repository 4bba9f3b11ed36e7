//! The API as clients meet it: every endpoint through a real PostgREST, who may do what,
//! retries, errors, bad input and the OpenAPI page; and the catalog behind it.

#[path = "http/roles.rs"]
mod roles;
#[path = "http/world.rs"]
mod world;

#[path = "http/bad_input.rs"]
mod bad_input;
#[path = "http/bad_token.rs"]
mod bad_token;
#[path = "http/catalog.rs"]
mod catalog;
#[path = "http/errors.rs"]
mod errors;
#[path = "http/fuzz.rs"]
mod fuzz;
#[path = "http/half_done.rs"]
mod half_done;
#[path = "http/hijack.rs"]
mod hijack;
#[path = "http/matrix.rs"]
mod matrix;
#[path = "http/member.rs"]
mod member;
#[path = "http/notice.rs"]
mod notice;
#[path = "http/openapi.rs"]
mod openapi;
#[path = "http/operations.rs"]
mod operations;
#[path = "http/plans.rs"]
mod plans;
#[path = "http/points_page.rs"]
mod points_page;
#[path = "http/reading.rs"]
mod reading;
#[path = "http/reason.rs"]
mod reason;
#[path = "http/retry.rs"]
mod retry;
#[path = "http/security.rs"]
mod security;
#[path = "http/service_hours.rs"]
mod service_hours;
#[path = "http/standby.rs"]
mod standby;

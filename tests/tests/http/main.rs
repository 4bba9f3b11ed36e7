//! The API as clients meet it: every endpoint through a real PostgREST, who may do what,
//! retries, errors, bad input and the OpenAPI page; and the catalog behind it.

mod roles;
mod world;

mod bad_input;
mod bad_token;
mod catalog;
mod errors;
mod fuzz;
mod half_done;
mod hijack;
mod matrix;
mod member;
mod notice;
mod openapi;
mod operations;
mod plans;
mod points_page;
mod reading;
mod reason;
mod retry;
mod security;
mod service_hours;
mod standby;

//! The statement by which PostgREST calls a function of `loyalty_api`, looked at before it runs. A
//! query string or a body can make PostgREST do half of what its client means, and nothing that
//! PostgREST tells the database says so but the statement itself: its plan and its parameters.

use crate::error::{Code, Fault, Result};
use crate::pg::call::{Call, sql_function};
use crate::pg::datum;
use crate::pg::spi::{Param, Plan, Spi};
use crate::request;
use pgrx::pg_sys::{self, Datum, NodeTag, Oid, QueryDesc};
use pgrx::{PgSqlErrorCode, PgTryBuilder};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

static ARGUMENTS: Plan = Plan::new(
    c"select a.name, a.type, pg_catalog.format_type(a.type, null)
        from pg_catalog.pg_proc f
       cross join lateral unnest(f.proargnames[:f.pronargs], f.proargtypes::oid[]) a (name, type)
       where f.pronamespace = 'loyalty_api'::pg_catalog.regnamespace
         and f.proname = $1 and f.proargnames is not null",
);

struct Argument {
    name: String,
    of: Oid,
    /// As SQL calls it.
    type_name: String,
}

thread_local! {
    /// Whether the next statement is the one that PostgREST's pre-request was for.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
    static KNOWN: RefCell<HashMap<String, Rc<Vec<Argument>>>> = RefCell::default();
    static PREVIOUS: Cell<pg_sys::ExecutorStart_hook_type> = const { Cell::new(None) };
    static PREVIOUS_UTILITY: Cell<pg_sys::ProcessUtility_hook_type> = const { Cell::new(None) };
}

/// For `_PG_init`.
pub fn install() {
    // SAFETY: a hook is set while the library is loaded, by the only thread of the backend.
    unsafe {
        PREVIOUS.set(pg_sys::ExecutorStart_hook);
        pg_sys::ExecutorStart_hook = Some(executor_start);
        // Not known yet where the library is preloaded by the postmaster.
        if pg_sys::process_shared_preload_libraries_in_progress || pg_sys::RecoveryInProgress() {
            PREVIOUS_UTILITY.set(pg_sys::ProcessUtility_hook);
            pg_sys::ProcessUtility_hook = Some(process_utility);
        }
    }
}

sql_function!(pre_request);
/// `loyalty.pre_request()`: the statement after it is the request itself.
fn pre_request(_: &Call) -> Result<()> {
    request::check()?;
    EXPECTED.set(true);
    Ok(())
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn executor_start(query: *mut QueryDesc, flags: c_int) {
    if EXPECTED.take() {
        // SAFETY: PostgreSQL hands in a planned query.
        if let Err(fault) = unsafe { check(&*query) } {
            fault.raise();
        }
    }
    // SAFETY: as PostgreSQL calls it.
    unsafe {
        match PREVIOUS.get() {
            Some(previous) => pg_sys::ffi::pg_guard_ffi_boundary(|| previous(query, flags)),
            None => pg_sys::standard_ExecutorStart(query, flags),
        }
    }
}

/// PostgREST begins what writes as READ WRITE, which a standby refuses before a function of ours is
/// called, and with a code that PostgREST takes for a fault of the client's.
#[pgrx::pg_guard]
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    is_shared: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    receiver: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    let run = || {
        // SAFETY: as PostgreSQL calls it.
        unsafe {
            match PREVIOUS_UTILITY.get() {
                Some(next) => pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    next(
                        statement,
                        query,
                        is_shared,
                        context,
                        params,
                        environment,
                        receiver,
                        completion,
                    );
                }),
                None => pg_sys::standard_ProcessUtility(
                    statement,
                    query,
                    is_shared,
                    context,
                    params,
                    environment,
                    receiver,
                    completion,
                ),
            }
        }
    };
    // SAFETY: the statement is a utility's, whose tag says what it is.
    let begins = unsafe {
        let utility = (*statement).utilityStmt;
        (*utility).type_ == NodeTag::T_TransactionStmt && pg_sys::RecoveryInProgress()
    };
    if !begins {
        return run();
    }
    PgTryBuilder::new(AssertUnwindSafe(run))
        .catch_when(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, |error| {
            if !request::is_gateway() {
                error.rethrow();
            }
            Fault::new(
                Code::Standby,
                "standby",
                "this server is a standby and can only be read",
            )
            .hint("Send what writes to the primary.")
            .raise_over_http()
        })
        .execute();
}

/// # Safety
/// The query is planned.
unsafe fn check(query: &QueryDesc) -> Result<()> {
    // Who sets what PostgREST sets without being it has other statements to come.
    if !request::is_gateway() {
        return Ok(());
    }
    // '' where the request is over: then this is no statement of it
    let path = request::setting(c"request.path").map(CStr::to_string_lossy);
    let Some(function) = path.as_deref().and_then(|path| path.strip_prefix("/rpc/")) else {
        return Ok(());
    };
    // SAFETY: by the caller's word.
    let (body, source) = unsafe {
        // PostgREST calls what only reads in a transaction that can only read
        if !pg_sys::XactReadOnly {
            check_answer(query)?;
        }
        let source = CStr::from_ptr(query.sourceText).to_string_lossy();
        (body_of(query), source)
    };
    let Some(body) = body else {
        return Ok(());
    };
    if let Ok(calls) = serde_json::from_str::<Vec<IgnoredAny>>(&body)
        && calls.len() > 1
    {
        return Err(
            Fault::invalid("one_call_only", "the body is more than one call")
                .detail(format!(
                    "It is an array of {}; only the first would be done.",
                    calls.len()
                ))
                .hint("Send one JSON object, and one request for each call."),
        );
    }
    let given = match serde_json::from_str(&body) {
        Ok(Value::Object(given)) => given,
        Ok(Value::Array(mut calls)) => match calls.pop() {
            Some(Value::Object(given)) => given,
            _ => return Ok(()),
        },
        _ => return Ok(()),
    };
    check_columns(&given, &source)?;
    check_values(function, &given)
}

/// Filters, limits and offsets take away the answer of what was done, or keep it from being done.
///
/// # Safety
/// The query is planned.
unsafe fn check_answer(query: &QueryDesc) -> Result<()> {
    // SAFETY: a plan's nodes are of the type that their tag says. Only the nodes above the call are
    // looked at: it is a common table expression of its own, since it changes something.
    unsafe {
        let mut plan = (*query.plannedstmt).planTree;
        while !plan.is_null() {
            let is_filter = match (*plan).type_ {
                NodeTag::T_Result => !(*plan.cast::<pg_sys::Result>()).resconstantqual.is_null(),
                _ => false,
            };
            if is_filter || !(*plan).qual.is_null() {
                return Err(Fault::invalid(
                    "filter_not_allowed",
                    "a call that changes something takes no filters",
                )
                .hint("Send the arguments in the body; the query string may only choose columns and their order."));
            }
            plan = match (*plan).type_ {
                NodeTag::T_Limit => {
                    let limit = plan.cast::<pg_sys::Limit>();
                    let count = number(query, (*limit).limitCount);
                    let offset = number(query, (*limit).limitOffset);
                    if count == Some(0) || offset.is_some_and(|offset| offset > 0) {
                        return Err(Fault::invalid(
                            "limit_not_allowed",
                            "a call that changes something takes neither limit=0 nor an offset",
                        )
                        .hint("Leave limit, offset and the header Range out."));
                    }
                    (*plan).lefttree
                }
                NodeTag::T_SubqueryScan => (*plan.cast::<pg_sys::SubqueryScan>()).subplan,
                _ => (*plan).lefttree,
            };
        }
    }
    Ok(())
}

/// A constant or parameter of type bigint.
///
/// # Safety
/// The node is an expression of the query, or null.
unsafe fn number(query: &QueryDesc, node: *mut pg_sys::Node) -> Option<i64> {
    if node.is_null() {
        return None;
    }
    // SAFETY: by the caller's word, and by the node's tag.
    unsafe {
        match (*node).type_ {
            NodeTag::T_Const => {
                let constant = &*node.cast::<pg_sys::Const>();
                (!constant.constisnull).then(|| constant.constvalue.value() as i64)
            }
            NodeTag::T_Param => {
                let place = (*node.cast::<pg_sys::Param>()).paramid - 1;
                let given = parameters(query).get(usize::try_from(place).ok()?)?;
                (!given.isnull).then(|| given.value.value() as i64)
            }
            _ => None,
        }
    }
}

/// # Safety
/// The query is planned.
unsafe fn parameters(query: &QueryDesc) -> &[pg_sys::ParamExternData] {
    // SAFETY: PostgreSQL allocates as many as it counts.
    unsafe {
        match query.params.as_ref() {
            Some(list) => list.params.as_slice(list.numParams as usize),
            None => &[],
        }
    }
}

/// What the client sent: the first parameter of type json.
///
/// # Safety
/// The query is planned.
unsafe fn body_of(query: &QueryDesc) -> Option<String> {
    // SAFETY: json is stored as text is.
    unsafe {
        let sent = parameters(query)
            .iter()
            .find(|one| one.ptype == pg_sys::JSONOID && !one.isnull)?;
        Some(datum::read_text(sent.value))
    }
}

/// With `?columns=` PostgREST leaves arguments out that the body has.
fn check_columns(given: &Map<String, Value>, source: &str) -> Result<()> {
    if !source.contains(" := pgrst_body.") {
        return Ok(());
    }
    for name in given.keys() {
        let passed = format!("\"{}\" := pgrst_body.", name.replace('"', "\"\""));
        if !source.contains(&passed) {
            return Err(
                Fault::invalid("argument_left_out", format!("{name} would be left out"))
                    .field(name.clone())
                    .hint("Leave columns out of the query string."),
            );
        }
    }
    Ok(())
}

/// What PostgreSQL would refuse without saying which argument it is.
fn check_values(function: &str, given: &Map<String, Value>) -> Result<()> {
    let known = KNOWN.with_borrow(|known| known.get(function).cloned());
    let was_known = known.is_some();
    let arguments = known.unwrap_or_else(|| read_arguments(function));
    match check_each(&arguments, given) {
        // may have changed since
        Err(_) if was_known => check_each(&read_arguments(function), given),
        outcome => outcome,
    }
}

fn read_arguments(function: &str) -> Rc<Vec<Argument>> {
    let spi = Spi::connect();
    let rows = ARGUMENTS.execute(&spi, &[Param::text(function)]);
    let arguments: Vec<_> = rows
        .iter()
        .filter_map(|row| {
            Some(Argument {
                name: row.text(1)?,
                of: row.oid(2)?,
                type_name: row.text(3)?,
            })
        })
        .collect();
    let arguments = Rc::new(arguments);
    KNOWN.with_borrow_mut(|known| known.insert(function.to_owned(), Rc::clone(&arguments)));
    arguments
}

fn check_each(arguments: &[Argument], given: &Map<String, Value>) -> Result<()> {
    for argument in arguments {
        if let Some(value) = given.get(&argument.name) {
            check_value(argument, argument.of, value)?;
        }
    }
    Ok(())
}

fn check_value(argument: &Argument, of: Oid, value: &Value) -> Result<()> {
    match (of, value) {
        (_, Value::Null) | (pg_sys::TEXTOID | pg_sys::JSONOID | pg_sys::JSONBOID, _) => Ok(()),
        // api_points tells of these
        (pg_sys::NUMERICOID, Value::Number(_)) => Ok(()),
        (pg_sys::INT8OID, Value::Number(number)) => whole(argument, number, i64::MIN, i64::MAX),
        (pg_sys::INT4OID, Value::Number(number)) => {
            whole(argument, number, i32::MIN.into(), i32::MAX.into())
        }
        (_, Value::Array(elements)) => {
            // SAFETY: looks the type up in the catalog; none is no oid.
            let element = unsafe { pg_sys::get_element_type(of) };
            if element == pg_sys::InvalidOid {
                return Err(malformed(argument, Code::Malformed, value));
            }
            let mut elements = elements.iter();
            elements.try_for_each(|each| check_value(argument, element, each))
        }
        (_, Value::String(text)) => read(argument, of, text, value),
        _ => read(argument, of, &value.to_string(), value),
    }
}

fn whole(argument: &Argument, number: &serde_json::Number, from: i64, to: i64) -> Result<()> {
    match (number.as_i64(), number.as_f64()) {
        (Some(whole), _) if (from..=to).contains(&whole) => Ok(()),
        (None, Some(other)) if other.abs() < 9e18 => {
            let value = Value::Number(number.clone());
            Err(malformed(argument, Code::Malformed, &value))
        }
        _ => {
            let value = Value::Number(number.clone());
            Err(malformed(argument, Code::OutOfRange, &value))
        }
    }
}

/// Whether the type's own input function takes the text.
fn read(argument: &Argument, of: Oid, text: &str, value: &Value) -> Result<()> {
    let Ok(text) = CString::new(text) else {
        return Err(malformed(argument, Code::Malformed, value));
    };
    // What it raises ends the statement in any case, with the argument's name.
    PgTryBuilder::new(AssertUnwindSafe(|| {
        // SAFETY: calls the input function of a type, as json_to_record would.
        unsafe {
            let (mut input, mut of_elements) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
            pg_sys::getTypeInputInfo(of, &mut input, &mut of_elements);
            let _: Datum =
                pg_sys::OidInputFunctionCall(input, text.as_ptr().cast_mut(), of_elements, -1);
        }
        Ok(())
    }))
    .catch_when(PgSqlErrorCode::ERRCODE_INVALID_DATETIME_FORMAT, |_| {
        Err(malformed(argument, Code::BadDateTime, value))
    })
    .catch_when(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, |_| {
        Err(malformed(argument, Code::DateTimeOverflow, value))
    })
    .catch_when(PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, |_| {
        Err(malformed(argument, Code::OutOfRange, value))
    })
    .catch_when(PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION, |_| {
        Err(malformed(argument, Code::Malformed, value))
    })
    .execute()
}

fn malformed(argument: &Argument, code: Code, value: &Value) -> Fault {
    let Argument {
        name, type_name, ..
    } = argument;
    let shown: String = value.to_string().chars().take(100).collect();
    let fault = match code {
        Code::OutOfRange => Fault::new(
            Code::OutOfRange,
            "number_out_of_range",
            format!("{name} is out of range"),
        ),
        Code::BadDateTime => Fault::new(
            Code::BadDateTime,
            "datetime_malformed",
            format!("{name} is not a value of type {type_name}"),
        ),
        Code::DateTimeOverflow => Fault::new(
            Code::DateTimeOverflow,
            "datetime_out_of_range",
            format!("{name} is out of range"),
        ),
        _ => Fault::new(
            Code::Malformed,
            "value_malformed",
            format!("{name} is not a value of type {type_name}"),
        ),
    };
    fault
        .field(name.clone())
        .detail(format!("{shown} given."))
        .hint(format!("Send {name} as a value of type {type_name}."))
}

//! One member's record, checked and put into the form that it is stored in.

use crate::day;
use crate::error::{Fault, Result};
use crate::pg::call::{Call, sql_function};
use chrono::NaiveDate;
use loyalty_core::member::{self, Column};
use serde_json::{Map, Value};

sql_function!(clean_member);
/// `loyalty_private.clean_member(record, today)`
fn clean_member(call: &Call) -> Result<Option<String>> {
    let record = call.need("record", call.text(0))?;
    let today = day::date(call.need("today", call.i32(1))?)?;
    let record: Map<String, Value> = serde_json::from_str(&record).map_err(|error| {
        Fault::invalid("record_invalid", "not a member's record").detail(error.to_string())
    })?;
    let mut clean = Map::new();
    for (name, value) in record {
        let value = match (name.as_str(), value) {
            ("facts", facts) => clean_facts(&facts, today)?,
            ("attributes", Value::Object(attributes)) => Value::Object(attributes),
            ("attributes", _) => return Err(not_an_object("attributes")),
            (name, Value::String(cell)) => {
                let column = Column::of_heading(name).map_err(|flaw| {
                    Fault::invalid("column_unknown", format!("{name} {flaw}"))
                        .field(name.to_owned())
                })?;
                clean_cell(&column, &cell, today)?
            }
            (name, _) => {
                return Err(
                    Fault::invalid("value_invalid", format!("{name} must be a text"))
                        .field(name.to_owned()),
                );
            }
        };
        clean.insert(name, value);
    }
    Ok(Some(Value::Object(clean).to_string()))
}

sql_function!(clean_login_id);
/// `loyalty_private.clean_login_id(login_id)`
fn clean_login_id(call: &Call) -> Result<Option<String>> {
    let given = call.need("login_id", call.text(0))?;
    Ok(member::clean_login_id(&given))
}

fn not_an_object(name: &str) -> Fault {
    Fault::invalid("value_invalid", format!("{name} must be a JSON object"))
        .field(name.to_owned())
        .hint("Such as {\"first_service_on\": \"2024-06-20\"}; null takes one away.")
}

fn clean_cell(column: &Column, cell: &str, today: NaiveDate) -> Result<Value> {
    column.clean(cell, today).map(Value::from).map_err(|flaw| {
        Fault::invalid("value_invalid", format!("{} {flaw}", column.name()))
            .field(column.name().to_owned())
            .hint("Nothing was written; correct the value, or leave it out.")
    })
}

fn clean_facts(facts: &Value, today: NaiveDate) -> Result<Value> {
    let facts = facts.as_object().ok_or_else(|| not_an_object("facts"))?;
    let mut clean = Map::new();
    for (name, value) in facts {
        let fact = Column::fact(name).map_err(|flaw| {
            Fault::invalid("fact_invalid", format!("the fact {name:?} {flaw}")).field("facts")
        })?;
        let day = match value {
            Value::Null => Value::Null,
            Value::String(day) => clean_cell(&fact, day, today)?,
            _ => {
                return Err(Fault::invalid(
                    "fact_invalid",
                    format!("{name} must be a day as a text"),
                )
                .field("facts"));
            }
        };
        clean.insert(fact.name().to_owned(), day);
    }
    Ok(Value::Object(clean))
}

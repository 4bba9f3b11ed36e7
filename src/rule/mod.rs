//! Rules: loyalty_core reads their terms and knows the periods; sql/rule.sql finds the members.

mod fact;
mod period;
mod terms;

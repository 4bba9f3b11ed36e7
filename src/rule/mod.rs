//! Rules: loyalty_core reads their terms and knows the periods; sql/50_rule/10_rule.sql finds the members.

mod fact;
mod period;
mod terms;

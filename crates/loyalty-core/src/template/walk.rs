//! What templates may hold: looked at token by token, so that nothing nests too deep, and then
//! node by node.

use super::{Part, Problem, problem_of, syntax};
use minijinja::machinery::ast::{BinOpKind, Expr, Stmt, UnaryOpKind};
use minijinja::machinery::{Token, parse, tokenize};
use serde_json::Value;

/// Words and signs between one pair of braces: it bounds how deep an expression nests.
const TOKENS_A_BLOCK: usize = 40;
/// Pairs of braces in one text: it bounds how deep conditions and loops nest.
const BLOCKS: usize = 300;

pub const GRAMMAR: &str = "Templates know {{ value }}, {{ value | filter }} with the filters number, date, weekday and duration, \
     {% if … %}{% elif … %}{% else %}{% endif %}, {% for item in list %}{% endfor %}, and, or, not and comparisons.";

/// Refuses what templates may not hold and variables that the context does not have; the
/// variables written, with their lines.
pub fn look_through(
    part: Part,
    source: &str,
    context: &Value,
) -> Result<Vec<(usize, String)>, Problem> {
    check_tokens(part, source)?;
    let tree = parse(source, part.name(), syntax()).map_err(|error| problem_of(part, &error))?;
    let mut walk = Walk {
        part,
        root: context,
        scopes: Vec::new(),
        written: Vec::new(),
    };
    walk.statement(&tree)?;
    Ok(walk.written)
}

/// Bounds nesting before anything recursive looks at the source.
fn check_tokens(part: Part, source: &str) -> Result<(), Problem> {
    let mut blocks = 0;
    let mut inside = 0;
    for token in tokenize(source, false, syntax()) {
        let (token, span) = token.map_err(|error| problem_of(part, &error))?;
        let too_much = |message: &str| {
            Err(Problem {
                part,
                line: Some(usize::from(span.start_line)),
                message: message.to_owned(),
                hint: format!(
                    "At most {BLOCKS} pairs of braces, with at most {TOKENS_A_BLOCK} words in each."
                ),
            })
        };
        match token {
            Token::TemplateData(_) => {}
            Token::VariableStart | Token::BlockStart => {
                blocks += 1;
                inside = 0;
                if blocks > BLOCKS {
                    return too_much("too many pairs of braces");
                }
            }
            _ => {
                inside += 1;
                if inside > TOKENS_A_BLOCK {
                    return too_much("too many words between a pair of braces");
                }
            }
        }
    }
    Ok(())
}

/// Looks at every node of a template: allowed here, and variables that there are.
struct Walk<'v> {
    part: Part,
    root: &'v Value,
    /// Loop variables, innermost last, with an element of their list.
    scopes: Vec<(String, Option<&'v Value>)>,
    /// Variables written, with their lines.
    written: Vec<(usize, String)>,
}

/// What an expression is, as far as it matters.
enum Found<'v> {
    /// A variable, with its value in the context.
    Path(String, Option<&'v Value>),
    Other,
}

impl<'v> Walk<'v> {
    fn problem(&self, line: u16, message: String, hint: impl Into<String>) -> Problem {
        Problem {
            part: self.part,
            line: Some(usize::from(line)),
            message,
            hint: hint.into(),
        }
    }

    fn statements(&mut self, statements: &[Stmt]) -> Result<(), Problem> {
        statements
            .iter()
            .try_for_each(|statement| self.statement(statement))
    }

    fn statement(&mut self, statement: &Stmt) -> Result<(), Problem> {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitRaw(_) => Ok(()),
            Stmt::EmitExpr(emit) => {
                let line = emit.span().start_line;
                match self.expression(&emit.expr)? {
                    Found::Path(path, Some(Value::Array(_))) => Err(self.problem(
                        line,
                        format!("{path} is a list"),
                        format!("Write {{% for item in {path} %}} … {{% endfor %}}."),
                    )),
                    Found::Path(path, Some(value @ Value::Object(_))) => Err(self.problem(
                        line,
                        format!("{path} has parts"),
                        format!("Write one of them: {}.", names(value, &format!("{path}."))),
                    )),
                    _ => Ok(()),
                }
            }
            Stmt::IfCond(condition) => {
                self.expression(&condition.expr)?;
                self.statements(&condition.true_body)?;
                self.statements(&condition.false_body)
            }
            Stmt::ForLoop(each) => {
                let line = each.span().start_line;
                let plain = || "Write {% for item in list %}.";
                let Expr::Var(target) = &each.target else {
                    return Err(self.problem(line, "a loop has one variable".to_owned(), plain()));
                };
                if each.recursive || each.filter_expr.is_some() {
                    return Err(self.problem(
                        line,
                        "only plain loops are known here".to_owned(),
                        plain(),
                    ));
                }
                let element = match self.expression(&each.iter)? {
                    Found::Path(_, Some(Value::Array(list))) => list.first(),
                    Found::Path(_, None) => None,
                    _ => {
                        let message = "a loop needs a list".to_owned();
                        let lists = "Only notices of kind expiry have one: lots.";
                        return Err(self.problem(line, message, lists));
                    }
                };
                self.scopes.push((target.id.to_owned(), element));
                self.statements(&each.body)?;
                self.scopes.pop();
                self.statements(&each.else_body)
            }
            Stmt::WithBlock(with) => Err(self.unknown(with.span().start_line, "{% with %}")),
            Stmt::Set(set) => Err(self.unknown(set.span().start_line, "{% set %}")),
            Stmt::SetBlock(set) => Err(self.unknown(set.span().start_line, "{% set %}")),
            Stmt::AutoEscape(escape) => {
                Err(self.unknown(escape.span().start_line, "{% autoescape %}"))
            }
            Stmt::FilterBlock(filter) => {
                Err(self.unknown(filter.span().start_line, "{% filter %}"))
            }
            Stmt::Do(call) => Err(self.unknown(call.span().start_line, "{% do %}")),
        }
    }

    fn expression(&mut self, expression: &Expr) -> Result<Found<'v>, Problem> {
        let line = expression.span().start_line;
        match expression {
            Expr::Const(_) => Ok(Found::Other),
            Expr::Var(variable) => {
                let found = self
                    .scopes
                    .iter()
                    .rev()
                    .find(|(name, _)| name == variable.id);
                let value = match found {
                    Some((_, element)) => *element,
                    None => Some(self.member(line, self.root, variable.id, "")?),
                };
                self.written
                    .push((usize::from(line), variable.id.to_owned()));
                Ok(Found::Path(variable.id.to_owned(), value))
            }
            Expr::GetAttr(part) => {
                let Found::Path(path, value) = self.expression(&part.expr)? else {
                    return Err(self.unknown(line, "a part of this"));
                };
                self.written.pop();
                let whole = format!("{path}.{}", part.name);
                let value = match value {
                    Some(value) => {
                        Some(self.member(line, value, part.name, &format!("{path}."))?)
                    }
                    None => None,
                };
                self.written.push((usize::from(line), whole.clone()));
                Ok(Found::Path(whole, value))
            }
            Expr::Filter(filter) => {
                if !matches!(filter.name, "number" | "date" | "weekday" | "duration")
                    || !filter.args.is_empty()
                {
                    return Err(self.unknown(line, &format!("the filter {}", filter.name)));
                }
                match &filter.expr {
                    Some(inner) => self.expression(inner).map(|_| Found::Other),
                    None => Err(self.unknown(line, "a filter without a value")),
                }
            }
            Expr::UnaryOp(not) if matches!(not.op, UnaryOpKind::Not) => {
                self.expression(&not.expr).map(|_| Found::Other)
            }
            Expr::BinOp(both) => {
                use BinOpKind::{Eq, Gt, Gte, Lt, Lte, Ne, ScAnd, ScOr};
                if !matches!(both.op, Eq | Ne | Lt | Lte | Gt | Gte | ScAnd | ScOr) {
                    return Err(self.unknown(line, "this operator"));
                }
                self.expression(&both.left)?;
                self.expression(&both.right).map(|_| Found::Other)
            }
            Expr::Compare(chain) => {
                self.expression(&chain.expr)?;
                for next in &chain.ops {
                    self.expression(&next.expr)?;
                }
                Ok(Found::Other)
            }
            Expr::IfExpr(choice) => {
                self.expression(&choice.test_expr)?;
                self.expression(&choice.true_expr)?;
                if let Some(other) = &choice.false_expr {
                    self.expression(other)?;
                }
                Ok(Found::Other)
            }
            other => Err(self.unknown(line, &format!("this {}", other.description()))),
        }
    }

    fn unknown(&self, line: u16, what: &str) -> Problem {
        self.problem(line, format!("{what} is not known here"), GRAMMAR)
    }

    fn member(
        &self,
        line: u16,
        value: &'v Value,
        name: &str,
        prefix: &str,
    ) -> Result<&'v Value, Problem> {
        value.get(name).ok_or_else(|| {
            let known = names(value, prefix);
            self.problem(
                line,
                format!("unknown variable {prefix}{name}"),
                match known.is_empty() {
                    true => format!("{} has no parts.", prefix.trim_end_matches('.')),
                    false => format!("There are: {known}."),
                },
            )
        })
    }
}

/// The variables that a value has, its parts included.
fn names(value: &Value, prefix: &str) -> String {
    let mut known = Vec::new();
    if let Value::Object(members) = value {
        for (name, member) in members {
            match member {
                Value::Object(_) => known.push(names(member, &format!("{prefix}{name}."))),
                Value::Array(list) => {
                    let parts = list.first().map(|element| names(element, ""));
                    known.push(format!(
                        "{prefix}{name} (a list of {})",
                        parts.unwrap_or_default()
                    ));
                }
                _ => known.push(format!("{prefix}{name}")),
            }
        }
    }
    known.join(", ")
}

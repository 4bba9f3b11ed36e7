//! The OpenAPI page, as far as requests are made from it.

use anyhow::{Context, Result};
use serde_json::Value;

/// An argument of a function, or a column of a view.
#[derive(Debug, Clone)]
pub struct Field {
    pub name: String,
    /// PostgreSQL's type.
    pub format: String,
    pub is_required: bool,
}

#[derive(Debug)]
pub struct Endpoint {
    pub path: String,
    pub fields: Vec<Field>,
    pub methods: Vec<String>,
}

impl Endpoint {
    pub fn is_function(&self) -> bool {
        self.path.starts_with("/rpc/")
    }
}

#[derive(Debug)]
pub struct Page {
    pub endpoints: Vec<Endpoint>,
}

impl Page {
    pub fn read(page: &Value) -> Result<Self> {
        let paths = page["paths"].as_object().context("no paths")?;
        let mut endpoints = Vec::new();
        for (path, operations) in paths {
            let operations = operations.as_object().context("no operations")?;
            let schema = match path.strip_prefix('/') {
                Some("") | None => continue,
                Some(function) if function.starts_with("rpc/") => {
                    &operations["post"]["parameters"][0]["schema"]
                }
                Some(view) => &page["definitions"][view],
            };
            let required: Vec<&str> = schema["required"]
                .as_array()
                .map(|names| names.iter().filter_map(Value::as_str).collect())
                .unwrap_or_default();
            let properties = schema["properties"].as_object().context("no properties")?;
            let fields = properties.iter().map(|(name, property)| Field {
                name: name.clone(),
                format: property["format"].as_str().unwrap_or("text").to_owned(),
                is_required: required.contains(&name.as_str()),
            });
            endpoints.push(Endpoint {
                path: path.clone(),
                fields: fields.collect(),
                methods: operations
                    .keys()
                    .map(|method| method.to_uppercase())
                    .collect(),
            });
        }
        Ok(Self { endpoints })
    }
}

//! PostgreSQL's own interfaces, by PostgreSQL's own words: calls of functions, SPI, tables and
//! indexes without the executor, and what the catalog says of them. It knows nothing of points.

pub mod call;
pub mod datum;
pub mod index_scan;
pub mod relation;
pub mod relcache;
pub mod snapshot;
pub mod spi;
pub mod sql_type;
pub mod table;
pub mod table_writer;
pub mod tuple_desc;

//! The names that request.rs and secret.rs have for what has moved. It goes when they follow.

use crate::pg::spi::{Param, Plan, Rows, Spi};

pub mod call {
    pub use crate::pg::call::{Answer, Call};

    macro_rules! sql_function {
        ($(#[doc = $doc:literal])* fn $name:ident($call:ident) -> $result:ty $body:block) => {
            pub mod $name {
                #![allow(unused_imports)]
                use super::*;

                $crate::pg::call::sql_function!($name = body);

                $(#[doc = $doc])*
                fn body($call: &$crate::pg::call::Call) -> $crate::error::Result<$result> $body
            }
        };
    }
    pub(crate) use sql_function;
}

pub mod fetch {
    pub use crate::table::service_hours::closed_hours;
    pub use crate::table::session::session;
    pub use crate::table::wallet::wallet;
}

pub mod scan {
    pub use crate::pg::snapshot::Snapshot as Sight;

    #[allow(non_upper_case_globals)]
    impl Sight {
        pub const Statement: Sight = Sight::Active;
    }
}

pub mod spi {
    #[allow(unused_imports)]
    pub use crate::pg::datum::{array_of_bytes, read_text, text};
    pub use crate::pg::spi::{Plan, Spi};
}

impl Plan {
    pub fn run(&'static self, spi: &Spi, params: &[Param]) -> Rows {
        self.execute(spi, params)
    }
}

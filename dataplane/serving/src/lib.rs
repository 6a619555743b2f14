//! What the two shells have in common as servers.
//!
//! ```text
//! listen        a bound port, its next connection
//! slots         how many connections, and which has to go
//! descriptors   as many open files as the process may have
//! certificate   PEM → the certificate in use, which can be replaced
//! logs          format and filter of the log
//! ```

pub mod certificate;
pub mod descriptors;
pub mod listen;
pub mod logs;
pub mod slots;

//! Where tables come from: files, or an operator. Whatever comes, the last good one stays in use.

pub mod file;
pub mod operator;

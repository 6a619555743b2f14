//! Tests on a real node: pods run there, from the images of this tree. Run by
//! `./e2e/test node [FILTER]`, which makes the images, the node and the private network.

mod images;
mod install;
mod pods;
mod rollouts;
mod support;

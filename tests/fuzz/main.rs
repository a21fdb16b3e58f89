//! Random inputs: whatever agents, tenants and clients write, nothing panics and what is promised holds. What only the
//! library can reach has its random inputs there, in modules named `fuzz`. `make unit` gives each property a second,
//! `make fuzz` a minute.

mod certificates;
mod common;
mod lifecycle;
mod model;
mod pods;
mod reports;
mod signals;

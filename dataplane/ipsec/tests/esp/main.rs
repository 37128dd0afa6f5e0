//! ESP and AH through the public burst functions: published packets, round trips over every shape, and what a
//! hostile peer or path can send.
#![cfg(test)]

mod ah;
mod attacks;
mod fixture;
mod lifetimes;
mod mangled;
mod round_trip;
mod vectors;

//! Micro benches and the throughput program.

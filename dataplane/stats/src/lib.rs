//! The counter catalogue and the shared-memory segment format.
